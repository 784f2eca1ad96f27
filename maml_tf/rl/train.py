"""Runs one reinforcement-learning configuration: trains and evaluates."""

import dataclasses
import os
import sys
from collections.abc import Collection

import keras
import numpy as np
import tensorflow as tf

from maml_tf import (
    alarms,
    callbacks,
    checkpoints,
    cores,
    distribution,
    files,
    logs,
    plots,
    provenance,
    records,
    run_folder,
    samplers,
    seeds,
    tasks,
)
from maml_tf.evaluation import write_curve
from maml_tf.rl import (
    evaluation,
    learners,
    locomotion,
    pictures,
    policies,
    trpo,
)
from maml_tf.rl import explain as explanations
from maml_tf.rl.config import ALGORITHMS, ALL, RLConfig, original
from maml_tf.rl.navigation import Navigation
from maml_tf.rl.published import RETURNS
from maml_tf.run_folder import RunFolder

PHASE = "policy"
SAVE_INTERVAL = 5
RATES = {
    learners.MAMLTRPO: "--fast_learning_rate or --meta_step_size",
    learners.TRPO: "--meta_step_size",
    learners.Pretraining: "--learning_rate",
}
"""The flags that a learner's steps obey."""
PICTURED = 6
"""Goals in the picture of trajectories."""


def share_cores(config: RLConfig) -> None:
    """Lets the groups of tasks of a trust-region step run side by side."""
    if config.algo in ("maml_trpo", ALL):
        most = min(config.meta_batch_size, trpo.MOST_GROUPS)
        cores.share_unless_started(most)


def build_environment(config: RLConfig):
    """Returns the environment of a configuration.

    Raises:
      ValueError: if it needs an extra that is not installed.
    """
    if config.env == "nav2d":
        return Navigation(config.reward, config.done, config.is_oracle)
    return locomotion.build(config.env, config.mode, config.is_oracle)


def build_network(config: RLConfig, environment) -> keras.Model:
    """Returns the policy with initial values drawn from the seed."""
    seeds.begin(config)
    return policies.gaussian_mlp(
        environment.observation_size,
        environment.action_size,
        hidden_size=config.hidden_size,
        activation=config.activation,
    )


def build_learner(config: RLConfig) -> learners.PolicyLearner:
    """Returns the compiled learner of an algorithm."""
    environment = build_environment(config)
    kind, own = _kind(config)
    learner = kind(
        build_network(config, environment),
        environment,
        horizon=config.horizon,
        inner_lr=config.inner_lr,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
        **own,
    )
    optimizer = keras.optimizers.SGD(1.0)
    if kind is learners.Pretraining:
        optimizer = keras.optimizers.Adam(config.meta_lr, epsilon=1e-8)
    learner.compile(optimizer, jit_compile=False)
    optimizer.build(learner.trainable_variables)
    return learner


def _kind(config):
    """Returns a configuration's learner, and the arguments of its own."""
    region = {"trust_region": config.trust_region}
    if config.algo == "maml_trpo":
        own = {
            "inner_steps": config.inner_steps,
            "first_order": config.first_order,
        }
        return learners.MAMLTRPO, {**region, **own}
    if config.has_tasks:
        return learners.Pretraining, {}
    return learners.TRPO, region


def training_tasks(config: RLConfig, environment, rounds: int):
    """Returns the function from t to what iteration t draws from."""
    batch, trajectories = config.meta_batch_size, config.trajectories

    def sampler(t):
        first, *others = tf.unstack(
            tf.random.split(samplers.seed_at(config.seed, t), rounds + 1)
        )
        if config.has_tasks:
            drawn = environment.sample_tasks(first, [batch, 1])
            drawn = tf.repeat(drawn, trajectories, 1)
        else:
            drawn = environment.sample_tasks(first, [1, batch * trajectories])
        return drawn, tf.repeat([others], len(drawn), 0)

    return sampler


def explain(config: RLConfig) -> str:
    """Returns what a configuration means, see `maml_tf.rl.explain`."""
    network = build_network(config, build_environment(config))
    return explanations.explain(config, network)


