"""What an evaluation must not know, and what it must not change."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from maml_tf import MAML, Reptile, omniglot, samplers
from maml_tf.inner_optimizers import SGD

NAMES = [f"alphabet{i // 40:02}/character{i % 40:02}" for i in range(1623)]
SPLITS = {
    "maml": omniglot.split_omniglot(NAMES),
    "reptile": omniglot.split_omniglot_reptile(NAMES, 0),
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_no_class_is_in_two_parts(split):
    parts = [set(part.tolist()) for part in split]
    assert all(parts)
    for first, second in itertools.combinations(parts, 2):
        assert not first & second
    assert set.union(*parts) == set(range(len(NAMES)))


def test_a_class_has_any_label():
    """Otherwise a network could learn classes without a support set."""
    tasks = samplers.draw_task_list([0, 9, 18], [9, 9, 9], 200, 3, 2, 5)
    labels = {tuple(task[:, 0] // 9) for task in np.asarray(tasks)}
    assert labels == set(itertools.permutations(range(3)))


def network():
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), layers.BatchNormalization()]
        + [layers.Dropout(0.5), layers.Dense(1)]
    )


def maml():
    learner = MAML(network(), "mse", inner_lr=0.1, engine="looped")
    learner.compile("sgd", "mse")
    return learner


def reptile():
    learner = Reptile(network(), SGD(0.1), inner_steps=2, inner_loss="mse")
    learner.compile("sgd")
    return learner


@pytest.mark.parametrize("make", [maml, reptile])
def test_adaptation_leaves_the_meta_parameters_alone(make):
    learner = make()
    rng = np.random.default_rng(0)
    support_x, query_x = rng.normal(size=[2, 2, 4, 3]).astype("float32")
    support_y = rng.normal(size=[2, 4, 1]).astype("float32")
    before = [v.numpy() for v in learner.variables]
    adapted = learner.adapt(support_x[0], support_y[0])
    learner.adapt_and_predict(support_x, support_y, query_x)
    learner((support_x, support_y, query_x), training=False)
    assert any(
        (a.numpy() != b.numpy()).any()
        for a, b in zip(adapted.weights, learner.network.weights, strict=True)
    )
    for variable, value in zip(learner.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
