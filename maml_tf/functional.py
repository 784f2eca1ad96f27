"""Any built Keras model as a function of its parameters, one task at a time."""

import itertools
from collections.abc import Sequence

import keras
import tensorflow as tf

from maml_tf import exact
from maml_tf.adaptation import ApplyFn


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

    Random layers draw from `seed`: in the k-th call of the returned function
    the same numbers for the same seed and k, and others in every other call.
    (XLA draws others than TensorFlow without it.) Calls are counted as they
    are traced, so make a new function wherever a task's own work begins:
    inside the body of a loop over tasks, not before it.

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
    calls = itertools.count()
    generators = [v for v in model.variables if "seed_generator" in v.path]
    # A moving average's update may be lost. A generator's may not, without a
    # seed, nor that of a state which is not among the model's variables.
    free = {id(v) for v in model.variables}
    if seed is None:
        free -= {id(v) for v in generators}

    def apply_fn(parameters, x):
        mapping = list(zip(variables, parameters, strict=True))
        if seed is not None:
            states = _states(seed, next(calls), len(generators))
            mapping += zip(generators, states, strict=True)
        with exact.operations(), keras.StatelessScope(mapping) as scope:
            prediction = model(x, training=True)
        _require_no_memory(model, scope.state_mapping.keys() - free)
        return prediction

    return apply_fn


def _states(seed, call, generators):
    """Returns the states `[generators, 2]` of seed generators for a call.

    They are drawn together, as a generator counts its own draws up from its
    state, which states one apart would make overlap.
    """
    return tf.unstack(
        tf.random.stateless_uniform(
            [generators, 2],
            tf.random.experimental.stateless_fold_in(seed, call),
            minval=0,
            maxval=tf.int32.max,
            dtype=tf.int32,
        )
    )


def _require_no_memory(model, lost):
    if lost:
        raise ValueError(
            f"The model {model.name!r} draws random numbers or carries a "
            "state from call to call, which a function of its parameters "
            "cannot. For dropout and noise layers pass `seed`, and give "
            "layers of your own a `keras.random.SeedGenerator`; make "
            "recurrent layers with `stateful=False`."
        )
