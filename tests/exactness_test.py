"""Meta-gradients through Keras's own layers are exact, layer by layer."""

import contextlib

import keras
import pytest
from central_differences import integers, normal, relative_error
from keras import layers, ops

from maml_tf import exact, losses, norms

pytestmark = pytest.mark.usefixtures("not_deterministic")

LAYERS = {
    # Vectors: one layer between two dense ones.
    (6,): {
        "BatchNormalization": lambda x: layers.BatchNormalization()(x),
        "LayerNormalization": lambda x: layers.LayerNormalization()(x),
        "GroupNormalization": lambda x: layers.GroupNormalization(2)(x),
        "RMSNormalization": lambda x: layers.RMSNormalization()(x),
        "UnitNormalization": lambda x: layers.UnitNormalization()(x),
        "BatchStatisticsNorm": lambda x: norms.BatchStatisticsNorm()(x),
        "ExampleNorm": lambda x: norms.ExampleNorm()(x),
        "Dropout": lambda x: layers.Dropout(0.5)(x),
        "relu": lambda x: ops.relu(x),
        "gelu": lambda x: ops.gelu(x),
        "swish": lambda x: ops.silu(x),
        "elu": lambda x: ops.elu(x),
        "softplus": lambda x: ops.softplus(x),
        "Add, Multiply and Concatenate": lambda x: joined(x, ops.sin(x)),
        "a shared layer": lambda x: twice(layers.Dense(6, "tanh"), x),
        "shared dropout": lambda x: twice(layers.Dropout(0.5), x),
    },
    # Sequences.
    (2, 2): {
        "Conv1D": lambda x: layers.Conv1D(2, 2)(x),
        "MaxPooling1D": lambda x: layers.MaxPooling1D()(x),
        "SimpleRNN": lambda x: layers.SimpleRNN(2)(x),
        "GRU": lambda x: layers.GRU(2)(x),
        "LSTM": lambda x: layers.LSTM(2)(x),
        "GRU, unrolled": lambda x: layers.GRU(2, unroll=True)(x),
        "LSTM, unrolled": lambda x: layers.LSTM(2, unroll=True)(x),
        "SimpleRNN, dropout": lambda x: layers.SimpleRNN(
            2, dropout=0.3, recurrent_dropout=0.3
        )(x),
        "MultiHeadAttention": lambda x: layers.MultiHeadAttention(
            2, 2, dropout=0.3
        )(x, x),
    },
    # Images.
    (4, 4, 2): {
        "MaxPooling2D": lambda x: layers.MaxPooling2D()(x),
        "BatchStatisticsNorm, pooled": lambda x: norms.BatchStatisticsNorm(
            max_pool=True
        )(x),
        "NormalizedConv2D": lambda x: norms.NormalizedConv2D(2, 3, 2)(x),
        "NormalizedConv2D, pooled": lambda x: norms.NormalizedConv2D(
            2, 3, max_pool=True
        )(x),
        "MaxPooling2D, overlapping": lambda x: layers.MaxPooling2D(
            3, 2, padding="same"
        )(x),
        # Equal values: exact zeros, where no gradient passes the ReLU.
        "MaxPooling2D, ties": lambda x: layers.MaxPooling2D()(ops.relu(x)),
        "AveragePooling2D": lambda x: layers.AveragePooling2D(2)(x),
        "GlobalAveragePooling2D": lambda x: layers.GlobalAveragePooling2D()(x),
        "Conv2D, strided": lambda x: layers.Conv2D(2, 3, 2, "same")(x),
        "Conv2D, dilated": lambda x: layers.Conv2D(2, 2, dilation_rate=2)(x),
        "Conv2D, grouped": lambda x: layers.Conv2D(2, 2, groups=2)(x),
        "DepthwiseConv2D": lambda x: layers.DepthwiseConv2D(2)(x),
        "SeparableConv2D": lambda x: layers.SeparableConv2D(2, 2)(x),
        "Conv2DTranspose": lambda x: layers.Conv2DTranspose(2, 2, 2)(x),
    },
    (4, 4, 4, 1): {
        "MaxPooling3D": lambda x: layers.MaxPooling3D()(x),
    },
}
NETWORKS = {
    name: (shape, between)
    for shape, group in LAYERS.items()
    for name, between in group.items()
}

