import dataclasses
import itertools
import os
import pathlib
import re
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from own_process import check_runs
from tensorflow.python.framework import kernels

from maml_tf import models

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def tiny(**changes):
    import workloads

    settings = {
        "name": "tiny",
        "network": workloads.omniglot(ways=2, filters=3),
        "tasks": 2,
        "ways": 2,
        "shots": 1,
        "queries": 2,
        "inner_steps": 2,
        "inner_lr": 0.1,
    }
    return workloads.Workload(**{**settings, **changes})


def result(implementation, *ms, variant=""):
    import report

    return report.Result(implementation, variant, list(ms), 1.5, 300.0)


@pytest.mark.parametrize(
    "first_order", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_map_fn_has_our_meta_gradient(float64, first_order):
    import compare
    import ours
    import tensorflow_map_fn

    workload = tiny(first_order=first_order)
    expected, found = (
        module.Peer(workload, "float64", "").meta_gradient()
        for module in (ours, tensorflow_map_fn)
    )
    assert compare.relative_error(found, expected) < 1e-12


def test_first_order_is_told_from_second(float64):
    import compare
    import ours

    second, first = (
        ours.Peer(tiny(first_order=order), "float64", "").meta_gradient()
        for order in (False, True)
    )
    for found in (first, [np.full_like(g, np.nan) for g in second]):
        with pytest.raises(compare.CheckError, match="tiny: meta-gradient off"):
            compare.require_equal("tiny", found, second, 1e-6)


@pytest.mark.slow
def test_candidates_are_checked_in_their_own_processes(capfd):
    import compare
    import workloads

    workload = tiny(network=workloads.mlp(), ways=1, shots=3, steps_per_call=2)
    candidates = [("map_fn", "")]
    assert compare.check(workload, candidates) == candidates
    assert "tiny: map_fn: meta-gradient off" in capfd.readouterr().err


def test_reptile_has_a_meta_gradient_of_all_weights(float64):
    import reptile_ours
    import workloads

    workload = workloads.ReptileWorkload(
        "tiny",
        workloads.reptile_omniglot(2),
        2,
        2,
        2,
        1,
        2,
        1e-3,
        inner_batch=2,
    )
    batches = workload.batches()
    assert batches.shape == (2, 2, 2)
    assert sorted(batches[0].ravel()) == [0, 1, 2, 3]
    gradient = reptile_ours.Peer(workload, "float64", "").meta_gradient()
    assert all(np.abs(g).max() > 0 for g in gradient[2::4])


def test_gigaflops_count_forward_passes():
    import workloads

    layers = {"kernels": ((1, 2), (2, 3)), "positions": (1, 1)}
    network = workloads.Network(("", {}), (1,), **layers)
    second = tiny(network=network, tasks=1, ways=1, inner_steps=1, queries=1)
    # The first layer is 4 operations, the second 12; support 9, query 3.
    assert second.gigaflops() == pytest.approx((4 * 4 + 9 * 12 + 8 + 36) / 1e9)
    first = dataclasses.replace(second, first_order=True)
    assert first.gigaflops() == pytest.approx(2 * (8 + 36) / 1e9)


def test_calls_do_every_iteration():
    assert tiny(steps_per_call=100).calls(250) == [100, 100, 50]
    assert tiny().calls(2) == [1, 1]


def test_weights_are_split_in_order():
    network = tiny().network
    fast, slow = network.split(range(len(network.adapted)))
    assert slow == [2, 5, 8, 11]
    assert sorted(fast + slow) == [*range(len(network.adapted))]
    assert fast == sorted(fast)


def test_records_compare_with_the_best_peer_round_by_round():
    import report

    results = [
        result("ours", 2.0, 4.0, 3.0),
        result("jax", 4.0, 4.0, 4.0, variant="vmap"),
        result("jax", 1.0, 9.0, 9.0, variant="scan"),
        result("torch_loop", 8.0, 8.0, 8.0),
    ]
    best = report.best_variants(results)
    assert [r.name for r in best] == ["ours", "jax (vmap)", "torch_loop"]
    workload = tiny()
    ours, jax, _ = report.records(workload, best, [200.0, 200.0, 200.0])
    assert ours["ratio_to_best_peer"] == 0.75
    assert jax["ratio_to_best_peer"] == 1.0
    assert ours["median_ms"] == 3.0
    peak = 100 * workload.gigaflops() / 3e-3 / 200
    assert ours["percent_of_peak"] == pytest.approx(peak)


def test_table_names_the_best_peer():
    import report

    results = [result("ours", 2.0, 4.0), result("jax", 4.0, 4.0)]
    lines = report.table(tiny(), results, [200.0, 200.0]).splitlines()
    assert lines[1].split()[0] == "implementation"
    assert lines[2].split()[:6] == ["ours", "3", "2–4", "–", "–", "667"]
    assert lines[3].split()[3:5] == ["0.75", "0.5–1"]
    assert lines[-1] == "ours ÷ jax, the best peer: 0.75 (rounds: 0.5 1)"


def test_only_ours_has_no_ratio():
    import report

    (record,) = report.records(tiny(), [result("ours", 1.0)], [100.0])
    assert record["ratio_to_best_peer"] is None


def test_lost_variants_are_closed():
    import compare

    class Worker:
        closed = False

        def close(self):
            self.closed = True

    def racer(variant, ms):
        import workers

        sample = workers.Sample(ms, 1.0, 1.0)
        return compare.Racer(("jax", variant), Worker(), sample)

    fast, slow = racer("vmap", 1.0), racer("scan", 2.5)
    assert compare.still_in([fast, slow]) == [fast]
    assert slow.worker.closed and not fast.worker.closed


def test_a_racer_works_as_long_as_it_is_told():
    import compare
    import workers

    sample, asked = workers.Sample(10.0, 1.0, 1.0), []

    class Worker:
        def ask(self, steps):
            asked.append(steps)
            return sample

    racer = compare.Racer(("ours", ""), Worker(), sample)
    for seconds in (1.0, 0.001):
        racer.work(tiny(steps_per_call=5), seconds)
    assert asked == [100, 5]


def test_data_is_seeded_and_of_the_workloads_shape():
    workload = tiny()
    first, again = workload.data("float32"), workload.data("float32")
    assert first.support_x.shape == (2, 2, 28, 28, 1)
    assert first.query_y.tolist() == [[0, 0, 1, 1]] * 2
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(np.unique(first.query_x)) == {0.0, 1.0}


def test_unknown_workload_lists_the_names():
    import subprocess

    run = subprocess.run(
        [sys.executable, BENCHMARKS / "compare.py", "--workload=x"],
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "sinusoid10|omniglot5|omniglot20|mini5|mini5_fo" in run.stderr


@pytest.mark.parametrize(
    "name",
    [
        "regression/sinusoid_pretrained",
        "reptile/reptile_sinusoid",
        "rl/rl_nav2d",
    ],
)
def test_a_first_step_is_that_of_the_flagfile(name):
    import first_step

    path = first_step.FLAGS_FOLDER / f"{name}.flags"
    more = "--meta_batch_size=2" if "rl_" in name else ""
    row = first_step.timer()((str(path), more, 1))
    estimate = r", estimated +\d+ MB" if "regression" in name else ""
    assert re.fullmatch(rf" *[\d.]+ s, +[\d.]+ s, +\d+ MB{estimate}", row)


def test_what_is_not_measured_fails(monkeypatch, capsys):
    import first_step

    def ended(*_):
        raise first_step.WorkerError("it ended early")

    flags = types.SimpleNamespace(more=[""], steps=1)
    monkeypatch.setattr(first_step, "FLAGS", flags)
    monkeypatch.setattr(first_step, "Worker", ended)
    assert first_step.main(["", "a.flags"]) == 1
    told = "not measured: it ended early  a.flags\n"
    assert capsys.readouterr().out == told


GPU = """
import contextlib
import io
import sys
sys.path.insert(0, sys.argv[1])
import gpu

gpu.FLAGS(["gpu"])
gpu.throughput = lambda *_: ["1", "1 MB", "1 %"]
gpu.workloads.relative_error = lambda found, expected: found
for errors, right in [
    ((0.0, 0.0), True), ((1.0, 0.0), False), ((0.0, float("nan")), False)
]:
    gpu.gradient = lambda _, device, compiles, policy: errors[compiles]
    assert gpu.row(gpu.workloads.WORKLOADS["sinusoid10"]) is right

gpu.gradient = lambda _, device, compiles, policy: (
    float("nan") if policy == "mixed_bfloat16" else 0.0
)
assert gpu.row(gpu.workloads.WORKLOADS["sinusoid10"]) is False
for rough, right in ("mixed_bfloat16", True), ("float32", False):
    gpu.gradient = lambda _, device, compiles, policy: 0.5 * (policy == rough)
    assert gpu.row(gpu.workloads.WORKLOADS["sinusoid10"]) is right

def fails(*_):
    gpu.tf.function(gpu.tf.strings.to_number)(gpu.tf.constant("x"))

gpu.gradient, gpu.throughput = (lambda *_: 0.0), fails
with contextlib.redirect_stdout(io.StringIO()) as told:
    assert gpu.row(gpu.workloads.WORKLOADS["sinusoid10"]) is False
start = "| sinusoid10 | yes | failed: InvalidArgumentError: StringToNumb"
assert told.getvalue().splitlines()[1].startswith(start), told.getvalue()
gpu.gradient = fails  # on the processor, too
with contextlib.redirect_stdout(io.StringIO()) as told:
    assert gpu.row(gpu.workloads.WORKLOADS["sinusoid10"]) is False
start = "| sinusoid10 | failed on CPU:0: InvalidArgumentError: StringToNumb"
assert told.getvalue().startswith(start), told.getvalue()
counts = []
peer = type("Peer", (), {"step": lambda self, count: counts.append(count)})()
clock = iter([0.0, 2.0, 2.0, 8.0])
gpu.time = type("Time", (), {"monotonic": lambda: next(clock)})
assert gpu.pace(peer, 100) == 200 / 6
assert counts == [100, 200]
assert gpu.driver_name() == "0"
for wrong in "GPU:x", "GPU:-1", "TPU:0":
    try:
        gpu.FLAGS.device = wrong
    except gpu.flags.IllegalFlagValueError as error:
        assert "expected such as GPU:0 or CPU:0" in str(error)
    else:
        raise AssertionError(wrong)
gpu.FLAGS.device = "GPU:1"
gpu.os.environ["CUDA_VISIBLE_DEVICES"] = "3,GPU-x"
assert gpu.driver_name() == "GPU-x"
"""


def test_a_gpu_is_compared_and_timed():
    # Its flags are named as those of other benchmarks.
    check_runs(GPU, str(BENCHMARKS))


@pytest.mark.skipif(
    not tf.sysconfig.get_build_info()["is_cuda_build"],
    reason="This TensorFlow knows no kernels of GPUs.",
)
@pytest.mark.parametrize(
    "engine, network",
    [
        ("stacked", "omniglot"),
        pytest.param("looped", "mini_imagenet", marks=pytest.mark.slow),
    ],
)
def test_all_of_a_step_has_a_kernel_for_gpus(engine, network, monkeypatch):
    import ours
    import workloads

    monkeypatch.setattr(ours.Peer, "engine", engine)
    monkeypatch.setattr(ours.Peer, "policy", "mixed_bfloat16")
    workload = tiny(network=getattr(workloads, network)(2, filters=3))
    with models.dtype_policy("float32"):
        peer = ours.Peer(workload, "float32", "")
    graph = peer.train.get_concrete_function(peer.batch).graph.as_graph_def()
    functions = [f.node_def for f in graph.library.function]
    nodes = [*graph.node, *itertools.chain(*functions)]
    assert {node.op for node in nodes if not runs_on_gpus(node)} == set()
    types = {node.attr["T"].type for node in nodes if node.op == "Relu"}
    assert types == {tf.bfloat16.as_datatype_enum}


def runs_on_gpus(node):
    """Whether an operation's types have a kernel; calls of functions do not."""
    known = kernels.get_registered_kernels_for_op(node.op).kernel
    return not known or any(
        kernel.device_type in ("GPU", "DEFAULT")
        and all(
            node.attr[limit.name].type in limit.allowed_values.list.type
            for limit in kernel.constraint
        )
        for kernel in known
    )


DRIVER = """#!/bin/sh
echo "$@" > {0}/asked
printf '20 %%\n[N/A]\n\n40 %%\n'
touch {0}/answered
exec sleep 60
"""

DRIVEN = """
import contextlib, io, os, pathlib, sys, time
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
sys.path.insert(0, sys.argv[1])
import gpu

gpu.FLAGS(["gpu"])
with contextlib.redirect_stdout(io.StringIO()) as told:
    assert gpu.main(["gpu"]) == 0
none, hint = told.getvalue().splitlines()
assert none == "No GPU:0 here: nothing is measured."
assert hint.startswith("The driver is")
del os.environ["CUDA_VISIBLE_DEVICES"]
calls, folder = [], pathlib.Path(sys.argv[2])

def pace(peer, count):
    while not (folder / "answered").exists():
        time.sleep(0.05)
    calls.append("timed")
    return 12.5

gpu.Peer = lambda *_: type("Peer", (), {"step": lambda _, n: calls.append(n)})()
gpu.pace, memory = pace, gpu.tf.config.experimental
memory.reset_memory_stats = calls.append
memory.get_memory_info = lambda device: calls.append(device) or {"peak": 3e6}
workload = gpu.workloads.WORKLOADS["omniglot5"]
measured = gpu.throughput(workload, False, "float32")
assert measured == ("12.5", "3 MB", "30 %"), measured
assert calls == [1, "GPU:0", "timed", "GPU:0"]
assert (folder / "asked").read_text().split()[:2] == [
    "--id=0", "--query-gpu=utilization.gpu"
]
os.environ["PATH"] = ""
assert gpu.throughput(workload, False, "float32")[2] == "?"
"""


def test_the_driver_says_how_busy_a_gpu_is(monkeypatch, tmp_path):
    driver = tmp_path / "nvidia-smi"
    driver.write_text(DRIVER.format(tmp_path))
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    check_runs(DRIVEN, f"{BENCHMARKS} {tmp_path}")
