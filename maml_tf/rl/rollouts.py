"""Trajectories of all tasks, which advance together inside a graph."""

from collections.abc import Callable

import tensorflow as tf

from maml_tf.rl.advantages import Trajectories
from maml_tf.rl.policies import gaussian

Policy = Callable[[tf.Tensor], tf.Tensor]
"""Maps observations `[T, K, o]` to predictions `[T, K, 2 d]`."""


def collect(
    environment,
    policy: Policy,
    tasks: tf.Tensor,
    noise: tf.Tensor,
    states: tf.Tensor,
) -> Trajectories:
    """Lets policies act, with actions μ + σ ε.

    A trajectory that has ended goes on, and its mask is 0 from there.

    Args:
      environment: see `navigation.Navigation`.
      policy: of each task.
      tasks: the task of each trajectory, `[T, K, task_size]`.
      noise: ε, standard normal, `[T, K, H, d]`.
      states: the initial ones, `[T, K, …]`.
    """
    horizon = noise.shape[-2]
    noise = tf.transpose(noise, [2, 0, 1, 3])
    dtype = noise.dtype
    sizes = [environment.observation_size], [environment.action_size], [], []
    records = [
        tf.TensorArray(dtype, horizon, element_shape=[*tasks.shape[:2], *size])
        for size in sizes
    ]

    def body(t, states, alive, records):
        observations = environment.observe(states, tasks)
        prediction = gaussian(policy(observations))
        actions = prediction.mean + tf.exp(prediction.log_std) * noise[t]
        states, rewards, done = environment.step(states, actions, tasks)
        values = observations, actions, rewards, alive
        records = [r.write(t, v) for r, v in zip(records, values, strict=True)]
        alive *= tf.cast(~done, dtype)
        return t + 1, states, alive, records

    *_, records = tf.while_loop(
        lambda t, *_: t < horizon,
        body,
        (
            0,
            states,
            tf.ones(tasks.shape[:2], dtype),
            records,
        ),
        maximum_iterations=horizon,
    )
    return Trajectories(*(_by_trajectory(r.stack()) for r in records))


def _by_trajectory(steps):
    """Returns `[T, K, H, …]` of `[H, T, K, …]`."""
    return tf.transpose(steps, [1, 2, 0, *range(3, len(steps.shape))])
