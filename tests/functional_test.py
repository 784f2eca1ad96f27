"""Keras models as functions of their parameters, exact to second order."""

import contextlib
import io
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from central_differences import MODES
from keras import layers

from maml_tf import functional

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "second_derivatives.md"


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [[0], [0, 2], [-1]])
def test_moments_are_those_of_tensorflow(axes, keepdims):
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4)))
    actual = functional.moments(x, axes, keepdims=keepdims)
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
    for a, e in zip(pooled(functional.max_pool), expected, strict=True):
        np.testing.assert_array_equal(a, e, strict=True)


# One axis, three, channels first, and given widths of padding.
@pytest.mark.parametrize(
    "shape, window, padding, data_format",
    [
        ((2, 7, 3), 3, "SAME", "NWC"),
        ((2, 5, 6, 7, 3), (2, 3, 2), "SAME", "NDHWC"),
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
    np.testing.assert_array_equal(functional.max_pool(*arguments), expected)


def test_max_pool_takes_channels_first():
    x = tf.reshape(tf.range(2 * 3 * 4 * 4), [2, 3, 4, 4])
    actual = functional.max_pool(x, 2, 2, "VALID", "NCHW")
    np.testing.assert_array_equal(actual, x[:, :, 1::2, 1::2])


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_max_pool_takes_unknown_sizes(mode):
    @MODES[mode]
    def pool(x):
        y = functional.max_pool(x, 3, 2, "SAME")
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
        (functional.max_pool, "graph", 6),
        (functional.max_pool, "xla", 6),
        (tf.nn.max_pool, "graph", 6),
        (tf.nn.max_pool, "xla", 5),  # If not: `functional.max_pool` can go.
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
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = functional.resize(x, (6, 3), method)
                cubes = tf.reduce_sum(y**3) / 6
            slope = tf.reduce_sum(u * inner.gradient(cubes, x))
        return tf.reduce_sum(d * outer.gradient(slope, x))

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
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            squares = tf.reduce_sum(enlarge(x) ** 2)
        gradient = inner.gradient(squares, x)
    return gradient, outer.gradient(gradient, x)


# What `functional.resize` is for. If this fails, it can go.
def test_keras_drops_the_second_derivative_of_resizing():
    enlarge = layers.UpSampling2D(interpolation="bilinear")
    assert squared_gradients(enlarge)[1] is None


def test_second_derivative_of_resizing_layers():
    enlarge = layers.UpSampling2D(interpolation="bilinear")
    with functional.exact_operations():
        gradient, product = squared_gradients(enlarge)
    np.testing.assert_allclose(product, gradient, 1e-6)


def test_layers_use_exact_operations():
    originals = tf.nn.moments, tf.nn.max_pool, tf.image.resize
    with functional.exact_operations():
        exact = tf.nn.moments, tf.nn.max_pool, tf.image.resize
    assert exact == (functional.moments, functional.max_pool, functional.resize)
    assert originals == (tf.nn.moments, tf.nn.max_pool, tf.image.resize)


def test_nothing_is_assigned():
    stack = [layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *stack])
    before = [v.numpy() for v in model.variables]
    variables = model.trainable_variables
    zeros = [tf.zeros(v.shape) for v in variables]
    apply_fn = functional.one_task(model, variables, seed=[0, 0])
    x = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(apply_fn(zeros, x), [[0.0], [0.0]])
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.fixture
def masks():
    """Returns a function of a seed: six masks `[6, 40]`, three a call.

    In a call, one dropout layer draws twice and another one once.
    """
    inputs = keras.Input((40,))
    first, second = layers.Dropout(0.5), layers.Dropout(0.5)
    draws = [first(inputs), first(inputs), second(inputs)]
    model = keras.Model(inputs, layers.Concatenate(axis=0)(draws))

    def draw(seed):
        apply_fn = functional.one_task(model, [], seed)
        calls = [apply_fn([], tf.ones([1, 40])) for _ in range(2)]
        return tf.concat(calls, axis=0)

    return draw


@pytest.mark.parametrize("mode", MODES)
def test_every_draw_is_another(mode, masks):
    draw = MODES[mode](masks)
    seeds = (tf.constant(seed) for seed in ([0, 0], [0, 1], [1, 0]))
    drawn = np.concatenate([draw(seed) for seed in seeds])
    assert set(drawn.flat) == {0.0, 2.0}
    assert len({mask.tobytes() for mask in drawn}) == 18


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_determines_the_draws(mode, masks):
    seed = tf.constant([3, 4])
    once, again = (MODES[mode](masks)(seed) for _ in range(2))
    np.testing.assert_array_equal(once, again)


@tf.function
def in_a_loop(function, tasks):
    signature = tf.TensorSpec([6, 40])
    return tf.map_fn(function, tasks, fn_output_signature=signature)


# In a loop over tasks each draws by its own seed, as it does alone.
def test_a_task_draws_by_its_seed(masks):
    seeds = tf.constant([[0, 0], [0, 1], [1, 0]])
    for actual, seed in zip(in_a_loop(masks, seeds), seeds, strict=True):
        np.testing.assert_array_equal(actual, masks(seed))


def with_layer(layer, **kwargs):
    return keras.Sequential([keras.Input((2, 3), **kwargs), layer])


def test_idle_generator_needs_no_seed():
    model = with_layer(layers.GRU(2))
    assert functional.one_task(model, [])([], np.ones((1, 2, 3))).shape == (
        1,
        2,
    )


def test_unbuilt_model_is_an_error():
    model = keras.Sequential([layers.Dense(1)])
    with pytest.raises(ValueError, match="must be built"):
        functional.one_task(model, model.trainable_variables)


def global_noise(x):
    return x + keras.random.normal((3,))


@pytest.mark.parametrize(
    "layer, seed, message",
    [
        (lambda: layers.Dropout(0.5), None, "pass `seed`"),
        (lambda: layers.GRU(2, dropout=0.5), None, "pass `seed`"),
        (lambda: layers.Lambda(global_noise), [0, 0], "SeedGenerator"),
        (lambda: layers.GRU(2, stateful=True), [0, 0], "stateful=False"),
    ],
    ids=["dropout", "recurrent dropout", "global generator", "stateful"],
)
def test_state_that_would_be_lost_is_an_error(layer, seed, message):
    model = with_layer(layer(), batch_size=4)
    apply_fn = functional.one_task(model, [], seed)
    with pytest.raises(ValueError, match=message):
        apply_fn([], np.ones((4, 2, 3)))


def test_page_prints_what_it_says():
    code, printed = re.findall(r"```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, {})
    assert output.getvalue() == printed
