"""What policies minimise, for a stack of tasks, and how they adapt."""

from collections.abc import Sequence

import tensorflow as tf

from maml_tf.adaptation import ApplyFn, Parameters, adapt, gradient_descent
from maml_tf.rl.advantages import Batch
from maml_tf.rl.policies import gaussian, kl_divergence, log_density


def policy_loss(batch: Batch, predictions: tf.Tensor) -> tf.Tensor:
    """Returns the inner loss of each task, −mean(log π(a) Â): `[T]`.

    Args:
      batch: of T tasks.
      predictions: of the policies, `[T, N, 2 d]`.
    """
    log_pi = log_density(gaussian(predictions), batch.actions)
    return -_mean(log_pi * batch.advantages, batch.mask)


def surrogate(
    batch: Batch, predictions: tf.Tensor, old: tf.Tensor
) -> tf.Tensor:
    """Returns the outer loss, −mean(π(a) / π_old(a) Â), a mean over tasks.

    Args:
      batch: of T tasks, which the old policies collected.
      predictions: `[T, N, 2 d]`.
      old: of the old policies, `[T, N, 2 d]`.

    Source: Schulman et al. 2015, equation 14 (arXiv 1502.05477).
    """
    log_pi, log_old = (
        log_density(gaussian(p), batch.actions) for p in (predictions, old)
    )
    # Where a trajectory has ended exp could overflow, and 0 ∞ is no number.
    ratio = tf.exp((log_pi - log_old) * batch.mask)
    return -tf.reduce_mean(_mean(ratio * batch.advantages, batch.mask))


def mean_kl(batch: Batch, predictions: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """Returns KL(old ‖ new), a mean over the valid steps of all tasks."""
    kl = kl_divergence(gaussian(old), gaussian(predictions))
    return tf.reduce_sum(kl * batch.mask) / tf.reduce_sum(batch.mask)


def adapted(
    apply_fn: ApplyFn,
    theta: Parameters,
    batches: Sequence[Batch],
    inner_lr: float,
    first_order: bool = False,
) -> Parameters:
    """Returns each task's policy after a step on each batch in turn.

        φⱼ₊₁ = φⱼ − α ∇_φ L(φⱼ; batch j),  φ₀ = θ

    log-std is adapted like all parameters.

    Source: Finn et al. 2017, Algorithm 3 (arXiv 1703.03400).
    """
    for batch in batches:
        theta = adapt(
            apply_fn,
            policy_loss,
            theta,
            batch.observations,
            batch,
            update=gradient_descent(inner_lr),
            inner_steps=1,
            first_order=first_order,
        ).phi[-1]
    return theta


def _mean(values, mask):
    """Returns each task's mean over its valid steps, `[T]`."""
    return tf.reduce_sum(values * mask, -1) / tf.reduce_sum(mask, -1)
