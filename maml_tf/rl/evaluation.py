"""How policies do after 0, 1, … updates on each of many tasks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf import descent
from maml_tf.evaluation import AdaptationCurve
from maml_tf.rl import advantages, objectives
from maml_tf.rl.advantages import Trajectories
from maml_tf.rl.learners import PolicyLearner

SURPLUS = 4
"""Trajectories drawn for each that is wanted, if steps are counted."""


class Evaluation(NamedTuple):
    """What an evaluation met.

    Attributes:
      curve: average undiscounted return of each task after each update,
        `[G, U + 1]`.
      trajectories: of each round, U + 1 in all.
    """

    curve: AdaptationCurve
    trajectories: list[Trajectories]


def evaluate(
    learner: PolicyLearner,
    tasks: np.ndarray,
    rates: Sequence[float],
    *,
    trajectories: int,
    transitions: int = 0,
    seed: int = 0,
    show=None,
) -> Evaluation:
    """Adapts a policy to each of G tasks by plain gradient steps.

    Repeats: collect trajectories, record their average return, make one step
    on −mean(log π Â). The noise of actions is the same for every task, or each
    task has its own, as the environment's `one_noise` says; first states are
    the environment's matter.

    Source: Finn et al. 2017, section 5.3, Figures 4 and 5; protocol of the
    scripts `test_maml_*.py` of cbfinn/maml_rl, whose seed is fixed but for
    directions.

    Args:
      learner: with the policy to start from.
      tasks: `[G, task_size]`.
      rates: the step size of each of U updates.
      trajectories: K of a task in a round.
      transitions: if not 0, a round of a task ends with the trajectory that
        makes it this many steps.
      seed: of the noise.
      show: is told of every round's number.

    Raises:
      ArithmeticError: if a return is not finite.
    """
    dtype = learner.compute_dtype
    drawn = trajectories * (SURPLUS if transitions else 1)
    each = tf.repeat(tf.constant(tasks, dtype)[:, None], drawn, 1)
    collect = _round(learner, each, transitions)
    phi = [
        tf.repeat(part[None], len(tasks), 0)
        for part in descent.unravel(learner.theta(), learner.shapes)
    ]
    scores, met = [], []
    for u, rate in enumerate([*rates, 0.0]):
        seeds = tf.constant([seed, u], tf.int64)
        values, found, phi = collect(phi, seeds, tf.constant(rate, dtype))
        scores.append(values.numpy())
        _require_finite(scores[-1], u)
        met.append(found)
        if show:
            show(u)
    return Evaluation(AdaptationCurve(np.stack(scores, 1)), met)


def _round(learner, tasks, transitions):
    """Returns the compiled function that makes a round of all tasks."""

    @tf.function(autograph=False)
    def collect(phi, seed, rate):
        seeds = tf.random.split(seed)
        environment, (count, drawn, _) = learner.environment, tasks.shape
        draws = 1 if environment.one_noise else count
        noise = tf.random.stateless_normal(
            [draws, drawn, learner.horizon, environment.action_size],
            seeds[0],
            dtype=learner.compute_dtype,
        )
        noise = tf.repeat(noise, count // draws, 0)
        found = learner.act(phi, tasks, noise, seeds[1])
        kept = _kept(found.mask, transitions)
        returns = advantages.undiscounted(found)
        mean = tf.reduce_sum(returns * kept, 1) / tf.reduce_sum(kept, 1)
        batch = learner.batch(found._replace(mask=found.mask * kept[..., None]))
        phi = objectives.adapted(learner.apply_fn, phi, [batch], rate)
        return mean, found, phi

    return collect


def _kept(mask, transitions):
    """Returns 1 for the trajectories up to a number of steps, `[T, K]`."""
    lengths = tf.reduce_sum(mask, -1)
    if not transitions:
        return tf.ones_like(lengths)
    before = tf.cumsum(lengths, 1, exclusive=True)
    return tf.cast(before < transitions, mask.dtype)


def _require_finite(values, u):
    if bad := int((~np.isfinite(values)).sum()):
        advice = "Lower --test_learning_rate." if u else "Train it again."
        raise ArithmeticError(
            f"Returns after {u} updates: expected finite numbers, found {bad} "
            f"of {len(values)} tasks that have others. {advice}"
        )