def train(config: RLConfig) -> None:
    """Trains, or continues to train.

    Raises:
      checkpoints.CheckpointError: if the latest checkpoint cannot be used.
      files.BusyError: if another process trains in the folder.
      settings.ConfigError: if a setting is not what the checkpoint needs.
      alarms.NonFiniteError: if a return or the loss is not finite.
      KeyboardInterrupt: after SIGINT or SIGTERM; everything is saved.
    """
    run = RunFolder(config, distribution.is_chief(config))
    if run.need_not_meet(config.meta_iterations):
        return
    strategy = distribution.strategy(config)
    with strategy.scope():
        learner = build_learner(config)
    with run.entered(), distribution.together(strategy, config):
        _train(run, learner)


def _train(run, learner):
    config, start = run.config, 0
    if done := run.latest():
        checkpoints.restore(done, learner, PHASE)
        if isinstance(learner, learners.Pretraining):
            learner.optimizer.learning_rate = config.meta_lr
        start = done.iteration
    distribution.require_same(learner.distribute_strategy, start)
    files.say(explanations.header(config, learner.network))
    if not run.is_over(done, config.meta_iterations):
        run.describe(explanations.explain(config, learner.network))
        _fit(run, learner, start)


def _fit(run, learner, start):
    config, end = run.config, run.config.meta_iterations
    data = training_tasks(config, learner.environment, learner.rounds)
    others = [
        alarms.NonFiniteGuard(start, data, RATES[type(learner)], 1),
        callbacks.TrainingLog(
            start,
            run.table(
                "training.csv", start, run.scalars().write, learner.facts
            ),
            _line,
            window=1,
        ),
        *callbacks.keepers(run, learner, PHASE, start, SAVE_INTERVAL),
    ]
    batches = tasks.meta_batches(data, start).take(end - start)
    callbacks.fit(learner, batches, start, end, others)


def _line(iteration, means):
    words = [f"Iteration {iteration}: return {means['return']:.2f}"]
    if "return_after" in means:
        words.append(f"{means['return_after']:.2f} after adaptation")
    if "kl" in means:
        words.append(f"KL {means['kl']:.4f}")
        count = means["backtracks"]
        rejected = count == trpo.BACKTRACKS
        words.append("no step" if rejected else f"{count:.0f} backtracks")
    return ", ".join(words)


def _restore(config, learner):
    """Restores the latest checkpoint and returns it; "random" has none."""
    if config.algo == "random":
        if checkpoints.list_checkpoints(config.folder):
            config.refuse("folder", "one of its own for --algo=random")
        return None
    found = checkpoints.find(config.folder)
    settings = checkpoints.read(found).settings
    for change in config.changes_since(settings, found.path, tests=True):
        print(f"Changed: {change}")
    checkpoints.restore(found, learner, PHASE)
    print(f"Checkpoint: {found.path}")
    return found


def rate_warning(config: RLConfig) -> str | None:
    """Returns what step sizes other than those of training will do."""
    rates, trained = config.test_rates, config.inner_steps
    wrong = {
        f"--test_learning_rate={rate:g}"
        for rate in rates[:trained]
        if rate != config.inner_lr
    } or {
        f"--test_learning_rate_later={rate:g}"
        for rate in rates[trained:]
        if rate >= config.inner_lr
    }
    if config.algo != "maml_trpo" or not wrong:
        return None
    return (
        f"{wrong.pop()}: the model was trained with {trained} step(s) of "
        f"--fast_learning_rate={config.inner_lr:g}. MAML makes those good, not "
        "others: what goes farther overshoots, and the return can fall far "
        "below where it began."
    )


def evaluate(config: RLConfig) -> evaluation.Evaluation:
    """Scores the latest checkpoint; writes `evaluation.csv` and a record.

    Raises:
      checkpoints.CheckpointError: if there is none, or it is of another
        architecture.
      settings.ConfigError: if it was made with other settings.
      ArithmeticError: if a return is not finite.
    """
    if warning := rate_warning(config):
        print(f"Warning: {warning}", file=sys.stderr)
    learner = build_learner(config)
    checkpoint = _restore(config, learner)
    run_folder.make_writable(config)
    facts = _facts_of_run(config, checkpoint)
    rates = config.test_rates
    show = callbacks.bar(len(rates) + 1, "update")
    found = evaluation.evaluate(
        learner,
        test_tasks(config, learner.environment),
        rates,
        trajectories=config.test_trajectories,
        transitions=config.test_transitions,
        seed=config.seed,
        show=lambda u: show(u + 1),
    )
    write_curve(found.curve, result_stem(config))
    record = evaluation_facts(config, found) | facts
    records.write(f"{result_stem(config)}.json", record)
    return found


