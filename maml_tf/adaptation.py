"""The inner loop: from meta-parameters and a support set to a trajectory."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from maml_tf.checks import at_least
from maml_tf.losses import TaskLoss
from maml_tf.remat import rematerialised
from maml_tf.seeds import keyword
from maml_tf.tied import Tied, own, untie

Parameters = Sequence[tf.Tensor | Tied]
ApplyFn = Callable[..., tf.Tensor]
"""Maps parameters and inputs, and a seed if it is given one, to predictions."""
Update = Callable[[list[tf.Tensor], list[tf.Tensor], int], list[tf.Tensor]]
"""Maps parameters, their gradients and the step u to the next parameters."""


class Adaptation(NamedTuple):
    """What the inner loop passed through, for one task or a stack of tasks.

    Attributes:
      phi: φ₀ = θ, φ₁, …, φ_U: U + 1 lists of parameters, each shaped like
        `theta`.
      support: the support predictions of φ₀, …, φ_{U−1}: U tensors
        `[..., S, outputs]`.
    """

    phi: tuple[Parameters, ...]
    support: tuple[tf.Tensor, ...]


def gradient_descent(inner_lr: float) -> Update:
    """Returns the inner update of MAML, φ ← φ − α ∇_φ L, with a fixed α."""

    def update(phi, gradients, u):
        del u
        return [p - inner_lr * g for p, g in zip(phi, gradients, strict=True)]

    return update


def adapt(
    apply_fn: ApplyFn,
    loss_fn: TaskLoss,
    theta: Parameters,
    support_x: tf.Tensor,
    support_y: tf.Tensor,
    *,
    update: Update,
    inner_steps: int,
    first_order: bool = False,
    remat: bool = False,
    seed: tf.Tensor | None = None,
) -> Adaptation:
    """Adapts meta-parameters to a task by gradient descent on its support set.

    Repeats, for u = 0, …, U − 1, starting at φ₀ = θ:

        φᵤ₊₁ = update(φᵤ, ∇_φ L(f_φ(support_x), support_y), u)

    With `gradient_descent(α)` that is φᵤ₊₁ = φᵤ − α ∇_φ L. Every step is
    differentiable in θ, so a gradient taken through φ_U is the second-order
    meta-gradient. With `first_order=True` the inner gradients are constants
    and dφ_U/dθ = I.

    One task or many: if every parameter, the support set and the loss carry a
    leading task axis, all tasks are adapted at once. Tasks do not interact, so
    the gradient of the summed loss holds each task's own gradient.

    Source: Finn et al. 2017, Algorithm 1, lines 5–6 (arXiv 1703.03400).

    Args:
      apply_fn: maps (parameters, inputs) to predictions; with `seed`, it also
        takes one by that name. In a graph of second order it is called for the
        first step, and once for all others.
      loss_fn: maps (targets, predictions) to a loss for each task.
      theta: the parameters to adapt.
      support_x: inputs `[..., S, *features]`.
      support_y: targets `[..., S, *outputs]`.
      update: makes an inner step.
      inner_steps: U ≥ 0.
      first_order: whether the inner gradients are constants.
      remat: whether a step is computed again when it is differentiated.
      seed: integers `[2]`, of which every step gets others, if `apply_fn`
        draws random numbers.

    Raises:
      ValueError: if U is no integer of at least 0.
    """
    at_least(0, inner_steps=inner_steps)

    def learn(phi, u):
        """Returns ∇_φ L at φ, and the support predictions."""
        sources = [own(p) for p in phi]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            prediction = apply_fn(phi, support_x, **keyword(seed, u))
            loss = tf.reduce_sum(loss_fn(support_y, prediction))
        gradients = tape.gradient(loss, sources, unconnected_gradients="zero")
        # The gradient of an embedding is sparse.
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        if first_order:
            gradients = [tf.stop_gradient(g) for g in gradients]
        return gradients, prediction

    # A graph's steps after the first share a trace, and that of its gradient.
    # It goes through all that a step returns, which first order does without.
    shared = inner_steps > 2 and not first_order and not tf.executing_eagerly()
    again = tf.function(learn, autograph=False) if shared else learn

    def step(phi, u):
        gradients, prediction = (again if u else learn)(phi, tf.constant(u))
        return update([untie(p) for p in phi], gradients, u), prediction

    take = rematerialised(step) if remat else step
    trajectory, predictions = [theta], []
    for u in range(inner_steps):
        phi, prediction = take(trajectory[-1], u)
        trajectory.append(phi)
        predictions.append(prediction)
    return Adaptation(tuple(trajectory), tuple(predictions))
