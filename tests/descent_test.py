"""Descent over mini-batches: the rule by which they are drawn, and steps."""

import collections
import json

import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED

from maml_tf import descent, inner_optimizers, shapes


def assert_dealt(batches, examples):
    """Checks the original's rule: one shuffle after another, dealt in order."""
    dealt = [example for batch in batches for example in batch]
    for start in range(0, len(dealt), len(examples)):
        shuffle = dealt[start : start + len(examples)]
        assert len(set(shuffle)) == len(shuffle)
        assert set(shuffle) <= set(examples)


def assert_samples(batches, examples):
    """Checks the original's rule with replacement: no repeats in a batch."""
    for batch in batches:
        assert len(set(batch)) == len(batch)
        assert set(batch) <= set(examples)


@pytest.mark.parametrize(
    "batch, steps, replacement",
    [(5, 6, False), (10, 4, False), (4, 8, False), (10, 4, True)],
)
def test_batches_are_drawn_by_the_originals_rule(batch, steps, replacement):
    check = assert_samples if replacement else assert_dealt
    drawn = [
        descent.draw_batches(
            tf.constant([seed, 2]), 2, 15, batch, steps, replacement=replacement
        ).numpy()
        for seed in (1, 1, 3)
    ]
    for task in drawn[0]:
        check(task.tolist(), range(15))
    assert (drawn[0][0] != drawn[0][1]).any()
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    path = SHARED / "golden" / "reptile_sampling.json"
    if not path.exists():
        pytest.skip(f"needs the original's own draws in {path}")
    name = f"mini_batches_15samples_bs{batch}_n{steps}_rep{int(replacement)}"
    original = json.loads(path.read_text())[name]
    assert np.shape(original) == drawn[0][0].shape
    check(original, [f"s{i}" for i in range(15)])


def test_every_example_is_drawn_about_as_often():
    batches = descent.draw_batches(tf.constant([1, 2]), 1, 15, 10, 300)
    counts = collections.Counter(batches.numpy().ravel().tolist())
    assert set(counts.values()) == {200}


def test_tail_is_the_first_of_each_class():
    y = tf.constant([1, 0, 1, 2, 0, 2, 0, 1, 2])
    others, tail = descent.split_tail(y, ways=3, shots=2)
    np.testing.assert_array_equal(tail, [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(others, [6, 7, 8])


def test_refuses_what_a_task_has_not():
    with pytest.raises(ValueError, match="at most 3 examples"):
        descent.draw_batches(tf.constant([1, 2]), 1, 3, 4, 1, replacement=True)
    with pytest.raises(ValueError, match="fewer than 4 examples"):
        descent.split_tail(tf.constant([0, 1, 0, 1]), ways=2, shots=2)
    with pytest.raises(ValueError, match="2 examples of each .* found 1 of"):
        descent.split_tail(tf.constant([0, 1, 0, 0, 0]), ways=2, shots=2)


def test_a_graph_refuses_a_tail_of_too_few():
    split = tf.function(lambda y: descent.split_tail(y, 2, 2))
    tails = tf.function(
        lambda y: tf.map_fn(split, y, fn_output_signature=(tf.int32, tf.int32))
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="of each class"):
        tails(tf.constant([[0, 1, 0, 0, 0]]))


def test_parameters_come_back():
    values = [tf.ones([2, 3]), tf.zeros([4])]
    vector = descent.ravel(values)
    assert vector.shape == [10]
    for a, e in zip(
        descent.unravel(vector, [[2, 3], [4]]), values, strict=True
    ):
        np.testing.assert_array_equal(a, e)


def test_steps_by_hand(float64):
    # f(x) = θ x, L = Σ (θ x − y)², α = 0.1, w = 0.5, θ = 1. First the example
    # (1, 1): θ = 0.5, g = 2 (0.5 − 1) = −1, θ = 0.6. Then (2, 2): θ = 0.3,
    # g = 4 (0.6 − 2) = −5.6, θ = 0.86. Losses 0.25 and 1.4² = 1.96.
    sgd = inner_optimizers.SGD(0.1)
    theta = tf.ones([1], tf.float64)
    x = tf.constant([[1.0], [2.0]], tf.float64)
    end = descent.descend(
        lambda parameters, x: parameters[0] * x,
        lambda y, prediction: tf.reduce_sum(tf.square(y - prediction)),
        sgd,
        (theta, sgd.init(theta)),
        [[1]],
        (x, x),
        tf.constant([[0], [1]]),
        weight_decay=0.5,
    )
    np.testing.assert_allclose(end.phi, [0.86])
    np.testing.assert_allclose(end.loss, 0.25 + 1.96)


def test_too_large_batches_are_refused_of_sets_of_any_size():
    """A graph that takes sets of several sizes does not know them."""

    @tf.function
    def draw(y):
        examples = shapes.leading(y, 1)
        return descent.draw_batches([0, 0], 2, examples, 3, 4, replacement=True)

    known = draw.get_concrete_function(tf.TensorSpec([2, None]))
    assert known(tf.zeros([2, 3])).shape == (2, 4, 3)
    expected = "of a task, drawn with replacement, got 3"
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        known(tf.zeros([2, 2]))
