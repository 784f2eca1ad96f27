"""Which models run on a stack of tasks, and how."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maml_tf import MAML, models, stacked

pytestmark = pytest.mark.usefixtures("not_deterministic")

IMAGE, VECTOR = (7, 5, 2), (3,)


def test_layers_use_exact_operations():
    # The window's inputs agree in their first 16 bits, which is all that
    # XLA's own operation compares. The second one wins, with u = 6.
    x = tf.reshape([1.0, 1.0 + 2.0**-9, 1.0, 1.0], [1, 1, 2, 2, 1])
    u = tf.reshape([5.0, 6.0, 7.0, 8.0], x.shape)
    pool = stacked.many_tasks(
        keras.Sequential([keras.Input((2, 2, 1)), layers.MaxPooling2D()]), []
    )

    @tf.function(jit_compile=True)
    def second(weight):
        with tf.GradientTape() as outer:
            outer.watch(weight)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(weight * pool([], x))
            slope = tf.reduce_sum(u * inner.gradient(y, x))
        return outer.gradient(slope, weight)

    assert second(tf.constant(1.0)) == 6


def sequential(*kinds):
    return keras.Sequential([keras.Input(IMAGE), *kinds])


def functional_model(function):
    inputs = keras.Input(IMAGE)
    return keras.Model(inputs, function(inputs), name="graph")


def low_rank(model):
    model.layers[0].enable_lora(1)
    return model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


class Overridden(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x)


def built(model):
    model(tf.zeros([1, *VECTOR]))
    return model


@pytest.mark.parametrize(
    "model, reason",
    [
        (
            lambda: sequential(layers.Masking(name="strange")),
            r"strange \(Masking\) has no stacked rule",
        ),
        (
            lambda: sequential(sequential(layers.Masking(name="inner"))),
            r"inner \(Masking\) has no stacked rule",
        ),
        (
            lambda: sequential(layers.Conv2D(2, 3, groups=2)),
            r"\(Conv2D\) with groups=2",
        ),
        (
            lambda: sequential(
                layers.DepthwiseConv2D(2, data_format="channels_first")
            ),
            "data_format='channels_first'",
        ),
        (
            lambda: sequential(layers.Embedding(2, 2, mask_zero=True)),
            "mask_zero=True",
        ),
        (
            lambda: sequential(layers.BatchNormalization(synchronized=True)),
            "synchronized=True",
        ),
        (
            lambda: sequential(layers.Dropout(0.5, (None, 1, 1, 2))),
            "noise_shape",
        ),
        (
            lambda: sequential(layers.Dense(2), layers.Softmax(axis=0)),
            "works along the axis of examples",
        ),
        (
            lambda: sequential(layers.Dense(2, activation=layers.PReLU())),
            "has an activation with weights",
        ),
        (
            lambda: sequential(layers.Dense(2, dtype="mixed_float16")),
            "dtype mixed_float16",
        ),
        (lambda: low_rank(sequential(layers.Dense(2))), "lora_enabled=True"),
        (
            lambda: functional_model(lambda x: x + x),
            r"\(Add\) is an operation, not a layer",
        ),
        (
            lambda: functional_model(lambda x: layers.Softmax()(x, mask=x)),
            r"\(Softmax\) is called with mask",
        ),
        (
            lambda: functional_model(lambda x: layers.Softmax()(x, x)),
            r"\(Softmax\) is called with more than its input",
        ),
        (
            lambda: functional_model(lambda x: 2 * [layers.ReLU()(x)]),
            "graph has 2 outputs",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((None, 2)), layers.Conv1D(2, 3)], name="long"
            ),
            r"long has an input of unknown size \(None, None, 2\)",
        ),
        (
            lambda: built(Subclassed()),
            r"\(Subclassed\) is neither sequential nor functional",
        ),
        (
            lambda: built(Overridden([layers.Dense(2)])),
            r"\(Overridden\) is neither",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input(VECTOR), built(Subclassed())]
            ),
            r"\(Subclassed\) has no stacked rule",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*LoRA adapters")
def test_what_cannot_be_stacked_is_named(model, reason):
    model = model()
    reasons = stacked.unsupported(model)
    assert any(re.search(reason, given) for given in reasons), reasons
    with pytest.raises(ValueError, match=reason):
        stacked.many_tasks(model, model.trainable_variables)


def test_no_layer_of_a_subclassed_model_is_said_to_be_stacked():
    ((_, reasons),) = stacked.layers(built(Subclassed()))
    assert "neither sequential nor functional" in reasons[0]


def test_supported_model_has_no_reasons():
    assert stacked.unsupported(models.omniglot_conv(5, max_pool=True)) == []


class Scale(layers.Layer):
    def build(self, input_shape):
        self.factor = self.add_weight(shape=input_shape[-1:])

    def call(self, x):
        return self.factor * x


@stacked.rule(Scale)
def _scale(layer, weight, x):
    """The rule of a user's layer; x is `[B, n, C]`."""
    factor = tf.reshape(weight(layer.factor), [-1, 1, x.shape[-1]])
    return factor * x


@pytest.mark.parametrize("adapted", [True, False])
def test_users_may_add_rules(adapted):
    model = keras.Sequential([keras.Input((2,)), Scale()])
    (factor,) = model.trainable_variables
    factor.assign([2.0, 3.0])
    x = tf.ones([2, 1, 2])
    apply_fn = stacked.many_tasks(model, [factor] if adapted else [])
    actual = apply_fn([[[4.0, 5.0], [6.0, 7.0]]] if adapted else [], x)
    expected = [[[4, 5]], [[6, 7]]] if adapted else [[[2, 3]], [[2, 3]]]
    np.testing.assert_array_equal(actual, expected)


