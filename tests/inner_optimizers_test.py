"""Inner optimizers against Keras's, and what they remember."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_optimizers

PAIRS = {
    "sgd": (inner_optimizers.SGD(0.1), lambda: keras.optimizers.SGD(0.1)),
    "adam": (
        inner_optimizers.Adam(0.1, beta_1=0.9),
        lambda: keras.optimizers.Adam(0.1, beta_1=0.9, epsilon=1e-8),
    ),
    "adam_of_reptile": (
        inner_optimizers.Adam(0.1),
        lambda: keras.optimizers.Adam(0.1, beta_1=0.0, epsilon=1e-8),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_ten_steps_are_those_of_keras(name, float64):
    ours, make = PAIRS[name]
    theirs, variable = make(), keras.Variable([1.0, -2.0, 3.0], dtype="float64")
    parameters = tf.constant([1.0, -2.0, 3.0], tf.float64)
    state = ours.init(parameters)
    rng = np.random.default_rng(0)
    for gradient in rng.normal(size=(10, 3)):
        gradient = tf.constant(gradient)
        parameters, state = ours.update(gradient, state, parameters)
        theirs.apply([gradient], [variable])
    # Keras rounds β₂ to float32.
    np.testing.assert_allclose(parameters, variable.numpy(), 1e-5)


def test_adam_by_hand(float64):
    # β₁ = 0: m = g = 2, v = 0.001 · 4, and the correction by β₂ is
    # √0.001: the first step is α g / |g|, but for ε.
    adam = inner_optimizers.Adam(0.5)
    zeros = tf.zeros([1], tf.float64)
    parameters, state = adam.update(2 + zeros, adam.init(zeros), zeros)
    np.testing.assert_allclose(parameters, [-0.5], 1e-6)
    np.testing.assert_allclose(state.scalars, [0.0, 0.999])
    np.testing.assert_allclose(state.slots, [[2.0], [0.004]])


def test_sgd_remembers_nothing():
    sgd = inner_optimizers.SGD(0.5)
    assert sgd.init(tf.zeros([3])) == inner_optimizers.State()
