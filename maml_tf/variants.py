"""Small additions to MAML: what adapts, at which rate, and what is learned."""

import keras
import tensorflow as tf

from maml_tf.checks import at_least
from maml_tf.maml import MAML
from maml_tf.saving import register

_FIXED = *MAML.fixed, "inner_lr"  # the rates that are learned start there


@register
class ANIL(MAML):
    """Almost no inner loop: only the last layer adapts.

    Source: Raghu et al. 2020, section 4 (arXiv 1909.09157).

    Args:
      network: a built Keras model.
      inner_loss: see `MAML`.
      adapt: the head, where it is not the last layer, or none is the last,
        as of several outputs or of a model of a class of one's own.
      **options: those of `MAML`.
    """

    def __init__(self, network, inner_loss, *, adapt="head", **options):
        super().__init__(network, inner_loss, adapt=adapt, **options)


@register
class MetaSGD(MAML):
    """MAML with a learned inner learning rate for every weight.

        φᵤ₊₁ = φᵤ − α ∘ ∇_φ L_support(φᵤ)
        (θ, α) ← (θ, α) − β ∇ Σᵢ L_query(φᵢ) / B

    Source: Li et al. 2017, equations 3 and 4 (arXiv 1707.09835). There every
    rate starts at a random value; here all start at `inner_lr`.

    Args:
      network: a built Keras model.
      inner_loss: see `MAML`.
      inner_lr: where all rates start.
      **options: those of `MAML`.
    """

    fixed = _FIXED

    def __init__(self, network, inner_loss, *, inner_lr, **options):
        super().__init__(network, inner_loss, inner_lr=inner_lr, **options)
        self.rates = _rates(self, [v.shape for v in self.adapted])

    def inner_update(self, phi, gradients, u):
        """Returns φ − α ∘ ∇_φ L."""
        return _step(phi, self.rates, gradients)


@register
class MAMLPlusPlus(MAML):
    """MAML with learned rates for each layer and step, and a multi-step loss.

        φᵤ₊₁ = φᵤ − αᵤ ∇_φ L_support(φᵤ)
        (θ, α) ← (θ, α) − β ∇ Σᵤ wᵤ Σᵢ L_query(φᵢᵤ) / B,  u = 1, …, U

    Each weight tensor has a rate α for each step. The weights wᵤ, whose sum is
    one, start equal and move to the last step, see `step_weights`; after that
    the loss is MAML's. Steps after the U of training have the last one's rate.

    Source: Antoniou et al. 2019, section 4, "Multi-Step Loss Optimization" and
    "Learning Per-Layer Per-Step Learning Rates" (arXiv 1810.09502). Their
    per-step batch norm, annealed derivative order and cosine schedule are not
    part of it; the last is `keras.optimizers.schedules.CosineDecay`.

    Args:
      network: a built Keras model.
      inner_loss: see `MAML`.
      inner_lr: where all rates start.
      inner_steps: U ≥ 1.
      multi_step_iterations: meta-updates until the last step alone counts, at
        least one. The paper's 15 epochs of 500.
      **options: those of `MAML`.
    """

    fixed = _FIXED

    def __init__(
        self,
        network,
        inner_loss,
        *,
        inner_lr,
        inner_steps,
        multi_step_iterations=7500,
        **options,
    ):
        super().__init__(
            network,
            inner_loss,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            **options,
        )
        at_least(
            1,
            inner_steps=inner_steps,
            multi_step_iterations=multi_step_iterations,
        )
        self.multi_step_iterations = multi_step_iterations
        self.rates = _rates(self, [[inner_steps]] * len(self.adapted))

    def inner_update(self, phi, gradients, u):
        """Returns φ − αᵤ ∇_φ L."""
        rates = [rate[min(u, rate.shape[0] - 1)] for rate in self.rates]
        return _step(phi, rates, gradients)

    def scored(self, trajectory, training):
        """Returns φ₁, …, φ_U in training, else all."""
        return trajectory[1:] if training else trajectory

    def step_weights(self) -> tf.Tensor:
        """Returns w₁, …, w_U of the next meta-update.

        With progress p, the share of `multi_step_iterations` that is done, the
        earlier steps have max(1 − p, 0.03) / U, and zero after it.
        """
        steps = self.inner_steps
        done = tf.cast(self.optimizer.iterations, keras.config.floatx())
        progress = done / self.multi_step_iterations
        early = (
            tf.where(progress < 1, tf.maximum(1 - progress, 0.03), 0) / steps
        )
        return tf.stack([early] * (steps - 1) + [1 - (steps - 1) * early])

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns Σᵤ wᵤ L_query(φᵤ) in training, else that of MAML."""
        if not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        first, *penalties = y_pred.penalty
        losses = [
            super(MAMLPlusPlus, self).compute_loss(
                x,
                y,
                y_pred._replace(query=(query,), penalty=(first, penalty)),
                sample_weight,
            )
            for query, penalty in zip(y_pred.query, penalties, strict=True)
        ]
        return tf.tensordot(self.step_weights(), tf.stack(losses), 1)


def _step(phi, rates, gradients):
    """Returns φ − α ∘ ∇_φ L."""
    triples = zip(phi, rates, gradients, strict=True)
    return [p - rate * g for p, rate, g in triples]


def _rates(learner, shapes):
    """Adds trainable rates to a learner, which start at its `inner_lr`."""
    start = keras.initializers.Constant(learner.inner_lr)
    return [
        learner.add_weight(shape, start, v.dtype, name=f"rate_{i}")
        for i, (v, shape) in enumerate(
            zip(learner.adapted, shapes, strict=True)
        )
    ]
