"""A learner that is saved and loaded goes on as if it had not been."""

import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import (
    ANIL,
    FOML,
    MAML,
    JointTraining,
    MAMLPlusPlus,
    MetaSGD,
    Reptile,
    losses,
    tasks,
)
from maml_tf.inner_optimizers import SGD, Adam
from maml_tf.learner import arguments_of


@keras.saving.register_keras_serializable("saving_test")
class SignDescent(MAML):
    """An algorithm of one's own, with an argument of its own."""

    def __init__(self, network, inner_loss, *, power=0.0, **options):
        super().__init__(network, inner_loss, **options)
        self.power = power

    def inner_update(self, phi, gradients, u):
        return [
            p - self.inner_lr * tf.sign(g) * tf.abs(g) ** self.power
            for p, g in zip(phi, gradients, strict=True)
        ]


@keras.saving.register_keras_serializable("saving_test")
class SlowSignDescent(SignDescent):
    """Its options are those of all the classes above it."""

    def __init__(self, *arguments, slowness, **options):
        super().__init__(*arguments, **options)
        self.slowness = slowness


def network(outputs=3):
    parts = (
        keras.layers.Dense(8, "tanh"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(outputs),
    )
    return keras.Sequential([keras.Input((4,)), *parts])


CROSS = losses.CrossEntropy(2)
OWN = {"inner_lr": 0.1, "inner_steps": 2, "seed": 3}
LEARNERS = {
    "maml": lambda: MAML(
        network(),
        CROSS,
        test_inner_steps=5,
        task_metrics={"accuracy": losses.accuracy},
        engine="stacked",
        **OWN,
    ),
    "keras_loss": lambda: MAML(
        network(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        first_order=True,
        adapt=lambda variable: "kernel" in variable.path,
        **OWN,
    ),
    "joint": lambda: JointTraining(network(), CROSS, **OWN),
    "anil": lambda: ANIL(network(), CROSS, **OWN),
    "meta_sgd": lambda: MetaSGD(network(), CROSS, **OWN),
    "maml_pp": lambda: MAMLPlusPlus(
        network(), CROSS, multi_step_iterations=4, **OWN
    ),
    "own": lambda: SlowSignDescent(
        network(), CROSS, power=0.5, slowness=1, **OWN
    ),
    "reptile": lambda: Reptile(
        network(), Adam(0.01, beta_1=0.5), inner_steps=3, inner_batch=4
    ),
    "foml": lambda: FOML(
        network(), SGD(0.1), inner_steps=2, inner_batch=3, tail_shots=1
    ),
}


LIKE = ("maml", "keras_loss", "joint", "anil", "meta_sgd", "foml")
"""Learners whose training has what that of another one here has."""


def compiled(make):
    keras.utils.set_random_seed(0)
    made = make()
    if isinstance(made, Reptile):
        made.compile("sgd")
    else:
        rate = keras.optimizers.schedules.CosineDecay(0.01, 10)
        made.compile(keras.optimizers.Adam(rate), CROSS)
    return made


@pytest.fixture(params=LEARNERS.values(), ids=LEARNERS)
def make(request):
    return request.param


@pytest.fixture
def learner(make):
    return compiled(make)


def data(learner, start):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 5)
    x = rng.normal(size=[30, 4]) + y[:, None]
    elements = tasks.from_arrays(
        x, y, ways=3, shots=2, queries=2, start=start, meta_batch_size=2
    )
    if isinstance(learner, Reptile):
        return elements.map(lambda x, _: (x[0], x[1]))
    return elements


def fit(learner, start, steps):
    return learner.fit(
        data(learner, start),
        steps_per_epoch=1,
        epochs=steps,
        verbose=0,
        shuffle=False,
    ).history


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=[pytest.mark.slow] * (name in LIKE))
        for name, make in LEARNERS.items()
    ],
)
def test_three_and_three_updates_are_six(make, learner, tmp_path):
    path = tmp_path / "learner.keras"
    whole = fit(learner, 0, 6)
    other = compiled(make)
    parts = [fit(other, 0, 3)]
    other.save(path)
    loaded = keras.models.load_model(path)
    assert type(loaded) is type(learner)
    assert loaded.engine == learner.engine
    parts.append(fit(loaded, 3, 3))
    for name, values in whole.items():
        found = [value for part in parts for value in part[name]]
        np.testing.assert_allclose(found, values, 1e-5, err_msg=name)
    for one, two in zip(
        loaded.get_weights(), learner.get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, two, 1e-5, 1e-6)


def test_all_arguments_are_saved(learner):
    config = learner.get_config()
    again = type(learner).from_config(config)
    before, after = arguments_of(learner), arguments_of(again)
    assert before.keys() == after.keys()
    assert after.pop("network").name == before.pop("network").name
    for name, value in before.items():
        if isinstance(value, keras.Loss):
            assert type(after[name]) is type(value)
        else:
            assert after[name] == value, name


