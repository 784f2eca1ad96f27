"""Inner steps that are computed again when they are differentiated.

Memory then holds the parameters of each step, and what one step computes, in
place of what all of them do.
"""

from collections.abc import Callable, Iterable

import keras
import tensorflow as tf


def rematerialised(step: Callable) -> Callable:
    """Returns a function that keeps nothing of what it computes.

    Its gradient calls it again. It works where a graph is traced: eagerly
    TensorFlow records nothing in it, so a step that differentiates cannot be.

    Args:
      step: maps a structure of tensors, and a number that is none of them, to
        another structure, always the same.
    """
    if tf.executing_eagerly():
        return step

    def kept(phi, u):
        structure = []

        @tf.custom_gradient
        def checkpointed(*tensors):
            results = step(tf.nest.pack_sequence_as(phi, tensors), u)
            structure.append(results)

            def gradient(*slopes, variables=()):
                # Without this wait all steps would be computed at once.
                with tf.control_dependencies(slopes):
                    again = [tf.identity(tensor) for tensor in tensors]
                with tf.GradientTape() as tape:
                    tape.watch(again)
                    results = step(tf.nest.pack_sequence_as(phi, again), u)
                found = tape.gradient(
                    tf.nest.flatten(results),
                    [*again, *variables],
                    output_gradients=slopes,
                    unconnected_gradients="zero",
                )
                ours, theirs = found[: len(again)], found[len(again) :]
                return (ours, theirs) if variables else ours

            return tf.nest.flatten(results), gradient

        flat = checkpointed(*tf.nest.flatten(phi))
        return tf.nest.pack_sequence_as(structure[0], flat)

    return kept


def require_noted(variables: Iterable[keras.Variable]) -> None:
    """Raises `ValueError` for a variable whose gradient a step would miss.

    What a step reads TensorFlow notes by what was trainable from the start.
    """
    for variable in variables:
        if not variable.value.trainable:
            raise ValueError(
                f"remat: {variable.path} was not trainable when it was made; "
                "a step that is computed again would miss its gradient. Let it "
                "adapt (`adapt`), or go without remat."
            )
