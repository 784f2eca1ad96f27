"""The inner loop of Reptile: descent over mini-batches, one after another.

It is one loop in the graph, and nobody differentiates through it. Parameters
are one vector, that of all tasks of a stack if there is one, so that an
optimizer's step is a few operations however many variables a network has.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from maml_tf import few_images
from maml_tf.adaptation import ApplyFn
from maml_tf.inner_optimizers import InnerOptimizer, State
from maml_tf.losses import TaskLoss
from maml_tf.seeds import keyword
from maml_tf.shapes import leading


class Descent(NamedTuple):
    """Where a descent ended.

    Attributes:
      phi: the parameters, `[P]`, or `[B·P]` of a stack, see `ravel`.
      state: the optimizer's.
      loss: the sum over steps of each mini-batch's loss, summed over tasks.
    """

    phi: tf.Tensor
    state: State
    loss: tf.Tensor


def descend(
    apply_fn: ApplyFn,
    loss_fn: TaskLoss,
    optimizer: InnerOptimizer,
    start: tuple[tf.Tensor, State],
    shapes: Sequence[Sequence[int]],
    support: tuple[tf.Tensor, tf.Tensor],
    batches: tf.Tensor,
    weight_decay: float = 1.0,
    seed: tf.Tensor | None = None,
) -> Descent:
    """Takes a step of the optimizer for each mini-batch, in order.

        φ ← optimizer(w φ, ∇_φ L(f_{wφ}(xᵢ), yᵢ))

    Source: Nichol et al. 2018, Algorithm 1 (arXiv 1803.02999).

    Args:
      apply_fn: as `adaptation.adapt` takes it.
      loss_fn: maps (targets, predictions) to a loss, or one for each task.
      optimizer: the inner optimizer.
      start: parameters as in `Descent`, and the optimizer's state.
      shapes: of the parameters, as `apply_fn` takes them.
      support: inputs and targets, `[(B,) S, …]`.
      batches: indices into the support set, `[(B,) U, b]`.
      weight_decay: w, which multiplies the parameters before each step.
      seed: integers `[2]`, of which every step gets others, if `apply_fn`
        draws random numbers.
    """
    axis = len(batches.shape) - 2

    def step(i, phi, state, total):
        chosen = batches[..., i, :]
        x, y = tf.nest.map_structure(
            lambda part: tf.gather(part, chosen, batch_dims=axis), support
        )
        if weight_decay != 1:
            phi *= weight_decay
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(phi)
            with few_images.convolutions():
                prediction = apply_fn(
                    unravel(phi, shapes), x, **keyword(seed, i)
                )
            loss = tf.reduce_sum(loss_fn(y, prediction))
        gradient = tape.gradient(loss, phi, unconnected_gradients="zero")
        phi, state = optimizer.update(gradient, state, phi)
        return i + 1, phi, state, total + tf.cast(loss, total.dtype)

    phi, state = start
    steps = batches.shape[axis]
    _, *end = tf.while_loop(
        lambda i, *_: i < steps,
        step,
        (0, phi, state, tf.zeros([], phi.dtype)),
        maximum_iterations=steps,
    )
    return Descent(*end)


def ravel(values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the numbers of several tensors in one vector, one after another.

    For values `[B, *shape]` of a stack it holds each of them for all tasks.
    """
    return tf.concat([tf.reshape(v, [-1]) for v in values], 0)


def unravel(vector: tf.Tensor, shapes: Sequence) -> list[tf.Tensor]:
    """Returns tensors of some shapes of the numbers in a vector."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = tf.split(vector, sizes)
    return [
        tf.reshape(part, shape)
        for part, shape in zip(parts, shapes, strict=True)
    ]


def draw_batches(
    seed: tf.Tensor,
    tasks: int,
    examples: int | tf.Tensor,
    batch: int,
    steps: int,
    *,
    replacement: bool = False,
) -> tf.Tensor:
    """Draws the mini-batches of each task's inner loop.

    A support set is shuffled and dealt out in order; a batch that runs over
    its end goes on in a new shuffle, and may so hold an example twice. With
    `replacement` each batch is a sample of its own, of different examples.

    Source: `_mini_batches` of supervised-reptile.

    Args:
      seed: integers `[2]`.
      tasks: B.
      examples: S, which a graph need not know.
      batch: b; at most S with `replacement`.
      steps: U.
      replacement: whether an example returns to the set after each batch.

    Returns:
      Indices below S, int32 `[B, U, b]`.

    Raises:
      ValueError: if a batch with `replacement` is larger than the set; where a
        graph does not know its size, `InvalidArgumentError` when it runs.
    """
    if replacement:
        _require(
            batch <= examples,
            "Expected mini-batches of at most",
            examples,
            f"examples of a task, drawn with replacement, got {batch}.",
        )
    rounds = steps if replacement else -(-steps * batch // examples)
    keys = tf.random.stateless_uniform([tasks, rounds, examples], seed)
    order = tf.argsort(keys)
    if replacement:
        return order[..., :batch]
    dealt = tf.reshape(order, [tasks, -1])[:, : steps * batch]
    return tf.reshape(dealt, [tasks, steps, batch])


def _require(holds, *words):
    """Raises `ValueError`; where a graph does not know yet, when it runs."""
    if tf.is_tensor(holds) and not tf.executing_eagerly():
        tf.debugging.Assert(holds, words)
    elif not holds:
        raise ValueError(" ".join(f"{word}" for word in words))


def split_tail(y: tf.Tensor, ways: int, shots: int) -> tuple:
    """Splits a support set into the first `shots` of each class and others.

    Args:
      y: labels `[S]`, integers in 0 … N − 1.
      ways: N.
      shots: examples of each class in the tail.

    Returns:
      Indices of the others, `[S − N·shots]`, and of the tail, `[N·shots]`,
      each in the support set's order.

    Raises:
      ValueError: if there are no others, or too few of a class; what a graph
        does not know is an `InvalidArgumentError` when it runs.
    """
    examples = leading(y)
    others = examples - ways * shots
    _require(
        others > 0,
        "Expected a tail of fewer than",
        examples,
        f"examples of a task, got {shots} of each of {ways} classes.",
    )
    same = tf.one_hot(tf.cast(y, tf.int32), ways, dtype=tf.int32)
    least = tf.reduce_min(tf.reduce_sum(same, 0))
    _require(
        least >= shots,
        f"Expected at least {shots} examples of each class for the tail, found",
        least,
        "of one.",
    )
    earlier = tf.reduce_sum(tf.cumsum(same, exclusive=True) * same, -1)
    order = tf.argsort(tf.cast(earlier < shots, tf.int32), stable=True)
    return order[:others], order[others:]
