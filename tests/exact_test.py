"""Stand-ins have TensorFlow's values, and exact second derivatives."""

import concurrent.futures
import contextlib
import io
import pathlib
import re
import threading

import numpy as np
import pytest
import tensorflow as tf
from central_differences import MODES
from derivatives import derivatives
from keras import layers

from maml_tf import exact

pytestmark = pytest.mark.usefixtures("not_deterministic")

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "second_derivatives.md"


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [[0], [0, 2], [-1]])
def test_moments_are_those_of_tensorflow(axes, keepdims):
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4)))
    actual = exact.moments(x, axes, keepdims=keepdims)
    expected = tf.nn.moments(x, axes, keepdims=keepdims)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, 1e-12, 1e-12, strict=True)


# Inputs are few different integers, so that most windows have ties.
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("window", [1, 2, (3, 2)])
@pytest.mark.parametrize("stride", [1, 2, (2, 3)])
def test_max_pool_is_that_of_tensorflow(window, stride, padding):
    x = np.random.default_rng(0).integers(3, size=(2, 7, 6, 3))
    x = tf.constant(x, tf.float32)

    def pooled(max_pool):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = max_pool(x, window, stride, padding)
            weighted = tf.reduce_sum(tf.cumsum(y, axis=1))
        return y, tape.gradient(weighted, x)

    expected = pooled(tf.nn.max_pool)
    for a, e in zip(pooled(exact.max_pool), expected, strict=True):
        np.testing.assert_array_equal(a, e, strict=True)


# One axis, three, channels first, and given widths of padding.
@pytest.mark.parametrize(
    "shape, window, padding, data_format",
    [
        ((2, 7, 3), 3, "SAME", "NWC"),
        ((2, 5, 6, 7, 3), (2, 3, 2), "SAME", "NDHWC"),
        ((2, 6, 7, 3), [2], "VALID", "NHWC"),
        ((2, 6, 7, 3), [1, 3, 2, 1], [[0, 0], [1, 2], [0, 1], [0, 0]], "NHWC"),
    ],
)
def test_max_pool_takes_the_arguments_of_tensorflow(
    shape, window, padding, data_format
):
    x = np.random.default_rng(0).normal(size=shape)
    x = tf.constant(x, tf.float32)
    arguments = (x, window, window, padding, data_format)
    expected = tf.nn.max_pool(*arguments)
    np.testing.assert_array_equal(exact.max_pool(*arguments), expected)


def test_max_pool_takes_channels_first():
    x = tf.reshape(tf.range(2 * 3 * 4 * 4), [2, 3, 4, 4])
    actual = exact.max_pool(x, 2, 2, "VALID", "NCHW")
    np.testing.assert_array_equal(actual, x[:, :, 1::2, 1::2])


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_max_pool_takes_unknown_sizes(mode):
    @MODES[mode]
    def pool(x):
        y = exact.max_pool(x, 3, 2, "SAME")
        assert y.shape[-1] == 3
        return y

    x = tf.constant(np.random.default_rng(0).normal(size=(2, 5, 6, 3)))
    unknown = tf.TensorSpec([None, None, None, 3], x.dtype)
    actual = pool.get_concrete_function(unknown)(x)
    np.testing.assert_array_equal(actual, tf.nn.max_pool(x, 3, 2, "SAME"))


# The window's inputs agree in their first 16 bits; the second one wins, so the
# derivative along u by the weight of the output is 6.
@pytest.mark.parametrize(
    "max_pool, mode, expected",
    [
        (exact.max_pool, "graph", 6),
        (exact.max_pool, "xla", 6),
        (tf.nn.max_pool, "graph", 6),
        (tf.nn.max_pool, "xla", 5),  # If not: `exact.max_pool` can go.
    ],
)
def test_second_derivative_of_max_pool(max_pool, mode, expected):
    x = tf.reshape([1.0, 1.0 + 2.0**-9, 1.0, 1.0], [1, 2, 2, 1])
    u = tf.reshape([5.0, 6.0, 7.0, 8.0], [1, 2, 2, 1])

    @MODES[mode]
    def second(weight):
        with tf.GradientTape() as outer:
            outer.watch(weight)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(weight * max_pool(x, 2, 2, "VALID"))
            slope = tf.reduce_sum(u * inner.gradient(y, x))
        return outer.gradient(slope, weight)

    assert second(tf.constant(1.0)) == expected


# y = A x for flattened images, so the second derivative of Σ y³ / 6 along u
# and d is Σ y · A u · A d. TensorFlow resizes in float32; XLA, for its part,
# knows no other method.
@pytest.mark.parametrize(
    "method, mode",
    [
        ("nearest", "eager"),
        ("bicubic", "graph"),
        *(("bilinear", mode) for mode in MODES),
    ],
)
def test_second_derivative_of_resize(method, mode):
    x, u, d = np.random.default_rng(0).normal(size=(3, 1, 4, 4, 1))
    x, u, d = (tf.constant(v, tf.float32) for v in (x, u, d))

    @MODES[mode]
    def second(x):
        def cubes(x):
            return exact.resize(x, (6, 3), method) ** 3 / 6

        return tf.reduce_sum(d * derivatives(cubes, x, u)[1])

    y, along_u, along_d = (
        tf.image.resize(v, (6, 3), method) for v in (x, u, d)
    )
    expected = np.sum(y * along_u * along_d)
    np.testing.assert_allclose(second(x), expected, 1e-5)


def squared_gradients(enlarge):
    """Returns the gradient of Σ (A x)² at x = 1, and H 1 for its Hessian H.

    Both are 2 Aᵀ A 1.
    """
    x = tf.ones([1, 2, 2, 1])
    return derivatives(lambda x: enlarge(x) ** 2, x, tf.ones_like(x))


# What `exact.resize` is for. If this fails, it can go.
def test_keras_drops_the_second_derivative_of_resizing():
    enlarge = layers.UpSampling2D(interpolation="bilinear")
    assert squared_gradients(enlarge)[1] is None


def test_second_derivative_of_resizing_layers():
    enlarge = layers.UpSampling2D(interpolation="bilinear")
    with exact.operations():
        gradient, product = squared_gradients(enlarge)
    np.testing.assert_allclose(product, gradient, 1e-6)


def test_layers_use_exact_operations():
    originals = tf.nn.moments, tf.nn.max_pool, tf.image.resize
    with exact.operations():
        inside = tf.nn.moments, tf.nn.max_pool, tf.image.resize
    assert inside == (exact.moments, exact.max_pool, exact.resize)
    assert originals == (tf.nn.moments, tf.nn.max_pool, tf.image.resize)


def test_page_prints_what_it_says():
    code, printed = re.findall(r"```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, {})
    assert output.getvalue() == printed


def test_who_leaves_first_takes_nothing_from_another():
    originals = tf.nn.moments, tf.nn.max_pool, tf.image.resize
    entered, left = threading.Event(), threading.Event()

    def beside():
        with exact.operations():
            entered.set()
            assert left.wait(60)
            return tf.nn.moments, tf.image.resize

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with exact.operations():
            found = pool.submit(beside)
            assert entered.wait(60)
        left.set()
        assert found.result() == (exact.moments, exact.resize)
    assert originals == (tf.nn.moments, tf.nn.max_pool, tf.image.resize)
