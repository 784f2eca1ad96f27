"""An adapted network is an ordinary Keras model that shares nothing."""

from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from maml_tf import copies, inner_optimizers, losses, models
from maml_tf.maml import MAML, JointTraining
from maml_tf.reptile import FOML, Reptile

WAYS, TASKS = 3, 2


def mlp():
    return keras.Sequential(
        [keras.Input([4]), layers.Dense(8, "relu"), layers.Dense(WAYS)]
    )


def functional():
    inputs = keras.Input([4])
    hidden = layers.Dense(4, "relu")(inputs)
    hidden = layers.LayerNormalization()(layers.Add()([hidden, inputs]))
    return keras.Model(inputs, layers.Dense(WAYS)(hidden))


def shared():
    inputs = keras.Input([4])
    layer = layers.Dense(4, "tanh")
    return keras.Model(inputs, layers.Dense(WAYS)(layer(layer(inputs))))


def nested():
    inputs = keras.Input([4])
    return keras.Model(inputs, layers.Dense(WAYS)(mlp()(inputs)))


def maml(network, **options):
    return MAML(
        network,
        losses.CrossEntropy(2),
        inner_lr=0.3,
        inner_steps=1,
        test_inner_steps=4,
        **options,
    )


def reptile(network, kind=Reptile, optimizer=None):
    optimizer = optimizer or inner_optimizers.Adam(0.05)
    return kind(
        network,
        optimizer,
        inner_steps=2,
        test_inner_steps=4,
        transductive=True,
    )


LEARNERS = {
    "maml": maml,
    "looped": lambda network: maml(network, engine="looped"),
    "first_order": lambda network: maml(network, first_order=True),
    "some": lambda network: maml(
        network, adapt=network.trainable_variables[-2:]
    ),
    "joint": lambda network: JointTraining(
        network,
        losses.CrossEntropy(2),
        inner_lr=0.3,
        inner_steps=1,
        test_inner_steps=4,
    ),
    "reptile": reptile,
    "sgd": lambda network: reptile(
        network, optimizer=inner_optimizers.SGD(0.1)
    ),
    "foml": lambda network: reptile(network, FOML),
}


def data(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=[2, TASKS, 2 * WAYS, 4]).astype("float32")
    y = np.tile(np.repeat(np.arange(WAYS), 2), [TASKS, 1])
    return x[0], y, x[1]


