"""Meta-gradients against central differences of the query loss."""

import functools

import numpy as np
import tensorflow as tf

from maml_tf import functional, losses
from maml_tf.adaptation import adapt, gradient_descent

_graph = functools.partial(tf.function, autograph=False)

MODES = {
    "eager": lambda function: function,
    "graph": _graph,
    "xla": functools.partial(_graph, jit_compile=True),
}
"""By name, how a function is run."""


def normal(rng, shape):
    return rng.normal(size=shape)


def integers(rng, shape):
    return rng.integers(5, size=shape)


def relative_error(
    model,
    mode="eager",
    loss_fn=losses.mean_squared_error,
    inputs=normal,
    targets=normal,
    inner_steps=1,
):
    """Compares a network's meta-gradient along a direction with differences.

    The point θ, the direction d and the task are random; the slope of the
    query loss at θ + h d is its derivative by h.

    Args:
      model: a built network that computes in float64.
      mode: one of `MODES`.
      loss_fn: the loss of the inner loop and of the query set.
      inputs: draws inputs `[6, *features]` from (generator, shape).
      targets: likewise, from the shape of the predictions.
      inner_steps: U.
    """
    rng = np.random.default_rng(0)
    x_shape = 6, *model.input_shape[1:]
    y_shape = 6, *model.output_shape[1:]
    support_x, query_x = (inputs(rng, x_shape) for _ in range(2))
    support_y, query_y = (targets(rng, y_shape) for _ in range(2))
    variables = model.trainable_variables
    theta, direction = (
        [rng.normal(size=v.shape) for v in variables] for _ in range(2)
    )

    def query_loss(theta):
        apply_fn = functional.one_task(model, variables)
        phi = adapt(
            apply_fn,
            loss_fn,
            theta,
            support_x,
            support_y,
            update=gradient_descent(0.1),
            inner_steps=inner_steps,
            seed=[1, 2],
        ).phi[-1]
        return loss_fn(query_y, apply_fn(phi, query_x, seed=[3, 4]))

    @MODES[mode]
    def loss_and_slope(h):
        with tf.GradientTape() as tape:
            tape.watch(h)
            moved = [t + h * d for t, d in zip(theta, direction, strict=True)]
            loss = query_loss(moved)
        return loss, tape.gradient(loss, h)

    def at(h):
        return loss_and_slope(tf.constant(h, tf.float64))

    # Of fourth order: f' = (8 (f₁ − f₋₁) − (f₂ − f₋₂)) / 12 h + O(h⁴).
    h = 1e-5
    below2, below, above, above2 = (float(at(k * h)[0]) for k in (-2, -1, 1, 2))
    difference = (8 * (above - below) - (above2 - below2)) / (12 * h)
    return abs(float(at(0.0)[1]) / difference - 1)
