"""Convolutions of a few images as products of patches and kernel.

TensorFlow's operation on a processor, and each of its two gradients, first
brings kernels and images into an order of its own. For the ten images of a
mini-batch that takes longer than the sums. Patches need no such order, and
those of the convolution are those that its gradient by the kernel needs.
"""

import contextlib
import math

import tensorflow as tf

from maml_tf import convolution, exact

MOST_NUMBERS = 2**19
"""Numbers that patches may hold; with more they leave the caches."""

# Taken here, as `convolutions` puts another in its place.
_tensorflow_convolution = tf.nn.convolution


def convolve(
    input,
    filters,
    strides=None,
    padding="VALID",
    data_format=None,
    dilations=None,
    name=None,
):
    """Returns the convolution of images `[n, H, W, C]` with a kernel.

    A stand-in for `tf.nn.convolution`, which it leaves all that is not in two
    dimensions with channels last, is dilated or in groups, or has more than
    `MOST_NUMBERS`. Another thread, which may want second derivatives, has
    TensorFlow's own.
    """
    # As tensors, for a variable's value may be another one backwards.
    x, kernel = map(tf.convert_to_tensor, (input, filters))
    options = _pair(strides), _pair(dilations), padding.lower()
    is_usual = data_format == "NHWC" and _are_few(x, kernel, options)
    if not (_stand_ins.is_here and is_usual):
        return _tensorflow_convolution(
            x, kernel, strides, padding, data_format, dilations, name
        )
    return tf.custom_gradient(lambda x, kernel: _product(x, kernel, options))(
        x, kernel
    )


_stand_ins = exact.StandIns([(tf.nn, "convolution", convolve)])


def convolutions() -> contextlib.AbstractContextManager:
    """Makes Keras's layers convolve few images so, inside the context.

    It is for first derivatives alone: others were not compared. On a GPU
    nothing changes.
    """
    return _stand_ins


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value or (1, 1))


def _are_few(x, kernel, options):
    strides, dilations, _ = options
    *window, channels, _ = kernel.shape
    usual = len(strides) == 2 and dilations == (1, 1)
    known = x.shape.is_fully_defined() and x.shape[-1] == channels
    if not (usual and known) or tf.config.get_visible_devices("GPU"):
        return False
    outputs = convolution.output_size(x.shape[1:-1], window, *options)
    numbers = x.shape[0] * math.prod(outputs) * math.prod(window) * channels
    return numbers <= MOST_NUMBERS


def _product(x, kernel, options):
    """Returns the convolution and the function of its gradients."""
    *window, _, filters = kernel.shape
    strides, _, padding = options
    rows, (_, *shape) = convolution.patches(x[None], window, *options)
    rows = rows[0]

    def backward(dy):
        by_row = tf.reshape(dy, [-1, filters])
        dx = tf.nn.conv2d_transpose(
            dy, kernel, x.shape, strides, padding.upper()
        )
        dk = tf.matmul(rows, by_row, transpose_a=True)
        return dx, tf.reshape(dk, kernel.shape)

    y = rows @ tf.reshape(kernel, [-1, filters])
    return tf.reshape(y, [*shape, filters]), backward
