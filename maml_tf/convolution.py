"""Convolutions of a stack of tasks, each task with its own kernel.

A convolution is a product of patches and kernel, so the filters of all tasks
make one batched product. Inputs are `[B, n, *size, C]`: B tasks of n examples
with any number of spatial axes. A kernel `[K, *window, C, F]` has K = B, or
K = 1 if all tasks share it.

Sizes and windows are static. Strides and dilations are tuples, one integer
for each spatial axis; padding is "same", "valid" or "causal".
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf import products
from maml_tf.shapes import sizes


def convolve(x, kernel, strides, dilations, padding) -> tf.Tensor:
    """Returns the convolution of each task's examples with its kernel.

        y[o, f] = Σ_w Σ_c x[pixel(o, w), c] kernel[w, c, f]

    for output o and window entry w, see `_axis_positions`.

    Args:
      x: `[B, n, *size, C]`.
      kernel: `[K, *window, C, F]`.
      strides: of each spatial axis.
      dilations: of each spatial axis.
      padding: "same", "valid" or "causal".

    Returns:
      `[B, n, *outputs, F]`.
    """
    _, *window, channels, filters = kernel.shape
    rows, shape = patches(x, window, strides, dilations, padding)
    tasks, depth = sizes(kernel)[0], math.prod(window) * channels
    rows = tf.reshape(rows, [tasks, -1, depth])
    y = products.each(rows, tf.reshape(kernel, [tasks, depth, filters]))
    return tf.reshape(y, [*shape, filters])


def convolve_depthwise(x, kernel, strides, dilations, padding) -> tf.Tensor:
    """Returns the convolution of each channel with filters of its own.

        y[o, c, f] = Σ_w x[pixel(o, w), c] kernel[w, c, f]

    Args:
      x: `[B, n, *size, C]`.
      kernel: `[K, *window, C, F]`, F filters for each channel.
      strides: of each spatial axis.
      dilations: of each spatial axis.
      padding: "same", "valid" or "causal".

    Returns:
      `[B, n, *outputs, C·F]`.
    """
    _, *window, channels, filters = kernel.shape
    rows, shape = patches(x, window, strides, dilations, padding)
    tasks, entries = sizes(kernel)[0], math.prod(window)
    rows = tf.reshape(rows, [tasks, -1, entries, channels, 1])
    kernel = tf.reshape(kernel, [tasks, 1, entries, channels, filters])
    y = tf.reduce_sum(rows * kernel, axis=2)
    return tf.reshape(y, [*shape, channels * filters])


def patches(x, window, strides, dilations, padding):
    """Returns the patches that a convolution multiplies by its kernel.

    Args:
      x: `[B, n, *size, C]`.
      window: the extent along each spatial axis.
      strides: of each spatial axis.
      dilations: of each spatial axis.
      padding: "same", "valid" or "causal".

    Returns:
      The patches `[B, n·outputs, window·C]`, and `[B, n, *outputs]`: the shape
      of what is computed from them, without its channels.
    """
    tasks, examples, *size, channels = sizes(x)
    options = tuple(size), tuple(window), strides, dilations, padding
    table = _patch_table(*options)
    pixels = tf.reshape(x, [-1, math.prod(size), channels])
    read = _gather_sum(pixels, table.patch_to_pixel, table.pixel_to_patches)
    depth = math.prod(window) * channels
    rows = tf.reshape(read, [tasks, -1, depth])
    return rows, [tasks, examples, *output_size(*options)]


def output_size(size, window, strides, dilations, padding) -> tuple[int, ...]:
    """Returns how many outputs a convolution has along each spatial axis."""
    axes = zip(size, window, strides, dilations, strict=True)
    return tuple(len(_axis_positions(*axis, padding)) for axis in axes)


def _gather_sum(x, sources, adjoint):
    """Returns y[m, i] = Σₚ x[m, sources[i, p]], where index n reads a zero.

    The transpose of such a map is another one, so derivatives of every order
    are gathers too: `adjoint` holds the transposed indices. (The derivative
    of `tf.image.extract_patches` is a sparse product, many times slower.)

    Args:
      x: `[m, n, C]`.
      sources: integers `[i, p]` in 0 … n.
      adjoint: integers `[n, q]` in 0 … i.
    """

    @tf.custom_gradient
    def linear(x):
        read = _gather if sources.shape[1] == 1 else _gather_many
        return read(x, sources), lambda dy: _gather_sum(dy, adjoint, sources)

    return linear(x)


def _gather(x, sources):
    padded = tf.pad(x, [[0, 0], [0, 1], [0, 0]])
    return tf.gather(padded, sources[:, 0], axis=1)


def _gather_many(x, sources):
    """Sums by a product with zeros and ones, which saves the padded copy."""
    inside = sources < x.shape[1]
    read = tf.gather(x, np.where(inside, sources, 0), axis=1)
    ones = tf.cast(inside[None, :, None], x.dtype)
    ones = tf.broadcast_to(ones, [*sizes(read)[:2], 1, sources.shape[1]])
    return tf.squeeze(ones @ read, 2)


class _PatchTable(NamedTuple):
    """Which pixel each patch entry reads, and which entries read a pixel.

    Attributes:
      patch_to_pixel: `[outputs·window, 1]`; the count of pixels, an index one
        too large, stands for padding.
      pixel_to_patches: `[pixels, most readers of a pixel]`, filled up with
        the index outputs·window, which stands for nothing.
    """

    patch_to_pixel: np.ndarray
    pixel_to_patches: np.ndarray


@functools.lru_cache
def _patch_table(size, window, strides, dilations, padding):
    axes = [
        _axis_positions(*axis, padding)
        for axis in zip(size, window, strides, dilations, strict=True)
    ]
    pixels = _ravel(axes, size)
    return _PatchTable(
        pixels[:, None].astype(np.int32),
        _readers(pixels, math.prod(size)).astype(np.int32),
    )


def _axis_positions(size, window, stride, dilation, padding):
    """Returns the positions `[outputs, window]` read along one axis.

        position[o, w] = o · stride + w · dilation − before

    TensorFlow puts the smaller half of an odd "same" padding first; "causal"
    padding is all in front. Positions outside 0 … size − 1 are padding.
    """
    reach = (window - 1) * dilation
    outputs = -(-(size - reach * (padding == "valid")) // stride)
    missing = max((outputs - 1) * stride + reach + 1 - size, 0)
    before = {"valid": 0, "same": missing // 2, "causal": reach}[padding]
    first = np.arange(outputs)[:, None] * stride - before
    return first + np.arange(window) * dilation


def _ravel(axes, size):
    """Returns the pixel that each patch entry reads, or Π size: padding.

    Args:
      axes: for each spatial axis the positions `[outputs, window]`.
      size: of each spatial axis.

    Returns:
      `[outputs₁·outputs₂·…·window₁·window₂·…]`.
    """
    dimensions = len(axes)
    positions = np.broadcast_arrays(
        *(
            np.expand_dims(
                axis, [i for i in range(2 * dimensions) if i % dimensions != a]
            )
            for a, axis in enumerate(axes)
        )
    )
    inside = np.all(
        [(p >= 0) & (p < n) for p, n in zip(positions, size, strict=True)],
        axis=0,
    )
    pixels = np.ravel_multi_index(positions, size, mode="clip")
    return np.where(inside, pixels, math.prod(size)).reshape(-1)


def _readers(sources, count):
    """Returns, for each index below `count`, where in `sources` it occurs.

    Returns:
      `[count, most occurrences]`, filled up with len(sources).
    """
    order = np.argsort(sources, kind="stable")
    order = order[sources[order] < count]
    row = sources[order]
    column = np.arange(len(row)) - np.searchsorted(row, row)
    table = np.full((count, column.max() + 1), len(sources))
    table[row, column] = order
    return table
