"""Seeds: a function draws the same random numbers again from the same one."""

import tensorflow as tf


def fold(seed: tf.Tensor, number) -> tf.Tensor:
    """Returns another seed `[2]` for each number."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def keyword(seed: tf.Tensor | None, number) -> dict:
    """Returns the argument `seed` of a call by number, if there is a seed."""
    return {} if seed is None else {"seed": fold(seed, number)}
