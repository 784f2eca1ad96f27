"""Any built Keras model as a function of its parameters, one task at a time."""

import contextlib
from collections.abc import Sequence
from unittest import mock

import keras
import tensorflow as tf

from maml_tf.adaptation import ApplyFn


def moments(x, axes, shift=None, keepdims=False, name=None):
    """Returns mean and variance, right to any order of differentiation.

        m = 1/n Σ xᵢ,  v = 1/n Σ (xᵢ − m)²

    A stand-in for `tf.nn.moments`, which stops the gradient of m inside v:
    its first derivatives are right and its second derivatives are not.
    """
    del shift, name
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
    return tf.reshape(mean, tf.shape(variance)), variance


@contextlib.contextmanager
def exact_moments():
    """Makes Keras's normalisation layers use `moments` inside the context.

    BatchNormalization, LayerNormalization and GroupNormalization all take
    their statistics from `tf.nn.moments` on the TensorFlow backend.
    """
    with mock.patch.object(tf.nn, "moments", moments):
        yield


def require_built(model: keras.Model) -> None:
    """Raises `ValueError` for a model that has no weights yet."""
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} must be built before it is adapted. "
            "Call it once on an example, or give it an `Input`."
        )


def one_task(model: keras.Model, variables: Sequence) -> ApplyFn:
    """Returns `model` as a function of the values of some of its variables.

    The model runs in training mode: batch statistics are those of the batch
    at hand. Variables that are not listed keep their own values, so a gradient
    reaches them too. Nothing is assigned: updates of moving averages are
    dropped.

    Args:
      model: a built Keras model.
      variables: the variables whose values are passed as parameters.

    Raises:
      ValueError: if the model is not built, or draws random numbers (their
        state would be dropped, so that every call used the same mask).
    """
    require_built(model)
    for variable in model.non_trainable_variables:
        if "seed_generator" in variable.path:
            raise ValueError(
                f"The model {model.name!r} draws random numbers "
                f"({variable.path}), which is not supported in the inner "
                "loop. Remove its dropout or noise layers."
            )

    def apply_fn(parameters, x):
        mapping = list(zip(variables, parameters, strict=True))
        with exact_moments(), keras.StatelessScope(state_mapping=mapping):
            return model(x, training=True)

    return apply_fn
