"""Commands on several devices and hosts: the same curve, one writer, faults."""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import psutil
import pytest
import tensorflow as tf
from own_process import check_runs_on_hosts, cluster
from refused_lines import PROGRAMS, check_refused

from maml_tf import (
    checkpoints,
    distribution,
    main,
    reptile_train,
    run_folder,
    train,
)
from maml_tf.config import Config
from maml_tf.reptile_config import ReptileConfig
from maml_tf.rl import train as rl_train
from maml_tf.rl.config import RLConfig
from maml_tf.settings import ConfigError

SUPERVISE = pathlib.Path(__file__).parents[1] / "tools" / "supervise.sh"
SHORT = (
    *("--norm=None", "--meta_batch_size=4", "--nolog", "--jit_compile=false"),
    "--metatrain_iterations=200",
)


def start(folder, *arguments, before=(), program="main", **variables):
    """Starts `maml-tf`, or another program, in a process of its own."""
    module = f"maml_tf.{program}"
    command = [*before, sys.executable, "-m", module, *arguments]
    return subprocess.Popen(
        [*command, f"--logdir={folder}"],
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def finish(process):
    """Waits for a process, and returns its error if it failed."""
    _, error = process.communicate()
    return error if process.returncode else ""


def left_by(folder, iteration=-1):
    """Returns the tables and the latest weights of a run."""
    [run] = folder.glob("cls_*")
    tables = [
        np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
        for path in sorted(run.glob("*.csv"))
        if path.stem != "seconds"
    ]
    arrays = checkpoints.read(checkpoints.find(run, iteration)).arrays
    return [*tables, *(arrays[name] for name in sorted(arrays))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert not finish(start(folder, *SHORT))
    return left_by(folder)


def check_same(folder, alone):
    for one, other in zip(alone, left_by(folder), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "devices", [pytest.param(1, marks=pytest.mark.slow), 2]
)
def test_logical_devices_train_as_one(devices, alone, tmp_path):
    flags = "--strategy=mirrored", f"--logical_devices={devices}"
    assert not finish(start(tmp_path, *SHORT, *flags))
    check_same(tmp_path, alone)


def test_more_devices_go_on_where_fewer_stopped(alone, tmp_path):
    for devices, end in (2, 150), (4, 200):
        flags = "--strategy=mirrored", f"--logical_devices={devices}"
        length = f"--metatrain_iterations={end}"
        assert not finish(start(tmp_path, *SHORT, *flags, length))
    check_same(tmp_path, alone)


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_train_as_one(count, alone, tmp_path):
    workers = [
        start(
            tmp_path,
            *(*SHORT, "--strategy=multi_worker"),
            f"--worker_timeout={600 + index}",  # It may differ.
            TF_CONFIG=told,
        )
        for index, told in enumerate(cluster(count))
    ]
    assert not any([finish(worker) for worker in workers])
    check_same(tmp_path, alone)


def test_workers_need_the_same_settings(tmp_path):
    errors = [
        finish(worker)
        for worker in [
            start(
                tmp_path / "run",
                *(*SHORT, "--strategy=multi_worker", f"--seed={seed}"),
                TF_CONFIG=told,
            )
            for seed, told in enumerate(cluster(2))
        ]
    ]
    for error in errors:
        assert "not have the same settings or versions; here: maml-tf" in error
    assert "--seed=1" in errors[1] and "--seed" not in errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_three_hosts_differ_where_one_has_the_mean():
    program = """
import json, os, tensorflow as tf
from maml_tf import distribution

strategy = tf.distribute.MultiWorkerMirroredStrategy()
distribution.require_same(strategy, 7)
try:
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    distribution.require_same(strategy, index)
    raise SystemExit(f"no error on host {index}")
except OSError as error:
    assert "do not see the same checkpoints" in str(error)
"""
    check_runs_on_hosts(program, 3)


def two_hosts(index, monkeypatch):
    """Makes this process one of two workers, by TF_CONFIG."""
    hosts = {"worker": ["localhost:1", "localhost:2"]}
    told = json.dumps({"cluster": hosts, "task": {**TASK, "index": index}})
    monkeypatch.setenv("TF_CONFIG", told)


@pytest.mark.parametrize("index", [0, 1])
def test_the_chief_may_be_the_last_that_is_there(index, monkeypatch):
    gone = tf.errors.UnavailableError(None, None, "Socket closed")
    met = mock.Mock(side_effect=[None, gone])
    monkeypatch.setattr(distribution, "require_same", met)
    two_hosts(index, monkeypatch)
    config = Config("sinusoid", strategy="multi_worker")
    end = pytest.raises(type(gone)) if index else contextlib.nullcontext()
    with end, distribution.together(None, config):
        pass
    assert met.call_count == 2


def test_hosts_stay_until_the_chief_has_saved(monkeypatch, tmp_path):
    """Who ended with status 0 before would not come again for it."""
    saved = []

    def meet(strategy, number):
        saved.append(len([*tmp_path.glob("*/model*.npz")]))

    monkeypatch.setattr(distribution, "require_same", meet)
    train.train(Config("sinusoid", logdir=str(tmp_path), meta_iterations=2))
    assert saved == [0, 0, 1]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "program, kind, told",
    [
        (train, Config, {"datasource": "sinusoid"}),
        (
            reptile_train,
            ReptileConfig,
            {"datasource": "sinusoid", "sgd": True},
        ),
        (rl_train, RLConfig, {}),
    ],
)
def test_who_comes_back_after_the_end_waits_for_nobody(
    index, program, kind, told, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("TF_CONFIG", cluster(2)[index])
    place = {"logdir" if kind is Config else "folder": str(tmp_path / "run")}
    several = {"strategy": "multi_worker", "worker_timeout": 1e-3}
    sizes = {"meta_batch_size": 2, "meta_iterations": 4}
    config = kind(**told, **place, **several, **sizes)
    folder, settings = config.folder, dataclasses.asdict(config)
    os.makedirs(folder)
    checkpoints.save(folder, {}, "meta", 3, settings)
    with pytest.raises(OSError, match="--worker_timeout: expected all work"):
        program.train(config)
    checkpoints.save(folder, {}, "meta", 4, settings)
    program.train(config)
    assert "Nothing to train: " in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--seed: expected .*, got 7"):
        program.train(dataclasses.replace(config, seed=7))
    with pytest.raises(OSError, match="--worker_timeout: expected all work"):
        program.train(dataclasses.replace(config, resume=False))


def test_names_a_worker_that_never_comes(tmp_path):
    first, _ = cluster(2)
    flags = "--strategy=multi_worker", "--worker_timeout=2"
    error = finish(start(tmp_path / "run", *SHORT, *flags, TF_CONFIG=first))
    silent = json.loads(first)["cluster"]["worker"][1]
    expected = f"expected all workers within 2 s, got no answer from {silent}."
    assert f"maml-tf: --worker_timeout: {expected}" in error
    assert not list(tmp_path.iterdir())


def test_names_a_port_that_is_in_use(capsys, monkeypatch, tmp_path):
    told, _ = cluster(2)
    monkeypatch.setenv("TF_CONFIG", told)
    monkeypatch.chdir(tmp_path)
    host, _ = json.loads(told)["cluster"]["worker"]
    port = int(host.rpartition(":")[2])
    expected = f"maml-tf: TF_CONFIG: expected port {port} of this worker to be"
    with socket.create_server(("", port)):
        line = "--strategy=multi_worker --meta_batch_size=4"
        check_refused("maml-tf", line, [expected], capsys, tmp_path)


@pytest.mark.parametrize("index", [0, 1])
def test_the_first_host_alone_imports_and_tests(index, monkeypatch, tmp_path):
    """What others import is not what the first one saves, and all train."""
    two_hosts(index, monkeypatch)
    evaluate, is_first = mock.Mock(), index == 0
    monkeypatch.setattr(main.train, "evaluate", evaluate)
    monkeypatch.setattr(main, "_report", lambda *_: None)
    several = {"strategy": "multi_worker", "meta_batch_size": 4}
    values = main.PROGRAM.parse([])
    main.perform(Config(train=False, **several), values)
    assert evaluate.called == is_first
    place = {"import_checkpoint": "x", "logdir": str(tmp_path)}
    config = Config(**several, **place)
    run = run_folder.RunFolder(config, distribution.is_chief(config))
    assert run.imports() == is_first


@pytest.mark.slow
def test_gives_up_on_what_is_no_worker(tmp_path):
    first, _ = cluster(2)
    other = json.loads(first)["cluster"]["worker"][1]
    name, _, port = other.rpartition(":")
    flags = "--strategy=multi_worker", "--worker_timeout=9"
    with socket.create_server((name, int(port))):
        run = start(tmp_path / "run", *SHORT, *flags, TF_CONFIG=first)
        error = finish(run)
    assert run.returncode == 1
    assert f"waiting for {other} to join, --worker_timeout=9 seconds" in error
    assert "Timeout (0:00:09)!" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        "maml-tf --datasource=sinusoid --meta_batch_size={}",
        "reptile-tf --datasource=sinusoid --sgd --meta-batch={}",
        "maml-rl-tf --meta_batch_size={}",
    ],
)
def test_explains_how_many_train(line, capsys, monkeypatch, tmp_path):
    two_hosts(0, monkeypatch)
    monkeypatch.chdir(tmp_path)
    line += " --strategy=multi_worker --explain"
    monkeypatch.setattr(distribution, "gpus", lambda: 2)
    name, *flags = line.format(8).split()
    assert not PROGRAMS[name][0].main(flags)
    told = capsys.readouterr().out
    assert "devices    4 replicas, each a GPU" in told
    assert name != "maml-tf" or "(2 at once" in told
    name, _, flags = line.format(6).partition(" ")
    check_refused(
        name, flags, ["a multiple of the 4 replicas"], capsys, tmp_path
    )


