"""Losses, predictions and meta-gradients against the original programs.

The golden files hold what cbfinn/maml computed, in float64 with exact batch
statistics and in float32 as released.
"""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import losses, models, sinusoids
from maml_tf.maml import MAML, JointTraining

ORACLE = "maml_c"
CASES = ["maml_a", "maml_a_init", "maml_d", "maml_h", "maml_i1"]
CONV_WEIGHTS = [
    "conv1 b1 {0} conv2 b2 {1} conv3 b3 {2} conv4 b4 {3} w5 b5",
    "w1 b1 w2 b2 w3 b3",
]


def _adam():
    # TensorFlow 1 kept Adam's settings in float32, in a float64 run too.
    rate, beta_1, beta_2, epsilon = map(
        float, np.array([1e-3, 0.9, 0.999, 1e-8], np.float32)
    )
    return keras.optimizers.Adam(rate, beta_1, beta_2, epsilon)


def _network(flags, inputs):
    ways, norm = flags.get("num_classes", 1), flags["norm"]
    match flags["datasource"]:
        case "sinusoid":
            return models.sinusoid_mlp(inputs, norm)
        case "omniglot":
            return models.omniglot_conv(ways, flags["num_filters"], norm)
    return models.mini_imagenet_conv(ways, flags["num_filters"], norm)


def _names(flags):
    """Returns the original's weight names in the order of our variables."""
    if flags["datasource"] == "sinusoid":
        return CONV_WEIGHTS[1].split()
    norm = "{0}_beta" if flags["norm"] == "batch_norm" else "{0}_gamma {0}_beta"
    return CONV_WEIGHTS[0].format(*map(norm.format, range(4))).split()


class Case:
    """A golden configuration: our learner, its data, the original's arrays."""

    def __init__(self, golden, name, kind=MAML, **options):
        inputs = golden(name if name != "maml_i1" else "maml_i1_inputs")
        self.flags = json.loads(str(golden(name)["config"]))
        self.reference = golden(name + "_f64")
        self.names = _names(self.flags)
        self.network = _network(self.flags, inputs["inputa"].shape[-1])
        self.network.set_weights([inputs[f"weight__{n}"] for n in self.names])
        self.x, self.y = self._data(inputs)
        self.loss = self._loss()
        self.learner = kind(
            self.network,
            self.loss,
            inner_lr=self.flags["update_lr"],
            inner_steps=self.flags["num_updates"],
            test_inner_steps=len(self.reference["total_losses2"]),
            adapt="fast_weights",
            **options,
        )
        self.learner.compile(_adam(), self.loss)

    def _loss(self):
        if self.flags["datasource"] == "sinusoid":
            return losses.mean_squared_error
        return losses.CrossEntropy(self.flags["update_batch_size"])

    def _data(self, arrays):
        support_x, query_x = arrays["inputa"], arrays["inputb"]
        support_y, query_y = arrays["labela"], arrays["labelb"]
        if self.flags["datasource"] != "sinusoid":
            size = self.network.input_shape[1:]
            scale = 255.0 if size[-1] == 3 else 1.0
            support_x, query_x = (
                x.reshape(*x.shape[:2], *size) / scale
                for x in (support_x, query_x)
            )
            support_y, query_y = support_y.argmax(-1), query_y.argmax(-1)
        dtype = self.network.compute_dtype
        x = [tf.cast(a, dtype) for a in (support_x, support_y, query_x)]
        return tuple(x), tf.cast(query_y, dtype)

    def gradients(self):
        """Returns the meta-gradients by the original's weight names."""
        with tf.GradientTape() as tape:
            predictions = self.learner(self.x, training=True)
            loss = self.learner.compute_loss(self.x, self.y, predictions)
        variables = self.network.trainable_variables
        found = tape.gradient(loss, variables, unconnected_gradients="zero")
        return dict(zip(self.names, found, strict=True))


def _error(ours, reference):
    """Relative error in the norm, over all the arrays together."""
    difference = np.sqrt(
        sum(np.sum((ours[k] - reference[k]) ** 2) for k in reference)
    )
    return difference / np.sqrt(
        sum(np.sum(np.square(a)) for a in reference.values())
    )


def _select(reference, prefix, names):
    return {n: reference[prefix + n] for n in names}


@pytest.mark.parametrize("engine", ["stacked", "looped"])
@pytest.mark.parametrize("name", [*CASES, ORACLE])
def test_losses_and_predictions(golden, float64, name, engine):
    case = Case(golden, name, engine=engine)
    predictions = case.learner(case.x)
    ours = {
        "total_loss1": np.mean(case.loss(case.x[1], predictions.support)),
        "total_losses2": np.array(
            [np.mean(case.loss(case.y, q)) for q in predictions.query[1:]]
        ),
        "logits_a": predictions.support.numpy(),
        "logits_b": np.array(predictions.query[1:]),
    }
    for key, value in ours.items():
        assert _error({key: value}, {key: case.reference[key]}) < 1e-6, key
    if case.flags["datasource"] != "sinusoid":
        before = np.mean(losses.accuracy(case.x[1], predictions.support))
        after = [
            np.mean(losses.accuracy(case.y, q)) for q in predictions.query[1:]
        ]
        for ours, key in (before, "accuracy1"), (after, "accuracies2"):
            reference = case.reference[f"total_{key}"]
            np.testing.assert_allclose(ours, reference, atol=1e-6)


