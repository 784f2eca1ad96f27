"""What the inner loop adapts is what one selects."""

import keras
import pytest
from keras import layers

from maml_tf import MAML, Reptile, models
from maml_tf.inner_optimizers import SGD
from maml_tf.selection import NAMES, select


@pytest.fixture
def network():
    parts = [
        layers.Dense(3, name="first"),
        layers.BatchNormalization(name="norm"),
        layers.Dense(2, name="last"),
        layers.Softmax(),
    ]
    return keras.Sequential([keras.Input((4,)), *parts])


def paths(variables):
    return ["/".join(v.path.split("/")[-2:]) for v in variables]


@pytest.mark.parametrize("adapt", [None, "all"])
def test_all_trainable_weights_are_the_default(network, adapt):
    network.get_layer("first").trainable = False
    assert paths(select(network, adapt)) == [
        "norm/gamma",
        "norm/beta",
        "last/kernel",
        "last/bias",
    ]


@pytest.mark.parametrize(
    "adapt",
    [
        "head",
        lambda variable: "last" in variable.path,
        lambda network: [network.get_layer("last")],
        lambda network: network.get_layer("last"),
        lambda network: network.get_layer("last").trainable_variables,
        lambda network: [
            network.get_layer("last").kernel,
            network.get_layer("last"),
        ],
    ],
)
def test_the_head_in_many_ways(network, adapt, request):
    place = request.node.callspec.indices["adapt"]
    chosen = adapt(network) if place > 1 else adapt
    assert paths(select(network, chosen)) == ["last/kernel", "last/bias"]


def test_the_originals_choice():
    network = models.omniglot_conv(5)
    chosen = select(network, "fast_weights")
    assert chosen == models.fast_weights(network)
    assert len(chosen) < len(network.trainable_variables)


def test_the_head_of_a_nested_model_is_its_last_layer():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="head")])
    network = keras.Sequential([keras.Input((4,)), layers.Dense(3), inner])
    assert paths(select(network, "head")) == ["head/kernel", "head/bias"]


def test_the_head_of_a_model_that_is_all_there_is():
    inner = keras.Sequential(
        [keras.Input([4]), layers.Dense(3), layers.Dense(2, name="head")]
    )
    network = keras.Sequential([keras.Input([4]), layers.Rescaling(2), inner])
    assert paths(select(network, "head")) == ["head/kernel", "head/bias"]


def test_a_constraint_is_refused_where_it_adapts():
    network = keras.Sequential(
        [
            keras.Input([4]),
            layers.Dense(3, kernel_constraint="non_neg", name="body"),
            layers.Dense(2, name="head"),
        ]
    )
    assert paths(select(network, "head")) == ["head/kernel", "head/bias"]
    message = "body/kernel has a constraint, which inner steps do not keep"
    with pytest.raises(ValueError, match=message):
        MAML(network, "mse", inner_lr=0.1)
    with pytest.raises(ValueError, match=message):
        Reptile(network, SGD(0.1), inner_steps=1)


@pytest.mark.parametrize(
    "adapt, message",
    [
        ("tail", f"adapt: expected one of .*{list(NAMES)[0]}.*got 'tail'"),
        ([], "adapt: selects no trainable variable of"),
        (lambda variable: False, "adapt: selects no trainable variable"),
        ([layers.Dense(3)], "adapt: selects no trainable variable"),
        ([keras.Variable(0.0, name="stray")], "stray.* is not a trainable"),
        (["last"], "adapt: last is not a trainable variable"),
    ],
)
def test_what_is_refused(network, adapt, message):
    with pytest.raises(ValueError, match=message):
        MAML(network, "mse", inner_lr=0.1, adapt=adapt)


def test_frozen_variables_are_refused(network):
    with pytest.raises(ValueError, match="moving_mean is not a trainable"):
        select(network, [network.get_layer("norm").moving_mean])


def test_the_head_of_several_outputs_is_refused():
    x = keras.Input([4])
    hidden = layers.Dense(3, name="body")(x)
    heads = [layers.Dense(2, name=name) for name in ("left", "right")]
    network = keras.Model(x, [head(hidden) for head in heads])
    with pytest.raises(ValueError, match="has 2 outputs to tell it by"):
        select(network, "head")
    assert len(select(network, heads)) == 4


def test_heads_side_by_side_are_refused():
    x = keras.Input([4])
    hidden = layers.Dense(3, name="body")(x)
    heads = [layers.Dense(2, name=name) for name in ("left", "right")]
    network = keras.Model(x, layers.Add()([head(hidden) for head in heads]))
    with pytest.raises(ValueError, match="has 'left' beside 'right' to tell"):
        select(network, "head")


def test_a_head_may_be_called_twice_and_passed_by():
    x = keras.Input([4])
    body, head = layers.Dense(2, name="body"), layers.Dense(2, name="head")
    hidden = body(x)
    out = layers.Add()([head(hidden), hidden, head(layers.ReLU()(hidden))])
    assert paths(select(keras.Model(x, out), "head")) == [
        "head/kernel",
        "head/bias",
    ]


class HeadFirst(keras.Model):
    def __init__(self, has_body=True):
        super().__init__()
        self.head = layers.Dense(2, name="head")
        self.body = layers.Dense(3, name="body") if has_body else None

    def call(self, x):
        return self.head(self.body(x) if self.body else x)


@pytest.mark.parametrize("is_alone", [False, True])
def test_the_head_of_a_class_of_ones_own_is_refused(is_alone):
    network = HeadFirst()
    network(keras.ops.zeros([1, 4]))
    if is_alone:
        x = keras.Input([4])
        network = keras.Model(x, network(x))
    with pytest.raises(ValueError, match="has no graph to tell it by"):
        select(network, "head")


def test_the_only_layer_of_a_class_of_ones_own_is_its_head():
    network = HeadFirst(has_body=False)
    network(keras.ops.zeros([1, 4]))
    assert paths(select(network, "head")) == ["head/kernel", "head/bias"]
