"""What a run's folder survives: damage, other processes, full disks."""

import contextlib
import dataclasses
import errno
import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
import tensorflow as tf
from command_lines import run
from snapshots import snapshot

from maml_tf import (
    alarms,
    callbacks,
    checkpoints,
    command_line,
    files,
    logs,
    provenance,
    records,
    reptile_train,
    run_folder,
    train,
)
from maml_tf.config import Config
from maml_tf.image_classes import ImageClasses
from maml_tf.reptile_config import ReptileConfig
from maml_tf.settings import ConfigError

SHORT = "--norm=None", "--meta_batch_size=2", "--update_batch_size=2"

pytestmark = pytest.mark.usefixtures("often")


def trains(logdir, iterations, *more):
    length = f"--metatrain_iterations={iterations}"
    return run(*SHORT, length, f"--logdir={logdir}", *more)


def test_a_checkpoint_that_a_training_beside_removes_is_passed_over(tmp_path):
    trains(tmp_path, 300)
    [folder] = tmp_path.glob("cls_*")
    found = checkpoints.whole(folder)
    assert next(found).iteration == 300
    (folder / "model200.npz").unlink()
    assert [checkpoint.iteration for checkpoint in found] == [100]


def test_a_stream_without_the_letters_prints_codes(monkeypatch):
    """A terminal may be of another encoding, which is no reason to end."""
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "latin-1"))
    assert command_line.guarded("x", lambda: print("α ×")) == 0
    sys.stdout.flush()
    assert printed.getvalue() == b"\\u03b1 \xd7\n"


