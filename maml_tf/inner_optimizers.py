"""Optimizers of an inner loop, with explicit state.

Parameters are one vector, of one task or of several. What an optimizer
remembers is passed in and returned, so whether it forgets from task to task is
the caller's choice.
"""

import dataclasses
from typing import NamedTuple, Protocol

import tensorflow as tf

from maml_tf.checks import finite
from maml_tf.saving import Value, register


class State(NamedTuple):
    """What an optimizer remembers.

    Attributes:
      scalars: tensors `[]` that all tasks share.
      slots: tensors like the parameters.
    """

    scalars: tuple[tf.Tensor, ...] = ()
    slots: tuple[tf.Tensor, ...] = ()


class InnerOptimizer(Protocol):
    """What an inner optimizer can do: two functions without side effects."""

    def init(self, parameters: tf.Tensor) -> State:
        """Returns the state in which nothing is remembered."""

    def update(
        self, gradient: tf.Tensor, state: State, parameters: tf.Tensor
    ) -> tuple[tf.Tensor, State]:
        """Returns new parameters and the new state."""


@register
@dataclasses.dataclass(frozen=True)
class SGD(Value, InnerOptimizer):
    """Plain gradient descent, φ ← φ − α g, which remembers nothing.

    Args:
      learning_rate: α.

    Raises:
      ValueError: if it is no finite number.
    """

    learning_rate: float

    def __post_init__(self):
        finite(learning_rate=self.learning_rate)

    def init(self, parameters):
        return State()

    def update(self, gradient, state, parameters):
        return parameters - self.learning_rate * gradient, state


@register
@dataclasses.dataclass(frozen=True)
class Adam(Value, InnerOptimizer):
    """Adam as TensorFlow 1 has it, and Reptile sets it: β₁ = 0.

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

    Raises:
      ValueError: if one is no finite number, or β is not in its range.
    """

    learning_rate: float
    beta_1: float = 0.0
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        finite(
            learning_rate=self.learning_rate,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
        )
        for name in ("beta_1", "beta_2"):
            beta = getattr(self, name)
            if not 0 <= beta < 1:
                raise ValueError(
                    f"{name}: expected a number in 0 … 1 without 1, got {beta}."
                )

    def init(self, parameters):
        ones = tf.ones([], parameters.dtype)
        zeros = tf.zeros_like(parameters)
        return State((ones, ones), (zeros, zeros))

    def update(self, gradient, state, parameters):
        betas = self.beta_1, self.beta_2
        power_1, power_2 = (
            power * beta
            for power, beta in zip(state.scalars, betas, strict=True)
        )
        m, v = state.slots
        m = gradient if self.beta_1 == 0 else _mean(m, gradient, self.beta_1)
        v = _mean(v, tf.square(gradient), self.beta_2)
        rate = self.learning_rate * tf.sqrt(1 - power_2) / (1 - power_1)
        parameters -= rate * m / (tf.sqrt(v) + self.epsilon)
        return parameters, State((power_1, power_2), (m, v))


def _mean(mean, value, beta):
    """Returns the running mean after one more value."""
    return mean + (1 - beta) * (value - mean)
