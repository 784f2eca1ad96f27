"""Matrix products of a stack of tasks."""

import math

import tensorflow as tf

LARGE = 100_000
"""Multiplications from which a product of one task is an operation of its own.

TensorFlow's batched product takes far longer on processors without AVX-512.
"""


def each(a, b, transpose_a: bool = False):
    """Returns the product of each task's matrices, [B, n, k] [B, k, m].

    Args:
      a: `[B, n, k]`, or `[B, k, n]` to be transposed.
      b: `[B, k, m]`.
      transpose_a: whether to transpose a.
    """
    if _multiplications(a, b) < LARGE:
        return tf.matmul(a, b, transpose_a)
    pairs = zip(tf.unstack(a), tf.unstack(b), strict=True)
    return tf.stack([tf.matmul(*pair, transpose_a) for pair in pairs])


def _multiplications(a, b):
    """Returns those of one task, or 0 if a size is not known."""
    sizes = [*a.shape, b.shape[-1]]
    return 0 if None in sizes else math.prod(sizes[1:])
