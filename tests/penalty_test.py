"""A network's own losses count in both loops, at the parameters of each."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maml_tf import ANIL, MAML, JointTraining, Reptile
from maml_tf.inner_optimizers import SGD

RATE, WEIGHT = 0.1, 0.3


def linear(**options):
    """f(x) = w x, with w = 2 and the penalty 0.3 w²."""
    layer = layers.Dense(
        1,
        use_bias=False,
        kernel_initializer=keras.initializers.Constant(2.0),
        kernel_regularizer=keras.regularizers.L2(WEIGHT),
        **options,
    )
    return keras.Sequential([keras.Input((1,)), layer])


def meta_batch():
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=[4, 2, 3, 1]))


def slope(w, x, y):
    """The derivative of the mean of (w x − y)² + 0.3 w²."""
    return np.mean(2 * x * (w * x - y), (-2, -1)) + 2 * WEIGHT * w


def loss(w, x, y):
    residual = w[:, None, None] * x - y
    return np.mean(residual**2, (-2, -1)) + WEIGHT * w**2


def learner(kind, **options):
    made = kind(linear(), "mse", inner_lr=RATE, engine="looped", **options)
    made.compile("sgd", "mse")
    return made


@pytest.mark.parametrize("first_order", [False, True])
def test_regularisers_count_inside_and_outside(first_order, float64):
    support_x, support_y, query_x, query_y = meta_batch()
    made = learner(MAML, first_order=first_order)
    data = tuple(map(tf.constant, (support_x, support_y, query_x)))
    (found, [gradient]), _ = made.meta_gradient((data, query_y))
    w = 2 - RATE * slope(2.0, support_x, support_y)
    curvature = np.mean(2 * support_x**2, (-2, -1)) + 2 * WEIGHT
    through = 1.0 if first_order else 1 - RATE * curvature
    tasks = zip(w, query_x, query_y, strict=True)
    at_phi = np.array([slope(*task) for task in tasks])
    np.testing.assert_allclose(found, loss(w, query_x, query_y).mean())
    np.testing.assert_allclose(gradient, [[np.mean(through * at_phi)]])


def test_joint_training_counts_them_at_theta(float64):
    support_x, support_y, query_x, query_y = map(tf.constant, meta_batch())
    made = learner(JointTraining)
    data = (support_x, support_y, query_x), query_y
    (found, _), _ = made.meta_gradient(data)
    two = np.array([2.0, 2.0])
    expected = loss(two, support_x.numpy(), support_y.numpy()).mean()
    np.testing.assert_allclose(found, expected)


def test_adapt_descends_them(float64):
    support_x, support_y, *_ = meta_batch()
    adapted = learner(MAML).adapt(support_x[0], support_y[0], steps=1)
    expected = 2 - RATE * slope(2.0, support_x[0], support_y[0])
    np.testing.assert_allclose(adapted.get_weights()[0], [[expected]])


def test_reptile_descends_them(float64):
    support_x, support_y, *_ = meta_batch()
    made = Reptile(linear(), SGD(RATE), inner_steps=1, inner_loss="mse")
    made.compile(keras.optimizers.SGD(1.0))
    made.train_on_batch(support_x, support_y)
    ends = 2 - RATE * slope(2.0, support_x, support_y)
    np.testing.assert_allclose(made.network.get_weights()[0], [[ends.mean()]])


def test_losses_of_a_layer_count_once(float64):
    class Adds(layers.Layer):
        def call(self, x):
            self.add_loss(7.0 + 0.0 * tf.reduce_sum(x))
            return x

    network = keras.Sequential([keras.Input((1,)), Adds(), layers.Dense(1)])
    plain = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    plain.set_weights(network.get_weights())
    support_x, support_y, query_x, query_y = map(tf.constant, meta_batch())
    found = []
    for each in (network, plain):
        made = MAML(each, "mse", inner_lr=RATE, engine="looped")
        made.compile("sgd", "mse")
        x = support_x, support_y, query_x
        found.append(made.meta_gradient((x, query_y))[0][0])
        found.append(made.evaluate(x, query_y, verbose=0))
    np.testing.assert_allclose(found[0], found[2] + 7)
    np.testing.assert_allclose(found[1], found[3] + 7)
    assert made.losses == []


def test_a_regularised_layer_need_not_adapt(float64):
    """Its regulariser adds to each task's loss, and to the meta-gradient."""
    network = keras.Sequential(
        [
            keras.Input([1]),
            keras.layers.Dense(2, "tanh", kernel_regularizer="l2"),
            keras.layers.Dense(1),
        ]
    )
    learner = ANIL(network, "mse", inner_lr=0.1, engine="looped")
    learner.compile("sgd", "mse")
    x = tf.reshape(tf.linspace(-1.0, 1.0, 8), [2, 4, 1])
    data = (x, x, x), x
    kernel = network.layers[0].kernel
    place = [v is kernel for v in learner.trainable_variables].index(True)
    (with_penalty, gradients), _ = learner.meta_gradient(data)
    kernel.regularizer = None
    (without, plain), _ = learner.meta_gradient(data)
    squares = 0.01 * tf.reduce_sum(kernel**2)
    np.testing.assert_allclose(with_penalty - without, squares, 1e-6)
    added = gradients[place] - plain[place]
    np.testing.assert_allclose(added, 0.02 * kernel, 1e-6)


def test_no_loss_counts_as_that_of_another_layer(float64):
    """Keras tells losses by an `id`; those of earlier steps are free again."""
    hidden = [layers.Dense(2, activity_regularizer="l2") for _ in range(3)]
    network = keras.Sequential([keras.Input([1]), *hidden, layers.Dense(1)])
    learner = MAML(
        network, "mse", inner_lr=0.0, inner_steps=10, engine="looped"
    )
    support_x, support_y, _, _ = meta_batch()
    found = learner((support_x, support_y, support_x)).penalty
    np.testing.assert_allclose(found, [found[0]] * len(found))
