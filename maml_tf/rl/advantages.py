"""From trajectories to advantages, for a stack of tasks.

T tasks have K trajectories each, of H steps, or fewer: `mask` is 1 up to and
including a trajectory's last step and 0 after it. A mean over a task's data is
one over all its valid steps, so longer trajectories weigh more.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

CLIP = 10.0
TRIES = 5
STANDARD_EPSILON = 1e-8
REGULARIZER = 1e-5


class Trajectories(NamedTuple):
    """What T tasks' policies met.

    Attributes:
      observations: `[T, K, H, o]`.
      actions: as sampled, neither clipped nor scaled, `[T, K, H, d]`.
      rewards: `[T, K, H]`.
      mask: `[T, K, H]`.
    """

    observations: tf.Tensor
    actions: tf.Tensor
    rewards: tf.Tensor
    mask: tf.Tensor


class Batch(NamedTuple):
    """What a policy learns from: N = K·H steps of each of T tasks.

    Attributes:
      observations: `[T, N, o]`.
      actions: `[T, N, d]`.
      advantages: standardised over a task's valid steps, 0 elsewhere, `[T, N]`.
      mask: `[T, N]`.
    """

    observations: tf.Tensor
    actions: tf.Tensor
    advantages: tf.Tensor
    mask: tf.Tensor


def batch(
    trajectories: Trajectories, *, discount: float, gae_lambda: float
) -> Batch:
    """Returns what a policy learns from, with advantages.

        Â = (A − mean A) / (std A + 1e-8),  by task

    The baseline is fitted on the very steps that it then predicts.

    Source: Finn et al. 2017, appendix A.2; `process_samples` of rllab.
    """
    observations, actions, rewards, mask = trajectories
    returns = discounted(rewards * mask, discount)
    phi = features(observations) * mask[..., None]
    values = predict(phi, fit(phi, returns * mask))
    raw = advantages(rewards, values, mask, discount, gae_lambda)
    tasks = tf.shape(mask)[0]
    return Batch(
        tf.reshape(observations, [tasks, -1, observations.shape[-1]]),
        tf.reshape(actions, [tasks, -1, actions.shape[-1]]),
        tf.reshape(standardize(raw, mask), [tasks, -1]),
        tf.reshape(mask, [tasks, -1]),
    )


def discounted(values: tf.Tensor, discount: float) -> tf.Tensor:
    """Returns Σ_{s ≥ t} γ^{s−t} x_s for each step t of `[…, H]`."""
    horizon = values.shape[-1]
    ahead = np.subtract.outer(np.arange(horizon), np.arange(horizon))
    powers = np.where(ahead >= 0, discount ** np.maximum(ahead, 0.0), 0.0)
    return tf.linalg.matmul(values, tf.constant(powers, values.dtype))


def features(observations: tf.Tensor) -> tf.Tensor:
    """Returns what the baseline is linear in: `[…, H, 2 o + 4]`.

        φ_t = [o, o², t/100, (t/100)², (t/100)³, 1],  o clipped to ±10

    Source: `LinearFeatureBaseline` of rllab.
    """
    o = tf.clip_by_value(observations, -CLIP, CLIP)
    t = tf.range(o.shape[-2], dtype=o.dtype)[:, None] / 100
    time = tf.concat([t, t**2, t**3, tf.ones_like(t)], -1)
    return tf.concat([o, o**2, time + tf.zeros_like(o[..., :1])], -1)


def fit(phi: tf.Tensor, returns: tf.Tensor) -> tf.Tensor:
    """Returns each task's least-squares weights, `[T, F]`, in float64.

        (Φᵀ Φ + λ I) w = Φᵀ G

    λ is 1e-5, and ten times that wherever the solution is not finite, up to
    five times.

    Args:
      phi: features `[T, K, H, F]`, 0 at steps that are not valid.
      returns: `[T, K, H]`, likewise.
    """
    phi, returns = (tf.cast(x, tf.float64) for x in (phi, returns))
    gram = tf.einsum("tkhf,tkhg->tfg", phi, phi)
    moment = tf.einsum("tkhf,tkh->tf", phi, returns)[..., None]
    identity = tf.eye(phi.shape[-1], dtype=tf.float64)
    weights = tf.fill(tf.shape(moment), tf.constant(np.nan, tf.float64))
    for attempt in range(TRIES):
        ridge = gram + REGULARIZER * 10.0**attempt * identity
        # Rows of another task that are not finite must not fail this one's.
        usable = tf.reduce_all(tf.math.is_finite(ridge), [1, 2], keepdims=True)
        solution = tf.linalg.solve(tf.where(usable, ridge, identity), moment)
        solution = tf.where(usable, solution, np.nan)
        weights = tf.where(tf.math.is_finite(weights), weights, solution)
    return weights[..., 0]


def predict(phi: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns the baseline's values φ · w, `[T, K, H]`."""
    values = tf.einsum("tkhf,tf->tkh", tf.cast(phi, weights.dtype), weights)
    return tf.cast(values, phi.dtype)


def advantages(
    rewards: tf.Tensor,
    values: tf.Tensor,
    mask: tf.Tensor,
    discount: float,
    gae_lambda: float,
) -> tf.Tensor:
    """Returns generalised advantages `[T, K, H]`, 0 at steps not valid.

        δ_t = r_t + γ V_{t+1} − V_t,  A_t = Σ_{s ≥ t} (γλ)^{s−t} δ_s

    V after the last step is 0, also where the horizon cut a trajectory.

    Source: Schulman et al. 2016, equation 16 (arXiv 1506.02438).
    """
    values = values * mask
    after = tf.concat([values[..., 1:], tf.zeros_like(values[..., :1])], -1)
    delta = (rewards + discount * after - values) * mask
    return discounted(delta, discount * gae_lambda) * mask


def standardize(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns (x − mean) / (std + 1e-8) over each task's valid steps."""
    count = tf.reduce_sum(mask, [1, 2], keepdims=True)
    mean = tf.reduce_sum(values * mask, [1, 2], keepdims=True) / count
    distance = (values - mean) * mask
    variance = tf.reduce_sum(distance**2, [1, 2], keepdims=True) / count
    return distance / (tf.sqrt(variance) + STANDARD_EPSILON)


def undiscounted(trajectories: Trajectories) -> tf.Tensor:
    """Returns each trajectory's sum of rewards, `[T, K]`."""
    return tf.reduce_sum(trajectories.rewards * trajectories.mask, -1)