def test_a_meta_batch_has_to_divide(tmp_path):
    flags = "--strategy=mirrored", "--logical_devices=2", "--meta_batch_size=3"
    error = finish(start(tmp_path / "run", *SHORT, *flags))
    assert "--meta_batch_size: expected a multiple of the 2 replicas" in error
    assert not list(tmp_path.iterdir())


HERE, TASK = {"worker": ["localhost:1"]}, {"type": "worker", "index": 0}


@pytest.mark.parametrize(
    "told",
    [
        "",
        "{",
        "[]",
        json.dumps({"cluster": HERE}),
        json.dumps({"cluster": HERE, "task": {"type": "worker"}}),
        json.dumps({"cluster": HERE, "task": {**TASK, "index": 1}}),
        json.dumps({"cluster": HERE, "task": {**TASK, "type": "chief"}}),
        json.dumps({"cluster": {"worker": ["localhost"]}, "task": TASK}),
        json.dumps({"cluster": {"worker": "localhost:1"}, "task": TASK}),
        json.dumps({"cluster": {"worker": ["localhost:70000"]}, "task": TASK}),
        json.dumps({"cluster": {**HERE, "ps": ["localhost:2"]}, "task": TASK}),
        json.dumps({"cluster": {**HERE, "chief": []}, "task": TASK}),
    ],
)
@pytest.mark.parametrize("program", ["maml-tf", "reptile-tf --sgd"])
def test_names_what_the_environment_should_say(
    told, program, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("TF_CONFIG", told)
    monkeypatch.chdir(tmp_path)
    name, *flags = program.split()
    line = " ".join(
        [*flags, "--strategy=multi_worker", "--datasource=sinusoid"]
    )
    expected = "variable TF_CONFIG as", f"found {told!r}"
    check_refused(name, line, expected, capsys, tmp_path)


def test_names_a_job_that_does_not_train(monkeypatch):
    told = {"cluster": {**HERE, "evaluator": ["localhost:2"]}, "task": TASK}
    monkeypatch.setenv("TF_CONFIG", json.dumps(told))
    config = Config(strategy="multi_worker")
    with pytest.raises(ConfigError, match="no training by evaluator"):
        distribution.is_chief(config)


def test_mirrored_needs_devices(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    expected = "--strategy: expected none where there is no GPU"
    check_refused(
        "maml-tf", "--strategy=mirrored", [expected], capsys, tmp_path
    )


def test_reptile_needs_tasks_without_memory(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    line = "--strategy=mirrored --logical-devices=2"
    expected = "tasks share no moments: --reset-inner-optimizer or --sgd"
    check_refused("reptile-tf", line, [expected], capsys, tmp_path)


@pytest.mark.slow
def test_policies_of_two_hosts(tmp_path):
    short = "--n_itr=2", "--meta_batch_size=4", "--strategy=multi_worker"
    workers = [
        start(tmp_path, *short, program="main_rl", TF_CONFIG=told)
        for told in cluster(2)
    ]
    assert not any([finish(worker) for worker in workers])
    with open(tmp_path / "training.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["kl"]) > 0 and first["return"] != second["return"]
    with open(tmp_path / "evaluation.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_costs_nothing(number, tmp_path):
    length = "--metatrain_iterations=1500", "--strategy=multi_worker"
    ends = {}
    for name in ("undisturbed", "killed"):
        folder = tmp_path / name
        workers = [
            start(
                folder,
                *SHORT,
                *length,
                before=[SUPERVISE],
                TF_CONFIG=told,
                PAUSE="1",
            )
            for told in cluster(2)
        ]
        if name == "killed":
            wait_for(folder, "model1000.npz")
            end_python_of(random.choice(workers), number)
        errors = [worker.communicate()[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], errors
        ends[name] = left_by(folder)
    for one, other in zip(*ends.values(), strict=True):
        np.testing.assert_array_equal(one, other)


def wait_for(folder, name):
    while not list(folder.glob(f"*/{name}")):
        time.sleep(0.1)


def end_python_of(supervisor, number):
    """Signals what a supervisor watches, at a random instant."""
    time.sleep(random.uniform(0, 2))
    [python] = psutil.Process(supervisor.pid).children()
    python.send_signal(number)
