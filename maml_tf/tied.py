"""Parameters that are still the same for all tasks, as where they start.

A layer with such a parameter acts on the examples of all tasks as one batch,
forwards and in the meta-gradient. Only the inner gradient is each task's own.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from maml_tf import products, shapes


class Tied(NamedTuple):
    """A parameter shared + own of B tasks, where `own` is zero.

    The inner gradient is taken by `own`, the meta-gradient by `shared`.

    Attributes:
      shared: `[*shape]`.
      own: zeros `[B, *shape]`, or `None` if no inner gradient is taken.
    """

    shared: tf.Tensor
    own: tf.Tensor | None = None


def tie(value, tasks) -> Tied:
    """Returns `value` `[*shape]` as a parameter of a number of tasks."""
    return Tied(value, tf.zeros([tasks, *value.shape], value.dtype))


def own(parameter) -> tf.Tensor:
    """Returns what the inner gradient is taken by."""
    return parameter.own if isinstance(parameter, Tied) else parameter


def untie(parameter) -> tf.Tensor:
    """Returns a parameter as one tensor, with a task axis if it has `own`."""
    if not isinstance(parameter, Tied):
        return parameter
    shared, own = parameter
    return shared if own is None else shared + own


def attach(y, own, rows: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns y = x shared, and lets a gradient by `own` know of x.

    Args:
      y: `[B, …, F]`.
      own: zeros `[B, …, F]`, or `None`.
      rows: returns x `[B, n, C]`, with n·F numbers of y and C·F of `own` for
        each task.
    """
    if own is None:
        return y

    @tf.custom_gradient
    def identity(y, own):
        def gradient(dy):
            x = rows()
            dy_rows = tf.reshape(dy, [*shapes.sizes(x)[:2], y.shape[-1]])
            slope = products.each(x, dy_rows, transpose_a=True)
            return dy, tf.reshape(slope, shapes.sizes(own))

        return tf.identity(y), gradient

    return identity(y, own)
