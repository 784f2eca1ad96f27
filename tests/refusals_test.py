"""What a user gets wrong, and what they are told."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maml_tf import MAML, Reptile
from maml_tf.inner_optimizers import SGD


def network(*parts, shape=(3,)):
    return keras.Sequential([keras.Input(shape), *parts, layers.Dense(1)])


def maml(network, loss="mse", **options):
    learner = MAML(network, loss, inner_lr=0.1, **options)
    learner.compile("sgd", "mse")
    return learner


def reptile(network, loss="mse", **options):
    learner = Reptile(
        network, SGD(0.1), inner_steps=2, inner_loss=loss, **options
    )
    learner.compile("sgd")
    return learner


KINDS = pytest.mark.parametrize("kind", [maml, reptile])


def meta_batch(kind, shape=(3,)):
    rng = np.random.default_rng(0)
    support_x, query_x = rng.normal(size=[2, 2, 4, *shape]).astype("float32")
    support_y, query_y = rng.normal(size=[2, 2, 4, 1]).astype("float32")
    if kind is reptile:
        return support_x, support_y
    return (support_x, support_y, query_x), query_y


def fit(learner, kind, **options):
    learner.fit(*meta_batch(kind, **options), verbose=0)


@KINDS
@pytest.mark.parametrize(
    "given, message",
    [
        (lambda x: x, "The network: expected a Keras model, got a function"),
        (layers.Dense(1), "expected a Keras model, got a Dense"),
        (keras.Sequential([layers.Dense(1)]), "must be built before it is ada"),
    ],
)
def test_what_is_no_built_model(kind, given, message):
    with pytest.raises(ValueError, match=message):
        kind(given)


@KINDS
def test_a_stateful_layer_is_named(kind):
    x = keras.Input(batch_shape=(4, 5, 3))
    gru = layers.GRU(2, stateful=True, name="memory")
    with pytest.raises(ValueError, match="'memory' carries a state.*stateful"):
        kind(keras.Model(x, layers.Dense(1)(gru(x))), engine="looped")


@KINDS
def test_shapes_that_depend_on_values(kind):
    def positive(x):
        return tf.boolean_mask(x, x[:, 0] > 0)

    learner = kind(network(layers.Lambda(positive)), engine="looped")
    with pytest.raises(ValueError, match="not depend on values: mask"):
        fit(learner, maml) if kind is maml else learner(meta_batch(maml)[0])


@KINDS
@pytest.mark.parametrize(
    "loss, message",
    [("mze", "loss identifier: mze"), (3, "one of Keras or a function, got 3")],
)
def test_what_is_no_loss(kind, loss, message):
    with pytest.raises(ValueError, match=message):
        kind(network(), loss)


@pytest.mark.parametrize("axis", [None, 0])
def test_a_loss_over_the_wrong_axis(axis):
    def loss(y, prediction):
        return tf.reduce_mean((y - prediction) ** 2, axis)

    learner = maml(network(), loss, engine="stacked")
    with pytest.raises(ValueError, match=r"\[None\].*\[None, 4\], got \["):
        fit(learner, maml)


@KINDS
def test_ordinary_training_data(kind):
    learner = kind(network())
    with pytest.raises(
        ValueError, match=r"(expected|takes).* found .*\[None, 3"
    ):
        learner.fit(np.zeros([8, 3]), np.zeros([8, 1]), verbose=0)


@KINDS
def test_inputs_of_another_shape(kind):
    learner = kind(network())
    with pytest.raises(ValueError, match=r"\[B, n, 3\].* found \[None, 4, 5\]"):
        fit(learner, kind, shape=(5,))
    with pytest.raises(ValueError, match="expected `.*from_arrays` makes"):
        learner(np.zeros([2, 4, 3]))
    with pytest.raises(ValueError, match=r"\[n, 3\].* found \[2, 4, 3\]"):
        learner.adapt(np.zeros([2, 4, 3]), np.zeros([2, 4, 1]))


@KINDS
def test_running_eagerly_is_the_same(kind):
    keras.utils.set_random_seed(0)
    weights = []
    start = network().get_weights()
    for eagerly in (False, True):
        learner = kind(network())
        learner.network.set_weights(start)
        learner.compile("sgd", "mse", run_eagerly=eagerly)
        fit(learner, kind)
        weights.append(learner.network.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, 1e-5)


def test_functions_that_run_eagerly_are_the_same():
    keras.utils.set_random_seed(0)
    learner = maml(network())
    x, _ = meta_batch(maml)
    expected = tf.function(learner)(x).query[-1]
    tf.config.run_functions_eagerly(True)
    try:
        np.testing.assert_allclose(learner(x).query[-1], expected, 1e-5)
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_arrays_of_tasks_with_a_smaller_last_batch(engine):
    learner = maml(network(), engine=engine)
    (support_x, support_y, query_x), query_y = meta_batch(maml)
    x = [np.repeat(part, 3, 0) for part in (support_x, support_y, query_x)]
    before = learner.network.get_weights()
    learner.fit(x, np.repeat(query_y, 3, 0), batch_size=4, verbose=0)
    assert learner.optimizer.iterations == 2
    assert np.any(learner.network.get_weights()[0] != before[0])


@KINDS
def test_an_estimate_that_improves_from_call_to_call(kind):
    layer = layers.SpectralNormalization(layers.Dense(2))
    with pytest.raises(ValueError, match="SpectralNormalization. improves an"):
        kind(network(layer))


@KINDS
def test_what_serves_is_no_model_of_keras(kind, tmp_path):
    with pytest.raises(ValueError, match="served by its `adapt_and_predict`"):
        kind(network()).export(tmp_path / "served")
    assert not list(tmp_path.iterdir())


@KINDS
def test_weights_that_no_prediction_depends_on_are_named(kind):
    class Idle(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight((3,), name="kernel")

        def call(self, x):
            return tf.identity(x)

    learner = kind(network(Idle(name="idle")), engine="looped")
    with pytest.warns(UserWarning, match="does not read .*idle/kernel, or not"):
        learner.adapt(np.zeros([4, 3]), np.zeros([4, 1]))