def test_help_is_printed_without_the_letters(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii"))
    assert run("--help") == 0
    sys.stdout.flush()
    assert b"\\u03b1, the inner step size" in printed.getvalue()


def allocate_in_tensorflow():
    tf.random.normal([10**8, 10**8])


def allocate_in_a_graph():
    tf.function(allocate_in_tensorflow)()


def allocate_in_numpy():
    np.zeros([10**8, 10**8])


@pytest.mark.parametrize(
    "allocate",
    [
        # TensorFlow waits for memory, ten seconds.
        pytest.param(allocate_in_tensorflow, marks=pytest.mark.slow),
        allocate_in_a_graph,
        allocate_in_numpy,
    ],
)
def test_too_little_memory_is_one_line(allocate, capsys):
    assert command_line.guarded("x", allocate) == 1
    error = capsys.readouterr().err
    assert error.startswith("x: out of memory (") and error.count("\n") == 1
    assert "allocat" in error and "shape" in error


def content(logdir, iteration):
    [folder] = logdir.glob("cls_*")
    return checkpoints.read(checkpoints.find(folder, iteration)).arrays


def assert_same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Returns the folder of a run of 300 iterations, saved three times."""
    logdir = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "SAVE_INTERVAL", 100)
        assert trains(logdir, 300) == 0
    return logdir


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def flip(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)


def swap(path):
    """Puts another iteration's checkpoint there."""
    path.write_bytes(path.with_name("model100.npz").read_bytes())


def overwrite(path):
    path.write_bytes(b"PK\x03\x04 not a checkpoint")


def drop_checksum(path):
    with np.load(path) as file:
        entries = {k: file[k] for k in file if k != "checksum"}
    np.savez(path, **entries)


def change_a_value(path):
    with np.load(path) as file:
        entries = dict(file)
    entries["network/0"] = entries["network/0"] + 1
    np.savez(path, **entries)


@pytest.mark.parametrize(
    "damage",
    [truncate, empty, flip, swap, overwrite, drop_checksum, change_a_value],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    damage, undisturbed, tmp_path, capsys
):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    [newest] = tmp_path.glob("*/model300.npz")
    damage(newest)
    assert trains(tmp_path, 300) == 0
    assert f"Passed over: {newest}" in capsys.readouterr().err
    assert_same(content(tmp_path, 300), content(undisturbed, 300))
    [table] = tmp_path.glob("*/training.csv")
    [expected] = undisturbed.glob("*/training.csv")
    assert table.read_bytes() == expected.read_bytes()


def test_what_a_killed_process_left_goes(undisturbed, tmp_path, monkeypatch):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    [newest] = tmp_path.glob("*/model300.npz")
    for name in (newest.name, "training.csv", "config.json"):
        newest.with_name(f".{name}.0123456789abcdef").touch()
    monkeypatch.setattr(checkpoints, "KEPT", 2)
    assert trains(tmp_path, 300) == 0
    assert not list(newest.parent.glob(".*.0123456789abcdef"))
    left = {path.name for path in newest.parent.glob("*model*")}
    assert left == {"model200.npz", "model300.npz"}


def test_the_last_ten_checkpoints_are_kept(tmp_path):
    for iteration in range(95, 108):
        checkpoints.save(tmp_path, {}, "meta", iteration, {})
    found = checkpoints.list_checkpoints(tmp_path)
    assert [checkpoint.iteration for checkpoint in found] == [*range(98, 108)]
    assert checkpoints.latest(tmp_path) == found[-1]


@pytest.mark.parametrize("place", np.linspace(0, 0.999, 40))
def test_no_flipped_bit_goes_unseen(place, undisturbed, tmp_path):
    [good] = undisturbed.glob("*/model300.npz")
    bad = tmp_path / "model300.npz"
    bad.write_bytes(good.read_bytes())
    flip(bad, place)
    before = checkpoints.read(checkpoints.Checkpoint(good, 300))
    try:
        after = checkpoints.read(checkpoints.Checkpoint(bad, 300))
    except checkpoints.DamagedError as error:
        assert str(bad) in str(error)
    else:  # a bit that says nothing, such as a time
        assert after.settings == before.settings
        assert_same(after.arrays, before.arrays)


def test_says_so_where_all_checkpoints_are_damaged(tmp_path, capsys):
    assert trains(tmp_path, 100) == 0
    for path in tmp_path.glob("*/model*.npz"):
        empty(path)
    assert trains(tmp_path, 200) == 1
    assert (
        "No other checkpoint in its folder is whole" in capsys.readouterr().err
    )
    assert trains(tmp_path, 200, "--noresume") == 0


def test_refuses_to_continue_with_other_settings(tmp_path, capsys):
    assert trains(tmp_path, 100) == 0
    assert trains(tmp_path, 200, "--seed=7") == 1
    message = capsys.readouterr().err
    assert "--seed: expected 0, with which" in message
    assert "(or --noresume, or another folder), got 7" in message
    assert [p.name for p in tmp_path.glob("*/model*")] == ["model100.npz"]


def test_says_what_it_continues_with_otherwise(tmp_path, capsys):
    assert trains(tmp_path, 100) == 0
    assert trains(tmp_path, 200, "--meta_lr=0.5", "--nolog") == 0
    output = capsys.readouterr().out
    assert "Changed: --metatrain_iterations: 100 before, 200" in output
    assert "Changed: --meta_lr: 0.001 before, 0.5" in output
    arrays = content(tmp_path, 200).values()
    assert any(a.shape == () and a == np.float32(0.5) for a in arrays)


@pytest.mark.parametrize("datasource", ["folder", "miniimagenet"])
def test_another_place_of_ones_own_images_is_said(datasource):
    config = Config(datasource, data_dir="b", max_pool=True)
    before = dataclasses.asdict(config) | {"data_dir": "a"}
    notes = ["--data_dir: a before, b"] * (datasource == "folder")
    assert config.changes_since(before, "model1.npz") == notes


def test_a_run_knows_its_commits_and_what_changed(
    tmp_path, monkeypatch, capsys
):
    lines = [(100,), (100,), (200, "--meta_lr=0.5"), (300, "--meta_lr=0.5")]
    for commit, line in zip("abcd", lines, strict=True):
        monkeypatch.setattr(provenance, "commit", lambda c=commit: c)
        assert trains(tmp_path, *line) == 0
    assert trains(tmp_path, 300, "--meta_lr=0.5", "--train=False") == 0
    [path] = tmp_path.glob("cls_*/test_*.json")
    found = records.read(path)
    assert found["commit"] == "a, c, d"  # With b there was nothing to train.
    assert found["changes"] == [
        "--metatrain_iterations: 100 before, 200 from 100 on",
        "--meta_lr: 0.001 before, 0.5 from 100 on",
        "--metatrain_iterations: 200 before, 300 from 200 on",
    ]


def test_what_trained_nothing_is_not_told(tmp_path, monkeypatch, capsys):
    for commit, *line in [
        ("a", 100),
        ("b", 300, "--meta_lr=1e30"),  # not finite before it saves
        ("c", 200, "--train_update_batch_size=2"),  # which it is
    ]:
        monkeypatch.setattr(provenance, "commit", lambda c=commit: c)
        assert trains(tmp_path, *line) == (commit == "b")
    for iteration in (100, 200):
        options = "--train=False", f"--test_iter={iteration}"
        assert trains(tmp_path, 200, *options) == 0
        [path] = tmp_path.glob("cls_*/test_*.json")
        found = records.read(path)
        change = "--metatrain_iterations: 100 before, 200 from 100 on"
        assert found["changes"] == [change] * (iteration == 200)
        assert found["commit"] == ("a, c" if iteration == 200 else "a")


def test_noresume_begins_all_tables_anew(tmp_path):
    assert trains(tmp_path, 300) == 0
    [folder] = tmp_path.glob("cls_*")
    (folder / "validation.csv").write_text("iteration,accuracy\n5,1\n")
    assert trains(tmp_path, 100, "--noresume") == 0
    assert not (folder / "validation.csv").exists()
    [row] = logs.read_rows(str(folder / "training.csv"))
    assert row["iteration"] == 100


def test_rows_that_were_not_written_come_before_a_checkpoint(
    tmp_path, monkeypatch
):
    table = logs.Table(str(tmp_path / "x.csv"), 0, on_save_error="continue")
    table.append(1, {"loss": 1.0})
    with monkeypatch.context() as full:
        full.setattr(logs.Table, "_write", fails)
        table.append(2, {"loss": 2.0})
        table._whole = False
    table.sync()
    assert [r["iteration"] for r in logs.read_rows(table.path)] == [1, 2]
    os.unlink(table.path)
    table.sync()
    assert [r["iteration"] for r in logs.read_rows(table.path)] == [1, 2]


def fails(table):
    raise OSError("No space left on device")


def test_a_test_sees_what_training_saw(tmp_path, monkeypatch):
    settings = {"datasource": "folder", "image_size": 64}
    content = checkpoints.Content("reptile", settings, {}, {})
    monkeypatch.setattr(checkpoints, "read", lambda found: content)
    found = checkpoints.Checkpoint(tmp_path, 1)
    config = ReptileConfig(datasource="folder", image_size=84)
    with pytest.raises(ConfigError, match="--image_size: expected 64") as error:
        run_folder.require_same(config, found, run_folder.IMAGES)
    assert "--noresume" not in str(error.value)


@pytest.mark.parametrize(
    ("program", "now", "before", "message"),
    [
        (train, Config("omniglot"), {"conv": False}, "--conv: expected False"),
        (train, Config("omniglot"), {"ways": 20}, "--num_classes: expected 20"),
        (train, Config("omniglot"), {"shots": 9, "inner_steps": 9}, None),
        (train, Config("sinusoid"), {"conv": False, "ways": 2}, None),
        (
            reptile_train,
            ReptileConfig(),
            {"ways": 20},
            "--classes: expected 20",
        ),
        (reptile_train, ReptileConfig(), {"sgd": True}, "--sgd: expected True"),
        (reptile_train, ReptileConfig(sgd=True), {"sgd": False}, None),
        (reptile_train, ReptileConfig("sinusoid"), {"ways": 2}, None),
    ],
)
def test_a_test_has_the_network_of_its_training(
    program, now, before, message, monkeypatch
):
    settings = {**dataclasses.asdict(now), **before}
    content = checkpoints.Content("", settings, {}, {})
    monkeypatch.setattr(checkpoints, "read", lambda found: content)
    found = checkpoints.Checkpoint(pathlib.Path("model1.npz"), 1)
    if message is None:
        program._require_same(now, found)
        return
    with pytest.raises(ConfigError, match=message):
        program._require_same(now, found)


def test_the_length_of_pretraining_stays_once_it_is_over(tmp_path, capsys):
    pretrain = "--pretrain_iterations={}".format
    assert trains(tmp_path, 0, pretrain(100)) == 0
    assert trains(tmp_path, 0, pretrain(200)) == 0
    assert trains(tmp_path, 100, pretrain(100)) == 1
    assert "--pretrain_iterations: expected 200" in capsys.readouterr().err
    assert trains(tmp_path, 100, pretrain(200)) == 0
    assert trains(tmp_path, 100, pretrain(300)) == 1


def test_only_one_process_works_in_a_folder(tmp_path, capsys):
    assert trains(tmp_path, 100) == 0
    [folder] = tmp_path.glob("cls_*")
    with files.exclusive(folder):
        assert trains(tmp_path, 200) == 1
        message = capsys.readouterr().err
        assert f"{folder}: in use by process {os.getpid()} on" in message
        assert trains(tmp_path, 200, "--train=False") == 0
    assert trains(tmp_path, 200) == 0
    assert not (folder / ".running").exists()


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    """Another process removed its file after this one opened it."""
    flock, opened = files.fcntl.flock, []

    def after_a_removal(file, how):
        opened.append(file.fileno())
        if len(opened) == 1:
            os.unlink(tmp_path / ".running")
        flock(file, how)

    monkeypatch.setattr(files.fcntl, "flock", after_a_removal)
    with files.exclusive(tmp_path):
        assert len(opened) == 2
        assert str(os.getpid()) in (tmp_path / ".running").read_text()
    assert not list(tmp_path.iterdir())


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch):
    def without(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(files.fcntl, "flock", without)
    with pytest.raises(OSError, match=f"{tmp_path}/.running"):
        files.exclusive(tmp_path).__enter__()


def test_a_lock_of_another_stays(tmp_path):
    """Somebody removed the file, and another process has made its own."""
    lock = tmp_path / ".running"
    with files.exclusive(tmp_path):
        lock.unlink()
        lock.write_text("another")
    assert lock.read_text() == "another"


def scalars(logdir):
    """Returns steps and values by tag."""
    found = {}
    for path in logdir.glob("*/events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                point = event.step, float(tf.make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append(point)
    return found


def test_a_folder_of_the_original_is_not_begun_anew_unasked(tmp_path, capsys):
    assert trains(tmp_path, 2) == 0
    [folder] = tmp_path.glob("cls_*")
    shutil.rmtree(folder)
    folder.mkdir()
    theirs = "events.out.tfevents.1508.host", "model99.index", "model5.index"
    for name in theirs:
        (folder / name).write_text("theirs")
    before = snapshot(tmp_path)
    capsys.readouterr()
    advice = f"--import_checkpoint={folder}/model"
    for said, *more in [
        (f"{advice}99 reads it; --noresume trains anew.",),
        (f"{advice}99 reads it.", "--train=False"),
        (
            f"{advice}5 reads it, without --test_iter.",
            "--train=False",
            "--test_iter=5",
        ),
        ("found 5, 99, of TensorFlow 1", "--train=False", "--test_iter=6"),
    ]:
        assert trains(tmp_path, 2, *more) == 1
        assert said in capsys.readouterr().err
        assert snapshot(tmp_path) == before
    assert trains(tmp_path, 2, "--noresume") == 0
    assert (folder / "model2.npz").exists()
    assert before.items() <= snapshot(tmp_path).items()


def test_tensorboard_shows_a_continued_run_as_one(undisturbed, tmp_path):
    assert trains(tmp_path, 200) == 0
    [newest] = tmp_path.glob("*/model200.npz")
    newest.unlink()
    assert trains(tmp_path, 300) == 0
    shown = scalars(tmp_path)
    assert [step for step, _ in shown["post_loss"]] == [100, 200, 300]
    assert shown == scalars(undisturbed)


def test_goes_on_where_it_cannot_save(
    undisturbed, monkeypatch, tmp_path, capsys
):
    """A folder that vanishes is made again, with all that was in its logs."""
    on_iteration = callbacks.Saver.on_iteration

    def and_remove(self, done):
        on_iteration(self, done)
        if done == 100:
            [folder] = tmp_path.glob("cls_*")
            folder.rename(tmp_path / "moved")
            folder.write_text("in the way")
        if done == 200:
            [folder] = tmp_path.glob("cls_*")
            folder.unlink()

    monkeypatch.setattr(callbacks.Saver, "on_iteration", and_remove)
    assert trains(tmp_path, 300, "--nolog", "--on_save_error=continue") == 0
    assert capsys.readouterr().err.count("Not saved: ") >= 2
    assert_same(content(tmp_path, 300), content(undisturbed, 300))
    [table] = tmp_path.glob("cls_*/training.csv")
    [expected] = undisturbed.glob("*/training.csv")
    assert table.read_bytes() == expected.read_bytes()


def test_stops_where_it_cannot_save(monkeypatch, tmp_path, capsys):
    append = logs.Table.append

    def full(self, iteration, values):
        if iteration == 200:
            raise OSError(f"{self.path}: No space left on device")
        append(self, iteration, values)

    monkeypatch.setattr(logs.Table, "append", full)
    assert trains(tmp_path, 300, "--nolog") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert [p.name for p in tmp_path.glob("*/model*")] == ["model100.npz"]


SLOW = """
import os, signal, sys
from maml_tf import callbacks, main

on_iteration = callbacks.Saver.on_iteration

def and_signal(self, done):
    on_iteration(self, done)
    for _ in range({times}):
        os.kill(os.getpid(), signal.{name})

callbacks.Saver.on_iteration = and_signal
sys.exit(main.main())
"""


@pytest.mark.parametrize(
    "name, times, status, saved",
    [
        ("SIGTERM", 1, 143, ["model100.npz"]),
        ("SIGTERM", 2, -signal.SIGTERM, []),
        # main_test.py interrupts in its own process.
        *(
            pytest.param("SIGINT", *rest, marks=pytest.mark.slow)
            for rest in (
                (1, 130, ["model100.npz"]),
                (2, -signal.SIGINT, []),
            )
        ),
    ],
)
def test_signals_end_it_in_the_usual_way(name, times, status, saved, tmp_path):
    code = SLOW.format(name=name, times=times)
    line = [*SHORT, "--metatrain_iterations=300", f"--logdir={tmp_path}"]
    process = subprocess.run(
        [sys.executable, "-c", code, *line], capture_output=True, text=True
    )
    assert process.returncode == status, process.stderr
    assert [path.name for path in tmp_path.glob("*/model*")] == saved
    if times == 1:
        assert f"Stopped by {name}; the same command" in process.stdout


# Buffered, what is printed before training waits; unbuffered it fails at once.
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_signal_that_ends_the_reader_too_saves(unbuffered, tmp_path):
    """As Ctrl-C does to `| tee log`."""
    reader, writer = os.pipe()
    os.close(reader)
    code = SLOW.format(name="SIGINT", times=1)
    line = [*SHORT, "--metatrain_iterations=300", f"--logdir={tmp_path}"]
    process = subprocess.run(
        [sys.executable, "-c", code, *line],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writer)
    assert process.returncode == 130, process.stderr
    assert [path.name for path in tmp_path.glob("*/model*")] == ["model100.npz"]


def test_a_table_that_is_none_is_named(tmp_path):
    path = tmp_path / "training.csv"
    path.write_text("no,iterations\n1,2\n")
    with pytest.raises(ValueError, match="training.csv: expected a table of"):
        logs.Table(str(path), 100)
    assert path.read_text() == "no,iterations\n1,2\n"


@pytest.mark.parametrize("name", ["training.csv", "seconds.csv"])
@pytest.mark.parametrize("resume", ["True", "False"])
def test_a_run_with_such_a_table_changes_nothing(
    name, resume, tmp_path, capsys
):
    assert trains(tmp_path, 100) == 0
    [path] = tmp_path.glob(f"*/{name}")
    path.write_text("no,iterations\n1,2\n")
    before = snapshot(tmp_path)
    assert trains(tmp_path, 200, f"--resume={resume}") != 0
    assert f"{path}: expected a table of numbers" in capsys.readouterr().err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("training.csv", "iteration, loss, pre_loss, post_loss,"),
        ("training_curve.csv", "iteration, loss_0, loss_1, loss_2, loss_3,"),
        ("seconds.csv", "iteration, seconds,"),
    ],
)
def test_a_table_of_other_columns_is_named_before_training(
    name, expected, undisturbed, tmp_path, capsys
):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    [folder] = tmp_path.glob("cls_*")
    (folder / name).write_text("iteration,minutes\n100,1\n")
    assert trains(tmp_path, 400) == 1
    error = capsys.readouterr().err
    assert f"{folder / name}: expected the columns {expected}" in error
    assert "found iteration, minutes. Move it away" in error
    assert {p.stem for p in folder.glob("model*")} == {
        "model100",
        "model200",
        "model300",
    }


