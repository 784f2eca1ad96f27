"""Times whole training runs against the bare training step, interleaved.

    python benchmarks/loop.py --data_dir=data
    python benchmarks/loop.py --data_dir=data --deterministic

A run is what `maml-tf` does: data pipeline, metrics, logs and all callbacks.
The bare step is that of `compare.py`. In every round both work, one after
the other, each in a process of its own. The clock starts once everything that
comes at regular intervals has come, and been traced, for the first time;
mini5's validation, one meta-batch in 500, is left out. The data pipeline is
timed alone as well: training waits for it if it takes longer than a step.
mini5 needs mini-ImageNet in the data folder; `--workload` leaves it out.

With `--deterministic` the runs are timed against those of the same flag of
`maml-tf`: what it costs that the same command gives the same bits.
"""

import contextlib
import io
import os
import tempfile
import time
from statistics import median

from absl import app, flags
from report import Result, ratios
from workers import IMPLEMENTATIONS, Worker, timer
from workloads import WORKLOADS

RUNS = {
    "sinusoid10": {"shots": 10, "inner_lr": 0.01, "norm": "None"},
    "omniglot5": {
        "datasource": "omniglot",
        "meta_batch_size": 32,
        "shots": 1,
        "inner_lr": 0.4,
    },
    "mini5": {
        "datasource": "miniimagenet",
        "meta_batch_size": 4,
        "shots": 1,
        "inner_lr": 0.01,
        "inner_steps": 5,
        "num_filters": 32,
        "max_pool": True,
    },
}
"""The settings of each workload's run, fields of `maml_tf.config.Config`."""

ITERATIONS = {"sinusoid10": 5_000, "omniglot5": 500, "mini5": 100}
"""Timed in each round: whole intervals of everything but the checkpoints."""
WARM_UP = {"sinusoid10": 1_000, "omniglot5": 500, "mini5": 100}
"""Iterations before the clock starts: one such interval."""

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("workload", list(RUNS), list(RUNS), "What to run.")
flags.DEFINE_integer("rounds", 3, "Rounds of timing.", lower_bound=1)
flags.DEFINE_bool("deterministic", False, "Time runs with that flag instead.")
flags.DEFINE_string("data_dir", "data", "See `maml-tf --help`.")
flags.DEFINE_string("cache_dir", None, "See `maml-tf --help`.")


def main(argv):
    """Measures one workload after another."""
    if unknown := argv[1:]:
        raise app.UsageError(f"Unknown arguments: {' '.join(unknown)}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    folders = {"data_dir": FLAGS.data_dir, "cache_dir": FLAGS.cache_dir}
    for name in FLAGS.workload:
        settings = {**RUNS[name], **folders}
        if FLAGS.deterministic:
            each = deterministic(name, settings, FLAGS.rounds)
            print(
                f"{name}: with --deterministic ÷ without "
                f"{median(each):.3f} ({min(each):.3f}–{max(each):.3f})",
                flush=True,
            )
            continue
        run, step, data = measure(name, settings, FLAGS.rounds)
        each = ratios(run, step)
        print(
            f"{name}: loop {median(run.ms):.3g} ms, "
            f"bare step {median(step.ms):.3g} ms, "
            f"loop ÷ bare step {median(each):.3f} "
            f"({min(each):.3f}–{max(each):.3f}), "
            f"data alone {median(data):.3g} ms",
            flush=True,
        )


def measure(
    name: str, settings: dict, rounds: int
) -> tuple[Result, Result, list[float]]:
    """Returns the times of the training run, the bare step and the data."""
    workload, iterations = WORKLOADS[name], ITERATIONS[name]
    run, step = Result("loop", "", [], 0, 0), Result("step", "", [], 0, 0)
    data = []
    ours = IMPLEMENTATIONS["ours"]
    with (
        Worker(f"{name}, loop", run_timer, settings, WARM_UP[name]) as loop,
        Worker(f"{name}, step", timer, ours, "", workload) as bare,
        Worker(f"{name}, data", data_timer, settings) as pipeline,
    ):
        bare.ask(workload.steps_per_call)
        for _ in range(rounds):
            run.ms.append(loop.ask(iterations))
            step.ms.append(bare.ask(iterations).ms)
            data.append(pipeline.ask(iterations))
    return run, step, data


def deterministic(name: str, settings: dict, rounds: int) -> list[float]:
    """Returns the time of a run with `--deterministic` ÷ one without."""
    iterations, warm_up = ITERATIONS[name], WARM_UP[name]
    promised = {**settings, "deterministic": True}
    with (
        Worker(f"{name}", run_timer, settings, warm_up) as without,
        Worker(f"{name}, deterministic", run_timer, promised, warm_up) as run,
    ):
        pairs = [
            (run.ask(iterations), without.ask(iterations))
            for _ in range(rounds)
        ]
    return [one / other for one, other in pairs]


def data_timer(settings: dict):
    """Returns a function from a number of meta-batches to ms for each."""
    from maml_tf import tasks, train
    from maml_tf.config import Config

    batches = iter(tasks.meta_batches(train.training_tasks(Config(**settings))))

    def milliseconds(iterations):
        start = time.perf_counter()
        for _ in range(iterations):
            next(batches)
        return 1e3 * (time.perf_counter() - start) / iterations

    return milliseconds


def run_timer(settings: dict, warm_up: int):
    """Returns a function from a number of iterations to ms for each.

    It trains from the start, in a folder that is thrown away.
    """
    import keras

    from maml_tf import MAML, share_cores, train
    from maml_tf.config import Config

    share_cores(Config(**settings).meta_batch_size)

    class Clock(keras.callbacks.Callback):
        """Notes when iterations are done, by their number."""

        def on_train_begin(self, logs=None):
            self.times = {}

        def on_train_batch_end(self, batch, logs=None):
            iteration = (batch + 1) * self.model.block
            self.times[iteration] = time.perf_counter()

    clock, fit = Clock(), MAML.fit

    def timed_fit(learner, *args, callbacks, **kwargs):
        return fit(learner, *args, callbacks=[*callbacks, clock], **kwargs)

    MAML.fit = timed_fit

    def milliseconds(iterations):
        end = warm_up + iterations
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            train.train(Config(meta_iterations=end, logdir=folder, **settings))
        return 1e3 * (clock.times[end] - clock.times[warm_up]) / iterations

    return milliseconds


if __name__ == "__main__":
    app.run(main)
