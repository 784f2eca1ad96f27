"""The command line: what it accepts, writes, refuses and survives."""

import errno
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from command_lines import flags_of, run

from maml_tf import (
    callbacks,
    checkpoints,
    legacy,
    losses,
    main,
    main_quickstart,
    main_reptile,
    models,
    records,
    train,
)
from maml_tf.config import Config
from maml_tf.maml import MAML
from maml_tf.settings import ConfigError

SHORT = ("--norm=None", "--meta_batch_size=2", "--nolog")
META = (*SHORT, "--metatrain_iterations=400")
PRETRAINED = (
    *SHORT,
    "--pretrain_iterations=200",
    "--metatrain_iterations=200",
)
OMNIGLOT = ("--datasource=omniglot", "--update_batch_size=1")


@pytest.fixture(autouse=True)
def _signals():
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def config(*arguments):
    return main.config_from_flags(main.PROGRAM.parse(arguments))


def refused(capsys, logdir, *arguments):
    """Returns the message; there is one, and nothing was written."""
    capsys.readouterr()
    assert run(f"--logdir={logdir}", *arguments) != 0
    assert not logdir.exists()
    return one_message(capsys)


def one_message(capsys):
    error = capsys.readouterr().err
    assert error.startswith("maml-tf: ")
    assert error.count("maml-tf: ") == 1
    assert "Traceback" not in error
    return error


def test_the_status_tells_of_a_refusal(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "maml_tf.main", "--metabatch_size=3"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode != 0
    assert "metabatch_size" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--num_classes=101"], "--num_classes"),
        (["--update_batch_size=11"], "--update_batch_size"),
    ],
)
def test_refuses_tasks_that_need_more_than_omniglot_has(
    arguments, named, capsys, real_data, real_cache, tmp_path
):
    where = (f"--data_dir={real_data}", f"--cache_dir={real_cache}")
    message = refused(capsys, tmp_path / "logs", *OMNIGLOT, *where, *arguments)
    assert named in message


def test_refuses_an_iteration_without_a_checkpoint(capsys, tmp_path):
    line = "--test_iter=7", "--train=False"
    message = refused(capsys, tmp_path / "logs", *line)
    assert "--test_iter=7: expected model7.npz in" in message