def test_scores_of_other_parts_are_named(tmp_path):
    config = ReptileConfig("sinusoid", folder=str(tmp_path))
    (tmp_path / "curve.csv").write_text("iteration,train\n1,0.5\n")
    with pytest.raises(ValueError, match="curve.csv: expected .*, test, found"):
        reptile_train.smooth_curves(config)


def test_all_tables_of_a_run_are_looked_at(undisturbed):
    tables = {path.name for path in undisturbed.glob("*/*.csv")}
    assert tables <= {*run_folder.TABLES}
    package = pathlib.Path(run_folder.__file__).parent
    text = "".join(path.read_text() for path in package.rglob("*.py"))
    named = re.findall(r'\b(?:table|scores)\(\s*"([a-z_]+\.csv)"', text)
    assert {*named} == {*run_folder.TABLES}


def test_what_a_test_has_otherwise_is_told(undisturbed):
    found = checkpoints.find(next(undisturbed.glob("*/")))
    settings = checkpoints.read(found).settings
    names = Config.defaults()
    config = Config(**{k: v for k, v in settings.items() if k in names})
    facts = run_folder.facts_of(config, found)
    assert "inner_lr" not in facts["test_settings"]
    other = dataclasses.replace(config, inner_lr=0.125)
    facts = run_folder.facts_of(other, found)
    assert facts["test_settings"]["inner_lr"] == 0.125


