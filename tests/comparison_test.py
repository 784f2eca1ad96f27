"""Two runs on the same tasks, and the records that tests leave."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from absl.testing import flagsaver
from command_lines import run

from maml_tf import checkpoints, comparison
from maml_tf.config import Config
from maml_tf.reptile_config import ReptileConfig
from maml_tf.settings import ConfigError

SHORT = (
    "--norm=None",
    "--meta_batch_size=2",
    "--nolog",
    "--metatrain_iterations=100",
)


@pytest.fixture(autouse=True)
def _flags():
    with flagsaver.flagsaver():
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns the folders of two runs, which differ in their seed."""
    folders = []
    with flagsaver.flagsaver():
        for seed in (0, 1):
            logdir = tmp_path_factory.mktemp("run")
            where = f"--logdir={logdir}", f"--seed={seed}"
            assert run(*SHORT, *where) == 0
            folders.append(next(logdir.iterdir()))
    return folders


def test_a_run_equals_itself(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "copy")
    folders = runs[0], tmp_path / "copy"
    found = comparison.compare(
        *(comparison.load(str(f), {}) for f in folders), count=8
    )
    mean, half = comparison.paired(found.a, found.b)
    assert found.a.shape == (8, 10)
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_array_equal(half, 0)


def test_prints_the_paired_difference(runs, capsys):
    assert run("--compare", *runs, "--test_tasks=16") == 0
    out = capsys.readouterr().out
    assert "mean squared error: 16 tasks, sinusoids, 5-shot" in out
    assert "A − B, paired" in out
    assert "step 10" in out


def test_pairs_by_hand():
    # Differences 1, 3: mean 2, deviation 1, half width 1.96 / √2.
    mean, half = comparison.paired(np.array([2.0, 5.0]), np.array([1.0, 2.0]))
    np.testing.assert_allclose([mean, half], [2, 1.96 / np.sqrt(2)])


def refused(capsys, *arguments):
    capsys.readouterr()
    assert run("--compare", *arguments) == 1
    return capsys.readouterr().err


def test_refuses_folders_that_are_none(runs, capsys, tmp_path):
    assert "expected two run folders, got 1" in refused(capsys, runs[0])
    assert "expected a checkpoint" in refused(capsys, runs[0], tmp_path)


@pytest.mark.parametrize("flag", ["--select=latest", "--test_iter=100"])
def test_refuses_a_choice_of_checkpoint(flag, runs, capsys):
    name = flag.partition("=")[0]
    assert f"{name}: expected none" in refused(capsys, *runs, flag)


def test_refuses_no_tasks(runs, capsys):
    error = refused(capsys, *runs, "--test_tasks=0")
    assert "--test_tasks: expected at least 1, got 0" in error


def unlike(config):
    path = pathlib.Path("run") / "model1.npz"
    return comparison.Run(checkpoints.Checkpoint(path, 1), config, None)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (Config(), Config(shots=7), "same shots, found 5 in run and 7"),
        (
            Config(),
            Config(datasource="omniglot"),
            "same datasource, found 'sinusoid' in run and 'omniglot'",
        ),
        (
            Config(datasource="omniglot"),
            Config(datasource="omniglot", ways=20),
            "same ways, found 5",
        ),
        (
            Config(datasource="omniglot"),
            Config(datasource="omniglot", num_queries=9),
            "same num_queries, found -1 in run and 9 in run. --num_queries=… "
            "is for both",
        ),
        (
            Config(datasource="omniglot"),
            Config(datasource="omniglot", norm_statistics="support"),
            "same norm_statistics",
        ),
        (
            Config(),
            ReptileConfig(datasource="sinusoid"),
            "expected --datasource=omniglot with a run of reptile-tf",
        ),
    ],
)
def test_refuses_runs_that_do_not_fit(a, b, message):
    with pytest.raises(ConfigError, match=message):
        comparison.compare(unlike(a), unlike(b))


def test_a_test_leaves_a_record(runs, capsys):
    folder = runs[1]
    where = f"--logdir={folder.parent}", "--train=False", "--test_tasks=9"
    assert run(*SHORT, *where, "--seed=1") == 0
    assert "measured on 9 tasks, 5 queries each" in capsys.readouterr().out
    [path] = folder.glob("test_*.json")
    record = json.loads(path.read_text())
    assert record["tasks"] == 9
    assert record["seed"] == 1
    assert record["iterations"] == 100
    assert record["seconds"] > 0
    assert len(record["mean"]) == len(record["ci95"]) == 11
    assert record["settings"]["meta_batch_size"] == 2
    assert not {"data_dir", "logdir"} & {*record["settings"]}


def test_seconds_go_on_where_a_run_stopped(runs, tmp_path):
    logdir = tmp_path / "logs"
    shutil.copytree(runs[0].parent, logdir)
    more = f"--logdir={logdir}", "--metatrain_iterations=200"
    assert run(*SHORT[:3], *more) == 0
    [path] = logdir.glob("*/seconds.csv")
    rows = [line.split(",") for line in path.read_text().split()[1:]]
    assert [int(iteration) for iteration, _ in rows] == [100, 200]
    assert float(rows[1][1]) >= float(rows[0][1])
