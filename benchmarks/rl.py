"""Times 2D navigation: the simulation alone, and a meta-iteration's parts.

    python benchmarks/rl.py

20 tasks × 20 trajectories × 100 steps, twice, and a trust-region step with 11
curvature products. The median and the shortest of several repetitions.
"""

import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf  # noqa: E402  (after its log level)

from maml_tf import main_rl  # noqa: E402
from maml_tf.rl import train  # noqa: E402

REPETITIONS = 10


def main():
    """Prints a line for each part."""
    if sys.argv[1:]:
        sys.exit(__doc__)
    config = main_rl.config_from_flags(main_rl.PROGRAM.parse([]))
    train.share_cores(config)
    learner = train.build_learner(config)
    sampler = train.training_tasks(config, learner.environment, learner.rounds)
    element = tasks, (seeds, *_) = sampler(tf.constant(0, tf.int64))
    shared = learner.shared(learner.theta())
    noise = tf.random.stateless_normal(
        [*tasks.shape[:2], config.horizon, 2], seeds[0]
    )
    simulated = _compiled(lambda: learner.act(shared, tasks, noise, seeds[0]))
    first = _compiled(lambda: learner.collect(shared, tasks, seeds[0]))()
    adapted = _compiled(
        lambda t: learner.adapted(learner.theta(), [learner.batch(t)])
    )
    phi = adapted(first)
    again = _compiled(lambda p: learner.collect(p, tasks, seeds[1]))
    batches = [learner.batch(first), learner.batch(again(phi))]
    step = _compiled(lambda *b: learner.step(learner.theta(), b))
    steps = config.meta_batch_size * config.trajectories * config.horizon
    median = report("rollout of θ", simulated)
    print(f"{'':24} {steps / median / 1e6:.2f} million steps a second")
    report("rollout of φ", again, phi)
    report("advantages and update", adapted, first)
    report("trust-region step", step, *batches)
    learner.make_train_function()
    iteration = learner.train_function
    report("meta-iteration", iteration, _endless(element))


def report(name, function, *arguments):
    """Prints how long a function takes, and returns the median."""
    start = time.perf_counter()
    function(*arguments)
    first, times = time.perf_counter() - start, []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        tf.nest.map_structure(tf.identity, function(*arguments))
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    print(
        f"{name:24} {median:.4f} s, at least {min(times):.4f} s; the first "
        f"{first:.1f} s",
        flush=True,
    )
    return median


def _compiled(function):
    return tf.function(function, autograph=False)


def _endless(element):
    return iter(tf.data.Dataset.from_tensors(element).repeat())


if __name__ == "__main__":
    main()