@pytest.mark.parametrize(
    ("iterations", "interval"),
    [(1, 100), (10**6, 100), (10**6 + 1, 200), (10**9, 100_000)],
)
def test_logs_of_long_runs_are_bounded(iterations, interval):
    assert callbacks.thinned(100, iterations) == interval
    assert iterations // interval <= 10_000


def table(tmp_path, rows):
    made = logs.Table(str(tmp_path / "table.csv"), 0)
    for number, row in enumerate(rows, 1):
        made.append(100 * number, row)
    return made


def printed_by(capsys, made, fault, rows=3):
    alarm = alarms.Alarm(0, made, rows, [fault])
    for _ in range(2):
        alarm.on_iteration(100 * len(made))
    return capsys.readouterr().out


def test_alarm_at_chance_level(tmp_path, capsys):
    made = table(tmp_path, [{"accuracy": v} for v in (0.9, 0.2, 0.21, 0.2)])
    said = printed_by(capsys, made, alarms.at_chance("accuracy", 5))
    assert said.count("Alarm at iteration 400: accuracy is 20.3%") == 1
    assert printed_by(capsys, made, alarms.at_chance("accuracy", 20)) == ""
    assert printed_by(capsys, made, alarms.at_chance("accuracy", 5), 4) == ""
    assert printed_by(capsys, made, alarms.at_chance("accuracy", 5), 5) == ""


