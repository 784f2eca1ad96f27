"""The multi-task baseline: a mean of networks, each trained on its own task."""

import contextlib
import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

import multitask  # noqa: E402  (a folder of programs, not a package)

from maml_tf import checkpoints, logs, train  # noqa: E402
from maml_tf.settings import ConfigError  # noqa: E402


def config(folder, **more):
    settings = {"models": 3, "model_steps": 20, "norm": "None", "log": False}
    return multitask.MultitaskConfig(logdir=str(folder), **settings | more)


def zeros(settings):
    network = train.build_network(settings)
    network.set_weights([np.zeros_like(w) for w in network.get_weights()])
    return network


def trained(settings):
    multitask.train_mean(settings)
    newest = checkpoints.latest(settings.folder)
    assert newest.iteration == settings.models
    arrays = checkpoints.read(newest).arrays
    names = [f"network/{i}" for i in range(6)]
    return [arrays[name] for name in names]


def test_keeps_the_mean_of_networks_that_start_anew(tmp_path):
    settings = config(tmp_path)
    mean = trained(settings)
    networks = []
    for task in (2, 0, 1):  # Their order means nothing.
        regressor = multitask.Regressor(settings, zeros(settings))
        regressor.learn(task)
        networks.append(regressor.network.get_weights())
    for found, *each in zip(mean, *networks, strict=True):
        np.testing.assert_allclose(found, np.mean(each, 0), atol=1e-6)
        assert np.std(each, 0).max() > 0


def test_goes_on_where_it_was(tmp_path):
    pull = {"pull": "mean", "pull_strength": 0.1}
    whole = trained(config(tmp_path / "a", **pull))
    trained(config(tmp_path / "b", models=2, **pull))
    resumed = trained(config(tmp_path / "b", **pull))
    for expected, found in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_errors_are_of_this_program(tmp_path, capsys):
    line = [f"--logdir={tmp_path}", "--models=0"]
    assert multitask.PROGRAM.run(multitask._run, line) == 1
    assert capsys.readouterr().err.startswith("multitask: --models: expected")


def test_refuses_the_oracle_whose_networks_have_other_inputs(tmp_path, capsys):
    line = [f"--logdir={tmp_path / 'x'}", "--baseline=oracle"]
    assert multitask.PROGRAM.run(multitask._run, line) == 1
    assert "--baseline: expected None" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_learns_its_task(tmp_path):
    errors = [
        multitask.Regressor(settings, zeros(settings)).learn(0)
        for steps in (1, 1000)
        for settings in [config(tmp_path, model_steps=steps)]
    ]
    assert errors[1] < 0.1 * errors[0]


@pytest.mark.parametrize("pull, expected", [("origin", 0.0), ("mean", 0.05)])
def test_a_penalty_pulls_weights_to_its_centre(tmp_path, pull, expected):
    settings = config(tmp_path, pull=pull, pull_strength=1e3, model_steps=2000)
    mean = zeros(settings)
    regressor = multitask.Regressor(settings, mean)
    mean.set_weights([np.full_like(w, 0.05) for w in mean.get_weights()])
    regressor.learn(0)
    for weight in regressor.network.get_weights():
        np.testing.assert_allclose(weight, expected, atol=0.01)


def test_prints_how_well_networks_learned_their_tasks(tmp_path, capsys):
    settings = config(tmp_path, models=multitask.INTERVAL)
    trained(settings)
    rows = logs.read_rows(f"{settings.folder}/training.csv", settings.models)
    own = [row["mse"] for row in rows]
    above = sum(error > 1 for error in own)
    printed = capsys.readouterr().out
    assert f": mean {np.mean(own):.4f}, median {np.median(own):.4f}" in printed
    assert f", {above} above 1\n" in printed


def test_learns_though_nobody_reads_what_it_prints(tmp_path, unread):
    with contextlib.redirect_stdout(unread):
        trained(config(tmp_path, models=1))


def test_a_table_of_something_else_is_named(tmp_path):
    settings = config(tmp_path)
    path = pathlib.Path(settings.folder, "training.csv")
    path.parent.mkdir()
    path.write_text("iteration,loss\n1,2\n")
    learner = train.build_learner(settings, zeros(settings), "pretrain")
    message = "training.csv: expected the columns iteration, mse, found"
    with pytest.raises(ValueError, match=message):
        multitask._train(multitask.RunFolder(settings), learner, 1)


def test_nothing_is_kept_that_is_not_finite(tmp_path):
    wrong = config(tmp_path, pull_strength=1e38)
    with pytest.raises(ArithmeticError, match="Lower --pull_strength=1e"):
        multitask.train_mean(wrong)
    assert not checkpoints.list_checkpoints(wrong.folder)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"models": 0}, "--models: expected an integer of at least 1, got 0"),
        ({"model_steps": 0}, "--model_steps: expected an integer"),
        ({"pull_strength": -1.0}, "--pull_strength: expected a number of"),
        ({"pull": "median"}, "--pull: expected one of origin, mean, got"),
        (
            {"datasource": "omniglot"},
            "--datasource: expected one of sinusoid, got 'omniglot'",
        ),
        (
            {"strategy": "multi_worker"},
            "--strategy: expected one of none, got 'multi_worker'",
        ),
        (
            {"import_checkpoint": "model5"},
            "--import_checkpoint: expected none unless --train=False",
        ),
    ],
)
def test_refuses_what_makes_no_sense(tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        multitask.train_mean(config(tmp_path, **wrong))
    assert not list(tmp_path.iterdir())
