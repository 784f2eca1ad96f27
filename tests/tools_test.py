"""Tools for several hosts: who is who, and what starts again."""

import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import time

import kubernetes_validate
import pytest
import yaml

TOOLS = pathlib.Path(__file__).parents[1] / "tools"
TF_CONFIG = runpy.run_path(str(TOOLS / "tf_config.py"))["main"]
SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_STEP_NODELIST": "node[01-02,7]",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
}


def slurm_task(number, node, place=0):
    """Returns the environment variables of a task of `srun`."""
    return {
        **SLURM,
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(place),
        "SLURMD_NODENAME": node,
    }


@pytest.mark.parametrize(
    "environment, hosts, index",
    [
        (
            slurm_task(2, "node7"),
            ["node01:2222", "node02:2222", "node7:2222"],
            2,
        ),
        (  # Slurm counts n9 first, the resolver n10.
            {
                **slurm_task(0, "n9"),
                "SLURM_STEP_NODELIST": "n[9-10]",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            },
            ["n10:2222", "n9:2222"],
            1,
        ),
        (
            {
                **slurm_task(1, "n1", place=1),
                "SLURM_STEP_NODELIST": "n1",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_STEP_TASKS_PER_NODE": "2",
            },
            ["n1:2222", "n1:2223"],
            1,
        ),
        (
            {"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2"},
            ["algo-1:2222", "algo-2:2222"],
            1,
        ),
        (
            {
                "WORKERS": "2",
                "HOSTS": "job-{}.service",
                "JOB_COMPLETION_INDEX": "0",
                "PORT": "80",
            },
            ["job-0.service:80", "job-1.service:80"],
            0,
        ),
    ],
)
def test_launchers(environment, hosts, index, capsys, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert TF_CONFIG(environment) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cluster"] == {"worker": hosts}
    assert told["task"] == {"type": "worker", "index": index}


def test_names_the_variables_that_it_looks_for(capsys):
    assert TF_CONFIG({}) == 1
    assert "expected one of SLURM_STEP_NODELIST" in capsys.readouterr().err
    assert TF_CONFIG({"JOB_COMPLETION_INDEX": "0"}) == 1
    printed = capsys.readouterr()
    assert "expected HOSTS beside JOB_COMPLETION_INDEX" in printed.err
    assert not printed.out


@pytest.mark.parametrize("hosts", ['["algo-1"]', "algo-1, algo-2"])
def test_names_the_variables_that_tell_no_place(hosts, capsys):
    told = {"SM_HOSTS": hosts, "SM_CURRENT_HOST": "algo-2"}
    assert TF_CONFIG(told) == 1
    printed = capsys.readouterr()
    assert "tf_config: expected hosts in SM_HOSTS and its" in printed.err
    assert not printed.out


@pytest.mark.parametrize("name", ["service", "job-{name}", "{}-{}"])
def test_names_a_pattern_of_hosts_that_does_not_number_them(name, capsys):
    told = {"WORKERS": "2", "HOSTS": name, "JOB_COMPLETION_INDEX": "0"}
    assert TF_CONFIG(told) == 1
    printed = capsys.readouterr()
    assert f"found that HOSTS={name} has no {{}}, or several" in printed.err
    assert not printed.out


def run(*command, **variables):
    return subprocess.run(
        command,
        cwd=TOOLS.parent,
        env={**os.environ, "PAUSE": "0", **variables},
        capture_output=True,
        text=True,
    )


def test_slurm_gives_each_task_its_place(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    srun.chmod(0o755)
    python = pathlib.Path(sys.executable).parent
    path = f"{tmp_path}:{python}:{os.environ['PATH']}"
    command = TOOLS / "slurm.sh", "printenv", "TF_CONFIG"
    done = run(*command, **slurm_task(1, "node02"), PATH=path)
    assert json.loads(done.stdout)["task"] == {"type": "worker", "index": 1}
    stranger = slurm_task(1, "elsewhere")
    done = run(*command, **stranger, PATH=path)
    assert done.returncode != 0 and not done.stdout  # It did not start.


def test_a_supervisor_tries_again_and_gives_up(tmp_path):
    count = f"echo >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) = 3"
    assert run(TOOLS / "supervise.sh", "sh", "-c", count).returncode == 0
    failed = run(TOOLS / "supervise.sh", "sh", "-c", "exit 7", TRIES="2")
    assert failed.returncode == 7
    assert "status 7 in try 2" in failed.stderr


@pytest.mark.parametrize("which, status", [("INT", 130), ("TERM", 143)])
@pytest.mark.parametrize(
    "line, count", [(["supervise.sh"], 1), (["local_workers.sh", "2"], 2)]
)
def test_a_signal_ends_the_commands_and_nothing_else(
    line, count, which, status, tmp_path
):
    command = (
        f"trap 'touch {tmp_path}/saved.$$; exit 130' TERM; "
        f"touch {tmp_path}/begun.$$; while :; do sleep 0.1; done"
    )
    program, *words = line
    process = subprocess.Popen(
        [TOOLS / program, *words, "sh", "-c", command],
        # Where these tests run in the background, SIGINT may be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while len([*tmp_path.glob("begun.*")]) < count:
        time.sleep(0.05)
    process.send_signal(signal.Signals[f"SIG{which}"])
    assert process.wait(20) == status
    assert len([*tmp_path.glob("saved.*")]) == count
    assert len([*tmp_path.glob("begun.*")]) == count  # None was tried again.


def test_ctrl_c_comes_once(tmp_path):
    """A second signal would end a training before it has saved."""
    told = tmp_path / "told"
    command = (
        "import signal, sys, time\n"
        f"told = open({str(told)!r}, 'w', buffering=1)\n"
        "for s in signal.SIGINT, signal.SIGTERM:\n"
        "    signal.signal(s, lambda n, _: print(n, file=told))\n"
        "print('begun', file=told)\n"
        "time.sleep(1.5)\n"
        "sys.exit(1)\n"
    )
    process = subprocess.Popen(
        [TOOLS / "supervise.sh", sys.executable, "-c", command],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        start_new_session=True,
    )
    while not told.exists() or not told.read_text():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
    assert process.wait(20) == 130
    assert told.read_text().split() == ["begun", str(signal.SIGTERM.value)]


def test_local_workers_are_told_apart(tmp_path):
    note = 'echo "$TF_CONFIG" >> ' + str(tmp_path / "$$")
    done = run(TOOLS / "local_workers.sh", "2", "sh", "-c", note)
    assert done.returncode == 0
    told = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert {each["task"]["index"] for each in told} == {0, 1}
    hosts = ["localhost:2222", "localhost:2223"]
    assert all(each["cluster"] == {"worker": hosts} for each in told)


def test_local_workers_write_where_their_output_goes(tmp_path):
    line = [TOOLS / "local_workers.sh", "2", "echo", "of a worker"]
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        log.write("before\n")
        log.flush()
        subprocess.run(line, stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "before\nof a worker\n"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(line, stdout=theirs, check=True)
        assert ours.recv(99) == b"of a worker\n"


@pytest.mark.parametrize(
    "given, seen", [({}, ["0", "1"]), ({"CUDA_VISIBLE_DEVICES": ""}, ["", ""])]
)
def test_local_workers_have_a_gpu_each(given, seen, monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    note = 'echo "$CUDA_VISIBLE_DEVICES" > ' + str(tmp_path / "$$")
    assert not run(
        TOOLS / "local_workers.sh", "2", "sh", "-c", note, **given
    ).returncode
    told = [path.read_text().strip() for path in tmp_path.iterdir()]
    assert sorted(told) == seen


def test_the_kubernetes_manifest_is_whole():
    version = kubernetes_validate.latest_version()
    text = (TOOLS / "kubernetes.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    kubernetes_validate.validate(service, version, strict=True)
    kubernetes_validate.validate(job, version, strict=True)
    environment = job["spec"]["template"]["spec"]["containers"][0]["env"]
    assert environment[0]["value"] == str(job["spec"]["completions"])