def test_refuses_a_log_folder_that_cannot_be_written(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    assert str(file) in refused(capsys, file / "logs", *META)
    assert file.read_bytes() == b"mine"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns the log folder of 100 iterations of training."""
    logdir = tmp_path_factory.mktemp("trained")
    length = "--metatrain_iterations=100"
    assert run(*SHORT, length, f"--logdir={logdir}") == 0
    return logdir


def damaged(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def foreign(path):
    np.savez(path, weights=np.zeros(3))


def single_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize("more", [["--train=False"], []], ids=["test", "train"])
@pytest.mark.parametrize(
    "damage", [damaged, empty, flipped, foreign, single_array]
)
def test_refuses_a_damaged_checkpoint(damage, more, capsys, tmp_path, trained):
    shutil.copytree(trained, tmp_path / "logs")
    [path] = tmp_path.glob("logs/*/model100.npz")
    damage(path)
    capsys.readouterr()
    assert run(*META, f"--logdir={tmp_path / 'logs'}", *more) != 0
    assert str(path) in one_message(capsys)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--train=False"], "another architecture"),
        ([], "--baseline: expected None, with which"),
    ],
    ids=["test", "train"],
)
def test_refuses_the_checkpoint_of_another_network(
    more, told, capsys, tmp_path, trained
):
    flagged = (*META, "--baseline=oracle", f"--logdir={tmp_path}", *more)
    folder = config(*flagged).folder
    os.mkdir(folder)
    [source] = trained.glob("*/model100.npz")
    shutil.copy(source, folder)
    capsys.readouterr()
    assert run(*flagged) != 0
    message = one_message(capsys)
    assert os.path.join(folder, "model100.npz") in message
    assert told in message


def test_evaluation_writes_the_originals_files(trained):
    assert run(*META, f"--logdir={trained}", "--train=False") == 0
    [folder] = trained.iterdir()
    header, *rows = (
        (folder / "test_ubs5_stepsize0.001.csv").read_text().splitlines()
    )
    assert header == ",".join(f"update{u}" for u in range(11))
    with open(folder / "test_ubs5_stepsize0.001.pkl", "rb") as file:
        scores = pickle.load(file)
    assert scores.keys() == {"mses"}
    mses = scores["mses"]
    assert np.shape(mses) == (600, 11)
    mean, std = np.mean(mses, 0), np.std(mses, 0)
    np.testing.assert_allclose(
        [[float(cell) for cell in row.split(",")] for row in rows],
        [mean, std, 1.96 * std / np.sqrt(600)],
        rtol=1e-5,
    )


def test_a_test_of_sinusoids_is_drawn_from_its_record(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "logs")
    line = *META, f"--logdir={tmp_path / 'logs'}", "--train=False"
    assert run(*line, "--test_tasks=8", "--plot") == 0
    assert len([*tmp_path.glob("logs/*/test_ubs5_*.png")]) == 2
    panel = train.sinusoid_panel(config(*line))
    (x, y), grid, truth = (panel[k] for k in ("points", "x", "truth"))
    assert len(x) == 5
    np.testing.assert_allclose(np.interp(x, grid, truth), y, 0, 0.1)
    for fit in panel["fits"].values():
        assert len(fit) == len(grid)


SINE = {
    "datasource": "sinusoid",
    "logdir": "logs/sine/",
    "norm": "None",
    "shots": 10,
}
OMNI = {"datasource": "omniglot", "meta_iterations": 60000, "shots": 1}
MINI = {
    "datasource": "miniimagenet",
    "meta_iterations": 60000,
    "meta_batch_size": 4,
    "inner_lr": 0.01,
    "inner_steps": 5,
    "num_filters": 32,
    "max_pool": True,
}


@pytest.mark.parametrize(
    ("line", "fields", "name"),
    [
        (
            "--datasource=sinusoid --logdir=logs/sine/ "
            "--metatrain_iterations=70000 --norm=None --update_batch_size=10",
            {**SINE, "meta_iterations": 70000, "phases": (0, 70000)},
            "cls_5.mbs_25.ubs_10.numstep1.updatelr0.001nonorm",
        ),
        (
            "--datasource=sinusoid --logdir=logs/sine/ "
            "--pretrain_iterations=70000 --metatrain_iterations=0 --norm=None "
            "--update_batch_size=10",
            {**SINE, "baseline": None, "phases": (70000, 0)},
            "cls_5.mbs_25.ubs_10.numstep1.updatelr0.001nonorm",
        ),
        (
            "--datasource=sinusoid --logdir=logs/sine/ "
            "--pretrain_iterations=70000 --metatrain_iterations=0 --norm=None "
            "--update_batch_size=10 --baseline=oracle",
            {**SINE, "baseline": "oracle", "phases": (70000, 0)},
            "cls_5.mbs_25.ubs_10.numstep1.updatelr0.001oraclenonorm",
        ),
        (
            "--datasource=omniglot --metatrain_iterations=60000 "
            "--meta_batch_size=32 --update_batch_size=1 --update_lr=0.4 "
            "--num_updates=1 --logdir=logs/omniglot5way/",
            {**OMNI, "meta_batch_size": 32, "ways": 5, "inner_lr": 0.4},
            "cls_5.mbs_32.ubs_1.numstep1.updatelr0.4batchnorm",
        ),
        (
            "--datasource=omniglot --metatrain_iterations=60000 "
            "--meta_batch_size=16 --update_batch_size=1 --num_classes=20 "
            "--update_lr=0.1 --num_updates=5 --logdir=logs/omniglot20way/",
            {**OMNI, "meta_batch_size": 16, "ways": 20, "inner_lr": 0.1},
            "cls_20.mbs_16.ubs_1.numstep5.updatelr0.1batchnorm",
        ),
        *(
            (
                "--datasource=miniimagenet --metatrain_iterations=60000 "
                f"--meta_batch_size=4 --update_batch_size={shots} "
                "--update_lr=0.01 --num_updates=5 --num_classes=5 "
                f"--logdir=logs/miniimagenet{shots}shot/ --num_filters=32 "
                "--max_pool=True",
                {**MINI, "shots": shots, "queries": 15},
                f"cls_5.mbs_4.ubs_{shots}.numstep5.updatelr0.01"
                "hidden32maxpoolbatchnorm",
            )
            for shots in (1, 5)
        ),
    ],
)
def test_reads_the_originals_command_lines(line, fields, name):
    read = config(*line.split())
    assert {field: getattr(read, field) for field in fields} == fields
    assert read.exp_string == name


def test_defaults_are_the_originals():
    assert config() == Config(
        datasource="sinusoid",
        ways=5,
        baseline=None,
        pretrain_iterations=0,
        meta_iterations=15000,
        meta_batch_size=25,
        meta_lr=1e-3,
        shots=5,
        inner_lr=1e-3,
        inner_steps=1,
        norm="batch_norm",
        num_filters=64,
        conv=True,
        max_pool=False,
        first_order=False,
        log=True,
        logdir="/tmp/data",
        resume=True,
        train=True,
        test_iter=-1,
        test_set=False,
        train_shots=-1,
        train_inner_lr=-1.0,
        data_dir="data",
        adapt="fast_weights",
        norm_gradient="exact",
        norm_statistics="queries",
        test_rotations=True,
        test_tasks=600,
    )


def interrupt_after(monkeypatch, iteration):
    """Sends SIGINT once an iteration is done, as Ctrl-C would."""
    on_iteration = callbacks.Saver.on_iteration

    def and_interrupt(self, done):
        on_iteration(self, done)
        if done == iteration:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(callbacks.Saver, "on_iteration", and_interrupt)


def result(logdir):
    """Returns the final checkpoint's arrays and the training log."""
    [folder] = logdir.iterdir()
    content = checkpoints.read(checkpoints.find(folder, 400))
    return content.arrays, (folder / "training.csv").read_bytes()


def check_same(logdir, expected):
    arrays, log = result(logdir)
    assert arrays.keys() == expected[0].keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[0][name], name)
    assert log == expected[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Returns the results of runs without interruption, by their flags."""
    results = {}
    for arguments in (META, PRETRAINED):
        logdir = tmp_path_factory.mktemp("uninterrupted")
        assert run(*arguments, f"--logdir={logdir}") == 0
        results[arguments] = result(logdir)
    return results


def test_each_phase_has_an_adam_of_its_own(uninterrupted):
    arrays, _ = uninterrupted[PRETRAINED]
    assert arrays["optimizer/0"] == 200  # its updates, of 400


@pytest.mark.parametrize(
    ("arguments", "stops"),
    [
        pytest.param(META, [100], marks=pytest.mark.slow),
        (META, [100, 300]),
        (META, [400]),
        pytest.param(PRETRAINED, [100], marks=pytest.mark.slow),
        (PRETRAINED, [200]),
        (PRETRAINED, [100, 300]),
    ],
    ids=lambda value: "-".join(map(str, value)).replace("--", ""),
)
def test_continues_exactly_after_an_interrupt(
    arguments, stops, capsys, tmp_path, uninterrupted
):
    arguments_there = (*arguments, f"--logdir={tmp_path}")
    for stop in stops:
        with pytest.MonkeyPatch.context() as patch:
            interrupt_after(patch, stop)
            assert run(*arguments_there) == 130
        assert list(tmp_path.glob(f"*/model{stop}.npz"))
    assert run(*arguments_there) == 0
    check_same(tmp_path, uninterrupted[arguments])


def test_xla_compiles_no_step_that_is_computed_again():
    assert train._jit_compile(Config("sinusoid")) is True
    assert train._jit_compile(Config("sinusoid", remat=True)) is False


@pytest.mark.parametrize("jit_compile", ["auto", "false"])
@pytest.mark.usefixtures("not_deterministic")
def test_training_with_and_without_xla(jit_compile, tmp_path, capsys, trained):
    """The first row of a table is that of the fixture's run, to rounding."""
    arguments = *SHORT, "--metatrain_iterations=100", f"--logdir={tmp_path}"
    assert run(*arguments, f"--jit_compile={jit_compile}") == 0
    first = capsys.readouterr().out.partition("First step, with tracing")[2]
    assert first.startswith(", compilation") == (jit_compile != "false")
    found, expected = (
        np.loadtxt(
            next(folder.glob("*/training.csv")),
            delimiter=",",
            skiprows=1,
            max_rows=1,
        )
        for folder in (tmp_path, trained)
    )
    np.testing.assert_allclose(found, expected, 1e-4)


def test_tasks_per_step_change_no_number(tmp_path, capsys):
    ends = []
    for most in (-1, 1):
        folder = tmp_path / str(most)
        arguments = *SHORT, "--metatrain_iterations=5", f"--logdir={folder}"
        assert run(*arguments, f"--tasks_per_step={most}") == 0
        [path] = folder.glob("*/model5.npz")
        ends.append(checkpoints.read(checkpoints.Checkpoint(path, 5)).arrays)
    assert "looped (1 at once" in capsys.readouterr().out
    for name, array in ends[0].items():
        np.testing.assert_allclose(array, ends[1][name], 1e-4, 1e-6, name)


def test_config_json_records_settings_and_meaning(tmp_path, trained):
    [file] = trained.glob("*/config.json")
    written = json.loads(file.read_text())
    assert written["inner_lr"] == 0.001
    assert "Losses: mean squared error" in "".join(written["explanation"])


@pytest.mark.parametrize("length", [50, 130])
def test_continues_exactly_between_windows(length, tmp_path, uninterrupted):
    where = f"--logdir={tmp_path}"
    assert run(*SHORT, where, f"--metatrain_iterations={length}") == 0
    assert run(*META, where) == 0
    check_same(tmp_path, uninterrupted[META])


KILLED = """
import os, signal, sys
from maml_tf import files, main, train

train.SAVE_INTERVAL = 100
fsync, calls = os.fsync, []

def second_kills(descriptor):
    calls.append(descriptor)
    if os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).startswith(
        ".model200"
    ):
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

files.os.fsync = second_kills
sys.exit(main.main())
"""


def test_continues_exactly_when_killed_while_saving(
    often, tmp_path, uninterrupted
):
    arguments = (*META, f"--logdir={tmp_path}")
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments])
    assert killed.returncode == -signal.SIGKILL
    found = [path.name for path in tmp_path.glob("*/model*.npz")]
    assert found == ["model100.npz"]
    assert run(*arguments) == 0
    check_same(tmp_path, uninterrupted[META])


