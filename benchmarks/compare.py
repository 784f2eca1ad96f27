"""Times our meta-iteration and other libraries', interleaved in one run.

    pip install .[benchmarks]
    python benchmarks/compare.py --workload=omniglot5 --workload=mini5

First every implementation must compute the same meta-gradient in float64.
Then each has a process of its own, warmed up, and in every round they work
one after another, in rotated order, while the others wait. Absolute times
depend on what else the machine does; ratios of one run hardly do.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import math
import os
import sys
import time

from absl import app, flags
from report import Result, best_variants, label, records, table
from workers import (
    IMPLEMENTATIONS,
    Worker,
    gemm_timer,
    gradient_maker,
    timer,
)
from workloads import WORKLOADS, relative_error

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum(
    "workload", list(WORKLOADS), list(WORKLOADS), "What to run."
)
flags.DEFINE_multi_enum(
    "implementation",
    list(IMPLEMENTATIONS),
    list(IMPLEMENTATIONS),
    "What to compare.",
)
flags.DEFINE_integer("rounds", 5, "Rounds of timing.", lower_bound=1)
flags.DEFINE_float("seconds", 2.5, "Of one worker in one round, about.")
flags.DEFINE_bool("check_only", False, "Compare meta-gradients, time nothing.")
flags.DEFINE_bool("json", False, "Print records to standard output.")

CHECKED_TASKS = 2
PATIENCE = 3.0
"""How many times slower to start than the first one a variant may be."""
LOST = 2.0
"""A variant this many times slower than another is not timed further."""


class CheckError(AssertionError):
    """An implementation computes another meta-gradient."""


def main(argv):
    """Measures one workload after another."""
    if unknown := argv[1:]:
        raise app.UsageError(f"Unknown arguments: {' '.join(unknown)}")
    _require_libraries(FLAGS.implementation)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # OpenMP's threads spin where they wait. On a busy machine that made
    # PyTorch twenty times slower and more; this way they sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    collected = []
    for workload in [WORKLOADS[name] for name in FLAGS.workload]:
        candidates = check(workload, _candidates(workload))
        if not FLAGS.check_only:
            measured = measure(
                workload, candidates, FLAGS.rounds, FLAGS.seconds
            )
            out = sys.stderr if FLAGS.json else sys.stdout
            print(f"\n{table(workload, *measured)}\n", file=out, flush=True)
            collected += records(workload, *measured)
    if FLAGS.json:
        print(json.dumps(collected, indent=2))


def check(workload, candidates) -> list[tuple[str, str]]:
    """Compares float64 meta-gradients with ours, on two of the tasks.

    Args:
      workload: what to run.
      candidates: pairs of implementation and variant.

    Returns:
      The candidates without the variants that are too slow to wait for.

    Raises:
      CheckError: if one is off by more than the workload's tolerance.
    """
    tasks = min(workload.tasks, CHECKED_TASKS)
    workload = dataclasses.replace(workload, tasks=tasks)
    gradients = functools.partial(_launch, workload, gradient_maker, None)
    [(_, worker, ours)] = gradients([("ours", "")])
    worker.close()
    passed = []
    for candidate, worker, found in gradients(candidates):
        worker.close()
        title = f"{workload.name}: {label(*candidate)}"
        require_equal(title, found, ours, workload.tolerance)
        passed.append(candidate)
    return passed


def require_equal(title, found, expected, tolerance) -> None:
    """Raises `CheckError` if meta-gradients differ, and says by how much."""
    error = relative_error(found, expected)
    _say(f"{title}: meta-gradient off by {error:.1e}")
    if not error <= tolerance:
        raise CheckError(f"{title}: meta-gradient off by {error:.1e} of ours")


def measure(workload, candidates, rounds, seconds):
    """Times all candidates, interleaved.

    Args:
      workload: what to run.
      candidates: pairs of implementation and variant.
      rounds: how often each works.
      seconds: how long each works in a round, about.

    Returns:
      A `Result` for each implementation, of its best variant and fastest
      first, and the matrix product's speed in each round.
    """
    with contextlib.ExitStack() as stack:
        gemm = stack.enter_context(Worker("matrix product", gemm_timer))
        racers = []
        request = workload.steps_per_call
        for launched in _launch(workload, timer, request, candidates):
            racers.append(stack.enter_context(Racer(*launched)))
        racers = still_in(racers)
        if not racers:
            raise app.UsageError(
                f"--implementation: expected one that runs {workload.name}, "
                f"got {', '.join(FLAGS.implementation)}."
            )
        speeds = []
        for number in range(rounds):
            speeds.append(gemm.ask())
            turn = number % len(racers)
            for racer in racers[turn:] + racers[:turn]:
                racer.work(workload, seconds)
            _say(f"{workload.name}: round {number + 1} of {rounds}")
    return best_variants([racer.result for racer in racers]), speeds


class Racer:
    """A candidate that is warmed up, and what it has been measured to take.

    Args:
      candidate: implementation and variant.
      worker: that runs it.
      sample: of its second step.
    """

    def __init__(self, candidate, worker, sample):
        self.worker = worker
        self.warm_ms = sample.ms
        self.result = Result(*candidate, [], sample.first_step_s, 0.0)
        _say(
            f"{self.result.name}: first step {sample.first_step_s:.1f} s, "
            f"then {sample.ms:.3g} ms"
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.worker.close()

    def work(self, workload, seconds) -> None:
        """Works for about `seconds`, in whole calls and at least one."""
        per_call = workload.steps_per_call
        calls = round(1e3 * seconds / (self.warm_ms * per_call))
        sample = self.worker.ask(max(calls, 1) * per_call)
        self.result.ms.append(sample.ms)
        self.result.peak_mb = sample.peak_mb


def still_in(racers) -> list[Racer]:
    """Returns the racers without lost variants, whose workers are closed."""
    best = {}
    for racer in racers:
        name = racer.result.implementation
        best[name] = min(racer.warm_ms, best.get(name, math.inf))
    kept = []
    for racer in racers:
        if racer.warm_ms <= LOST * best[racer.result.implementation]:
            kept.append(racer)
        else:
            _say(f"{racer.result.name}: dropped, over {LOST:g} × the best's")
            racer.worker.close()
    return kept


def _launch(workload, make, request, candidates):
    """Starts workers one after another, and asks each the same.

    Yields:
      Candidate, worker and answer. A variant is left out if it takes several
      times as long to start and answer as its implementation's first.
    """
    limits = {}
    for name, variant in candidates:
        title = label(name, variant)
        start = time.monotonic()
        worker = Worker(title, make, IMPLEMENTATIONS[name], variant, workload)
        try:
            answer = worker.ask(request, limits.get(name))
        except TimeoutError:
            worker.close()
            _say(f"{title}: dropped, no answer in {limits[name]:.0f} s")
            continue
        limits.setdefault(name, PATIENCE * (time.monotonic() - start))
        yield (name, variant), worker, answer


def _candidates(workload):
    return [
        (name, variant)
        for name in FLAGS.implementation
        for variant in IMPLEMENTATIONS[name].variants(workload)
    ]


def _require_libraries(names):
    needed = {IMPLEMENTATIONS[name].library for name in names}
    missing = sorted(n for n in needed if not importlib.util.find_spec(n))
    if missing:
        raise app.UsageError(
            f"Not installed: {', '.join(missing)}. Either "
            "`pip install .[benchmarks]`, or choose by --implementation."
        )


def _say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app.run(main)