def _facts_of_run(config, checkpoint):
    facts = run_folder.facts_of(config, checkpoint)
    if checkpoint is None:  # It is the policy that the seed makes.
        facts |= {"iterations": 0, "seed": config.seed}
        facts["commit"] = provenance.commit()
    return facts


def evaluation_facts(config: RLConfig, found: evaluation.Evaluation) -> dict:
    """Returns what was measured and how, for `records.write`."""
    return {
        "algo": config.algo,
        "metric": "return",
        "mean": found.curve.mean.tolist(),
        "ci95": found.curve.ci95.tolist(),
        "tasks": len(found.curve.values),
        "shots": config.test_trajectories,
        "queries": None,
        "norm_statistics": None,
        "selected": "latest",
    }


def test_tasks(config: RLConfig, environment) -> np.ndarray:
    """Returns the tasks of an evaluation, `[G, task_size]`."""
    if config.goal is not None:
        return np.array([config.goal_numbers])
    return environment.test_tasks(config.test_goals)


def result_stem(config: RLConfig, name: str = "evaluation") -> str:
    """Returns the path of the evaluation's files, without ending."""
    suffix = "" if config.goal is None else "_goal"
    return os.path.join(config.folder, name + suffix)


def published_returns(config: RLConfig) -> dict[str, tuple[float, ...]]:
    """Returns the paper's means by algorithm, where ours are of the same.

    There are none of a single goal, or of other rewards, poses and lengths.
    """
    usual = _usual(config.env, "maml_trpo")
    alike = ("goal", "reward", "done", "mode", "horizon")
    same = all(getattr(config, k) == usual[k] for k in alike)
    return RETURNS[config.env] if same else {}


def _usual(env, algo):
    """Returns the settings of a method where nobody chose any."""
    return {**RLConfig.defaults(), **original(env, algo)}


def methods(
    config: RLConfig, given: Collection[str] = ()
) -> dict[str, RLConfig]:
    """Returns the runs of `--algo=all`, each in a folder of its own.

    What is given, or differs from the defaults, is kept; the rest is each
    method's own.

    Args:
      config: the settings.
      given: names of fields that somebody chose.
    """
    shared = _usual(config.env, config.algo)
    free = {k for k, value in shared.items() if getattr(config, k) == value}
    free -= {*given}

    def run(algo):
        own = _usual(config.env, algo)
        own = {k: value for k, value in own.items() if k in free}
        own["algo"], own["env"] = algo, config.env
        own["folder"] = os.path.join(config.folder, algo)
        return dataclasses.replace(config, **own)

    return {algo: run(algo) for algo in ALGORITHMS}


def draw(config: RLConfig, found: evaluation.Evaluation) -> list[str]:
    """Draws the curves of training and the trajectories; returns the paths."""
    paths = []
    if config.algo != "random" and (curves := training_curves(config)):
        paths.append(os.path.join(config.folder, "training.png"))
        plots.plot_training(curves, paths[0], "return")
    if config.env == "nav2d":
        tasks_shown = test_tasks(config, Navigation())[:PICTURED]
        rounds = [
            (r.observations[:PICTURED, ..., :2], r.mask[:PICTURED])
            for r in found.trajectories[:3]
        ]
        paths += [
            f"{result_stem(config)}_{k}" for k in ("paths.png", "paths.gif")
        ]
        pictures.plot_paths(tasks_shown, rounds, paths[-2])
        pictures.animate_paths(tasks_shown, rounds, paths[-1])
    return paths


def draw_methods(config: RLConfig, curves: dict) -> str:
    """Draws all methods beside the published ones, as Figures 4 and 5 do.

    Bands are ±1 standard error over tasks, about 68 %.
    """
    path = f"{result_stem(config, 'methods')}.png"
    bands = {
        algo: (
            curve.mean,
            curve.values.std(0, ddof=len(curve.values) > 1)
            / len(curve.values) ** 0.5,
        )
        for algo, curve in curves.items()
    }
    pictures.plot_methods(bands, published_returns(config), path)
    return path


def training_curves(config: RLConfig) -> dict:
    """Returns returns over training for `plots.plot_training`."""
    rows = logs.read_rows(os.path.join(config.folder, "training.csv"))
    labels = {"return": "before", "return_after": "after adaptation"}
    return {
        label: logs.smoothed(rows, name, 1)
        for name, label in labels.items()
        if rows and name in rows[0]
    }