def test_an_alarm_is_raised_once(tmp_path, capsys):
    made = table(tmp_path, [{"accuracy": 0.2}] * 4)
    alarm = alarms.Alarm(0, made, 3, [alarms.at_chance("accuracy", 5)])
    for number in (4, 5, 6):
        alarm.on_iteration(100 * number)
        made.append(100 * (number + 1), {"accuracy": 0.2})
    assert capsys.readouterr().out.count("Alarm") == 1


def test_rows_of_the_phase_before_raise_no_alarm(tmp_path, capsys):
    made = table(tmp_path, [{"accuracy": 0.2}] * 4)
    alarm = alarms.Alarm(400, made, 3, [alarms.at_chance("accuracy", 5)])
    for number in (4, 5, 6):
        assert "Alarm" not in capsys.readouterr().out
        made.append(100 * number + 1, {"accuracy": 0.2})
        alarm.on_iteration(100 * number + 1)
    assert "Alarm at iteration 601" in capsys.readouterr().out


def test_alarm_where_adaptation_harms(tmp_path, capsys):
    losses = [(1.0, 0.5), (1.0, 1.5), (1.0, 2.5), (1.0, 3.5)]
    rows = [{"before": b, "after": a} for b, a in losses]
    fault = alarms.worsens("before", "after")
    made = table(tmp_path, rows)
    said = printed_by(capsys, made, fault)
    assert said.count("worse since iteration 200: 1 before, 3.5 after") == 1
    assert printed_by(capsys, made, fault, 4) == ""