# XLA takes a quarter of a minute to compile a loop over time; unrolled, the
# same layers run in every mode.
SLOW_IN_XLA = {"SimpleRNN", "GRU", "LSTM", "SimpleRNN, dropout"}
# The layers of this project, and those of which it replaces an operation. XLA
# differentiates the others twice by rules of TensorFlow.
OURS_IN_XLA = {
    *("BatchNormalization", "LayerNormalization", "GroupNormalization"),
    *("BatchStatisticsNorm", "BatchStatisticsNorm, pooled", "ExampleNorm"),
    *("NormalizedConv2D", "NormalizedConv2D, pooled", "Dropout"),
    *("MaxPooling1D", "MaxPooling2D", "MaxPooling2D, overlapping"),
    *("MaxPooling2D, ties", "a shared layer", "Conv2D, strided"),
}
IN_MODES = [
    *((name, "graph") for name in NETWORKS),
    *(
        pytest.param(
            name, "xla", marks=[pytest.mark.slow] * (name not in OURS_IN_XLA)
        )
        for name in NETWORKS
        if name not in SLOW_IN_XLA
    ),
    *((name, "eager") for name in ("BatchNormalization", "Dropout", "GRU")),
]


def twice(layer, x):
    return layer(layer(x))


def joined(x, y):
    return layers.Concatenate()(
        [layers.Add()([x, y]), layers.Multiply()([x, y])]
    )


def network(name):
    """Returns dense → tanh → the layer → tanh → flatten → dense."""
    shape, between = NETWORKS[name]
    inputs = keras.Input(shape)
    x = layers.Dense(shape[-1], "tanh")(inputs)
    x = layers.Flatten()(ops.tanh(between(x)))
    return keras.Model(inputs, layers.Dense(2)(x))


def embedding():
    """A network of words."""
    stack = [layers.Embedding(5, 2), layers.Flatten(), layers.Dense(2)]
    return keras.Sequential([keras.Input((3,), dtype="int32"), *stack])


@pytest.mark.parametrize("name, mode", IN_MODES)
def test_meta_gradient_is_exact(name, mode, float64):
    assert relative_error(network(name), mode) < 1e-6


# What `exact.moments` is for. If this fails, it can go.
@pytest.mark.parametrize("kind", ["Batch", "Layer", "Group"])
def test_normalization_needs_exact_moments(kind, float64, monkeypatch):
    doing_nothing = contextlib.nullcontext
    monkeypatch.setattr(exact, "operations", doing_nothing)
    assert relative_error(network(f"{kind}Normalization"), "graph") > 1e-4


@pytest.mark.parametrize("name", ["BatchNormalization", "Dropout", "Conv1D"])
def test_meta_gradient_is_exact_after_two_steps(name, float64):
    assert relative_error(network(name), "graph", inner_steps=2) < 1e-6


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_meta_gradient_of_an_embedding_is_exact(mode, float64):
    assert relative_error(embedding(), mode, inputs=integers) < 1e-6


def keras_cross_entropy(y, logits):
    # Made here, as it computes in the floats of its making.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return loss(y, logits)


def labels(rng, shape):
    return rng.integers(shape[-1], size=shape[:-1])


LOSSES = {
    "mean_squared_error": (losses.mean_squared_error, normal),
    "cross_entropy": (losses.CrossEntropy(shots=1), labels),
    "a Keras loss": (keras_cross_entropy, labels),
}


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("loss", LOSSES)
def test_meta_gradient_of_a_loss_is_exact(loss, mode, float64):
    loss_fn, targets = LOSSES[loss]
    model = network("relu")
    assert relative_error(model, mode, loss_fn, targets=targets) < 1e-6


# Refused by TensorFlow, rather than wrong.
def test_operation_without_a_second_derivative_is_an_error(float64):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, "softsign")])
    with pytest.raises(LookupError, match="SoftsignGrad"):
        relative_error(model)
