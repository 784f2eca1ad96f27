"""Normalisation layers: values, statistics, derivatives, refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from derivatives import derivatives
from keras import layers

from maml_tf import norms


# Columns (1, 3) and (0, 4): means 2, variances 1 and 4.
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_uses_the_batch(training):
    layer = norms.BatchStatisticsNorm()
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.beta.assign([0.0, 10.0])
    expected = [
        [-1 / 1.001**0.5, 10 - 2 / 4.001**0.5],
        [1 / 1.001**0.5, 10 + 2 / 4.001**0.5],
    ]
    actual = model(np.array([[1.0, 0.0], [3.0, 4.0]]), training=training)
    np.testing.assert_allclose(actual, expected, 1e-5)


# Example (1, 3) has mean 2 and variance 1, (0, 4) mean 2 and variance 4.
def test_example_norm_uses_the_example():
    layer = norms.ExampleNorm()
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.gamma.assign([1.0, 3.0])
    layer.beta.assign([0.0, 10.0])
    actual = model(np.array([[1.0, 3.0], [0.0, 4.0]]))
    np.testing.assert_allclose(actual, [[-1.0, 13.0]] * 2, 1e-5)


@pytest.mark.parametrize(
    "kind, axes", [(norms.BatchStatisticsNorm, 0), (norms.ExampleNorm, 1)]
)
def test_legacy_gradient_is_that_of_tf_nn_moments(kind, axes, float64):
    x, v = map(tf.constant, np.random.default_rng(0).normal(size=(2, 5, 4)))
    exact, legacy = (kind(gradient=g) for g in norms.NORM_GRADIENTS)

    def with_moments(x):
        mean, variance = tf.nn.moments(x, [axes], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + legacy.epsilon)

    def of(normalise):
        return derivatives(lambda x: normalise(x) ** 3, x, v)

    expected, actual = of(with_moments), of(legacy)
    np.testing.assert_allclose(actual, expected, 1e-9, 1e-12)
    gradient, curvature = of(exact)
    np.testing.assert_allclose(gradient, expected[0], 1e-9, 1e-12)
    assert np.abs(curvature - expected[1]).max() > 0.01


def test_unknown_gradient_is_an_error():
    with pytest.raises(ValueError, match="gradient.*'fast'"):
        norms.BatchStatisticsNorm(gradient="fast")


@pytest.mark.parametrize("extra", [{}, {"max_pool": True}, {"scale": True}])
@pytest.mark.parametrize("gradient", norms.NORM_GRADIENTS)
def test_joined_convolution_is_the_two_layers(gradient, extra, float64):
    x = np.random.default_rng(0).normal(3, 1, size=(4, 5, 6, 2))
    options = {"gradient": gradient, "epsilon": 0.1, **extra}
    joined = norms.NormalizedConv2D(3, 3, 2, **options)
    conv = layers.Conv2D(3, 3, 2, "same")
    norm = norms.BatchStatisticsNorm(**options)
    pair = keras.Sequential([keras.Input(x.shape[1:]), conv, norm])
    joined.build(x.shape)
    joined.beta.assign([1.0, -2.0, 3.0])
    joined.bias.assign([5.0, 6.0, 7.0])  # has no effect
    norm.beta.assign(joined.beta)
    if "scale" in extra:
        joined.gamma.assign([2.0, -1.0, 0.5])
        norm.gamma.assign(joined.gamma)

    def of(layer, kernel):
        def loss(value):
            with keras.StatelessScope([(kernel, value)]):
                return layer(x) ** 3

        value = joined.kernel.value
        return layer(x), *derivatives(loss, value, tf.sin(value))

    conv.kernel.assign(joined.kernel)
    expected, actual = of(pair, conv.kernel), of(joined, joined.kernel)
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(a, e, 1e-9, 1e-9)


# Patches whose mean is large beside their deviation: float32 must keep digits.
def test_joined_convolution_keeps_its_digits():
    x = np.random.default_rng(0).uniform(size=(5, 84, 84, 3)).astype("float32")
    keras.utils.set_random_seed(0)
    layer = norms.NormalizedConv2D(8, 3)
    y = layer(x).numpy().astype("float64")
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=2e-6)
    np.testing.assert_allclose(
        y.var((0, 1, 2)), 1 / (1 + 1e-3 / unnormalised_variance(layer, x)), 1e-5
    )


def unnormalised_variance(layer, x):
    y = tf.nn.conv2d(x.astype("float64"), layer.kernel.numpy(), 1, "SAME")
    return y.numpy().var((0, 1, 2))


@pytest.mark.parametrize(
    "kind",
    [
        norms.BatchStatisticsNorm,
        norms.ExampleNorm,
        lambda **options: norms.NormalizedConv2D(3, 3, 2, **options),
    ],
    ids=["batch", "example", "joined"],
)
def test_what_a_layer_is_made_with_is_saved(kind):
    layer = kind(epsilon=0.5, gradient="legacy")
    config = layer.get_config()
    assert (config["epsilon"], config["gradient"]) == (0.5, "legacy")
    assert type(layer).from_config(config).get_config() == config
