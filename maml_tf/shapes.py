"""Shapes of tensors on a stack of tasks: `[B, n, …]`, B tasks of n examples.

A layer knows of no task axis. It counts the axes of its inputs `[n, …]`, and
its weights are `[*shape]`, not `[B, *shape]`.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

_LOGITS = "_keras_logits"


def sizes(x) -> list:
    """Returns the sizes of all axes: integers where they are known."""
    dynamic = tf.shape(x)
    return [size or dynamic[axis] for axis, size in enumerate(x.shape)]


def leading(data, axis: int = 0):
    """Returns the size of a leading axis, which nested tensors share."""
    return sizes(tf.nest.flatten(data)[0])[axis]


def predicted(function: Callable, prediction) -> tf.Tensor:
    """Returns `function(prediction)`, where it only moves parts about.

    Keras keeps with probabilities the logits that they are of, and compares
    those: they come along.
    """
    moved = function(prediction)
    logits = getattr(prediction, _LOGITS, None)
    if logits is not None:
        setattr(moved, _LOGITS, function(logits))
    return moved


def are_probabilities(prediction) -> bool:
    """Whether Keras has kept the logits that a prediction is made of."""
    return hasattr(prediction, _LOGITS)


def merge(x) -> tf.Tensor:
    """[B, n, …] → [B·n, …]."""
    return tf.reshape(x, [-1, *sizes(x)[2:]])


def split(y, like) -> tf.Tensor:
    """[B·n, …] → [B, n, …], with B and n those of `like`."""
    return tf.reshape(y, [*sizes(like)[:2], *sizes(y)[1:]])


def with_tasks(value, shape: Sequence[int]) -> tf.Tensor:
    """[(B,) *shape] → [B, *shape], where B is 1 if all tasks share it."""
    return tf.reshape(value, [-1, *shape])


def align(value, x, axis: int | Sequence[int] = -1) -> tf.Tensor:
    """[(B,) …] → [B, 1, …], to broadcast against x along a layer's axes."""
    along = axes(axis, x)
    shape = [x.shape[i] if i in along else 1 for i in range(2, len(x.shape))]
    return with_tasks(value, [1, *shape])


def axes(axis: int | Sequence[int], x) -> list[int]:
    """Returns the axes of x `[B, n, …]` that a layer means by `axis`."""
    rank = len(x.shape) - 1
    return [1 + i % rank for i in tf.nest.flatten(axis)]


def is_floating(x) -> bool:
    """Whether x is a tensor of real numbers."""
    return tf.is_tensor(x) and x.dtype.is_floating


def cast(values, dtype):
    """Returns nested tensors with all real numbers in one type."""
    return tf.nest.map_structure(
        lambda x: tf.cast(x, dtype) if is_floating(x) else x, values
    )
