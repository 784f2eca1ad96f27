"""Times the first training step of every published configuration.

    python benchmarks/first_step.py flags/classification/*.flags

It includes tracing and compilation, and leaves out the import of libraries
and the data, which are made up here; policies make their own. Then come the
time of a later step, the memory that training took beyond what was there
before, and its estimate. Each flagfile has a process of its own. Those of
Reptile, reptile_…, and of reinforcement learning, rl_…, which trains MAML here,
have no estimate; the multi-task baseline has no meta-updates, and is left out.
`--more=--tasks_per_step=2` adds flags, and repeated it measures one after the
other: so one sees how time and memory grow with a setting. `--steps` is how
many later steps the mean is of.
"""

import os
import pathlib
import resource
import time

import numpy as np
import psutil
from absl import app, flags
from workers import Worker, WorkerError

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("more", [""], "More flags of the program.")
flags.DEFINE_integer("steps", 1, "Later steps.", lower_bound=1)

FLAGS_FOLDER = pathlib.Path(__file__).parents[1] / "flags"


def main(argv):
    """Measures one flagfile after another: those given, or all.

    Returns:
      The exit status: 1 if one was not measured.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    paths = argv[1:] or sorted(map(str, FLAGS_FOLDER.rglob("*.flags")))
    status = 0
    for path in (path for path in paths if "multitask" not in path):
        for more in FLAGS.more:
            try:
                with Worker(path, timer) as worker:
                    row = worker.ask((path, more, FLAGS.steps))
            except WorkerError as error:
                row, status = f"not measured: {error}", 1
            print(f"{row}  {path} {more}".rstrip(), flush=True)
    return status


def timer():
    """Returns a function to what is printed.

    It is of a flagfile, a flag and the number of later steps.
    """
    return _measure


def _measure(arguments):
    path, more, steps = arguments
    kind, *_ = pathlib.Path(path).name.split("_")
    build = {"reptile": _reptile, "rl": _rl}.get(kind, _maml)
    learner, data = build([f"--flagfile={path}", *more.split()])
    before = psutil.Process().memory_info().rss
    first, later = (_seconds(learner, data, count) for count in (1, steps))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    taken = max(peak - before, 0) / 1e6  # Pages may be given back meanwhile.
    row = f"{first:6.2f} s, {later:6.3f} s, {taken:5.0f} MB"
    if build is not _maml:
        return row
    # A block of meta-batches has one more axis.
    inputs = [part[0] if learner.block > 1 else part for part in data[0]]
    return f"{row}, estimated {learner.memory_estimate(inputs) / 1e6:5.0f} MB"


def _seconds(learner, data, steps):
    """Returns the seconds of a step, as the mean of so many."""
    import tensorflow as tf

    from maml_tf.tasks import untuned

    repeated = untuned(tf.data.Dataset.from_tensors(data).repeat(steps))
    start = time.perf_counter()
    learner.fit(repeated, shuffle=False, verbose=0)
    return (time.perf_counter() - start) / steps


def _maml(arguments):
    from maml_tf import distribution, share_cores, train
    from maml_tf import main as program

    config = program.config_from_flags(program.PROGRAM.parse(arguments))
    share_cores(config.meta_batch_size)
    phase = "meta" if config.phases[1] else "pretrain"
    with distribution.strategy(config).scope():
        network = train.build_network(config)
        learner = train.build_learner(config, network, phase)
    learner.block = 1 if config.is_classification else train.WINDOW
    axes = [learner.block] * (learner.block > 1) + [config.meta_batch_size]
    support, query = (
        _examples(config, learner, axes, examples)
        for examples in (config.shots, config.queries)
    )
    return learner, ((*support, query[0]), query[1])


def _reptile(arguments):
    from maml_tf import main_reptile as program
    from maml_tf import reptile_train, share_cores

    share_cores(2)
    config = program.config_from_flags(program.PROGRAM.parse(arguments))
    learner = reptile_train.build_learner(config)
    axes = [config.meta_batch_size]
    return learner, _examples(config, learner, axes, config.training_shots)


def _rl(arguments):
    import tensorflow as tf

    from maml_tf import main_rl as program
    from maml_tf.rl import train

    values = program.PROGRAM.parse([*arguments, "--algo=maml_trpo"])
    config = program.config_from_flags(values)
    train.share_cores(config)
    learner = train.build_learner(config)
    sampler = train.training_tasks(config, learner.environment, learner.rounds)
    return learner, sampler(tf.constant(0, tf.int64))


def _examples(config, learner, axes, examples):
    """Returns inputs and targets of `examples` of each class, or task."""
    rng = np.random.default_rng(0)
    if not config.is_classification:
        shape = [*axes, examples, *learner.network.input_shape[1:]]
        x = rng.normal(size=shape).astype("float32")
        return x, x[..., :1]
    shape = [*axes, examples * config.ways, *learner.network.input_shape[1:]]
    labels = np.tile(np.arange(config.ways), examples)
    y = np.broadcast_to(labels, shape[: len(axes) + 1])
    return rng.uniform(size=shape).astype("float32"), y.astype("int32")


if __name__ == "__main__":
    app.run(main)
