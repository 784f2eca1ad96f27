"""Release files: what is in them, what is refused, those of the repository."""

import pathlib
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

import release  # noqa: E402  (a folder of programs, not a package)

from maml_tf import losses, reptile_train, train  # noqa: E402
from maml_tf.config import Config  # noqa: E402
from maml_tf.reptile_config import ReptileConfig  # noqa: E402

WEIGHTS = ROOT / "results" / "weights"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the settings of a short run, whose inner loop is Adam's."""
    config = ReptileConfig(
        "sinusoid",
        folder=str(tmp_path_factory.mktemp("run")),
        meta_iterations=3,
        eval_interval=3,
    )
    reptile_train.train(config)
    return config


def test_adapts_and_trains_on_as_the_run_does(run, tmp_path):
    release.write(run.folder, str(tmp_path / "a.keras"))
    released = keras.saving.load_model(tmp_path / "a.keras")
    learner = reptile_train.load_learner(run)
    inputs, query_y = reptile_train.evaluation_tasks(run, "test", 4, 2)(0)
    predictions = []
    for one in (released, learner):
        one.compile(keras.optimizers.SGD(0.5))
        one.train_on_batch(inputs[2], query_y)
        predict = tf.function(one.adapt_and_predict, autograph=False)
        predictions.append(predict(*inputs))
    np.testing.assert_array_equal(*predictions)


def test_what_adam_does_not_read_is_left_out(run, tmp_path):
    release.write(run.folder, str(tmp_path / "a.keras"))
    released = keras.saving.load_model(tmp_path / "a.keras")
    _, power, m, v = map(np.asarray, released.inner_variables)
    assert power < 1
    assert not m.any()
    assert v.any()


def unknown_to_older_keras(path):
    with zipfile.ZipFile(path) as parts:
        config = parts.read("config.json").decode()
    return {
        name for name in release.NEW_ARGUMENTS if f'"{name}": null' in config
    }


def test_older_keras_knows_all_arguments(run, tmp_path):
    release.write(run.folder, str(tmp_path / "a.keras"))
    for path in (tmp_path / "a.keras", *WEIGHTS.iterdir()):
        assert not unknown_to_older_keras(path), path.name


def test_arguments_in_use_stay():
    entries = {"input_axes": [0], "output_axes": None, "seed": None}
    assert release._without_new_arguments(entries) == {
        "input_axes": [0],
        "seed": None,
    }


@pytest.mark.parametrize(
    ("most", "name", "words"),
    [
        (1000, "a.keras", "expected at most 1,000 bytes, found that"),
        (1_000_000, "a.h5", "FILE: expected a name in .keras, got "),
    ],
)
def test_refuses_and_keeps_what_is_there(
    most, name, words, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(release, "MOST", most)
    path = tmp_path / name
    path.write_text("older")
    with pytest.raises(ValueError, match=words):
        release.write(run.folder, str(path))
    assert path.read_text() == "older"
    assert [*tmp_path.iterdir()] == [path]


def test_says_that_a_folder_has_no_checkpoint(tmp_path, monkeypatch, capsys):
    line = ["release.py", str(tmp_path), str(tmp_path / "a.keras")]
    monkeypatch.setattr(sys, "argv", line)
    assert release.main() == 1
    error = capsys.readouterr().err
    assert f"{tmp_path}: expected a checkpoint, model*.npz" in error


def ways_of(name):
    return int(name.split("_")[1].removesuffix("way"))


def meta_batches(name, data_dir):
    """Yields 40 tasks or more of classes that the weights never saw."""
    shots = int(name.split("_")[2].removesuffix("shot"))
    ways = ways_of(name)
    if name.endswith("reptile"):
        config = ReptileConfig(data_dir=data_dir, shots=shots, ways=ways)
        return [reptile_train.evaluation_tasks(config, "test", 40, 2)(0)]
    settings = {"shots": shots, "ways": ways, "test_tasks": 40, "train": False}
    config = Config("omniglot", data_dir=data_dir, test_set=True, **settings)
    return train.test_tasks(config)


# Of each kind of learner and network one is no slow test.
SHORT = {
    "omniglot_5way_5shot_maml",
    "omniglot_5way_1shot_noconv_maml",
    "omniglot_5way_1shot_reptile",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in SHORT))
        for name in sorted(path.stem for path in WEIGHTS.glob("omniglot*"))
    ],
)
def test_weights_of_omniglot(name, real_data):
    path = WEIGHTS / f"{name}.keras"
    assert path.stat().st_size <= release.MOST
    learner = keras.saving.load_model(path)
    learner.test_inner_steps = learner.inner_steps
    predict = tf.function(learner.adapt_and_predict)
    scores = [
        losses.accuracy(query_y, predict(*inputs))
        for inputs, query_y in meta_batches(name, str(real_data))
    ]
    assert np.mean(scores) > (0.85 if ways_of(name) == 5 else 0.8)
