"""Layers that compute in bfloat16: what stays in float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maml_tf import (
    MAML,
    losses,
    models,
    norms,
    reptile,
    reptile_train,
    stacked,
    train,
)
from maml_tf.config import Config
from maml_tf.inner_optimizers import SGD, Adam
from maml_tf.reptile_config import ReptileConfig

POLICY = "mixed_bfloat16"
NORMS = {
    "batch": norms.BatchStatisticsNorm,
    "batch with γ": lambda **kw: norms.BatchStatisticsNorm(scale=True, **kw),
    "example": norms.ExampleNorm,
    "joined": lambda **kw: norms.NormalizedConv2D(4, 3, **kw),
    "keras": layers.BatchNormalization,
}


# Numbers around 300 are 2 apart in bfloat16, so only sums in float32 find how
# far they deviate.
@pytest.mark.parametrize("run", ["looped", "stacked"])
@pytest.mark.parametrize("kind", NORMS)
def test_norms_measure_in_float32(kind, run):
    x = np.random.default_rng(0).normal(300, 1, size=(2, 3, 8, 8, 2))
    x = tf.cast(tf.cast(x, tf.bfloat16), tf.float32)
    answers = []
    for policy in ("float32", POLICY):
        keras.utils.set_random_seed(0)
        network = keras.Sequential(
            [
                keras.Input(x.shape[2:], dtype="float32"),
                NORMS[kind](dtype=policy),
            ]
        )
        if run == "stacked":
            y = stacked.many_tasks(network, [])([], x)
        else:
            y = tf.stack([network(task, training=True) for task in x])
        answers.append(y)
    expected, actual = answers
    assert actual.dtype == tf.bfloat16
    np.testing.assert_allclose(
        tf.cast(actual, tf.float32), expected, 0.01, 0.01
    )


def smooth(policy):
    """Returns a network without kinks, which rounding could move."""
    with models.dtype_policy(policy):
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                layers.Conv2D(4, 3, 2, padding="same"),
                norms.BatchStatisticsNorm(scale=True),
                layers.Activation("tanh"),
                layers.Flatten(),
                layers.Dense(3),
            ]
        )


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(2, 3, 6, 6, 2)), tf.float32)
    return x, tf.constant([[0, 1, 2], [2, 0, 1]])


@pytest.mark.parametrize("engine", ["looped", "stacked"])
def test_meta_gradient(engine, task):
    x, y = task
    gradients = []
    for policy in ("float32", POLICY):
        network = smooth(policy)
        learner = MAML(
            network,
            losses.CrossEntropy(1),
            inner_lr=0.1,
            inner_steps=2,
            engine=engine,
        )
        learner.compile("adam", losses.CrossEntropy(1))
        (_, gradient), prediction = learner.meta_gradient(((x, y, x), y))
        gradients.append(gradient)
    assert prediction.query[0].dtype == tf.bfloat16
    assert {v.dtype for v in network.trainable_variables} == {"float32"}
    for expected, actual, variable in zip(
        *gradients, network.trainable_variables, strict=True
    ):
        assert actual.dtype == tf.float32
        if variable.shape != [4] or "norm" in variable.path:
            # The other is a bias before a norm: zero but for rounding.
            error = tf.norm(actual - expected) / tf.norm(expected)
            assert error < 0.05, variable.path


def test_reptile_descends(task):
    ends = []
    for policy in ("float32", POLICY):
        learner = reptile.Reptile(smooth(policy), SGD(0.1), inner_steps=3)
        learner.compile("sgd")
        change, _, loss = learner.changes(*task, learner.draw(task[1]))
        assert (change.dtype, loss.dtype) == (tf.float32, tf.float32)
        ends.append(change)
    expected, actual = ends
    assert tf.norm(actual - expected) / tf.norm(expected) < 0.05


@pytest.mark.parametrize("kind", ["MAML", "Reptile"])
def test_a_policy_for_everything_is_the_layers_alone(kind, task):
    x, y = task
    found = []
    for policy in ("float32", POLICY):
        network = smooth(POLICY)
        with models.dtype_policy(policy):  # while the learner is made
            if kind == "MAML":
                learner = MAML(network, losses.CrossEntropy(1), inner_lr=0.1)
            else:
                learner = reptile.Reptile(network, Adam(0.1), inner_steps=3)
            found.append(learner.adapt_and_predict(x, y, x))
    np.testing.assert_array_equal(*(tf.cast(f, tf.float32) for f in found))


def test_accuracy_is_a_share_in_float32():
    logits = tf.constant(np.eye(5)[[0, 1, 2, 0, 0]], tf.bfloat16)
    share = losses.accuracy(tf.range(5), logits)
    assert share.dtype == tf.float32
    np.testing.assert_allclose(share, 0.6, 1e-6)


def test_losses_of_tasks_are_in_float32():
    outputs = tf.constant([[1.0, 2.0, 4.0], [0.5, 0.25, 8.0]])
    for loss, y in (
        (losses.CrossEntropy(1), tf.constant([0, 1])),
        (losses.mean_squared_error, outputs / 3),
    ):
        found = loss(y, tf.cast(outputs, tf.bfloat16))
        assert found.dtype == tf.float32
        np.testing.assert_allclose(found, loss(y, outputs), 1e-6)


def test_the_policy_ends_with_its_context():
    before = keras.config.dtype_policy().name
    with models.dtype_policy(POLICY):
        assert layers.Dense(1).compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == before


def test_both_programs_build_it():
    networks = [
        train.build_network(Config(dtype_policy=POLICY)),
        reptile_train.build_network(ReptileConfig(dtype_policy=POLICY)),
    ]
    for network in networks:
        assert network.layers[-1].compute_dtype == "bfloat16"
        assert network.layers[-1].variable_dtype == "float32"
