"""Any built Keras model as a function of its parameters, one task at a time."""

import contextlib
import functools
import itertools
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


def max_pool(input, ksize, strides, padding, data_format=None, name=None):
    """Returns the maximum of each window, right to any order.

    A stand-in for `tf.nn.max_pool`, whose second derivative under XLA picks
    the winner of a window from inputs cut to 16 bits. Of equal values the
    first wins, row by row, as it does there.

    Args:
      input: `[n, *space, C]`, or `[n, C, *space]` for an "NC…" format.
      ksize: the size of a window, an integer or one for each axis of space.
      strides: likewise.
      padding: "VALID" or "SAME", in any case of letters.
      data_format: as in TensorFlow.
      name: not used.
    """
    del name
    sizes, strides = (
        _for_axes(value, len(input.shape), data_format)
        for value in (ksize, strides)
    )
    for axis in reversed(range(len(input.shape))):
        if padding.upper() == "SAME":
            input = _pad_same(input, axis, sizes[axis], strides[axis])
        input = _max_along(input, axis, sizes[axis], strides[axis])
    return input


@contextlib.contextmanager
def exact_operations():
    """Makes Keras's layers use `moments` and `max_pool` inside the context.

    On the TensorFlow backend BatchNormalization, LayerNormalization and
    GroupNormalization take their statistics from `tf.nn.moments`, and
    MaxPooling1D to 3D are `tf.nn.max_pool`.
    """
    exact = {"moments": moments, "max_pool": max_pool}
    with mock.patch.multiple(tf.nn, **exact):
        yield


def require_built(model: keras.Model) -> None:
    """Raises `ValueError` for a model that has no weights yet."""
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} must be built before it is adapted. "
            "Call it once on an example, or give it an `Input`."
        )


def one_task(
    model: keras.Model, variables: Sequence, seed: tf.Tensor | None = None
) -> ApplyFn:
    """Returns `model` as a function of the values of some of its variables.

    The model runs in training mode: batch statistics are those of the batch
    at hand. Variables that are not listed keep their own values, so a gradient
    reaches them too. Nothing is assigned: updates of moving averages are
    dropped.

    Random layers draw from `seed`. The k-th call of the returned function
    draws the same numbers whenever the seed and k are the same, and other
    numbers than every other call. Calls are counted when they are traced, so
    make a new function for each task, inside the loop over tasks.

    Args:
      model: a built Keras model.
      variables: the variables whose values are passed as parameters.
      seed: two integers `[2]` for dropout and noise, different for each task.

    Returns:
      A function of (parameters, inputs). It raises `ValueError` if the model
      draws random numbers without a seed, or remembers anything else from call
      to call, as a stateful recurrent layer does.

    Raises:
      ValueError: if the model is not built.
    """
    require_built(model)
    generators = [] if seed is None else _seed_generators(model)
    lost = [] if seed is not None else _seed_generators(model)
    calls = itertools.count()

    def apply_fn(parameters, x):
        states = _states(seed, next(calls), len(generators))
        mapping = [
            *zip(variables, parameters, strict=True),
            *zip(generators, states, strict=True),
        ]
        with exact_operations(), keras.StatelessScope(mapping) as scope:
            prediction = model(x, training=True)
        _require_no_memory(model, scope, lost)
        return prediction

    return apply_fn