IMAGES = (
    "--datasource=omniglot",
    "--num_classes=2",
    "--num_filters=2",
    "--meta_batch_size=1",
    "--update_batch_size=1",
    "--update_lr=0.4",
    "--nolog",
)


def random_images(config, part):
    """Stands in for Omniglot: a few classes, each around its picture."""
    rng = np.random.default_rng(len(part))
    pictures = rng.integers(0, 2, (24, 1, 28, 28, 1), "uint8")
    noise = rng.random((24, 20, 28, 28, 1)) < 0.2
    names = tuple(map(str, range(24)))
    data = ImageClasses(
        (pictures ^ noise).reshape(-1, 28, 28, 1),
        names,
        (tuple("abcdefghijklmnopqrst"),) * 24,
    )
    return data, np.arange(24)


def test_tables_of_images_have_the_columns_that_are_expected(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "image_classes", random_images)
    monkeypatch.setattr(train, "TRAINING_TASKS", 1000)
    monkeypatch.setattr(callbacks, "thinned", lambda *given: 2)
    where = f"--logdir={tmp_path}", f"--cache_dir={tmp_path / 'cache'}"
    for iterations in (2, 4):
        length = f"--metatrain_iterations={iterations}"
        assert run(*IMAGES, *where, length) == 0
    tables = [*tmp_path.glob("cls_*/*.csv")]
    assert len(tables) == 4
    for path in tables:
        assert len(logs.read_rows(str(path))) == 2


