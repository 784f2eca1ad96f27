"""Keras models as functions of their parameters, exact to second order."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maml_tf import functional, losses
from maml_tf.adaptation import adapt

NORMS = {
    "batch": lambda: layers.BatchNormalization(),
    "layer": lambda: layers.LayerNormalization(),
    "group": lambda: layers.GroupNormalization(2),
}


def residual_network(norm):
    """A functional model with a skip connection around a norm."""
    inputs = keras.Input((3,))
    first = layers.Dense(4, "tanh")(inputs)
    x = NORMS[norm]()(layers.Dense(4)(first))
    x = layers.Add()([first, layers.Activation("tanh")(x)])
    model = keras.Model(inputs, layers.Dense(1)(x))
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def relative_error(model):
    """Compares the meta-gradient along a direction with differences."""
    rng = np.random.default_rng(0)
    sx, qx = (tf.constant(rng.normal(size=(6, 3))) for _ in range(2))
    sy, qy = (tf.constant(rng.normal(size=(6, 1))) for _ in range(2))
    variables = model.trainable_variables
    theta = [tf.constant(v.numpy()) for v in variables]
    direction = [rng.normal(size=v.shape) for v in variables]
    apply_fn = functional.one_task(model, variables)

    def query_loss(theta):
        phi = adapt(
            apply_fn,
            losses.mean_squared_error,
            theta,
            sx,
            sy,
            inner_lr=0.1,
            inner_steps=1,
        ).phi[-1]
        return losses.mean_squared_error(qy, apply_fn(phi, qx))

    def at(h):
        return query_loss(
            [t + h * d for t, d in zip(theta, direction, strict=True)]
        )

    with tf.GradientTape() as tape:
        tape.watch(theta)
        loss = query_loss(theta)
    gradient = tape.gradient(loss, theta)
    slope = sum(np.sum(g * d) for g, d in zip(gradient, direction, strict=True))
    difference = (at(1e-5) - at(-1e-5)).numpy() / 2e-5
    return abs(slope / difference - 1)


@pytest.mark.parametrize("norm", NORMS)
def test_meta_gradient_is_exact(norm, float64):
    assert relative_error(residual_network(norm)) < 1e-6


# What `exact_moments` is for. If this fails, TensorFlow is right by now, and
# it can go.
@pytest.mark.parametrize("norm", NORMS)
def test_keras_norms_need_exact_moments(norm, float64, monkeypatch):
    monkeypatch.setattr(functional, "exact_moments", contextlib.nullcontext)
    assert relative_error(residual_network(norm)) > 1e-4


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [[0], [0, 2], [-1]])
def test_moments_are_those_of_tensorflow(axes, keepdims):
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4)))
    actual = functional.moments(x, axes, keepdims=keepdims)
    expected = tf.nn.moments(x, axes, keepdims=keepdims)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, 1e-12, 1e-12, strict=True)


def test_nothing_is_assigned():
    model = residual_network("batch")
    before = [v.numpy() for v in model.variables]
    variables = model.trainable_variables
    x = np.ones((2, 3), "float32")
    zeros = [tf.zeros(v.shape) for v in variables]
    result = functional.one_task(model, variables)(zeros, x)
    np.testing.assert_array_equal(result, [[0.0], [0.0]])
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize(
    "model, message",
    [
        (keras.Sequential([layers.Dense(1)]), "must be built"),
        (
            keras.Sequential(
                [keras.Input((2,)), layers.Dropout(0.5), layers.Dense(1)]
            ),
            "random numbers",
        ),
    ],
    ids=["unbuilt", "dropout"],
)
def test_unusable_model_is_an_error(model, message):
    with pytest.raises(ValueError, match=message):
        functional.one_task(model, model.trainable_variables)
