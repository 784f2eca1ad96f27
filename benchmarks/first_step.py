"""Times the first training step of every published configuration.

    python benchmarks/first_step.py flags/classification/*.flags

It includes tracing and compilation, and leaves out the import of libraries
and the data, which are made up here. Each flagfile has a process of its own;
those of Reptile are told by their name, reptile_….
"""

import os
import pathlib
import time

import numpy as np
from absl import app
from workers import Worker

FLAGS_FOLDER = pathlib.Path(__file__).parents[1] / "flags"


def main(argv):
    """Measures one flagfile after another: those given, or all."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for path in argv[1:] or sorted(map(str, FLAGS_FOLDER.rglob("*.flags"))):
        with Worker(path, first_step_timer) as worker:
            print(f"{worker.ask(path):6.2f} s  {path}", flush=True)


def first_step_timer():
    """Returns a function from a flagfile to the time of its first step."""
    return _first_step


def _first_step(path):
    reptile = pathlib.Path(path).name.startswith("reptile_")
    learner, data = (_reptile if reptile else _maml)(path)
    start = time.perf_counter()
    learner.train_on_batch(*data)
    return time.perf_counter() - start


def _maml(path):
    from absl import flags

    from maml_tf import main as program
    from maml_tf import share_cores, train

    flags.FLAGS(["maml-tf", f"--flagfile={path}"])
    config = program.config_from_flags(flags.FLAGS)
    share_cores(config.meta_batch_size)
    phase = "meta" if config.phases[1] else "pretrain"
    learner = train.build_learner(config, train.build_network(config), phase)
    learner.block = 1 if config.is_classification else train.WINDOW
    axes = [learner.block] * (learner.block > 1) + [config.meta_batch_size]
    support, query = (
        _examples(config, learner, axes, examples)
        for examples in (config.shots, config.queries)
    )
    return learner, ((*support, query[0]), query[1])


def _reptile(path):
    from maml_tf import main_reptile as program
    from maml_tf import reptile_train, share_cores

    share_cores(2)
    config = program.config_from_flags(program.parse([f"--flagfile={path}"]))
    learner = reptile_train.build_learner(config)
    axes = [config.meta_batch_size]
    return learner, _examples(config, learner, axes, config.training_shots)


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