def test_selects_the_best_on_validation_classes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "image_classes", random_images)
    where = f"--logdir={tmp_path}", f"--cache_dir={tmp_path / 'cache'}"
    monkeypatch.setattr(train, "TRAINING_TASKS", 1000)
    monkeypatch.setattr(train, "EVALUATION_TASKS", 80)
    monkeypatch.setattr(train, "SAVE_INTERVAL", 10)
    assert run(*IMAGES, *where, "--metatrain_iterations=20") == 0
    test = "--train=False", "--select=validation", "--test_tasks=80"
    selected = *IMAGES, *where, *test
    capsys.readouterr()
    assert run(*selected) == 0
    output = capsys.readouterr().out
    scores = re.findall(r"(\d+)\.npz: ([\d.]+)% on 80 tasks", output)
    best, score = max(scores, key=lambda found: float(found[1]))
    assert [iteration for iteration, _ in scores] == ["20", "10"]
    assert f"model{best}.npz, the best of 2 there" in output
    # Without --test_set the best is tested on the same tasks.
    [path] = tmp_path.glob("*/test_*.csv")
    means = path.read_text().splitlines()[1]
    assert f"{float(means.split(',')[-1]):.2%}" == f"{score}%"
    assert run(*selected, "--test_iter=10") == 1
    assert "--test_iter: expected -1 with" in capsys.readouterr().err


