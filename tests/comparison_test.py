"""Two runs on the same tasks, and the records that tests leave."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from command_lines import run

from maml_tf import (
    checkpoints,
    comparison,
    main,
    provenance,
    reptile_train,
    train,
)
from maml_tf.config import Config
from maml_tf.evaluation import AdaptationCurve
from maml_tf.image_classes import ImageClasses
from maml_tf.reptile_config import ReptileConfig
from maml_tf.settings import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHORT = (
    "--norm=None",
    "--meta_batch_size=2",
    "--nolog",
    "--metatrain_iterations=100",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns the folders of two runs, which differ in their seed."""
    folders = []
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
    assert "mean squared error: 16 tasks, sinusoid, 5-shot regression" in out
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


@pytest.mark.parametrize(
    "flag",
    [
        "--select=latest",
        "--test_iter=100",
        "--plot=True",
        "--explain=True",
        "--export_checkpoint=x",
        "--update_lr=5",
        "--datasource=omniglot",
        "--strategy=none",
    ],
)
def test_refuses_flags_that_it_would_not_heed(flag, runs, capsys):
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
            Config(datasource="omniglot"),
            Config(datasource="omniglot", test_rotations=False),
            "same test_rotations",
        ),
        (
            Config(datasource="omniglot"),
            Config(datasource="omniglot", label_permutations=5),
            "same label_permutations",
        ),
        (
            Config(datasource="folder", data_dir="a"),
            Config(datasource="folder", data_dir="a", image_size=42),
            "same image_size",
        ),
        (
            Config(datasource="folder", data_dir="a"),
            Config(datasource="folder", data_dir="b"),
            "same data_dir, found 'a' in run and 'b' in run. --data_dir=…",
        ),
        (
            Config(datasource="folder", image_channels=1),
            Config(datasource="folder"),
            "same image_channels",
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


@pytest.mark.parametrize(
    "field", ["num_queries", "test_rotations", "label_permutations"]
)
def test_refuses_what_a_run_of_reptile_leaves_no_choice_of(
    field, tmp_path, monkeypatch
):
    content = checkpoints.Content(reptile_train.PHASE, {}, {}, {})
    monkeypatch.setattr(comparison.checkpoints, "find", lambda folder: None)
    monkeypatch.setattr(comparison.checkpoints, "read", lambda found: content)
    with pytest.raises(ConfigError, match=f"--{field}: expected none with x"):
        comparison.load("x", {field: 2})


def test_a_run_of_reptile_heeds_whose_statistics(monkeypatch):
    content = checkpoints.Content(reptile_train.PHASE, {}, {}, {})
    monkeypatch.setattr(comparison.checkpoints, "find", lambda folder: None)
    monkeypatch.setattr(comparison.checkpoints, "read", lambda found: content)
    monkeypatch.setattr(comparison.checkpoints, "restore", lambda *a: None)
    for statistics in ("queries", "support_and_query"):
        made = comparison.load("x", {"norm_statistics": statistics})
        assert made.config.norm_statistics == statistics
    with pytest.raises(ConfigError, match="--norm_statistics: expected quer"):
        comparison.load("x", {"norm_statistics": "support"})


def test_shots_may_be_too_few_for_a_training_of_reptile(monkeypatch):
    settings = {"foml": True, "tail_shots": 3}
    content = checkpoints.Content(reptile_train.PHASE, settings, {}, {})
    monkeypatch.setattr(comparison.checkpoints, "find", lambda folder: None)
    monkeypatch.setattr(comparison.checkpoints, "read", lambda found: content)
    monkeypatch.setattr(comparison.checkpoints, "restore", lambda *a: None)
    assert comparison.load("x", {"shots": 1}).config.shots == 1


def test_ways_of_sinusoids_do_not_matter(runs):
    one, other = (comparison.load(str(folder), {}) for folder in runs)
    ways = other.config.ways + 1
    other = other._replace(config=dataclasses.replace(other.config, ways=ways))
    assert comparison.compare(one, other, 4).a.shape == (4, 10)


def test_accuracies_are_printed_in_percent():
    a, b = np.array([[0.5], [0.6]]), np.array([[0.25], [0.35]])
    found = comparison.Comparison("", "accuracy", ("last",), a, b)
    *_, line = comparison.table(found).splitlines()
    assert "55.00 ± " in line and "30.00 ± " in line and "25.00 ± 0.00" in line


class Seen:
    """A learner that takes note of what it is shown."""

    def __init__(self):
        self.ink = tf.Variable([9.0, 9.0])

    def adapt_and_predict(self, support_x, support_y, query_x):
        self.ink.assign([tf.reduce_mean(support_x), tf.reduce_mean(query_x)])
        return tf.one_hot(support_y, 5)

    def __call__(self, inputs, draw):
        return self.adapt_and_predict(*inputs)


def test_runs_of_two_programs_are_compared_on_what_both_held_out(monkeypatch):
    images = np.zeros([12 * 20, 28, 28, 1], np.uint8)  # all paper
    names = tuple(map(str, range(12)))
    files = (tuple(map(str, range(20))),) * 12
    for module, held_out, paper in (
        (train, range(0, 8), 0),
        (reptile_train, range(2, 10), 1),
    ):
        data = ImageClasses(images + np.uint8(paper), names, files)
        classes = np.array(held_out)
        monkeypatch.setattr(
            module, "image_classes", lambda *_, d=data, c=classes: (d, c)
        )
    starts = []

    def task_list(first, sizes, length, ways, count, seed):
        starts.extend(first)
        return whole(first, sizes, length, ways, count, seed)

    whole = comparison.samplers.draw_task_list
    monkeypatch.setattr(comparison.samplers, "draw_task_list", task_list)
    runs = [
        unlike(kind(datasource="omniglot", shots=1))._replace(learner=Seen())
        for kind in (Config, ReptileConfig)
    ]
    for pair in (runs, runs[::-1]):
        starts.clear()
        found = comparison.compare(*pair, 3)
        assert starts == [20 * number for number in range(2, 8)]
        assert "6 classes that both held out" in found.tasks
        assert "statistics of " in found.tasks
        assert {"queries", "support_and_query"} <= set(found.tasks.split())
        assert found.a.shape == found.b.shape == (3, 1)
        for run_, ink in zip(runs, (0, 1), strict=True):
            assert run_.learner.ink.numpy().tolist() == [ink] * 2


def test_a_test_leaves_a_record(runs, capsys):
    folder = runs[1]
    where = f"--logdir={folder.parent}", "--train=False", "--test_tasks=9"
    assert run(*SHORT, *where, "--seed=1") == 0
    line = "measured on 9 tasks, 5 queries each, checkpoint: latest\n"
    assert line in capsys.readouterr().out
    [path] = folder.glob("test_*.json")
    record = json.loads(path.read_text())
    assert record["tasks"] == 9
    assert record["seed"] == 1
    assert record["iterations"] == 100
    assert record["seconds"] > 0
    assert record["commit"] == provenance.commit()
    assert (record["commit"] is None) == (not (ROOT / ".git").exists())
    assert len(record["mean"]) == len(record["ci95"]) == 11
    assert record["settings"]["meta_batch_size"] == 2
    assert not {"data_dir", "logdir"} & {*record["settings"]}


def test_a_result_tells_whose_statistics_were_taken_of_sinusoids_too():
    words = main._protocol(Config(train=False, norm_statistics="support"))
    assert ", statistics of the support set, " in words


def test_a_record_has_means_and_half_widths_of_test_tasks():
    # Means 2 and 1, deviations 2 and 0; half widths 1.96 · 2 / √4 and 0.
    scores = np.array([[0.0, 1.0], [4.0, 1.0], [0.0, 1.0], [4.0, 1.0]])
    record = train.evaluation_facts(Config(), AdaptationCurve(scores))
    assert (record["mean"], record["ci95"]) == ([2, 1], [1.96, 0])
    others = AdaptationCurve(scores[:, 1])
    parts = {"train": others, "test": AdaptationCurve(scores[:, 0])}
    record = reptile_train.evaluation_facts(ReptileConfig(), parts)
    assert (record["mean"], record["ci95"]) == ([2], [1.96])
    assert record["parts"] == {"train": [1, 0], "test": [2, 1.96]}


def test_seconds_go_on_where_a_run_stopped(runs, tmp_path):
    logdir = tmp_path / "logs"
    shutil.copytree(runs[0].parent, logdir)
    more = f"--logdir={logdir}", "--metatrain_iterations=200"
    assert run(*SHORT[:3], *more) == 0
    [path] = logdir.glob("*/seconds.csv")
    assert len(path.read_text().split()) == 3
    shutil.rmtree(logdir)
    shutil.copytree(runs[0].parent, logdir)
    path.write_text("iteration,seconds\n100,1000.0\n")
    assert run(*SHORT[:3], *more) == 0
    rows = [line.split(",") for line in path.read_text().split()[1:]]
    assert [int(iteration) for iteration, _ in rows] == [100, 200]
    assert float(rows[1][1]) > 1000
    shutil.rmtree(logdir)
    shutil.copytree(runs[0].parent, logdir)
    path.unlink()  # How long it took is not known any more.
    assert run(*SHORT[:3], *more) == 0
    assert not path.exists()
