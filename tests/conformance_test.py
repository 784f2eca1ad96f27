"""Any Keras model: the same promises, for two dozen of them."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maml_tf import (
    MAML,
    check_meta_gradient,
    functional,
    gradient_descent,
    losses,
    shapes,
)
from maml_tf.adaptation import adapt
from maml_tf.seeds import fold

pytestmark = pytest.mark.usefixtures("not_deterministic")

_register = keras.saving.register_keras_serializable("conformance_test")


@_register
class Subclassed(keras.Model):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(units, "tanh")
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(self.hidden(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@_register
class Tied(keras.Model):
    """An autoencoder whose decoder is the transposed encoder."""

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], 3), "glorot_uniform")

    def call(self, x):
        return keras.ops.tanh(x @ self.kernel) @ keras.ops.transpose(
            self.kernel
        )


@_register
class AddsLoss(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight((shape[-1],), "ones")

    def call(self, x):
        x = self.scale * x
        self.add_loss(0.1 * keras.ops.mean(x**4))
        return x


@_register
class Compiled(layers.Layer):
    """A layer whose call, and a part of it, is a `tf.function`."""

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], 3), "glorot_uniform")

    @tf.function
    def product(self, x):
        return x @ self.kernel

    @tf.function
    def call(self, x):
        return keras.ops.tanh(self.product(x))


def sequential(*parts, shape=(3,), dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def dense(*parts):
    """Returns layers between two dense ones."""
    return sequential(layers.Dense(4, "tanh"), *parts, layers.Dense(2))


def flat(*parts, shape, dtype=None):
    """Returns layers with a dense head on what they give."""
    parts = *parts, layers.Flatten(), layers.Dense(2)
    return sequential(*parts, shape=shape, dtype=dtype)


def functional_model(build, shape=(3,)):
    x = keras.Input(shape)
    return keras.Model(x, build(x))


def skip(x):
    hidden = layers.Dense(3, "tanh")(x)
    return layers.Dense(2)(layers.Add()([x, hidden]))


def nested(x):
    inner = sequential(layers.Dense(3, "tanh"), layers.Dense(3))
    return layers.Dense(2)(layers.Activation("softplus")(inner(x)))


def shared(x):
    hidden = layers.Dense(3, "tanh")
    return layers.Dense(2)(hidden(hidden(x)))


def attention(x):
    x = layers.MultiHeadAttention(2, 2)(x, x)
    return layers.Dense(2)(layers.GlobalAveragePooling1D()(x))


def several():
    left, right = (
        keras.Input((3,), name="left"),
        keras.Input((2,), name="right"),
    )
    hidden = layers.Concatenate()([layers.Dense(3, "tanh")(left), right])
    outputs = {
        "value": layers.Dense(1)(hidden),
        "pair": layers.Dense(2)(hidden),
    }
    return keras.Model({"left": left, "right": right}, outputs)


def frozen_backbone():
    backbone = sequential(layers.Dense(4, "tanh"), layers.BatchNormalization())
    backbone.trainable = False
    return functional_model(lambda x: layers.Dense(2)(backbone(x)))


def mixed_flags():
    frozen = layers.Dense(4, "tanh", trainable=False)
    return dense(frozen, layers.BatchNormalization(trainable=False))


def normalization():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3.0, 2.0, [20, 3]))
    return sequential(layer, layers.Dense(4, "tanh"), layers.Dense(2))


def mixed_precision():
    half = layers.Dense(4, "tanh", dtype="mixed_float16")
    return sequential(half, layers.Dense(2, dtype="float32"))


def application():
    """The first blocks of a published network, as a backbone."""
    whole = keras.applications.EfficientNetV2B0(
        include_top=False,
        weights=None,
        input_shape=(32, 32, 3),
        include_preprocessing=False,
    )
    x = whole.get_layer("block2a_project_bn").output
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(whole.input, layers.Dense(2)(x))


def subclassed():
    model = Subclassed()
    model(tf.zeros([1, 3]))
    return model


def tied():
    model = Tied()
    model(tf.zeros([1, 3]))
    return model


class Case(NamedTuple):
    """A model and what holds for it.

    Attributes:
      make: makes the network.
      fallback: what the plan says of it if it does not run stacked.
      random: whether it draws random numbers.
    """

    make: Callable
    fallback: str | None = None
    random: bool = False


L2 = keras.regularizers.L2(0.1)
CASES = {
    "sequential": Case(dense),
    "skip": Case(lambda: functional_model(skip)),
    "subclassed": Case(subclassed, "neither sequential nor functional"),
    "nested": Case(lambda: functional_model(nested)),
    "shared_layer": Case(lambda: functional_model(shared)),
    "several_inputs_and_outputs": Case(several, "2 outputs"),
    "frozen_backbone": Case(frozen_backbone),
    "mixed_trainable_flags": Case(mixed_flags),
    "batch_norm": Case(lambda: dense(layers.BatchNormalization())),
    "layer_norm": Case(lambda: dense(layers.LayerNormalization())),
    "group_norm": Case(lambda: dense(layers.GroupNormalization(2))),
    "conv": Case(
        lambda: flat(
            layers.Conv2D(2, 3, activation="softplus"),
            layers.MaxPooling2D(),
            shape=(6, 6, 1),
        )
    ),
    "depthwise_and_separable": Case(
        lambda: flat(
            layers.DepthwiseConv2D(3, activation="tanh"),
            layers.SeparableConv2D(3, 2),
            shape=(5, 5, 2),
        )
    ),
    "conv1d": Case(
        lambda: flat(
            layers.Conv1D(3, 3, strides=2, activation="tanh"), shape=(9, 2)
        )
    ),
    "transposed_conv": Case(
        lambda: flat(
            layers.Conv2DTranspose(2, 2, 2, activation="tanh"), shape=(2, 2, 2)
        ),
        "Conv2DTranspose",
    ),
    "embedding": Case(
        lambda: flat(layers.Embedding(5, 3), shape=(4,), dtype="int32")
    ),
    "gru": Case(lambda: flat(layers.GRU(3), shape=(4, 2)), "gru"),
    "lstm": Case(
        lambda: flat(layers.LSTM(3, unroll=True), shape=(4, 2)), "lstm"
    ),
    "attention": Case(
        lambda: functional_model(attention, (4, 3)), "MultiHeadAttention"
    ),
    "dropout": Case(lambda: dense(layers.Dropout(0.3)), random=True),
    "noise": Case(
        lambda: dense(layers.GaussianNoise(0.3), layers.AlphaDropout(0.2)),
        "AlphaDropout",
        random=True,
    ),
    "normalization": Case(normalization),
    "regularizer": Case(
        lambda: dense(layers.Dense(3, kernel_regularizer=L2)), "regulariser"
    ),
    "add_loss": Case(lambda: dense(AddsLoss()), "AddsLoss"),
    "tf_function": Case(lambda: dense(Compiled()), "Compiled"),
    "tied_weights": Case(tied, "neither sequential nor functional"),
    "mixed_precision": Case(mixed_precision, "mixed_float16"),
    "application": Case(application),
}
TASKS, SUPPORT, QUERY, RATE = 2, 3, 2, 0.1


def draw(rng, n, shape, dtype):
    size = TASKS, n, *shape
    if "int" in dtype:
        return tf.constant(rng.integers(5, size=size), dtype)
    return tf.constant(rng.normal(size=size), keras.config.floatx())


def task(network):
    """Returns `((support_x, support_y, query_x), query_y)` of noise."""
    rng = np.random.default_rng(1)
    inputs = getattr(network, "inputs", None) or [keras.KerasTensor((None, 3))]
    given = {x.name: x for x in inputs} if len(inputs) > 1 else inputs[0]

    def like(structure, n):
        return tf.nest.map_structure(
            lambda part: draw(rng, n, part.shape[1:], part.dtype), structure
        )

    target = network.compute_output_spec(given)
    (support_x, query_x), (support_y, query_y) = (
        [like(part, n) for n in (SUPPORT, QUERY)] for part in (given, target)
    )
    return (support_x, support_y, query_x), query_y


def learner(network, engine="looped", **options):
    target = task(network)[1]
    loss = dict.fromkeys(target, "mse") if isinstance(target, dict) else "mse"
    made = MAML(
        network,
        loss,
        inner_lr=RATE,
        inner_steps=1,
        engine=engine,
        **options,
    )
    made.compile("sgd", loss)
    return made


# All but the first are in exactness_test.py, what can be stacked in
# rules_test.py too.
LONG = {
    *("application", "gru", "lstm", "conv1d", "depthwise_and_separable"),
    *("layer_norm", "group_norm"),
}


@pytest.fixture(
    params=[
        pytest.param(case, id=name, marks=[pytest.mark.slow] * (name in LONG))
        for name, case in CASES.items()
    ]
)
def case(request):
    keras.utils.set_random_seed(0)
    return request.param


def assert_equal(actual, expected, tolerance=1e-9):
    actual, expected = map(tf.nest.flatten, (actual, expected))
    scale = max(np.abs(part).max() for part in expected)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, tolerance, tolerance * scale)


def in_graph(function, **options):
    return tf.function(function, autograph=False, **options)


def test_meta_gradient_is_right(case):
    network = case.make()
    made = learner(network)
    before = made.get_weights()
    found = check_meta_gradient(made, task(network))
    assert found.second_order and found.dtype == "float64", found
    assert_equal(made.get_weights(), before, 0)


def test_first_order_is_the_gradient_at_phi(case, float64):
    network = case.make()
    made = learner(network, first_order=True)
    (support_x, support_y, query_x), query_y = data = task(network)
    variables = network.trainable_variables
    actual = in_graph(made.meta_gradient)(data)[0][1]

    @in_graph
    def gradient_at_phi(i):
        """Differentiates the query loss of a task by a shift of φ."""
        part = tf.nest.map_structure(
            lambda x: x[i], (support_x, support_y, query_x, query_y)
        )
        tasks = shapes.leading(query_y)
        seed = made._seeds(tasks, training=True)[i]
        apply_fn = functional.with_penalty(network, variables)
        loss_fn = losses.with_penalty(made.inner_loss, 0)
        theta = [tf.convert_to_tensor(v.value) for v in variables]
        phi = adapt(
            apply_fn,
            loss_fn,
            theta,
            *part[:2],
            update=gradient_descent(RATE),
            inner_steps=1,
            seed=seed,
        ).phi[-1]
        with tf.GradientTape() as tape:
            tape.watch(phi)
            prediction = apply_fn(phi, part[2], fold(seed, 2))
            loss = loss_fn(part[3], prediction)
        found = tape.gradient(loss, phi, unconnected_gradients="zero")
        return [tf.convert_to_tensor(part) for part in found]

    each = [gradient_at_phi(i) for i in range(TASKS)]
    expected = [sum(parts) / TASKS for parts in zip(*each, strict=True)]
    assert_equal(actual, expected, 1e-4 if has_half(network) else 1e-9)


def has_half(network):
    return any(
        "16" in layer.compute_dtype for layer in network._flatten_layers()
    )


def test_every_engine_and_mode_agrees(case, float64):
    network = case.make()
    looped = learner(network)
    data = task(network)
    expected = in_graph(looped.meta_gradient)(data)[0]
    tolerance = 1e-2 if has_half(network) else 1e-7
    assert_equal(looped.meta_gradient(data)[0], expected, tolerance)
    compiled = in_graph(looped.meta_gradient, jit_compile=True)
    others = [compiled(data)[0]]
    if not case.fallback:
        stacked = learner(network, "stacked")
        others.append(in_graph(stacked.meta_gradient)(data)[0])
    for other in others:
        if case.random:  # XLA and each engine draw their own numbers.
            assert all(np.isfinite(part).all() for part in other[1])
        else:
            assert_equal(other, expected, tolerance)


def test_the_plan_says_which_layers_fall_back(case):
    network = case.make()
    if not case.fallback:
        plan = learner(network, "stacked").execution_plan()
        assert not any(why for *_, why in plan.layers)
        return
    with pytest.warns(UserWarning, match=case.fallback) as said:
        plan = learner(network, "auto").execution_plan()
    assert len(said) == 1
    assert plan.choice.engine == "looped"
    assert case.fallback in plan.choice.reason and str(plan)
    with pytest.raises(ValueError, match="Cannot stack tasks"):
        learner(network, "stacked")


def test_saved_and_loaded(case, tmp_path):
    network = case.make()
    made = learner(network)
    inputs, y = task(network)
    made.fit(inputs, y, batch_size=TASKS, verbose=0)
    path = tmp_path / "learner.keras"
    made.save(path)
    loaded = keras.models.load_model(path)
    assert_equal(loaded.get_weights(), made.get_weights(), 0)
    assert_equal(loaded(inputs), made(inputs), 1e-5)
    loaded.network.save(tmp_path / "network.keras")
    alone = keras.models.load_model(tmp_path / "network.keras")
    x = tf.nest.map_structure(lambda part: part[0], inputs[0])
    assert_equal(alone(x), made.network(x), 1e-5)


def test_adapt_leaves_the_network_alone(case):
    network = case.make()
    made = learner(network)
    (support_x, support_y, _), _ = task(network)
    before = network.get_weights()
    x, y = tf.nest.map_structure(lambda part: part[0], (support_x, support_y))
    adapted = made.adapt(x, y)
    assert_equal(network.get_weights(), before, 0)
    changed = {
        variable.path
        for variable, other in zip(
            network.weights, adapted.weights, strict=True
        )
        if np.any(variable.numpy() != other.numpy())
    }
    assert changed & {v.path for v in network.trainable_variables}
    fixed = {v.path for v in network.non_trainable_variables}
    assert all("moving" in path for path in changed & fixed)
    tf.nest.assert_same_structure(adapted(x), network(x))
