"""Programs that need a TensorFlow of their own, with other devices."""

import json
import os
import socket
import subprocess
import sys


def check_runs(program, arguments):
    """Runs the text of a program, whose assertions have to hold."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def check_runs_on_hosts(program, count):
    """Runs the text of a program by so many workers, see `check_runs`."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "TF_CONFIG": told},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for told in cluster(count)
    ]
    errors = [worker.communicate()[1] for worker in workers]
    assert not any(worker.returncode for worker in workers), errors


def cluster(workers):
    """Returns TF_CONFIG for each of so many workers on this host."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(workers)]
    hosts = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for each in sockets:
        each.close()
    return [
        json.dumps(
            {
                "cluster": {"worker": hosts},
                "task": {"type": "worker", "index": index},
            }
        )
        for index in range(workers)
    ]
