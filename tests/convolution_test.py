"""A stack's convolution is Keras's, task by task."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import convolution

# size, window, strides, dilations, padding; C = 2 channels, F = 3 filters.
CASES = [
    ((7,), (3,), (1,), (1,), "valid"),
    ((7,), (3,), (2,), (1,), "same"),
    ((7,), (3,), (1,), (2,), "same"),
    ((7, 5), (3, 3), (1, 1), (1, 1), "same"),
    ((7, 5), (3, 3), (2, 2), (1, 1), "same"),
    ((7, 5), (3, 3), (2, 2), (1, 1), "valid"),
    ((7, 5), (3, 3), (1, 2), (1, 1), "same"),
    ((7, 5), (1, 1), (1, 1), (1, 1), "same"),
    ((7, 5), (1, 1), (2, 2), (1, 1), "same"),
    ((7, 5), (5, 5), (1, 1), (1, 1), "valid"),
    ((7, 5), (5, 5), (2, 2), (1, 1), "same"),
    ((7, 5), (2, 3), (1, 1), (1, 1), "same"),
    ((7, 5), (3, 2), (1, 1), (2, 3), "same"),
    ((7, 5), (3, 2), (1, 1), (3, 2), "valid"),
    ((3, 4, 5), (2, 3, 1), (1, 2, 2), (1, 1, 1), "same"),
    ((3, 4, 5), (2, 2, 3), (1, 1, 1), (1, 2, 1), "valid"),
]


def draw(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape))


def up_to_second_order(function, x, kernel):
    """Returns y, and the derivatives of two scalars made of y and dy."""
    with tf.GradientTape(persistent=True) as outer:
        outer.watch([x, kernel])
        with tf.GradientTape() as inner:
            inner.watch([x, kernel])
            y = function(x, kernel)
            first = tf.reduce_sum(tf.sin(y))
        slopes = inner.gradient(first, [x, kernel])
        second = sum(tf.reduce_sum(tf.sin(slope)) for slope in slopes)
    return [y, *slopes, *outer.gradient(second, [x, kernel])]


def assert_same(stacked, one_task, x, kernel):
    """Compares with one task after the other, for K = B and for K = 1."""

    def apart(x, kernel):
        kernels = tf.unstack(kernel) * (len(x) // len(kernel))
        return tf.stack(list(map(one_task, tf.unstack(x), kernels)))

    for k in (kernel, kernel[:1]):
        actual = up_to_second_order(stacked, x, k)
        expected = up_to_second_order(apart, x, k)
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size, window, strides, dilations, padding", CASES)
def test_convolution(size, window, strides, dilations, padding):
    def stacked(x, kernel):
        return convolution.convolve(x, kernel, strides, dilations, padding)

    def one_task(x, kernel):
        return keras.ops.conv(
            x, kernel, strides, padding, dilation_rate=dilations
        )

    x, kernel = draw(2, 3, *size, 2), draw(2, *window, 2, 3)
    assert_same(stacked, one_task, x, kernel)


@pytest.mark.parametrize(
    "size, window, strides, dilations, padding", CASES[1::3]
)
def test_depthwise_convolution(size, window, strides, dilations, padding):
    def stacked(x, kernel):
        return convolution.convolve_depthwise(
            x, kernel, strides, dilations, padding
        )

    def one_task(x, kernel):
        channels = [
            keras.ops.conv(
                x[..., c : c + 1],
                kernel[..., c : c + 1, :],
                strides,
                padding,
                dilation_rate=dilations,
            )
            for c in range(x.shape[-1])
        ]
        return tf.concat(channels, -1)

    x, kernel = draw(2, 3, *size, 2), draw(2, *window, 2, 3)
    assert_same(stacked, one_task, x, kernel)


@pytest.mark.parametrize(
    "padding, dilation, expected",
    [
        ("valid", 1, [21, 32, 43]),
        ("same", 1, [21, 32, 43, 4]),
        ("causal", 1, [10, 21, 32, 43]),
        ("valid", 2, [31, 42]),
        ("same", 2, [20, 31, 42, 3]),
        ("causal", 2, [10, 20, 31, 42]),
    ],
)
def test_padding(padding, dilation, expected):
    # y = x[first] + 10 x[second] for x = 1, 2, 3, 4.
    x = tf.reshape([1.0, 2.0, 3.0, 4.0], [1, 1, 4, 1])
    kernel = tf.reshape([1.0, 10.0], [1, 2, 1, 1])
    y = convolution.convolve(x, kernel, (1,), (dilation,), padding)
    np.testing.assert_array_equal(tf.reshape(y, [-1]), expected)


def test_tasks_and_examples_may_be_unknown():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 4, 1]),
            tf.TensorSpec([None, 2, 1, 1]),
        ]
    )
    def in_graph(x, kernel):
        return convolution.convolve(x, kernel, (1,), (1,), "valid")

    # One task adds neighbours, the other subtracts them.
    x = tf.reshape(tf.range(1.0, 9.0) ** 2, [2, 1, 4, 1])
    kernel = tf.reshape([1.0, 1.0, -1.0, 1.0], [2, 2, 1, 1])
    np.testing.assert_array_equal(
        in_graph(x, kernel)[:, 0, :, 0], [[5, 13, 25], [11, 13, 15]]
    )