class Square(layers.Layer):
    def call(self, x):
        return x * x


def test_example_by_example_is_a_rule():
    stacked.rule(Square)(stacked.example_by_example)
    model = keras.Sequential([keras.Input((1,)), Square()])
    x = tf.reshape([1.0, 2.0, 3.0, 4.0], [2, 2, 1])
    actual = stacked.many_tasks(model, [])([], x)
    np.testing.assert_array_equal(actual, [[[1], [4]], [[9], [16]]])


class Trained(layers.Layer):
    def call(self, x, training=False):
        return 2 * x if training else x


def test_example_by_example_trains():
    stacked.rule(Trained)(stacked.example_by_example)
    model = keras.Sequential([keras.Input((1,)), Trained()])
    actual = stacked.many_tasks(model, [])([], tf.ones([2, 2, 1]))
    np.testing.assert_array_equal(actual, np.full([2, 2, 1], 2.0))


class AddsLoss(layers.Layer):
    def call(self, x):
        self.add_loss(tf.reduce_mean(x))
        return tf.identity(x)


class Draws(layers.Layer):
    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal(tf.shape(x), seed=self.generator)


@pytest.mark.parametrize(
    "layer, found", [(AddsLoss, "adds a loss"), (Draws, "draws random numbers")]
)
def test_what_a_rule_leaves_out_is_refused(layer, found):
    stacked.rule(layer)(stacked.example_by_example)
    apply_fn = stacked.many_tasks(sequential(layer()), [])
    with pytest.raises(ValueError, match=f"a layer {found}, which its rule"):
        apply_fn([], tf.ones([2, 1, *IMAGE]), tf.constant([0, 1], tf.int64))


def certain(*last):
    """Returns a network whose probabilities round to 0 and 1."""
    network = keras.Sequential([keras.Input((2,)), *last])
    kernel, bias = network.get_weights()
    kernel[...] = [[60, -60, 0], [-60, 60, 0]]
    network.set_weights([kernel, bias])
    return network


@pytest.mark.parametrize(
    "last",
    [
        lambda: [layers.Dense(3), layers.Activation("softmax")],
        lambda: [layers.Dense(3), layers.Softmax()],
        lambda: [layers.Dense(3, layers.Softmax())],
        lambda: [layers.Dense(3, lambda x: keras.ops.softmax(x))],
        lambda: [layers.Dense(3, "softmax")],
    ],
)
def test_logits_are_compared_whatever_makes_probabilities_of_them(last):
    x, y = np.array([[[1, 0], [0, 1]]], "f"), np.array([[1, 2]])
    losses = []
    for engine in ("looped", "stacked"):
        loss = "sparse_categorical_crossentropy"
        learner = MAML(certain(*last()), loss, inner_lr=0.0, engine=engine)
        learner.compile("sgd", loss)
        losses.append(learner.train_on_batch((x, y, x), y))
    assert losses == pytest.approx([90.0, 90.0])


@pytest.mark.parametrize("depth", [0, 1])
def test_random_layers_need_a_seed(depth):
    model = sequential(layers.Dropout(0.5, name="lucky"))
    for _ in range(depth):
        model = sequential(model)
    assert stacked.unsupported(model) == []
    with pytest.raises(ValueError, match="lucky.*seed"):
        stacked.many_tasks(model, [])([], tf.ones([1, 1, 2]))


@pytest.mark.parametrize("named", [True, False], ids=["dictionary", "list"])
def test_inputs_in_a_dictionary_go_by_name(named):
    signal, age = (keras.Input([3], name=name) for name in ("signal", "age"))
    inputs = [signal, age]
    taken = {like.name: like for like in inputs} if named else inputs
    model = keras.Model(taken, layers.Subtract()([signal, age]))
    x = {"signal": tf.ones([2, 4, 3]), "age": tf.zeros([2, 4, 3])}
    np.testing.assert_array_equal(
        stacked.many_tasks(model, [])([], x), tf.ones([2, 4, 3])
    )


@pytest.mark.parametrize("engine", ["looped", "stacked"])
@pytest.mark.parametrize("form", [lambda y: [y], lambda y: {"y": y}])
def test_a_single_output_may_be_in_a_list_or_dictionary(form, engine):
    x = keras.Input([3])
    network = keras.Model(x, form(layers.Dense(2, name="y")(x)))
    loss = {"y": "mse"} if isinstance(form(0), dict) else "mse"
    learner = MAML(network, loss, inner_lr=0.1, engine=engine)
    inputs, outputs = tf.ones([2, 4, 3]), tf.ones([2, 4, 2])
    y = {"y": outputs} if isinstance(form(0), dict) else outputs
    found = learner.adapt_and_predict(inputs, y, inputs)
    assert isinstance(found, dict) == isinstance(form(0), dict)
    assert tf.nest.flatten(found)[0].shape == [2, 4, 2]


def test_an_activation_may_count_axes():
    def softmax(x):
        return keras.ops.softmax(x, axis=1)

    model = keras.Sequential([keras.Input([3]), layers.Dense(2, softmax)])
    x = tf.random.stateless_normal([2, 4, 3], [0, 0])
    np.testing.assert_allclose(
        stacked.many_tasks(model, [])([], x), tf.map_fn(model, x), 1e-6
    )


def test_ids_are_not_rounded_in_half_precision():
    with models.dtype_policy("mixed_bfloat16"):
        model = keras.Sequential([keras.Input([2]), layers.Embedding(999, 2)])
    x = tf.constant([[[257.0, -1.0]]])
    np.testing.assert_array_equal(
        tf.cast(stacked.many_tasks(model, [])([], x)[0, 0], tf.float32),
        tf.cast(tf.gather(model.layers[0].embeddings, [257, 998]), tf.bfloat16),
    )
