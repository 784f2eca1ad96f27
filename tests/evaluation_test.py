"""Adaptation curves: statistics by hand, batches, and files."""

import csv
import pickle
import pickletools

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import MAML, evaluation, losses, models

# Two steps of four tasks. Means 4 and 1; population variances
# (9 + 1 + 1 + 9) / 4 = 5 and (1 + 1 + 1 + 1) / 4 = 1; half widths
# 1.96 · √5 / 2 and 1.96 · 1 / 2 = 0.98.
VALUES = np.array([[1.0, 0.0], [3.0, 2.0], [5.0, 0.0], [7.0, 2.0]])
ROWS = [[4.0, 1.0], [5**0.5, 1.0], [0.98 * 5**0.5, 0.98]]


def test_statistics():
    curve = evaluation.AdaptationCurve(VALUES)
    np.testing.assert_allclose([curve.mean, curve.std, curve.ci95], ROWS)


def test_single_precision_adds_up_in_double():
    right = np.float32([[1.0]] * 78 + [[0.0]] * 22).repeat(10**4, 0)
    curve = evaluation.AdaptationCurve(right)
    assert curve.mean == 0.78
    np.testing.assert_allclose(curve.std, (0.78 * 0.22) ** 0.5, rtol=1e-12)


def test_written_curve_has_the_original_layout(tmp_path):
    curve = evaluation.AdaptationCurve(VALUES)
    evaluation.write_curve(curve, str(tmp_path / "curve"))
    with open(tmp_path / "curve.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["update0", "update1"]
    np.testing.assert_allclose(np.array(rows, float), ROWS)
    with open(tmp_path / "curve.pkl", "rb") as file:
        content = pickle.load(file)
    assert list(content) == ["mses"]
    np.testing.assert_array_equal(content["mses"], VALUES)
    found = np.load(tmp_path / "curve.pkl", allow_pickle=True)
    np.testing.assert_array_equal(found["mses"], VALUES)


def test_old_scripts_can_read_the_pickle(tmp_path):
    curve = evaluation.AdaptationCurve(VALUES)
    evaluation.write_curve(curve, str(tmp_path / "curve"))
    operations = [
        *pickletools.genops((tmp_path / "curve.pkl").read_bytes()),
    ]
    assert max(operation.proto for operation, _, _ in operations) <= 2
    modules = {
        argument.split()[0]
        for operation, argument, _ in operations
        if operation.name == "GLOBAL"
    }
    assert modules == {"numpy", "numpy.core.multiarray", "_codecs"}


@pytest.fixture
def learner():
    network = models.sinusoid_mlp()
    rng = np.random.default_rng(1)
    for variable in network.trainable_variables:
        variable.assign(0.2 * rng.normal(size=variable.shape))
    return MAML(
        network,
        losses.mean_squared_error,
        inner_lr=0.05,
        inner_steps=1,
        test_inner_steps=3,
    )


@pytest.fixture
def tasks():
    rng = np.random.default_rng(0)
    sx, sy, qx, qy = rng.normal(size=(4, 5, 6, 1)).astype("float32")
    return (sx, sy, qx), qy


def curve_of(learner, tasks, batch):
    data = tf.data.Dataset.from_tensor_slices(tasks).batch(batch)
    return evaluation.adaptation_curve(
        learner, data, losses.mean_squared_error
    ).values


def test_batches_change_nothing(learner, tasks):
    whole = curve_of(learner, tasks, 5)
    assert whole.shape == (5, 4)  # three steps in testing
    assert len(np.unique(whole)) == whole.size
    for batch in (1, 2):
        np.testing.assert_allclose(curve_of(learner, tasks, batch), whole, 1e-5)


def test_step_0_is_the_support_set_and_others_the_query(learner, tasks):
    (sx, sy, qx), qy = tasks
    actual = curve_of(learner, tasks, 5)
    before = learner.network(sx.reshape(-1, 1)).numpy().reshape(sx.shape)
    np.testing.assert_allclose(
        actual[:, 0], ((before - sy) ** 2).mean((1, 2)), 1e-5
    )
    after = learner.predict((sx, sy, qx), verbose=0)
    np.testing.assert_allclose(
        actual[:, 3], ((after - qy) ** 2).mean((1, 2)), 1e-5
    )


@pytest.mark.parametrize(
    "loss",
    [losses.CrossEntropy(2), keras.losses.get("mse")],
    ids=["cross-entropy", "mse"],
)
def test_a_weight_is_that_of_a_task(loss):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 4, 3)).astype("float32")
    y = rng.integers(2, size=(4, 4))
    if loss is keras.losses.get("mse"):
        y = rng.normal(size=(4, 4, 2)).astype("float32")
    network = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    learner = MAML(network, loss, inner_lr=0.1)
    learner.compile("sgd", loss)
    weight = np.array([0.0, 0.0, 0.0, 1.0], "float32")
    whole = learner.evaluate((x, y, x), y, sample_weight=weight, verbose=0)
    last = x[3:], y[3:]
    alone = learner.evaluate((*last, x[3:]), y[3:], verbose=0)
    np.testing.assert_allclose(whole, alone / 4, 1e-6)
    for at_once in (4, 2):  # All tasks together, or in groups.
        learner = MAML(network, loss, inner_lr=0.1, tasks_per_step=at_once)
        learner.compile("sgd", loss)
        data = ((x, y, x), y, 4 * weight), ((*last, x[3:]), y[3:])
        whole, alone = (
            learner.meta_gradient(tf.nest.map_structure(tf.constant, each))[0]
            for each in data
        )
        np.testing.assert_allclose(whole[0], alone[0], 1e-6)
        for one, other in zip(whole[1], alone[1], strict=True):
            np.testing.assert_allclose(one, other, 1e-5, 1e-7)


