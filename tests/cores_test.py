"""Sharing the cores among tasks."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from maml_tf import cores

PROGRAM = """
import os, sys
import tensorflow as tf
import maml_tf
os.sched_getaffinity = lambda _: range(8)
from maml_tf import cores
print(cores.side_by_side())
maml_tf.share_cores(int(sys.argv[1]))
print(tf.config.threading.get_intra_op_parallelism_threads())
print(cores.side_by_side())
"""


@pytest.mark.parametrize(
    ("tasks", "environment", "expected"),
    [
        (32, {}, [1, 1, 8]),
        (4, {}, [1, 2, 4]),
        pytest.param(3, {}, [1, 2, 4], marks=pytest.mark.slow),
        (1, {}, [1, 8, 1]),
        (32, {"TF_NUM_INTRAOP_THREADS": "4"}, [2, 0, 2]),
    ],
)
def test_tasks_share_the_cores(tasks, environment, expected):
    variables = {
        name: value
        for name, value in os.environ.items()
        if name != "TF_NUM_INTRAOP_THREADS"
    }
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tasks)],
        env={**variables, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [int(line) for line in run.stdout.split()] == expected


def test_too_late_is_an_error(monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setattr(cores, "_count", lambda: 1000)
    tf.zeros([]) + 1
    with pytest.raises(RuntimeError, match="cannot be modified"):
        cores.share_cores(1)
    cores.share_unless_started(1)
