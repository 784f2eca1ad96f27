"""Gaussian policies: Keras models whose predictions are distributions.

A prediction is `[…, 2 d]` for actions of d numbers: the mean and the logarithm
of the standard deviation. Actions have no bounds here and ±1 is the
environment's range.
"""

import math
from typing import NamedTuple

import keras
import tensorflow as tf

from maml_tf import shapes, stacked
from maml_tf.saving import register

LOWEST_LOG_STD = math.log(1e-6)
KL_EPSILON = 1e-8


class Gaussian(NamedTuple):
    """A diagonal Gaussian.

    Attributes:
      mean: `[…, d]`.
      log_std: `[…, d]`.
    """

    mean: tf.Tensor
    log_std: tf.Tensor


@register
class LogStd(keras.layers.Layer):
    """Appends log-std, a weight that no observation changes: d → 2 d.

    It starts at 0, is adapted like all weights, and counts as log 1e-6 below
    that.
    """

    def build(self, input_shape):
        """Makes the weight `[d]`."""
        self.log_std = self.add_weight(
            shape=input_shape[-1:], initializer="zeros", name="log_std"
        )

    def call(self, mean):
        """Returns `[n, 2 d]` for means `[n, d]`."""
        return _append(mean, self.log_std.value)


@stacked.rule(LogStd)
def _log_std(layer, weight, mean):
    return _append(mean, shapes.align(weight(layer.log_std), mean))


def _append(mean, log_std):
    log_std = tf.maximum(log_std, tf.cast(LOWEST_LOG_STD, mean.dtype))
    return tf.concat([mean, tf.broadcast_to(log_std, tf.shape(mean))], -1)


def gaussian_mlp(
    observation_size: int,
    action_size: int,
    *,
    hidden_size: int = 100,
    activation: str = "relu",
) -> keras.Model:
    """Returns the policy: two hidden layers, a linear mean, and log-std.

    Kernels start from Glorot's uniform, biases and log-std at 0.

    Source: Finn et al. 2017, appendix A.2; `GaussianMLPPolicy` of rllab.
    """
    return keras.Sequential(
        [
            keras.Input((observation_size,)),
            keras.layers.Dense(hidden_size, activation),
            keras.layers.Dense(hidden_size, activation),
            keras.layers.Dense(action_size),
            LogStd(),
        ],
        name="gaussian_mlp",
    )


def gaussian(prediction: tf.Tensor) -> Gaussian:
    """Returns the distribution that a prediction `[…, 2 d]` stands for."""
    return Gaussian(*tf.split(prediction, 2, -1))


def log_density(policy: Gaussian, actions: tf.Tensor) -> tf.Tensor:
    """Returns log π(a), summed over an action's numbers: `[…]`.

    −Σ log σ − ½ Σ ((a − μ) / σ)² − ½ d log 2π
    """
    z = (actions - policy.mean) * tf.exp(-policy.log_std)
    terms = policy.log_std + 0.5 * (z**2 + math.log(2 * math.pi))
    return -tf.reduce_sum(terms, -1)


def kl_divergence(old: Gaussian, new: Gaussian) -> tf.Tensor:
    """Returns KL(old ‖ new), summed over an action's numbers: `[…]`.

        Σ ((μ − μ′)² + σ² − σ′²) / (2 σ′² + 1e-8) + log σ′ − log σ

    Source: `DiagonalGaussian.kl_sym` of rllab, with its 1e-8.
    """
    old_variance, variance = (tf.exp(2 * p.log_std) for p in (old, new))
    distance = (old.mean - new.mean) ** 2 + old_variance - variance
    terms = distance / (2 * variance + KL_EPSILON) + new.log_std - old.log_std
    return tf.reduce_sum(terms, -1)


def fisher(policy: Gaussian) -> tf.Tensor:
    """Returns the diagonal Fisher information in a prediction, `[…, 2 d]`.

    It is 1 / σ² for a mean and 2 for a log-std: the second derivatives of
    KL(old ‖ new) by the new prediction, where both are the same.
    """
    precision = tf.exp(-2 * policy.log_std)
    return tf.concat([precision, 2 * tf.ones_like(precision)], -1)
