"""Seeds, from which a function draws the same random numbers every time."""

import keras
import tensorflow as tf


def fold(seed: tf.Tensor, number) -> tf.Tensor:
    """Returns another seed `[2]` for each number."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def keyword(seed: tf.Tensor | None, number) -> dict:
    """Returns `{"seed": fold(seed, number)}`, or `{}` if there is no seed."""
    return {} if seed is None else {"seed": fold(seed, number)}


def begin(config) -> None:
    """Seeds what Keras draws, and makes operations deterministic if asked.

    Args:
      config: settings with `seed` and `deterministic`.
    """
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
