"""Reptile and FOML against supervised-reptile itself, in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import descent, inner_optimizers, models
from maml_tf.reptile import FOML, Reptile

TOLERANCE = 2e-4  # of the update: TensorFlow 1 kept Adam's powers in float32


class Case:
    """The original's inputs and start values, and one of its results."""

    def __init__(self, golden, name):
        self.inputs = golden("reptile_omniglot_inputs")
        self.reference = golden(f"reptile_omniglot_{name}")
        self.names = [
            key.removeprefix("var__")
            for key in self.inputs
            if key.startswith("var__")
        ]
        self.start = [self.inputs[f"var__{name}"] for name in self.names]
        self.network = models.reptile_omniglot_conv(5)
        self.network.set_weights(self.start)

    def images(self, name):
        images = self.inputs[f"{name}_images"][..., None]
        images = np.float32(images) / np.float32(255)
        return images.astype("float64"), self.inputs[f"{name}_labels"]

    def optimizer(self):
        # TensorFlow 1 kept it in float32, in a float64 run too.
        rate = float(np.float32(self.reference["learning_rate"]))
        if self.reference["sgd"]:
            return inner_optimizers.SGD(rate)
        return inner_optimizers.Adam(rate)

    def compare(self, actual, expected):
        """Compares arrays in the order of the variables.

        A bias before a batch norm has gradient zero but for rounding, which
        Adam makes a whole step of.
        """
        for name, a, start in zip(self.names, actual, self.start, strict=True):
            if not (name.startswith("conv") and name.endswith("bias")):
                e = expected(name)
                error = np.linalg.norm(a - e)
                assert error <= TOLERANCE * np.linalg.norm(e - start), name


def groups_of(name, batches):
    """Returns the mini-batches in the groups that our learners take."""
    if "foml" not in name:
        return [batches]
    last = batches[:, -1:]
    # A tail holds one image of each class, filled up with −1.
    return [batches[:, :-1], last[:, :, :5] if "tail" in name else last]


@pytest.mark.parametrize("name", ["adam", "sgd", "foml_sgd", "foml_tail1_sgd"])
def test_meta_step(golden, float64, monkeypatch, name):
    case = Case(golden, name)
    kind = FOML if "foml" in name else Reptile
    learner = kind(case.network, case.optimizer(), inner_steps=4)
    groups = groups_of(name, case.reference["batch_idx"])
    monkeypatch.setattr(
        learner, "draw", lambda *_: list(map(tf.constant, groups))
    )
    learner.compile(
        keras.optimizers.SGD(float(case.reference["meta_step_size"]))
    )
    logs = learner.train_on_batch(*case.images("train"), return_dict=True)
    after = case.network.get_weights()
    case.compare(after, lambda name: case.reference[f"after__{name}"])
    losses = case.reference["inner_losses_sum"]
    np.testing.assert_allclose(logs["loss"], losses.mean(), 1e-6)


def test_adam_remembers_what_the_original_does(golden, float64, monkeypatch):
    case = Case(golden, "adam")
    learner = Reptile(case.network, case.optimizer(), inner_steps=4)
    batches = tf.constant(case.reference["batch_idx"])
    monkeypatch.setattr(learner, "draw", lambda *_: [batches])
    learner.compile(keras.optimizers.SGD(0.5))
    learner.train_on_batch(*case.images("train"))
    shapes = [v.shape for v in case.network.trainable_variables]
    for slot, suffix in zip(
        learner.inner_state.slots, ("Adam", "Adam_1"), strict=True
    ):
        case.start = [np.zeros(shape) for shape in shapes]
        case.compare(
            descent.unravel(slot.value, shapes),
            lambda name, s=suffix: case.reference[f"slot__{name}__{s}"],
        )
    # The original's powers are one step ahead of ours.
    power = case.reference["slot__beta2_power"]
    np.testing.assert_allclose(
        learner.inner_state.scalars[1] * 0.999, power, 1e-6
    )


@pytest.mark.parametrize("engine", ["stacked", "looped"])
@pytest.mark.parametrize("way", ["transductive", "nontransductive"])
def test_evaluation(golden, float64, monkeypatch, way, engine):
    case = Case(golden, "eval_adam")
    learner = Reptile(
        case.network,
        case.optimizer(),
        inner_steps=12,
        transductive=way == "transductive",
        engine=engine,
    )
    support, query = case.reference["train_idx"], case.reference["test_idx"]
    place = {int(image): i for i, image in enumerate(support)}
    batches = np.vectorize(place.get)(case.reference[f"batch_idx_{way}"])
    monkeypatch.setattr(
        learner, "draw_test", lambda *_: tf.constant(batches[None])
    )
    images, labels = case.images("eval")
    logits = learner(
        (images[support][None], labels[support][None], images[query][None])
    )[0]
    expected = case.reference[f"logits_{way}"]
    # The logits of a fresh network change by about as much as they are.
    error = np.abs(logits - expected).max()
    assert error < TOLERANCE * np.abs(expected).max()
    predictions = case.reference[f"predictions_{way}"]
    np.testing.assert_array_equal(np.argmax(logits, -1), predictions)
