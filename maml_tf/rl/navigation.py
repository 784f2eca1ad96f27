"""2D navigation: a point that shall go to a goal it does not see.

Positions and goals are in the plane; a step is at most 0.1 along each axis.
Everything is a function of tensors, and all points move at once.

Source: Finn et al. 2017, section 5.3; `PointEnvRandGoal` of cbfinn/maml_rl.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

RANGE = 0.5
STEP = 0.1
NEAR = 0.01


@dataclasses.dataclass(frozen=True)
class Navigation:
    """The environment.

    A state is a position, and the observation of it, too. Its methods act on
    any leading axes.

    Attributes:
      reward: "distance", −‖s − g‖, or "squared", −‖s − g‖², of the new
        position, as the original program's and the paper's sentence have it.
      done: "box", |Δx| < 0.01 and |Δy| < 0.01, or "l2", ‖s − g‖ < 0.01.
      shows_task: whether the goal is appended to observations, as the oracle
        sees it.
    """

    reward: str = "distance"
    done: str = "box"
    shows_task: bool = False

    action_size = 2
    task_size = 2
    compiles = True
    """Whether XLA can compile a simulation: all is made of tensors."""
    one_noise = True
    """Whether all tasks of a test have the same noise of actions."""

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        return 4 if self.shows_task else 2

    def sample_tasks(self, seed: tf.Tensor, shape) -> tf.Tensor:
        """Returns goals, uniform on [−0.5, 0.5]², `[*shape, 2]`."""
        return tf.random.stateless_uniform(
            [*shape, 2], seed, -RANGE, RANGE, keras.config.floatx()
        )

    def reset(self, tasks: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns where every trajectory starts: the origin."""
        del seed
        return tf.zeros_like(tasks)

    def observe(self, states: tf.Tensor, tasks: tf.Tensor) -> tf.Tensor:
        """Returns observations `[…, observation_size]`."""
        return tf.concat([states, tasks], -1) if self.shows_task else states

    def step(self, states, actions, tasks):
        """Moves by 0.1 · clip(a, −1, 1).

        Returns:
          The next positions, the rewards and whether the goal is reached.
        """
        states = states + STEP * tf.clip_by_value(actions, -1.0, 1.0)
        offset = states - tasks
        distance = tf.norm(offset, axis=-1)
        near = (
            tf.reduce_all(tf.abs(offset) < NEAR, -1)
            if self.done == "box"
            else distance < NEAR
        )
        reward = distance if self.reward == "distance" else distance**2
        return states, -reward, near

    def test_tasks(self, count: int) -> np.ndarray:
        """Returns the goals that the paper is evaluated on, `[count, 2]`."""
        rng = np.random.RandomState(1)
        return rng.uniform(-RANGE, RANGE, (count, 2))
