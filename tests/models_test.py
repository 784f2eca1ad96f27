"""The papers' networks: sizes, initial values, normalisation, pooling."""

from typing import get_args, get_type_hints

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import config, engines, models, norms, settings

# A 3×3 convolution C → F has 9CF + F weights, a dense layer n → m has nm + m.
# 64 filters: 640 + 3 · 36928 = 111424; 5-way head 64 · 5 + 5 = 325.
# 32 filters on RGB: 896 + 3 · 9248 = 28640; head on 5 · 5 · 32: 4005.
# Omniglot MLP: 200960 + 32896 + 8256 + 4160 + 325 = 246597.
# A norm adds β for each unit, "layer_norm" γ too: 4 · 64 = 256, 4 · 32 = 128,
# 256 + 128 + 64 + 64 = 512. mini_imagenet's 32773 is the number of floats in
# the released checkpoint. Reptile's norms have γ and β, 2 · 4 · 64 or 32; its
# heads are on 2 · 2 · 64 and, as pooling keeps odd edges, 6 · 6 · 32.
COUNTS = [
    (models.sinusoid_mlp, {}, 80 + 1640 + 41, 1761),
    (models.sinusoid_mlp, {"inputs": 3}, 160 + 1640 + 41, 1841),
    (models.omniglot_conv, {"ways": 5}, 111749, 112005),
    (models.omniglot_conv, {"ways": 5, "max_pool": True}, 111749, 112005),
    (models.omniglot_conv, {"ways": 5, "norm": "layer_norm"}, 111749, 112261),
    (models.omniglot_conv, {"ways": 5, "norm": "None"}, 111749, 111749),
    (models.omniglot_mlp, {"ways": 5}, 246597, 247109),
    (models.omniglot_mlp, {"ways": 5, "norm": "layer_norm"}, 246597, 247621),
    (models.mini_imagenet_conv, {"ways": 5}, 32645, 32773),
    (models.reptile_omniglot_conv, {"ways": 5}, 111424 + 1285, 113221),
    (models.reptile_mini_imagenet_conv, {"ways": 5}, 28640 + 5765, 34661),
]


@pytest.mark.parametrize("build, options, fast, total", COUNTS)
def test_number_of_parameters(build, options, fast, total):
    model = build(**options)
    adapted = models.fast_weights(model)
    assert sum(np.prod(v.shape) for v in adapted) == fast
    assert {v.name for v in adapted} == {"kernel", "bias"}
    assert model.count_params() == total
    # Nothing but trainable weights: there are no moving averages.
    assert not model.non_trainable_variables


def test_initial_values():
    keras.utils.set_random_seed(0)
    head = models.omniglot_conv(20).layers[-1].kernel.numpy()  # 1280 values
    assert abs(head.std() - 1.0) < 0.1 and np.abs(head).max() > 2

    small = models.sinusoid_mlp().layers[2].kernel.numpy()  # 1600 values
    # Cut at 2σ, which leaves a standard deviation of 0.88 σ.
    assert 0.019 < np.abs(small).max() <= 0.02
    assert abs(small.std() - 0.0088) < 0.0005

    mini = models.mini_imagenet_conv(5)
    of_reptile = models.reptile_omniglot_conv(5)
    for model in (models.omniglot_conv(5), mini, of_reptile):
        for layer in model.layers:
            if hasattr(layer, "kernel") and len(layer.kernel.shape) == 4:
                kernel = np.abs(layer.kernel.numpy())
                # √(6 / (fan in + fan out)) for 9 pixels.
                bound = np.sqrt(6 / (9 * sum(kernel.shape[2:])))
                assert 0.95 * bound < kernel.max() <= bound
    for model, flat in ((mini, 800), (of_reptile, 256)):
        head = np.abs(model.layers[-1].kernel.numpy())
        bound = np.sqrt(6 / (flat + 5))
        assert 0.95 * bound < head.max() <= bound


@pytest.mark.parametrize(
    "model",
    [
        models.sinusoid_mlp(norm="layer_norm"),
        models.omniglot_conv(5),
        models.reptile_mini_imagenet_conv(5),
    ],
)
def test_biases_and_betas_start_at_0_and_gammas_at_1(model):
    starts = {"bias": 0, "beta": 0, "gamma": 1}
    found = [v for v in model.trainable_variables if v.name in starts]
    assert len(found) >= 7
    for variable in found:
        assert np.all(variable.numpy() == starts[variable.name])


def normalised(y, beta, gamma=1.0):
    mean, variance = tf.nn.moments(y, list(range(len(y.shape) - 1)))
    return gamma * (y - mean) / tf.sqrt(variance + 1e-3) + beta


def drawn(model, examples):
    """Returns images, and the weights, which are drawn anew."""
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    shape = examples, *model.input_shape[1:]
    return rng.normal(size=shape), model.get_weights()


def test_the_network_without_convolutions_by_hand(float64):
    """Dense, norm, ReLU: the other way round, outputs would be others."""
    model = models.omniglot_mlp(5)
    x, (*hidden, kernel, bias) = drawn(model, 6)
    y = tf.reshape(x, [6, 784])
    for block in range(0, 12, 3):
        inner, shift, beta = hidden[block : block + 3]
        y = tf.nn.relu(normalised(y @ inner + shift, beta))
    np.testing.assert_allclose(model(x), y @ kernel + bias, 1e-9, 1e-9)


def test_reptiles_network_of_photos_by_hand(float64):
    """γ < 0 turns maxima: pooling comes after the norm."""
    model = models.reptile_mini_imagenet_conv(5, (11, 11, 3))
    x, (*blocks, kernel, bias) = drawn(model, 4)
    y = tf.constant(x)
    for block in range(0, 16, 4):
        inner, shift, gamma, beta = blocks[block : block + 4]
        y = tf.nn.conv2d(y, inner, 1, "SAME") + shift
        y = tf.nn.max_pool2d(normalised(y, beta, gamma), 2, 2, "SAME")
        y = tf.nn.relu(y)
    y = tf.reshape(y, [4, 32]) @ kernel + bias
    np.testing.assert_allclose(model(x), y, 1e-9, 1e-9)


def test_config_names_the_same_choices():
    for kind, field, known in (
        (config.Config, "norm", models.NORMS),
        (config.Config, "norm_gradient", norms.NORM_GRADIENTS),
        (settings.Supervised, "engine", engines.ENGINES),
    ):
        assert get_args(get_type_hints(kind)[field]) == known


@pytest.mark.parametrize("norm", ["batchnorm", None])
def test_a_norm_that_is_none_is_refused(norm):
    with pytest.raises(ValueError, match=f"norm: expected .* got {norm!r}"):
        models.omniglot_conv(5, norm=norm)


@pytest.mark.parametrize("norm", models.NORMS)
def test_saved_model_is_the_same(norm, tmp_path):
    model = models.omniglot_conv(5, 4, norm, max_pool=True)
    x = np.random.default_rng(0).normal(size=(3, 28, 28, 1))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(x), model(x), 1e-5, 1e-6)