def test_options_of_all_classes_above_are_arguments():
    names = arguments_of(LEARNERS["own"]())
    assert {"slowness", "power", "inner_lr", "adapt", "seed"} <= names.keys()


def test_the_network_is_taken_out_alone(learner, tmp_path):
    learner.network.save(tmp_path / "network.keras")
    alone = keras.models.load_model(tmp_path / "network.keras")
    x = np.random.default_rng(0).normal(size=[5, 4])
    np.testing.assert_allclose(alone(x), learner.network(x), 1e-6)


def test_every_weight_is_saved_once(learner, tmp_path):
    learner.save(tmp_path / "learner.keras")
    found = []
    with (
        zipfile.ZipFile(tmp_path / "learner.keras") as archive,
        archive.open("model.weights.h5") as file,
        h5py.File(file) as weights,
    ):
        weights.visititems(
            lambda name, item: (
                found.append(item.size)
                if isinstance(item, h5py.Dataset)
                and not name.startswith(("optimizer/", "trackers/", "_"))
                else None
            )
        )
    expected = [weight.shape.num_elements() for weight in learner.weights]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    "name, value", [("test_inner_steps", 1), ("inner_lr", 1.0)]
)
def test_an_argument_may_be_assigned_after_a_prediction(name, value):
    learner = compiled(LEARNERS["maml"])
    x = np.random.default_rng(0).normal(size=[2, 3, 4])
    task = x, np.tile([0, 1, 2], [2, 1]), x
    before = learner.predict(task, verbose=0)
    setattr(learner, name, value)
    after = learner.predict(task, verbose=0)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, learner.adapt_and_predict(*task), 1e-4)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("maml", "network"),
        ("maml", "engine"),
        ("maml", "adapted"),
        ("maml", "adapt"),
        ("maml", "task_metrics"),
        ("meta_sgd", "inner_lr"),
        ("maml_pp", "inner_lr"),
        ("reptile", "inner_optimizer"),
    ],
)
def test_what_others_are_made_of_is_not_assigned(kind, name):
    learner = LEARNERS[kind]()
    with pytest.raises(AttributeError, match=f"{name}: .* new learner"):
        setattr(learner, name, "another")
    learner.network = learner.network


def test_an_argument_may_be_assigned_in_training():
    learner = compiled(LEARNERS["meta_sgd"])
    found = []
    learner.inner_update = lambda phi, *_: found.append(learner.seed) or phi
    assign = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: setattr(learner, "seed", batch)
    )
    learner.fit(
        data(learner, 0),
        steps_per_epoch=2,
        verbose=0,
        shuffle=False,
        callbacks=[assign],
    )
    assert {0, 1} <= {*found}


ENDINGS = {"save": "keras", "save_weights": "weights.h5"}


def low_rank(is_trained):
    """Returns a learner of a network with a layer that has LoRA."""
    made = network()
    made.layers[0].enable_lora(2)
    made.layers[0].trainable = is_trained
    return MAML(made, CROSS, engine="looped", **OWN)


@pytest.mark.parametrize("method", ENDINGS)
def test_low_rank_factors_are_not_saved(method, tmp_path):
    path = tmp_path / f"learner.{ENDINGS[method]}"
    path.write_text("an older learner")
    save = getattr(low_rank(is_trained=True), method)
    with pytest.raises(ValueError, match="has LoRA, whose factors"):
        save(path, overwrite=True)
    assert path.read_text() == "an older learner"


def test_low_rank_factors_are_not_saved_by_a_function_either(tmp_path):
    with pytest.raises(ValueError, match="has LoRA, whose factors"):
        keras.saving.save_model(low_rank(True), tmp_path / "learner.keras")


@pytest.mark.parametrize("place", ["inner_loss", "task_metrics", "compiled"])
def test_a_loss_that_keras_would_load_as_another_is_refused(place, tmp_path):
    other, plain = keras.losses.Huber(0.5), keras.losses.Huber()
    inner = other if place == "inner_loss" else plain
    metrics = {"a": other if place == "task_metrics" else plain}
    made = MAML(network(), inner, inner_lr=0.1, task_metrics=metrics)
    made.compile("sgd", [other if place == "compiled" else plain])
    with pytest.raises(ValueError, match="does not save its delta=0.5"):
        made.save(tmp_path / "learner.keras")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("ending", ["h5", "hdf5"])
def test_a_file_that_keras_would_break_off_is_refused(ending, tmp_path):
    path = tmp_path / f"learner.{ending}"
    path.write_text("an older learner")
    with pytest.raises(ValueError, match=r"ends in \.keras, .* got '.*5'"):
        compiled(LEARNERS["maml"]).save(path, overwrite=True)
    assert path.read_text() == "an older learner"


def test_low_rank_factors_that_are_frozen_are_saved(tmp_path):
    low_rank(is_trained=False).save(tmp_path / "learner.keras")