def test_determinism_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(
        tf.config.experimental,
        "enable_op_determinism",
        lambda: asked.append(True),
    )
    for kind, build in (
        (Config, train.build_network),
        (ReptileConfig, reptile_train.build_network),
    ):
        build(kind(datasource="sinusoid"))
        assert not asked
        build(kind(datasource="sinusoid", deterministic=True))
        assert asked.pop()


@pytest.fixture
def small_disk(tmp_path):
    """Returns a folder of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    "on_save_error",
    ["stop", pytest.param("continue", marks=pytest.mark.slow)],
)
def test_a_full_disk(on_save_error, small_disk, undisturbed, capsys):
    assert trains(small_disk, 100, "--nolog") == 0
    [folder] = small_disk.glob("cls_*")
    filler = folder / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", 0) as file:
        while True:
            file.write(bytes(1024))
    capsys.readouterr()
    more = "--nolog", f"--on_save_error={on_save_error}"
    assert trains(small_disk, 300, *more) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert {p.name for p in folder.glob("model*")} == {"model100.npz"}
    filler.unlink()
    assert trains(small_disk, 300, *more) == 0
    assert_same(content(small_disk, 300), content(undisturbed, 300))
    [expected] = undisturbed.glob("*/training.csv")
    assert (folder / "training.csv").read_bytes() == expected.read_bytes()


def test_a_disk_that_becomes_read_only(small_disk, capsys):
    assert trains(small_disk, 100, "--nolog") == 0
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    before = {p: p.read_bytes() for p in small_disk.rglob("*") if p.is_file()}
    for more in ([], ["--on_save_error=continue"]):
        assert trains(small_disk, 300, "--nolog", *more) == 1
        assert "Read-only file system" in capsys.readouterr().err
    for path, content in before.items():
        assert path.read_bytes() == content


def test_scalars_stay_on_disk_alone(tmp_path):
    shown = logs.Scalars(str(tmp_path))
    memory = []
    for step in range(6000):
        shown.write(step, {"a": step / 7, "b": step / 11, "c": step / 13})
        if step % 2000 == 1999:
            memory.append(psutil.Process().memory_info().rss / 1e6)
    assert memory[-1] - memory[0] < 4  # 12 where TensorFlow keeps the numbers


def test_a_full_disk_at_the_start_of_tensorboard_is_one_line(
    tmp_path, monkeypatch
):
    def full(folder):
        message = f"{folder}/events; No space left on device\n\tand more"
        raise tf.errors.ResourceExhaustedError(None, None, message)

    monkeypatch.setattr(tf.summary, "create_file_writer", full)
    with pytest.raises(OSError, match="No space left on device$"):
        logs.Scalars(str(tmp_path))


def test_all_read_the_state_before_anything_fails(tmp_path, monkeypatch):
    """Reading it takes all replicas: hosts have to do so equally often."""
    config, read = Config(logdir=str(tmp_path)), []
    monkeypatch.setattr(checkpoints, "state", lambda learner: read.append(1))
    chief, other = (run_folder.RunFolder(config, w) for w in (True, False))

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "make_again", full)
    with pytest.raises(OSError):
        chief.save(None, "meta", 1)
    other.save(None, "meta", 1)
    assert len(read) == 2


def test_trains_where_nobody_listens(tmp_path):
    flags = "--norm=None", "--metatrain_iterations=100", "--nolog"
    line = [sys.executable, "-m", "maml_tf.main", *flags]
    closed = ["sh", "-c", '"$@" >&-', "sh", *line, f"--logdir={tmp_path}"]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*/model100.npz"))