@pytest.mark.parametrize(
    "options",
    [{"engine": "stacked"}, {"tasks_per_step": 2}, {"engine": "looped"}],
    ids=["stacked", "groups", "looped"],
)
@pytest.mark.parametrize(
    "weight",
    [
        pytest.param(None, id="plain", marks=pytest.mark.slow),
        pytest.param(np.array([0.0, 3.0, 1.0, 2.0]), id="weighted"),
    ],
)
def test_without_a_compiled_loss_the_outer_is_the_inner_one(weight, options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 4, 3)).astype("float32")
    y = rng.integers(2, size=(4, 4))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    kernel = None
    if options == {"engine": "looped"}:
        kernel = keras.regularizers.L2(0.1)
    found = []
    for given in (loss, None):
        keras.utils.set_random_seed(0)
        layer = keras.layers.Dense(2, kernel_regularizer=kernel)
        network = keras.Sequential([keras.Input([3]), layer])
        learner = MAML(network, loss, inner_lr=0.1, **options)
        learner.compile("sgd", given, metrics=["accuracy"])
        element = ((x, y, x), y) + (() if weight is None else (weight,))
        data = tf.data.Dataset.from_tensors(element)
        history = learner.fit(data, shuffle=False, verbose=0)
        tested = learner.evaluate(data, verbose=0)
        found.append(
            [*history.history["loss"], *tested, *network.get_weights()]
        )
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, 1e-5, 1e-6)


def test_weights_without_a_compiled_loss_are_those_of_tasks():
    x = np.zeros([4, 4, 3], "float32")
    network = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    learner = MAML(network, "mse", inner_lr=0.1)
    learner.compile("sgd")
    with pytest.raises(ValueError, match="expected one for each task where"):
        learner.evaluate((x, x[..., :1], x), x[..., :1], 4, 0, np.ones([4, 4]))


def test_no_data_are_named(learner):
    nothing = tf.data.Dataset.from_tensors((tf.zeros([]), 0)).take(0)
    with pytest.raises(ValueError, match="expected meta-batches, found none"):
        evaluation.adaptation_curve(learner, nothing, losses.accuracy)


def test_a_curve_is_of_pairs(learner):
    weighted = tf.data.Dataset.from_tensors(((0, 0, 0), 0, 1.0))
    with pytest.raises(
        ValueError, match=r"expected elements .*query_y\), found"
    ):
        evaluation.adaptation_curve(learner, weighted, losses.accuracy)


def test_a_scaled_loss_is_scaled_back():
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    weights = []
    for wrap in (lambda sgd: sgd, keras.optimizers.LossScaleOptimizer):
        keras.utils.set_random_seed(0)
        network = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
        learner = MAML(network, "mse", inner_lr=0.1)
        learner.compile(wrap(keras.optimizers.SGD(0.5)), "mse")
        learner.train_on_batch((x, x[..., :1], x), x[..., :1])
        weights.append(network.get_weights())
    for plain, scaled in zip(*weights, strict=True):
        np.testing.assert_allclose(scaled, plain, 1e-5, 1e-6)


def test_metrics_are_losses_of_any_kind():
    x, y = np.ones([2, 4, 3], "float32"), np.ones([2, 4, 1], "float32")
    network = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    learner = MAML(network, "mse", inner_lr=0.1, task_metrics={"error": "mse"})
    learner.compile("sgd", "mse")
    found = learner.evaluate((x, y, x), y, verbose=0, return_dict=True)
    data = tf.data.Dataset.from_tensors(((x, y, x), y))
    curve = evaluation.adaptation_curve(learner, data, keras.losses.get("mse"))
    assert curve.values.shape == (2, 2)
    expected = found["pre_error"], found["post_error"]
    np.testing.assert_allclose(curve.mean, expected, 1e-6)