@pytest.mark.slow  # `./run_tests.sh --torture` does it with many kills.
def test_continues_exactly_on_images(often, real_data, real_cache, tmp_path):
    small = "--num_filters=2 --num_classes=2 --meta_batch_size=1 --nolog"
    arguments = (
        *OMNIGLOT,
        *small.split(),
        "--update_lr=0.4",
        "--metatrain_iterations=400",
        f"--data_dir={real_data}",
        f"--cache_dir={real_cache}",
    )
    whole, stopped, killed = (tmp_path / n for n in ("whole", "stop", "kill"))
    assert run(*arguments, f"--logdir={whole}") == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 150)
        assert run(*arguments, f"--logdir={stopped}") == 130
    there = (*arguments, f"--logdir={killed}")
    process = subprocess.run([sys.executable, "-c", KILLED, *there])
    assert process.returncode == -signal.SIGKILL
    for logdir in (stopped, killed):
        assert run(*arguments, f"--logdir={logdir}") == 0
        check_same(logdir, result(whole))


@pytest.mark.parametrize(
    "cut",
    [
        "2",
        pytest.param("200", marks=pytest.mark.slow),
        pytest.param("200,0.5", marks=pytest.mark.slow),
        "200,1.2e-",
    ],
)
def test_continues_exactly_after_half_a_row(
    cut, often, monkeypatch, tmp_path, uninterrupted
):
    where = f"--logdir={tmp_path}"
    assert run(*SHORT, where, "--metatrain_iterations=100") == 0
    [log] = tmp_path.glob("*/training.csv")
    with open(log, "a") as file:
        file.write(cut)
    assert run(*META, where) == 0
    check_same(tmp_path, uninterrupted[META])