@pytest.mark.parametrize("engine", ["stacked", "looped"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_meta_gradients(golden, float64, name, first_order, engine):
    case = Case(golden, name, first_order=first_order, engine=engine)
    prefix = "grad_fo__" if first_order else "grad__"
    reference = _select(case.reference, prefix, case.names)
    ours = case.gradients()
    assert _error(ours, reference) < 1e-6
    for key in reference:
        if np.linalg.norm(reference[key]) > 1e-9:
            assert _error({key: ours[key]}, {key: reference[key]}) < 1e-6, key


@pytest.mark.parametrize("name", CASES)
def test_weights_after_one_meta_update(golden, float64, name):
    check_update(Case(golden, name))


def test_weights_after_one_update_of_pretraining(golden, float64):
    check_update(Case(golden, ORACLE, JointTraining))


def check_update(case):
    """Compares the weights after an update by Adam with the original's."""
    if case.flags["datasource"] == "miniimagenet":
        case.learner.optimizer.clipvalue = 10.0
    case.learner.fit(
        tf.data.Dataset.from_tensors((case.x, case.y)), verbose=0, shuffle=False
    )
    ours = dict(zip(case.names, case.network.get_weights(), strict=True))
    compared = [n for n in case.names if not _is_ignored(case, n)]
    for key, reference in _select(case.reference, "after__", compared).items():
        assert _error({key: ours[key]}, {key: reference}) < 1e-6, key


def _is_ignored(case, name):
    """Conv biases before a batch norm have a gradient of rounding noise."""
    return case.flags["norm"] == "batch_norm" and name in "b1 b2 b3 b4".split()


def test_oracle_pretraining_gradient(golden, float64):
    case = Case(golden, ORACLE, JointTraining)
    reference = _select(case.reference, "grad__", case.names)
    assert _error(case.gradients(), reference) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_pretraining_gradients_are_as_long(golden, float64, name):
    case = Case(golden, name, JointTraining)
    ours = case.gradients()
    # The weights that adapt come first, then those of norms: β, then γ.
    norms = sorted(name for name in case.names if "_" in name)
    names = [name for name in case.names if "_" not in name] + norms
    lengths = [np.linalg.norm(ours[name]) for name in names]
    reference = case.reference["pretrain_gradnorm"]
    np.testing.assert_allclose(lengths, reference, 1e-6, 1e-9)


@pytest.mark.parametrize(
    ("name", "losses_to", "second_order_to", "first_order_to"),
    [
        ("maml_a", 1e-5, 1e-5, 1e-5),
        ("maml_d", 1e-4, 1e-4, 1e-4),
        ("maml_h", 1e-4, 1e-4, 1e-4),
        ("maml_i1", 1e-4, 1e-2, 2e-2),
    ],
)
def test_float32(golden, name, losses_to, second_order_to, first_order_to):
    for first_order, tolerance in (
        (False, second_order_to),
        (True, first_order_to),
    ):
        case = Case(golden, name, first_order=first_order)
        prefix = "grad_fo__" if first_order else "grad__"
        reference = _select(case.reference, prefix, case.names)
        assert _error(case.gradients(), reference) < tolerance
    loss = np.mean(case.loss(case.x[1], case.learner(case.x).support))
    np.testing.assert_allclose(loss, case.reference["total_loss1"], losses_to)


def test_ten_meta_updates(golden, float64):
    """Adam's state is carried over ten meta-updates of fresh sinusoids."""
    case = Case(golden, "maml_a_init")
    sequence = golden("maml_seq_a_init")
    rng = np.random.RandomState(int(sequence["np_seed"]))
    before, after = [], []
    for _ in range(int(sequence["nsteps"])):
        meta_batch = sinusoids.draw_sinusoids(rng, 4, 20)
        data = tf.data.Dataset.from_tensors(
            sinusoids.split_regression(meta_batch, 10)
        )
        x, y = next(iter(data))
        predictions = case.learner(x)
        before.append(np.mean(case.loss(x[1], predictions.support)))
        after.append(np.mean(case.loss(y, predictions.query[1])))
        case.learner.fit(data, verbose=0, shuffle=False)
    np.testing.assert_allclose(before, sequence["losses1"], 1e-6)
    np.testing.assert_allclose(after, sequence["losses2"], 1e-6)
    ours = dict(zip(case.names, case.network.get_weights(), strict=True))
    reference = _select(sequence, "after10__", case.names)
    # The reference is kept in float32, after ten steps of Adam.
    assert _error(ours, reference) < 5e-6
