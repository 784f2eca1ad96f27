"""Losses and accuracies of tasks; every function states its normalisation.

All take `y` and a prediction whose last two axes are *examples* and *outputs*,
and return one number for each entry of the axes before: a scalar for one task,
`[B]` for a stack of `B` tasks. The published inner learning rates assume
exactly these normalisations.
"""

from collections.abc import Callable

import tensorflow as tf

TaskLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def mean_squared_error(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """Returns the mean squared error over all points of a task.

        L = 1/S Σᵢ (f(xᵢ) − yᵢ)²

    Source: Finn et al. 2017, equation 2; cbfinn/maml divides by the number of
    points.

    Args:
      y: targets `[..., S, D]`.
      prediction: `[..., S, D]`, in the units of `y`.
    """
    return tf.reduce_mean(tf.square(prediction - y), axis=(-2, -1))


def cross_entropy(shots: int) -> TaskLoss:
    """Returns the cross-entropy of a task as cbfinn/maml scales it.

        L = −1/K Σᵢ log softmax(f(xᵢ))[yᵢ]

    The sum runs over all examples and K is always the number of *support*
    images per class. On a support set of N·K images this is N times the mean
    cross-entropy; on a query set of N·Q images it is N·Q/K times the mean.

    Source: Finn et al. 2017, equation 3; scaling of cbfinn/maml.

    Args:
      shots: K, at least 1.

    Returns:
      A function of labels `[..., S]`, integers in 0 … N − 1, and logits
      `[..., S, N]`, in nats.
    """

    def loss(y, logits):
        y = tf.cast(y, tf.int32)
        example_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            y, logits
        )
        return tf.reduce_sum(example_losses, axis=-1) / shots

    return loss


def accuracy(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the share of examples whose largest logit is their label's.

    Args:
      y: labels `[..., S]`, integers in 0 … N − 1.
      logits: `[..., S, N]`.
    """
    hits = tf.equal(tf.argmax(logits, -1), tf.cast(y, tf.int64))
    return tf.reduce_mean(tf.cast(hits, logits.dtype), axis=-1)
