"""Matrix products of a stack of tasks."""

import math

import tensorflow as tf

LARGE = 100_000
"""Multiplications from which a product of one task is an operation of its own.

TensorFlow's batched product takes up to three times as long on processors
without AVX-512.
"""


def each(a, b, transpose_a: bool = False, transpose_b: bool = False):
    """Returns the product of each task's matrices, [B, n, k] [B, k, m].

    Args:
      a: `[B, n, k]`, or `[B, k, n]` to be transposed.
      b: `[B, k, m]`, or `[B, m, k]` to be transposed.
      transpose_a: whether to transpose a.
      transpose_b: whether to transpose b.
    """
    options = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    if _multiplications(a, b, transpose_b) < LARGE:
        return tf.matmul(a, b, **options)
    pairs = zip(tf.unstack(a), tf.unstack(b), strict=True)
    return tf.stack([tf.matmul(*pair, **options) for pair in pairs])


def _multiplications(a, b, transpose_b):
    """Returns those of one task, or 0 if a size is not known."""
    tasks, *sides = *a.shape, b.shape[1 if transpose_b else 2]
    return 0 if None in (tasks, *sides) else math.prod(sides)