@pytest.mark.parametrize("network", [mlp, functional, shared, nested])
@pytest.mark.parametrize("learner", LEARNERS)
def test_predicts_what_the_learner_does(learner, network):
    learner = LEARNERS[learner](network())
    before = learner.network.get_weights()
    support_x, support_y, query_x = data()
    together = learner.adapt_and_predict(*data())
    model = learner.adapt(support_x[0], support_y[0])
    np.testing.assert_allclose(
        model.predict(query_x[0], verbose=0), together[0], 1e-4, 1e-5
    )
    for ours, theirs in zip(learner.network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_networks_of_the_papers():
    network = models.omniglot_conv(WAYS, 4)
    learner = maml(network, adapt="fast_weights")
    rng = np.random.default_rng(0)
    x = rng.normal(size=[2, 1, 6, 28, 28, 1]).astype("float32")
    y = np.repeat(np.arange(WAYS), 2)[None]
    together = learner.adapt_and_predict(x[0], y, x[1])
    model = learner.adapt(x[0, 0], y[0])
    assert model.name == network.name
    np.testing.assert_allclose(model(x[1, 0]), together[0], 1e-3, 1e-4)


def test_steps_may_be_chosen():
    learner = maml(mlp())
    support_x, support_y, query_x = data()
    task = support_x[0], support_y[0], query_x[0]
    by_steps = learner((support_x, support_y, query_x)).query
    for steps in range(4):
        model = learner.adapt(*task[:2], steps=steps)
        np.testing.assert_allclose(
            model(task[2]), by_steps[steps][0], 1e-4, 1e-5
        )


def test_the_copy_shares_nothing():
    learner = maml(mlp())
    support_x, support_y, query_x = data()
    model = learner.adapt(support_x[0], support_y[0])
    expected = model.predict(query_x[0], verbose=0)
    learner.network.set_weights(
        [np.zeros_like(w) for w in learner.network.get_weights()]
    )
    np.testing.assert_array_equal(
        model.predict(query_x[0], verbose=0), expected
    )


def test_a_copy_is_compared_once():
    support_x, support_y, _ = data()
    learner = maml(functional())
    with mock.patch.object(
        copies, "_require_alike", wraps=copies._require_alike
    ) as compared:
        for x, y in zip(support_x, support_y, strict=True):
            learner.adapt(x, y)
    assert len(support_x) > 1 and compared.call_count == 1


def test_the_copy_is_saved_and_trained_as_any_model(tmp_path):
    support_x, support_y, query_x = data()
    model = maml(functional()).adapt(support_x[0], support_y[0])
    model.save(tmp_path / "task.keras")
    again = keras.models.load_model(tmp_path / "task.keras")
    np.testing.assert_allclose(again(query_x[0]), model(query_x[0]), 1e-6)
    again.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    history = again.fit(support_x[0], support_y[0], epochs=20, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


@pytest.mark.parametrize("kind", [maml, reptile])
def test_batch_normalisation_has_the_support_sets_statistics(kind):
    network = keras.Sequential(
        [
            keras.Input([4]),
            layers.Dense(8),
            layers.BatchNormalization(momentum=0.9),
            layers.Dense(WAYS),
        ]
    )
    support_x, support_y, query_x = data()
    model = kind(network).adapt(support_x[0], support_y[0])
    dense, norm, _ = model.layers
    hidden = dense(support_x[0]).numpy()
    np.testing.assert_allclose(norm.moving_mean, hidden.mean(0), 1e-4, 1e-5)
    np.testing.assert_allclose(norm.moving_variance, hidden.var(0), 1e-4, 1e-5)
    assert norm.momentum == 0.9
    whole = model.predict(query_x[0], verbose=0)
    alone = [model.predict(x[None], verbose=0)[0] for x in query_x[0]]
    np.testing.assert_allclose(whole, alone, 1e-5, 1e-6)


def test_dropout_is_off_in_the_copy():
    network = keras.Sequential(
        [keras.Input([4]), layers.Dropout(0.5), layers.Dense(WAYS)]
    )
    support_x, support_y, query_x = data()
    model = maml(network).adapt(support_x[0], support_y[0])
    np.testing.assert_array_equal(model(query_x[0]), model(query_x[0]))


def test_the_copy_of_batch_norm_behind_dropout_is_the_same_each_time():
    network = keras.Sequential(
        [
            keras.Input([4]),
            layers.Dropout(0.5),
            layers.BatchNormalization(),
            layers.Dense(WAYS),
        ]
    )
    support_x, support_y, _ = data()
    learner = maml(network)
    first, second = (
        learner.adapt(support_x[0], support_y[0]).get_weights()
        for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_copy_normalises_by_what_the_network_has_seen():
    support_x, support_y, query_x = (np.array(part) for part in data())
    support_x, query_x = 300 + 5 * support_x, 300 + 5 * query_x
    normalization = layers.Normalization()
    normalization.adapt(support_x[0])
    network = keras.Sequential(
        [keras.Input([4]), normalization, layers.Dense(WAYS)]
    )
    learner = maml(network)
    model = learner.adapt(support_x[0], support_y[0])
    together = learner.adapt_and_predict(support_x, support_y, query_x)
    np.testing.assert_allclose(model(query_x[0]), together[0], 1e-4, 1e-5)


class Own(keras.Model):
    """A model of a class of its own, without `get_config`."""

    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units)

    def call(self, x):
        return self.dense(x)


class Described(Own):
    def __init__(self, units, **options):
        super().__init__(units)
        self.units = units

    def get_config(self):
        return {"units": self.units}


def test_a_class_of_ones_own():
    network = Described(WAYS)
    network(tf.zeros([1, 4]))
    support_x, support_y, query_x = data()
    learner = maml(network, engine="looped")
    model = learner.adapt(support_x[0], support_y[0])
    assert isinstance(model, Described)
    together = learner.adapt_and_predict(*data())
    np.testing.assert_allclose(model(query_x[0]), together[0], 1e-4, 1e-5)


def test_a_class_of_ones_own_that_cannot_be_copied_is_named():
    network = Own(WAYS)
    network(tf.zeros([1, 4]))
    support_x, support_y, _ = data()
    with pytest.raises(ValueError, match="get_config"):
        maml(network, engine="looped").adapt(support_x[0], support_y[0])


class Frozen(keras.Model):
    """A model of a class of its own; `from_config` makes it anew."""

    def __init__(self, **options):
        super().__init__(**options)
        self.norm = layers.BatchNormalization()
        self.inner = mlp()
        self.out = layers.Dense(WAYS)

    def call(self, x, training=False):
        return self.out(self.inner(self.norm(x, training=training)))


@pytest.mark.parametrize("nested", [False, True])
def test_what_is_frozen_stays_so(nested):
    network = Frozen()
    network(np.zeros([1, 4]))
    network.norm.trainable = False
    network.inner.layers[0].trainable = False
    network.norm.moving_mean.assign([9.0] * 4)
    if nested:
        inputs = keras.Input([4])
        network = keras.Model(inputs, network(inputs))
    x = np.random.default_rng(0).normal(size=[6, 4])
    y = np.arange(6) % WAYS
    learner = maml(network, engine="looped")
    adapted = learner.adapt(x, y)
    [norm] = [
        layer
        for layer in adapted._flatten_layers()
        if isinstance(layer, layers.BatchNormalization)
    ]
    np.testing.assert_array_equal(norm.moving_mean, [9.0] * 4)
    assert [v.shape for v in adapted.trainable_variables] == [
        v.shape for v in network.trainable_variables
    ]
    expected = learner.adapt_and_predict(x[None], y[None], x[None])[0]
    np.testing.assert_allclose(adapted(x), expected, 1e-4, 1e-5)


def test_a_weight_that_is_frozen_alone_stays_so():
    network = mlp()
    network.layers[0].kernel.trainable = False
    learner = maml(network)
    copy = learner.adapt(np.zeros([3, 4]), np.arange(3))
    frozen = [weight.trainable for weight in copy.weights]
    assert frozen == [False, True, True, True]


@pytest.mark.parametrize(
    ("kind", "dtype", "words"),
    [
        (layers.IntegerLookup, "int64", [10, 20, 30]),
        (layers.StringLookup, "string", ["a", "b", "c"]),
    ],
)
def test_vocabularies_are_handed_on(kind, dtype, words):
    table = kind()
    table.set_vocabulary(words)
    network = keras.Sequential(
        [
            keras.Input([1], dtype=dtype),
            table,
            layers.Embedding(4, 3),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    assert_adapts_alike(network, tf.constant(words, dtype)[:, None])


def assert_adapts_alike(network, x):
    """The copy predicts what the learner does, for inputs of one task."""
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    y = tf.ones([len(x), 1])
    (expected,) = learner.adapt_and_predict(x[None], y[None], x[None])
    actual = learner.adapt(x, y)(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("most", [None, 9])
@pytest.mark.parametrize("kind", ["text", "words"])
def test_what_weighs_words_is_handed_on(kind, most):
    make = {"text": layers.TextVectorization, "words": layers.StringLookup}
    options = {"output_mode": "tf_idf", "max_tokens": most}
    table = make[kind](pad_to_max_tokens=most is not None, **options)
    words = tf.constant(["a", "b", "b", "c"])[:, None]
    table.adapt(words)
    network = keras.Sequential(
        [keras.Input([1], dtype="string"), table, layers.Dense(1)]
    )
    assert_adapts_alike(network, words)


def test_lambda_layers_are_copied():
    network = keras.Sequential(
        [
            keras.Input([2]),
            layers.Lambda(lambda x: 2 * x),
            layers.Dense(1),
        ]
    )
    assert_adapts_alike(network, tf.constant([[1.0, 2], [3, 4]]))
    unsafe = keras.saving.serialize_keras_object(network)
    with pytest.raises(ValueError, match="[Ll]ambda"):
        keras.saving.deserialize_keras_object(unsafe)


def test_a_lambda_layer_may_name_a_global():
    network = keras.Sequential(
        [
            keras.Input([2]),
            layers.Lambda(lambda x: WAYS * x),
            layers.Dense(1),
        ]
    )
    assert_adapts_alike(network, tf.ones([3, 2]))


def test_a_local_loss_that_the_network_was_compiled_with():
    def local(y, prediction):
        return ops.mean((y - prediction) ** 2, -1)

    network = keras.Sequential([keras.Input([2]), layers.Dense(1)])
    network.compile("sgd", local)
    assert_adapts_alike(network, tf.ones([3, 2]))


def test_a_layer_that_two_models_share():
    x, layer = keras.Input([2]), layers.Dense(2, "tanh")
    first, second = (
        keras.Sequential([keras.Input([2]), layer, layers.Dense(2)])
        for _ in range(2)
    )
    network = keras.Model(x, layers.Dense(1)(first(x) + second(x)))
    assert_adapts_alike(network, tf.ones([3, 2]))


class Holder(keras.Model):
    """A model around a layer, which its configuration makes anew."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x)

    def get_config(self):
        return {"layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["layer"]))


def test_a_layer_that_two_models_of_ones_own_share_is_refused():
    x, layer = keras.Input([2]), layers.Dense(2)
    network = keras.Model(x, Holder(layer)(Holder(layer)(x)))
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    with pytest.raises(ValueError, match="a copy of 5 layers, got 6"):
        learner.adapt(tf.ones([3, 2]), tf.ones([3, 2]))


class TenTimes(keras.Model):
    """A graph with a call of its own."""

    def __init__(self, units=1):
        x = keras.Input([2])
        super().__init__(x, layers.Dense(units)(x))
        self.units = units

    def call(self, x, training=False):
        return 10 * super().call(x, training=training)

    def get_config(self):
        return {"units": self.units}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class TenTimesInTurn(keras.Sequential):
    def call(self, x, training=False):
        return 10 * super().call(x, training=training)


@pytest.mark.parametrize(
    "make",
    [
        TenTimes,
        lambda: TenTimesInTurn([keras.Input([2]), layers.Dense(1)]),
    ],
)
def test_a_graph_keeps_a_call_of_its_own(make):
    assert_adapts_alike(make(), tf.ones([3, 2]))


# With no step at all the copy's weights are the network's.
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("trainable", [True, False])
def test_a_copy_that_reads_the_networks_weights_is_refused(steps, trainable):
    x, encoder = keras.Input([3]), layers.Dense(2, "tanh", trainable=trainable)
    hidden = encoder(x)
    decoded = ops.einsum("nd,vd->nv", hidden, encoder.kernel)
    network = keras.Model(x, layers.Dense(3)(decoded))
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    with pytest.raises(ValueError, match="reads .*/kernel of the network"):
        learner.adapt(tf.ones([4, 3]), tf.ones([4, 3]), steps=steps)


class Draws(layers.Layer):
    """Adds noise, also where nothing is trained."""

    def __init__(self, has_generator=True, **options):
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator() if has_generator else None

    def call(self, x):
        if self.generator is None:
            return x + tf.random.normal(tf.shape(x))
        return x + keras.random.normal(ops.shape(x), seed=self.generator)


@pytest.mark.parametrize("has_generator", [False, True])
def test_a_network_that_always_draws_numbers_is_copied(has_generator):
    network = keras.Sequential(
        [keras.Input([2]), Draws(has_generator), layers.Dense(1)]
    )
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    learner.adapt(tf.ones([4, 2]), tf.ones([4, 1]))


class RunningMean(layers.Layer):
    """Subtracts the batch's mean in training, and else a moving average."""

    def build(self, shape):
        self.mean = self.add_weight(
            [shape[-1]], "zeros", trainable=False, name="mean"
        )

    def call(self, x, training=False):
        if not training:
            return x - self.mean
        mean = ops.mean(x, 0)
        self.mean.assign(0.9 * self.mean + 0.1 * mean)
        return x - mean


def test_running_statistics_of_ones_own_are_refused():
    network = keras.Sequential(
        [keras.Input([2]), RunningMean(), layers.Dense(1)]
    )
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    with pytest.raises(ValueError, match="training changes .*/mean"):
        learner.adapt(100 + tf.ones([4, 2]), tf.ones([4, 1]))


def test_batch_normalisation_has_the_mean_of_its_calls():
    left, right = (keras.Input([2], name=name) for name in ("left", "right"))
    norm = layers.BatchNormalization()
    hidden = layers.Subtract()([norm(left), norm(right)])
    network = keras.Model([left, right], layers.Dense(1)(hidden))
    x = np.random.default_rng(0).normal(size=[2, 4, 2])
    x[1] += 4
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    copy = learner.adapt(list(x), np.ones([4, 1]))
    [norm] = [layer for layer in copy.layers if layer.weights][:1]
    mean, variance = x.mean(1).mean(0), x.var(1).mean(0)
    np.testing.assert_allclose(norm.moving_mean, mean, 1e-5)
    np.testing.assert_allclose(norm.moving_variance, variance, 1e-5)
    assert norm.momentum == 0.99
    assert "call" not in vars(norm)


def test_a_class_that_forgets_an_argument_is_refused():
    class Forgets(TenTimes):
        factor = 1

        def call(self, x, training=False):
            return self.factor * super().call(x, training=training)

    network = Forgets()
    network.factor = 2
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    with pytest.raises(ValueError, match="predicts something else"):
        learner.adapt(tf.ones([3, 2]), tf.ones([3, 1]))
