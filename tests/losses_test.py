"""Losses by hand: normalisation and shapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import MAML, compiled, losses

# Two classes. Logits (log 3, 0) are probabilities (3/4, 1/4).
SURE = [np.log(3.0), 0.0]
# Labels 0, 1, 0, 0 at these logits: −log of 3/4, 1/4, 3/4, 3/4.
LABELS = np.array([0, 1, 0, 0])
LOGITS = np.array([SURE] * 4)
TOTAL = np.log(4 / 3) * 3 + np.log(4)


# N = 2 ways. With K = 2 the four examples are a support set, N · K, and the
# loss is N times their mean. With K = 1 they are a query set of Q = 2, and it
# is N · Q / K = 4 times their mean.
@pytest.mark.parametrize("shots, factor", [(2, 2), (1, 4)])
def test_cross_entropy_is_the_sum_per_shot(shots, factor):
    actual = losses.CrossEntropy(shots)(LABELS, LOGITS)
    np.testing.assert_allclose(actual, factor * TOTAL / 4, 1e-12)


# ((1 − 2)² + (0 − 3)²) / 2 = 5; over two outputs (1 + 9 + 0 + 4) / 4 = 3.5.
@pytest.mark.parametrize(
    "y, prediction, expected",
    [
        ([[1.0], [0.0]], [[2.0], [3.0]], 5.0),
        ([[1.0, 0.0], [0.0, 0.0]], [[2.0, 3.0], [0.0, 2.0]], 3.5),
    ],
)
def test_mean_squared_error(y, prediction, expected):
    actual = losses.mean_squared_error(np.array(y), np.array(prediction))
    np.testing.assert_allclose(actual, expected)


def test_accuracy():  # all four logits say 0; labels are 0, 1, 0, 0
    assert losses.accuracy(LABELS, LOGITS).numpy() == 0.75


@pytest.mark.parametrize(
    "loss, y, prediction",
    [
        (losses.CrossEntropy(2), LABELS, LOGITS),
        (losses.accuracy, LABELS, LOGITS),
        (losses.mean_squared_error, LOGITS + 1.0, LOGITS * 2),
    ],
)
def test_stack_has_one_loss_per_task(loss, y, prediction):
    tasks = [(y, prediction), (y[::-1], prediction * [[-1.0, 2.0]])]
    each = [loss(*task) for task in tasks]
    together = loss(*(np.stack(a) for a in zip(*tasks, strict=True)))
    assert [value.shape.rank for value in each] == [0, 0]
    assert each[0] != each[1]
    np.testing.assert_allclose(together, each, 1e-12)


def test_an_accuracy_is_of_several_classes():
    with pytest.raises(ValueError, match="output for each class, found one"):
        losses.accuracy(LABELS, LOGITS[:, :1])


@pytest.mark.parametrize("task_axes", [0, 1])
def test_a_loss_of_ones_own_does_not_compare_all_with_all(task_axes):
    loss = losses.per_task(lambda y, p: tf.square(y - p), task_axes)
    y = tf.random.normal([5, 5, 5][: task_axes + 1])
    for pair in ((y, y[..., None]), (y[..., None], y)):
        with pytest.raises(ValueError, match=r"5\] and .* it made \[5, 5"):
            loss(*pair)
    assert tf.reduce_max(loss(y[..., None], y[..., None])) == 0
    assert tf.reduce_max(loss(y, y)) == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_labels_of_any_type(dtype):
    labels = LABELS.astype(dtype)
    expected = losses.CrossEntropy(2)(LABELS, LOGITS)
    assert losses.CrossEntropy(2)(labels, LOGITS) == expected
    assert losses.accuracy(labels, LOGITS).numpy() == 0.75


def test_a_reduction_of_sum_is_one():
    y, predictions = np.zeros([2, 3, 1]), np.ones([2, 3, 1]) * [[[1]], [[2]]]
    for reduction, expected in (("sum", [3, 12]), ("mean", [1, 4])):
        loss = keras.losses.MeanSquaredError(reduction=reduction)
        found = losses.per_task(loss, 1)(y, predictions)
        np.testing.assert_allclose(found, expected, 1e-6)


def test_a_class_that_is_ignored_is_no_wrong_label():
    loss = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=-1)
    y, predictions = tf.constant([[-1, 0]]), tf.zeros([1, 2, 2])
    assert np.isfinite(losses.per_task(loss, 1)(y, predictions)).all()


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_a_class_that_is_ignored_does_not_count(reduction):
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=2, reduction=reduction
    )
    y = np.array([[0, 1, 2, 2], [1, 0, 1, 0], [2, 0, 2, 2]])
    logits = np.random.default_rng(0).normal(size=[3, 4, 3])
    found = losses.per_task(loss, 1)(*map(tf.constant, (y, logits)))
    expected = [loss(*task) for task in zip(y, logits, strict=True)]
    np.testing.assert_allclose(found, expected, 1e-5)


def test_a_task_of_which_all_is_ignored_has_no_loss():
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=2
    )
    y, logits = tf.fill([2, 3], 2), tf.zeros([2, 3, 3])
    np.testing.assert_array_equal(losses.per_task(loss, 1)(y, logits), [0, 0])


def test_a_class_of_losses_is_one_of_its_own():
    y, prediction = np.random.default_rng(0).normal(size=[2, 3, 4, 1])
    found = losses.per_task(keras.losses.MeanSquaredError, 1)(y, prediction)
    np.testing.assert_allclose(
        found, ((y - prediction) ** 2).mean((1, 2)), 1e-5
    )


def test_targets_may_be_integers():
    y, prediction = np.array([[1], [3]]), np.array([[1.0], [2.0]])
    found = losses.mean_squared_error(tf.constant(y), tf.constant(prediction))
    np.testing.assert_allclose(found, 0.5)


@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy", "huber"])
def test_targets_of_one_output_may_lack_its_axis(loss):
    y = np.random.default_rng(0).random([2, 4])
    prediction = tf.constant(np.random.default_rng(1).random([2, 4, 1]))
    task_loss = losses.per_task(loss, 1)
    expected = task_loss(tf.constant(y[..., None]), prediction)
    np.testing.assert_allclose(task_loss(tf.constant(y), prediction), expected)


@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanSquaredError()])
def test_labels_are_no_targets_of_several_outputs(loss):
    labels, prediction = tf.zeros([5, 5], tf.int32), tf.zeros([5, 5, 5])
    with pytest.raises(ValueError, match="targets: expected, by the pred"):
        losses.per_task(loss, 1)(labels, prediction)


def test_cross_entropy_names_labels_of_another_shape():
    with pytest.raises(ValueError, match="labels: expected, by the pred"):
        losses.CrossEntropy(1)(tf.zeros([2, 4, 1]), tf.zeros([2, 4, 5]))


def test_axes_are_counted_from_the_last():
    loss = keras.losses.CategoricalCrossentropy(True, axis=1)
    with pytest.raises(ValueError, match=r"from the last one, −1, got axis=1"):
        losses.per_task(loss, 1)


def test_a_task_weight_counts_once_where_weights_are_divided_by():
    y, prediction = tf.ones([2, 5], tf.int32), tf.random.normal([2, 5, 3])
    for reduction in ("mean_with_sample_weight", "sum_over_batch_size"):
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction=reduction
        )
        weight = compiled.of_tasks(tf.ones([2]), loss, y, prediction)
        expected = loss(y, prediction)
        actual = loss(y, prediction, weight)
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("weight", [[[0.0, 1.0]], [[[0.0], [1.0]]]])
def test_an_example_weight_is_for_all_values_of_the_example(weight):
    prediction = tf.constant([[[1.0, 2.0], [4.0, 8.0]]])  # two by two values
    y, weight = tf.zeros_like(prediction), tf.constant(weight)
    several = {"a": keras.losses.MeanSquaredError(), "b": None}
    y, prediction = ({"a": p[..., None], "b": p} for p in (y, prediction))
    parts = y["a"], prediction["a"]
    of_one = compiled.of_tasks(weight, several["a"], *parts)
    of_each, of_all = (
        compiled.of_tasks(given, several, y, prediction)["a"]
        for given in ({"a": weight, "b": None}, weight)
    )
    for found in (of_one, of_each, of_all):
        assert several["a"](*parts, found) == (4**2 + 8**2) / 4


@pytest.mark.parametrize(
    "name",
    ["SparseCategoricalCrossentropy", "CategoricalGeneralizedCrossEntropy"],
)
def test_labels_are_targets_of_losses_that_take_them(name):
    if not hasattr(keras.losses, name):
        pytest.skip(f"this Keras has no {name}")
    labels, shares = tf.ones([2, 4], tf.int32), tf.fill([2, 4, 3], 1 / 3)
    loss = getattr(keras.losses, name)()
    assert losses.per_task(loss, 1)(labels, shares).shape == [2]
    assert compiled.shaped(loss, labels, shares) is labels


@pytest.mark.parametrize("shape", [[3], [3, 5]])
def test_targets_without_the_last_axis_may_have_weights(shape):
    rng = np.random.default_rng(0)
    x, y, query = (rng.random([3, 5, 1], np.float32) for _ in range(3))
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    weight, found = rng.random(shape, np.float32), []
    for targets in (y, y[..., 0]):
        learner = MAML(network, "mse", inner_lr=0.1)
        learner.compile("sgd", "mse")
        found.append(learner.evaluate((x, y, query), targets, 3, 0, weight))
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_cross_entropy_names_probabilities(activation):
    output = keras.activations.get(activation)(tf.zeros([2, 3]))
    with pytest.raises(ValueError, match="expected logits, found what a soft"):
        losses.CrossEntropy(1)(tf.constant([0, 1]), output)