def test_stops_where_numbers_are_not_finite(capsys, tmp_path, trained):
    shutil.copytree(trained, tmp_path / "logs")
    [before] = (tmp_path / "logs").iterdir()
    arguments = (*META, "--meta_lr=1e38", f"--logdir={tmp_path / 'logs'}")
    kept = checkpoints.find(before)
    content = kept.path.read_bytes()
    capsys.readouterr()
    assert run(*arguments) != 0
    message = one_message(capsys)
    assert "Not finite at iteration 102: first the" in message
    assert checkpoints.list_checkpoints(before) == [kept]
    assert kept.path.read_bytes() == content


def test_the_end_of_training_is_looked_at_too(capsys, tmp_path):
    line = *SHORT, "--metatrain_iterations=7", "--meta_lr=1e38"
    assert run(*line, f"--logdir={tmp_path}") != 0
    assert "Not finite at iteration" in one_message(capsys)
    assert not list(tmp_path.glob("*/model*"))


def test_signals_are_python_s_again_after_training(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    line = *SHORT, "--metatrain_iterations=1", f"--logdir={tmp_path}"
    assert run(*line) == 0
    after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert after == before


def test_survives_a_full_disk(
    capsys, monkeypatch, often, tmp_path, uninterrupted
):
    savez, calls = np.savez, []

    def second_fails(file, **arrays):
        calls.append(file)
        if len(calls) == 2:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", second_fails)
    capsys.readouterr()
    arguments = (*META, f"--logdir={tmp_path}")
    assert run(*arguments) != 0
    assert "No space left on device" in one_message(capsys)
    left = {path.name for path in tmp_path.glob("*/*")}
    tables = {"training.csv", "seconds.csv"}
    assert left == {"config.json", "model100.npz", *tables}
    assert run(*arguments) == 0
    check_same(tmp_path, uninterrupted[META])


@pytest.fixture
def exported(trained, capsys):
    """Returns the prefix of the trained run in the original's layout."""
    prefix = trained.parent / "exported" / "model100"
    where = f"--logdir={trained}", f"--export_checkpoint={prefix}"
    assert run(*META, *where) == 0
    assert f"Written: {prefix}.index" in capsys.readouterr().out
    return prefix


def curve(logdir):
    [path] = logdir.glob("*/test_*.csv")
    return path.read_text()


def test_an_exported_checkpoint_is_evaluated_as_the_run_is(
    exported, trained, tmp_path
):
    test = *META, "--train=False"
    assert run(*test, f"--logdir={trained}") == 0
    imported = f"--import_checkpoint={exported}"
    assert run(*test, f"--logdir={tmp_path}", imported) == 0
    assert curve(tmp_path) == curve(trained)
    assert not list(tmp_path.glob("*/model*"))


def test_training_goes_on_from_an_imported_checkpoint(
    exported, tmp_path, capsys
):
    line = *SHORT, "--metatrain_iterations=300", f"--logdir={tmp_path}"
    assert run(*line, f"--import_checkpoint={exported}") == 0
    assert f"Imported: {exported}, of step 100" in capsys.readouterr().out
    assert run(*line, f"--import_checkpoint={exported}") == 0
    out = capsys.readouterr().out
    assert "Imported" not in out
    assert "Nothing to train: " in out and "300" in out
    [folder] = tmp_path.iterdir()
    assert {p.stem for p in folder.glob("model*")} == {"model100", "model300"}
    first, second = (
        dict(np.load(folder / f"model{i}.npz")) for i in (100, 300)
    )
    assert str(first["phase"]) == "imported"
    assert (first["network/0"] != second["network/0"]).any()


def test_an_import_is_told_of_where_nothing_was_trained(exported, tmp_path):
    line = *SHORT, "--metatrain_iterations=100", f"--logdir={tmp_path}"
    folder = pathlib.Path(config(*line).folder)
    folder.mkdir()
    # Left by a run that ended before its first checkpoint.
    (folder / "training.csv").write_text("iteration,loss\n50,1\n")
    assert run(*line, f"--import_checkpoint={exported}") == 0
    assert not (folder / "training.csv").exists()
    assert run(*line, "--train=False") == 0
    [path] = folder.glob("test_*.json")
    found = records.read(path)
    assert found["changes"] == ["imported: model100, of step 100"]
    assert found["commit"] is None


def test_a_run_of_its_own_is_not_replaced_by_an_import(
    exported, tmp_path, capsys
):
    line = *SHORT, f"--logdir={tmp_path}", f"--import_checkpoint={exported}"
    assert run(*line, "--metatrain_iterations=200") == 0
    [folder] = tmp_path.iterdir()
    before = (folder / "model200.npz").read_bytes()
    assert run(*line, "--metatrain_iterations=200") == 0
    assert f"Not imported: {exported}; {folder} goes on" in (
        capsys.readouterr().out
    )
    assert (folder / "model200.npz").read_bytes() == before


@pytest.mark.parametrize("more", [["--train=False"], []], ids=["test", "train"])
def test_refuses_a_legacy_checkpoint_of_another_network(
    more, exported, capsys, tmp_path
):
    message = refused(
        capsys,
        tmp_path / "logs",
        *META,
        "--baseline=oracle",
        f"--import_checkpoint={exported}",
        *more,
    )
    assert str(exported) in message
    assert "model/Variable (1, 40), expected (3, 40)" in message


def original(network, folder):
    """Returns the prefix of a network in the original's layout."""
    learner = MAML(network, losses.CrossEntropy(1), inner_lr=0.1)
    legacy.save(folder / "model1", learner)
    return f"--import_checkpoint={folder / 'model1'}"


def test_max_pooling_is_told_for_mini_imagenet_alone(tmp_path):
    imported = original(models.mini_imagenet_conv(5, 2), tmp_path)
    assert config(imported).max_pool
    own = imported, "--datasource=folder"
    assert not config(*own).max_pool
    assert config(*own, "--max_pool").max_pool


def test_what_an_import_does_not_tell_is_said(tmp_path, capsys):
    imported = original(models.omniglot_conv(5, 2), tmp_path)
    for flags, said in [((), True), (("--nomax_pool",), False)]:
        assert run(imported, "--explain", *flags) == 0
        out = capsys.readouterr().out
        assert ("tells nothing of max-pooling: taken without" in out) == said


def test_an_original_s_results_are_not_written_over(exported, tmp_path, capsys):
    line = *META, f"--logdir={tmp_path}", f"--import_checkpoint={exported}"
    folder = pathlib.Path(config(*line).folder)
    folder.mkdir()
    theirs = folder / "test_ubs5_stepsize0.001.csv"
    theirs.write_text("theirs")
    assert run(*line, "--train=False") == 1
    message = one_message(capsys)
    assert "--logdir: expected another folder than that of" in message
    assert str(theirs) in message
    assert [*folder.iterdir()] == [theirs]
    assert theirs.read_text() == "theirs"
    theirs.with_suffix(".json").write_text("{}")
    assert run(*line, "--train=False") == 0
    assert theirs.read_text().startswith("update0")


def test_an_imported_checkpoint_tells_the_network(exported, tmp_path):
    where = f"--logdir={tmp_path}", f"--import_checkpoint={exported}"
    assert config(*where).norm == "None"
    assert config(*where).datasource == "sinusoid"
    assert config(*where, "--norm=layer_norm").norm == "layer_norm"
    assert run(*where, "--train=False") == 0
    assert curve(tmp_path).startswith("update0")


def test_refuses_a_legacy_checkpoint_that_is_not_there(capsys, tmp_path):
    prefix = tmp_path / "nothing"
    line = *META, f"--import_checkpoint={prefix}"
    assert str(prefix) in refused(capsys, tmp_path / "logs", *line)


def test_words_of_a_flag_are_joined_by_either():
    assert config("--num-classes=7") == config("--num_classes=7") != config()
    assert not config("--nomax-pool").max_pool


def test_help_lists_all_flags(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    for name in flags_of(main):
        assert f"--{name} " in out
    assert "--flagfile=FILE" in out


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--datasource=omniglot", "--datasource: expected sinusoid in"),
        ("--explain", "--explain: expected none in the quickstart"),
        ("--export_checkpoint=x", "--export_checkpoint: expected none"),
        ("--train=False", "--train: expected none in the quickstart"),
        ("--baseline=oracle", "--baseline: expected none in the quickstart"),
        ("--pretrain_iterations=9", "--pretrain_iterations: expected none in"),
        ("--strategy=multi_worker", "--strategy: expected none or mirrored in"),
    ],
)
def test_the_quickstart_refuses_what_it_does_not_do(
    flag, message, tmp_path, capsys
):
    line = [flag, f"--logdir={tmp_path / 'x'}"]
    assert main_quickstart.main(line) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"import_checkpoint": "x", "test_iter": 5}, "test_iter"),
        ({"shots": 10, "train_shots": 5}, "train_update_batch_size"),
        ({"inner_lr": 0.1, "train_inner_lr": 0.2}, "train_update_lr"),
    ],
)
def test_refuses_in_training_what_is_of_a_test(settings, flag):
    with pytest.raises(ConfigError, match=f"--{flag}: expected -1"):
        Config(**settings)


@pytest.mark.parametrize(
    "program, flag",
    [
        (main, "logdir"),
        (main, "import_checkpoint"),
        (main, "export_checkpoint"),
        (main_reptile, "checkpoint"),
    ],
)
def test_a_tilde_is_the_home_folder(program, flag):
    values = program.PROGRAM.parse([f"--{flag}=~/x"])
    assert values[flag].value == os.path.expanduser("~/x")
