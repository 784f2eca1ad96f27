"""The check of a user's own model says yes, no, and which layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import (
    FOML,
    MAML,
    MAMLPlusPlus,
    MetaSGD,
    check_meta_gradient,
    losses,
    self_check,
)
from maml_tf.inner_optimizers import SGD


@keras.saving.register_keras_serializable("self_check_test")
class Halved(keras.layers.Layer):
    """Squares its input; half of the derivative is cut off."""

    def call(self, x):
        return x * tf.stop_gradient(x)


@keras.saving.register_keras_serializable("self_check_test")
class Dilated(keras.layers.Layer):
    """Dilates; TensorFlow has no second derivative of that."""

    def call(self, x):
        kernel = tf.zeros([2, 1, 1], x.dtype)
        x = tf.nn.dilation2d(
            x[:, :, None, None], kernel, [1] * 4, "SAME", "NHWC", [1] * 4
        )
        return x[:, :, 0, 0]


@keras.saving.register_keras_serializable("self_check_test")
class Hiding(keras.layers.Layer):
    """Scales; a custom gradient knows of arguments and variables alone."""

    def build(self, shape):
        self.factor = self.add_weight(shape[-1:], "ones", name="factor")

    def call(self, x):
        @tf.custom_gradient
        def scaled(x):
            def gradient(dy, variables=()):
                return factor * dy, [tf.reduce_sum(x * dy, 0)] * len(variables)

            factor = tf.convert_to_tensor(self.factor)
            return factor * x, gradient

        return scaled(x)


class Own(keras.Model):
    """A model that Keras cannot copy."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(4, "tanh")
        self.head = keras.layers.Dense(1)

    def call(self, x):
        return self.head(self.hidden(x))

    def get_config(self):
        raise NotImplementedError


def network(*layers, outputs=1):
    parts = keras.layers.Dense(4, "tanh"), *layers, keras.layers.Dense(outputs)
    return keras.Sequential([keras.Input((3,)), *parts])


def task():
    rng = np.random.default_rng(0)
    support_x, support_y, query_x, query_y = (
        rng.normal(size=[2, n, d]).astype("float32")
        for n, d in ((4, 3), (4, 1), (5, 3), (5, 1))
    )
    return (support_x, support_y, query_x), query_y


@pytest.mark.parametrize(
    "learner",
    [
        lambda net: net,
        lambda net: MAML(net, "mse", inner_lr=0.1, inner_steps=2),
        lambda net: MetaSGD(net, "mse", inner_lr=0.1, inner_steps=2),
        lambda net: MAMLPlusPlus(net, "mse", inner_lr=0.1, inner_steps=2),
        lambda net: MAML(
            net, lambda y, p: tf.reduce_mean((y - p) ** 4, -1), inner_lr=0.1
        ),
    ],
)
def test_second_order_yes(learner):
    net = network(keras.layers.BatchNormalization())
    before = net.get_weights()
    found = check_meta_gradient(learner(net), task())
    assert found.second_order and found.dtype == "float64"
    assert 0 < found.error < 1e-7
    assert str(found).startswith("second order: yes, largest relative error")
    for was, now in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    assert keras.config.floatx() == "float32"


@pytest.mark.parametrize("layer", [Halved, Dilated, Hiding])
def test_the_layer_that_breaks_it_is_named(layer):
    found = check_meta_gradient(network(layer(name="culprit")), task())
    assert not found.second_order
    assert found.layer == f"culprit ({layer.__name__})"
    assert f"no, culprit ({layer.__name__}) breaks it" in str(found)


def test_a_step_to_where_there_is_no_number_does_not_count():
    point = [tf.constant([1e-4, 2e-4], tf.float64)]
    root = self_check._with_gradient(lambda x: tf.reduce_sum(tf.sqrt(x[0])))
    error = self_check._error((point, root), "float64", np.random.default_rng())
    assert error < self_check.TOLERANCE["float64"]


def test_a_loss_that_breaks_it_is_no_layer():
    def loss(y, prediction):
        return (prediction - y) * tf.stop_gradient(prediction - y)

    found = check_meta_gradient(network(), task(), loss=loss)
    assert not found.second_order and found.layer is None
    assert "no layer by itself" in str(found)


def test_first_order_is_not_second_order():
    learner = MAML(network(), "mse", inner_lr=0.1, first_order=True)
    found = check_meta_gradient(learner, task())
    assert not found.second_order and found.error > 1e-3
    assert "as first_order=True asks for" in str(found)


def test_integer_targets_are_classes():
    (support_x, _, query_x), _ = task()
    labels = np.tile([0, 1, 1, 0], (2, 1)), np.tile([0, 1, 1, 0, 1], (2, 1))
    data = (support_x, labels[0], query_x), labels[1]
    found = check_meta_gradient(network(outputs=2), data)
    assert found.second_order
    loss = losses.CrossEntropy(4)
    assert check_meta_gradient(network(outputs=2), data, loss=loss)[0]


def test_a_model_that_cannot_be_copied_is_checked_in_float32():
    own = Own()
    own(task()[0][0][0])
    before = own.get_weights()
    found = check_meta_gradient(own, task())
    assert found.second_order and found.dtype == "float32"
    for was, now in zip(before, own.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.parametrize(
    ("resizing", "dtype"),
    [
        (lambda: keras.layers.Resizing(5, 5), "float32"),
        (
            lambda: keras.layers.UpSampling2D(interpolation="bilinear"),
            "float32",
        ),
        (lambda: keras.layers.UpSampling2D(), "float64"),
    ],
    ids=["resizing", "bilinear", "nearest"],
)
def test_what_interpolates_images_is_checked_in_float32(resizing, dtype):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(2, 2, activation="tanh"),
            resizing(),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=[1, 6, 4, 4, 1]), rng.normal(size=[1, 6, 1])
    found = check_meta_gradient(model, ((x, y, x), y))
    assert found.second_order and found.dtype == dtype


def test_a_network_may_call_a_part_of_it_network():
    own = Own()
    own.network = own.hidden
    own(task()[0][0][0])
    assert check_meta_gradient(own, task()).second_order


@pytest.mark.parametrize(
    "model", [keras.layers.Dense(1), FOML(network(), SGD(0.1), inner_steps=1)]
)
def test_what_is_refused(model):
    with pytest.raises(ValueError, match="model: expected a MAML or a netw"):
        check_meta_gradient(model, task())
