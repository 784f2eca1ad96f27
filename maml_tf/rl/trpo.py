"""Trust-region policy optimisation of whatever leads to a policy.

Plain training and MAML differ by `predict` alone, which maps parameters θ to
the policies' predictions: by the network, or through the inner update.

Source: Schulman et al. 2015, appendix C (arXiv 1502.05477); rllab's
`ConjugateGradientOptimizer`, but with exact curvature products.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from maml_tf import cores, replicas
from maml_tf.rl.advantages import Batch
from maml_tf.rl.objectives import mean_kl, surrogate
from maml_tf.rl.policies import fisher, gaussian

CG_ITERATIONS = 10
CG_TOLERANCE = 1e-10
DAMPING = 1e-5
BACKTRACKS = 15
BACKTRACK_RATIO = 0.8
MOST_GROUPS = 4
"""How many groups of tasks are traced, each by itself."""

Predict = Callable[[tf.Tensor], tf.Tensor]
"""Maps parameters `[P]` to predictions `[T, N, 2 d]`."""


class Step(NamedTuple):
    """What an update came to.

    Attributes:
      theta: the new parameters `[P]`, or the old ones if none was accepted.
      after: the surrogate at the new parameters.
      kl: KL(old ‖ new).
      backtracks: how often the full step was shortened; 15 if none was
        accepted.
    """

    theta: tf.Tensor
    after: tf.Tensor
    kl: tf.Tensor
    backtracks: tf.Tensor


def step(
    theta: tf.Tensor,
    predict_fn: Callable[[Sequence[Batch]], Predict],
    batches: Sequence[Batch],
    trust_region: float,
) -> Step:
    """Returns the natural-gradient step on a batch, found by line search.

        x = (H + 1e-5 I)⁻¹ ∇S,  θ′ = θ − 0.8ⁿ √(2δ / xᵀ(H + 1e-5 I)x) x

    with H the Hessian of the mean KL at θ and the first n that makes the
    surrogate S smaller and keeps the KL to δ.

    Args:
      theta: `[P]`.
      predict_fn: maps batches to what maps parameters to predictions.
      batches: those, of which the policies of θ collected the last.
      trust_region: δ.
    """
    problems = replicas.each(
        lambda own: over_groups(theta, predict_fn, own), batches
    )
    problem = over_replicas(problems, batches[-1])
    direction, curved = conjugate_gradient(
        damped(problem.curvature), problem.gradient
    )
    scale = step_size(direction, curved, trust_region)
    return line_search(
        theta, scale * direction, problem.score, problem.loss, trust_region
    )


class Problem(NamedTuple):
    """The surrogate and the KL around some parameters.

    Attributes:
      loss: the surrogate there.
      gradient: its gradient ∇S, `[P]`.
      curvature: maps v to Hv, with H the Hessian of the mean KL.
      score: maps other parameters to their surrogate and KL.
    """

    loss: tf.Tensor
    gradient: tf.Tensor
    curvature: Callable[[tf.Tensor], tf.Tensor]
    score: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def linearize(theta: tf.Tensor, predict: Predict, batch: Batch) -> Problem:
    """Returns surrogate, gradient and curvature at θ, all of one forward pass.

    Where old and new policies are the same the KL has no slope, so its Hessian
    is Jᵀ F J exactly, with J the Jacobian of the predictions, through the inner
    update if there is one, and F their Fisher information. J v is a derivative
    of u ↦ Jᵀ u, which is linear: no third derivatives, no second pass.
    """
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(theta)
            predictions = predict(theta)
            old = tf.stop_gradient(predictions)
            loss = surrogate(batch, predictions, old)
        dual = tf.zeros_like(old)
        outer.watch(dual)
        pulled = inner.gradient(predictions, theta, output_gradients=dual)
    weight = batch.mask / tf.reduce_sum(batch.mask)
    information = weight[..., None] * fisher(gaussian(old))

    def curvature(v):
        forward = outer.gradient(pulled, dual, output_gradients=v)
        return inner.gradient(
            predictions, theta, output_gradients=information * forward
        )

    def score(candidate):
        new = predict(candidate)
        return surrogate(batch, new, old), mean_kl(batch, new, old)

    return Problem(loss, inner.gradient(loss, theta), curvature, score)


def over_groups(theta: tf.Tensor, predict_fn, batches) -> Problem:
    """Returns what `linearize` does, of groups of tasks side by side.

    Each group has cores of its own, see `cores`.

    Args:
      theta: `[P]`.
      predict_fn: see `step`.
      batches: likewise.
    """
    groups = _groups(batches)
    problems = [linearize(theta, predict_fn(own), own[-1]) for own in groups]
    steps = [tf.reduce_sum(own[-1].mask) for own in groups]

    def total(function):
        shares = map(function, problems, steps)
        return tf.nest.map_structure(lambda *parts: tf.add_n(parts), *shares)

    return _joined(total, len(groups))


def _groups(batches):
    """Returns equal groups of the batches' tasks, one or more."""
    tasks = batches[-1].mask.shape[0]
    most = min(cores.side_by_side(), MOST_GROUPS)
    size = min(tasks // g for g in range(1, most + 1) if tasks % g == 0)
    return [
        tf.nest.map_structure(lambda part, i=i: part[i : i + size], batches)
        for i in range(0, tasks, size)
    ]


def over_replicas(problems: Problem, batches: Batch) -> Problem:
    """Returns the problem of all replicas' tasks, of what each has."""
    steps = replicas.each(lambda own: tf.reduce_sum(own.mask), batches)
    return _joined(
        lambda function: replicas.total(function, problems, steps),
        replicas.count(),
    )


def _joined(total, count: int) -> Problem:
    """Returns the problem of several parts' tasks, of what each part has.

    The surrogate is a mean over tasks, of which all have equally many, the KL
    one over steps.

    Args:
      total: sums what a function of a part's problem and steps returns.
      count: how many parts there are.
    """
    everywhere = total(lambda own, n: n)

    def curvature(v):
        return total(lambda own, n: n / everywhere * own.curvature(v))

    def score(candidate):
        def share(own, n):
            loss, kl = own.score(candidate)
            return loss / count, n / everywhere * kl

        return total(share)

    loss, gradient = total(
        lambda own, n: (own.loss / count, own.gradient / count)
    )
    return Problem(loss, gradient, curvature, score)


def damped(product: Callable[[tf.Tensor], tf.Tensor]):
    """Returns what maps v to (H + 1e-5 I) v, of what maps it to Hv."""
    return lambda v: product(v) + DAMPING * v


def conjugate_gradient(
    product: Callable[[tf.Tensor], tf.Tensor],
    b: tf.Tensor,
    iterations: int = CG_ITERATIONS,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Solves A x = b, from x = 0, by products with A alone.

    It stops early once r·r < 1e-10.

    Returns:
      x, and A x = b − r, which takes no further product.
    """

    def body(x, r, p, rr):
        z = product(p)
        rate = rr / tf.tensordot(p, z, 1)
        x, r = x + rate * p, r - rate * z
        new_rr = tf.tensordot(r, r, 1)
        return x, r, r + new_rr / rr * p, new_rr

    x, r, *_ = tf.while_loop(
        lambda x, r, p, rr: rr >= CG_TOLERANCE,
        body,
        (tf.zeros_like(b), b, b, tf.tensordot(b, b, 1)),
        maximum_iterations=iterations,
    )
    return x, b - r


def step_size(direction, curved, trust_region: float) -> tf.Tensor:
    """Returns √(2δ / (x·Hx + 1e-8)), or 1 where that is no number."""
    size = tf.sqrt(
        2 * trust_region / (tf.tensordot(direction, curved, 1) + 1e-8)
    )
    return tf.where(tf.math.is_nan(size), tf.ones_like(size), size)


def line_search(
    theta: tf.Tensor,
    full_step: tf.Tensor,
    score: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    before: tf.Tensor,
    trust_region: float,
) -> Step:
    """Returns θ − 0.8ⁿ · step for the first n < 15 that is good enough.

    Args:
      theta: `[P]`.
      full_step: `[P]`.
      score: maps parameters to their surrogate and KL.
      before: the surrogate at θ, which has to become smaller.
      trust_region: δ, which the KL has to keep to.
    """

    def fails(n, found):
        del n
        return ~((found[1] < before) & (found[2] <= trust_region))

    def body(n, found):
        del found
        candidate = theta - BACKTRACK_RATIO ** tf.cast(n, theta.dtype) * (
            full_step
        )
        return n + 1, (candidate, *score(candidate))

    none = tf.constant(float("inf"), theta.dtype)
    n, found = tf.while_loop(
        fails,
        body,
        (0, (theta, none, none)),
        maximum_iterations=BACKTRACKS,
    )
    kept = theta, before, tf.zeros_like(before)
    rejected = fails(n, found)
    found = [
        tf.where(rejected, old, new)
        for old, new in zip(kept, found, strict=True)
    ]
    tries = tf.where(rejected, n, n - 1)
    return Step(*found, tries)
