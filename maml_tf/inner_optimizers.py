"""Optimizers of an inner loop, with explicit state: pairs (init, update).

Parameters are one vector, of one task or of several. What an optimizer
remembers is passed in and returned, so whether it forgets from task to task is
the caller's choice.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class State(NamedTuple):
    """What an optimizer remembers.

    Attributes:
      scalars: tensors `[]` that all tasks share.
      slots: tensors like the parameters.
    """

    scalars: tuple[tf.Tensor, ...] = ()
    slots: tuple[tf.Tensor, ...] = ()


class InnerOptimizer(NamedTuple):
    """An optimizer as two functions.

    Attributes:
      init: maps parameters to the state in which nothing is remembered.
      update: maps (gradient, state, parameters) to new parameters and state.
    """

    init: Callable[[tf.Tensor], State]
    update: Callable[[tf.Tensor, State, tf.Tensor], tuple[tf.Tensor, State]]


def sgd(learning_rate: float) -> InnerOptimizer:
    """Returns plain gradient descent, φ ← φ − α g, which remembers nothing."""

    def update(gradient, state, parameters):
        return parameters - learning_rate * gradient, state

    return InnerOptimizer(lambda parameters: State(), update)


def adam(
    learning_rate: float,
    beta_1: float = 0.0,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
) -> InnerOptimizer:
    """Returns Adam as TensorFlow 1 has it, and Reptile sets it: β₁ = 0.

        m ← β₁ m + (1 − β₁) g
        v ← β₂ v + (1 − β₂) g²
        φ ← φ − α √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε)

    The state's scalars are the powers β₁ᵗ and β₂ᵗ, its slots m and v.

    Source: Kingma and Ba 2015, section 2 (arXiv 1412.6980); Nichol et al.
    2018, section 6.1 (arXiv 1803.02999).

    Args:
      learning_rate: α.
      beta_1: β₁, in 0 … 1 without 1.
      beta_2: β₂, in 0 … 1 without 1.
      epsilon: ε.
    """

    def init(parameters):
        ones = tf.ones([], parameters.dtype)
        zeros = tf.zeros_like(parameters)
        return State((ones, ones), (zeros, zeros))

    def update(gradient, state, parameters):
        power_1, power_2 = (
            power * beta
            for power, beta in zip(state.scalars, (beta_1, beta_2), strict=True)
        )
        m, v = state.slots
        m = gradient if beta_1 == 0 else m + (1 - beta_1) * (gradient - m)
        v += (1 - beta_2) * (tf.square(gradient) - v)
        rate = learning_rate * tf.sqrt(1 - power_2) / (1 - power_1)
        parameters -= rate * m / (tf.sqrt(v) + epsilon)
        return parameters, State((power_1, power_2), (m, v))

    return InnerOptimizer(init, update)
