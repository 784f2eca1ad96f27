"""Seeds, from which a function draws the same random numbers every time."""

import tensorflow as tf


def fold(seed: tf.Tensor, number) -> tf.Tensor:
    """Returns another seed `[2]` for each number."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def updates(optimizer) -> tf.Tensor:
    """Returns how many gradients one of Keras's optimizers has taken.

    Its own count is of steps, of which each may take several. A loss scale is
    around another optimizer.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer.gradient_accumulation_steps:
        return optimizer._iterations
    return optimizer.iterations


def keyword(seed: tf.Tensor | None, number) -> dict:
    """Returns `{"seed": fold(seed, number)}`, or `{}` if there is no seed."""
    return {} if seed is None else {"seed": fold(seed, number)}
