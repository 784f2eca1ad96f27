"""Half-cheetah and ant, to run in a direction or at a velocity.

MuJoCo moves the robots; all else is a function of tensors, as in `navigation`.
A state is what MuJoCo integrates, and what it derives from that: a robot's
centre of mass, for the ant also contact forces and the torso's rotation.

Source: Finn et al. 2017, section 5.3 and appendix A.2; `half_cheetah_env_rand*`
and `ant_env_rand*` of cbfinn/maml_rl; models of gymnasium's v5.
"""

import concurrent.futures
import dataclasses
import os
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from maml_tf.settings import ConfigError


class Robot(NamedTuple):
    """What is particular to a robot.

    Attributes:
      model: file of gymnasium's model.
      frame_skip: steps of physics in a step, by mode.
      pose: where the paper's starts, from `start` of qpos on; none is v5's.
      start: see there.
      control_cost: weight of Σ a².
      contact_cost: weight of Σ clip(contact forces, ±1)².
      alive: what each step is worth.
      heights: of the torso, outside of which a trajectory ends.
      fastest: the largest velocity to run at.
      offset: what a step of running at a velocity is worth.
    """

    model: str
    frame_skip: dict
    pose: tuple = ()
    start: int = 0
    control_cost: float = 0.05
    contact_cost: float = 0.0
    alive: float = 0.0
    heights: tuple = ()
    fastest: float = 2.0
    offset: float = 0.0


ROBOTS = {
    "cheetah": Robot("half_cheetah.xml", {"paper": 1, "gym": 5}),
    "ant": Robot(
        "ant.xml",
        {"paper": 2, "gym": 5},
        pose=(0.55, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1),
        start=2,
        control_cost=0.005,
        contact_cost=0.0005,
        alive=0.05,
        heights=(0.2, 1.0),
        fastest=3.0,
        offset=1.0,
    ),
}
VELOCITY_NOISE = 0.1
POSITION_NOISE = {"paper": 0.01, "gym": 0.1}


def build(env: str, mode: str, shows_task: bool) -> "Locomotion":
    """Returns the environment "cheetah_dir", "ant_vel" and so on.

    Raises:
      ConfigError: if MuJoCo is not installed.
    """
    try:
        import gymnasium
        import mujoco
    except ImportError as error:
        raise ConfigError(
            f"--env={env}: expected the packages mujoco and gymnasium, found "
            f"that they cannot be imported ({error}). Install the extra: "
            "pip install .[mujoco]"
        ) from error
    robot, goal = env.split("_")
    folder = os.path.join(os.path.dirname(gymnasium.__file__), "envs/mujoco")
    path = os.path.join(folder, "assets", ROBOTS[robot].model)
    physics = Physics(mujoco.MjModel.from_xml_path(path), robot, mode)
    return Locomotion(physics, goal, shows_task)


class Physics:
    """MuJoCo's part: a function from states and controls to states.

    Args:
      model: a `mujoco.MjModel`.
      robot: a key of `ROBOTS`.
      mode: "paper" or "gym".
    """

    def __init__(self, model, robot: str, mode: str):
        self.model = model
        self.robot = ROBOTS[robot]
        self.mode = mode
        self.frame_skip = self.robot.frame_skip[mode]
        self.seconds = self.frame_skip * model.opt.timestep
        self.has_contacts = self.robot.contact_cost > 0
        sizes = {"qpos": model.nq, "qvel": model.nv, "com": 3}
        if self.has_contacts:
            sizes |= {"rotation": 9, "contacts": 6 * model.nbody}
        self.sizes = sizes
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def first(self, seed: np.ndarray, count: int) -> np.ndarray:
        """Returns noisy first states, `[count, S]`."""
        rng = np.random.default_rng(np.abs(seed))
        shape = count, self.model.nq
        noise = rng.uniform(-1, 1, shape)
        pose = np.array(self.model.qpos0)
        if self.mode == "paper":
            noise = rng.normal(size=shape)
            if self.robot.pose:
                pose[self.robot.start :] = self.robot.pose
        qpos = pose + POSITION_NOISE[self.mode] * noise
        qvel = VELOCITY_NOISE * rng.normal(size=(count, self.model.nv))
        return self._each(qpos, qvel, np.zeros([count, self.model.nu]), 0)

    def next(self, states: np.ndarray, controls: np.ndarray) -> np.ndarray:
        """Returns the states `[N, S]` after a step with controls `[N, u]`."""
        qpos, qvel, _ = np.split(
            states, [self.model.nq, self.model.nq + self.model.nv], 1
        )
        return self._each(qpos, qvel, controls, self.frame_skip)

    def _each(self, qpos, qvel, controls, steps):
        """Moves all robots, a share of them in each thread."""
        shares = np.array_split(np.arange(len(qpos)), os.cpu_count() or 1)
        moved = self._pool.map(
            lambda rows: self._move(
                qpos[rows], qvel[rows], controls[rows], steps
            ),
            [rows for rows in shares if len(rows)],
        )
        return np.concatenate(list(moved))

    def _move(self, qpos, qvel, controls, steps):
        import mujoco

        data, moved = mujoco.MjData(self.model), []
        for position, velocity, control in zip(
            qpos, qvel, controls, strict=True
        ):
            # Nothing of the robot before may be left: it starts solvers.
            mujoco.mj_resetData(self.model, data)
            data.qpos, data.qvel, data.ctrl = position, velocity, control
            if steps:
                mujoco.mj_step(self.model, data, steps)
            moved.append(self._state(mujoco, data))
        return np.stack(moved)

    def _state(self, mujoco, data):
        """Returns what there is now; a step leaves what it derives behind."""
        parts = [data.qpos, data.qvel]
        if self.has_contacts:
            mujoco.mj_forward(self.model, data)
            mujoco.mj_rnePostConstraint(self.model, data)
            derived = [data.xmat[1], np.clip(data.cfrc_ext, -1, 1).ravel()]
        else:
            mujoco.mj_kinematics(self.model, data)
            mujoco.mj_comPos(self.model, data)
            derived = []
        return np.concatenate([*parts, data.subtree_com[1], *derived])


@dataclasses.dataclass(frozen=True)
class Locomotion:
    """The environment, see `navigation.Navigation` for its methods.

    Attributes:
      physics: of a robot.
      goal: "dir", −1 or 1, or "vel", uniform up to the robot's fastest.
      shows_task: whether the task is appended to observations.
    """

    physics: Physics
    goal: str
    shows_task: bool = False

    task_size = 1
    compiles = False

    @property
    def one_noise(self) -> bool:
        """Whether tasks of a test share it: many would be the same else."""
        return self.goal != "dir"

    @property
    def action_size(self) -> int:
        """Motors."""
        return self.physics.model.nu

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        return sum(stop - start for start, stop in self._seen()) + (
            self.shows_task
        )

    def sample_tasks(self, seed: tf.Tensor, shape) -> tf.Tensor:
        """Returns directions or velocities, `[*shape, 1]`."""
        drawn = tf.random.stateless_uniform(
            [*shape, 1], seed, dtype=keras.config.floatx()
        )
        if self.goal == "dir":
            return tf.cast(tf.where(drawn < 0.5, -1.0, 1.0), drawn.dtype)
        return drawn * self.physics.robot.fastest

    def test_tasks(self, count: int) -> np.ndarray:
        """Returns the velocities that the paper is evaluated on, or ±1."""
        if self.goal == "dir":
            return np.where(np.arange(count) % 2, 1.0, -1.0)[:, None]
        rng = np.random.RandomState(1)
        return rng.uniform(0, self.physics.robot.fastest, (count, 1))

    def reset(self, tasks: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns noisy first states, float64."""
        count = int(np.prod(tasks.shape[:-1]))
        flat = tf.numpy_function(
            lambda s: self.physics.first(s, count), [seed], tf.float64
        )
        return self._shaped(flat, tasks)

    def observe(self, states: tf.Tensor, tasks: tf.Tensor) -> tf.Tensor:
        """Returns positions but for those of `_seen`, and the rest of it."""
        parts = [states[..., start:stop] for start, stop in self._seen()]
        observations = tf.cast(tf.concat(parts, -1), tasks.dtype)
        if self.shows_task:
            return tf.concat([observations, tasks], -1)
        return observations

    def step(self, states, actions, tasks):
        """Moves all robots for a step with actions clipped to ±1."""
        robot = self.physics.robot
        controls = tf.cast(tf.clip_by_value(actions, -1.0, 1.0), tf.float64)
        flat = tf.numpy_function(
            self.physics.next,
            [
                tf.reshape(states, [-1, states.shape[-1]]),
                tf.reshape(controls, [-1, self.action_size]),
            ],
            tf.float64,
        )
        moved = self._shaped(flat, tasks)
        before, after = (self._part(s, "com")[..., 0] for s in (states, moved))
        velocity = (after - before) / self.physics.seconds
        task = tf.cast(tasks[..., 0], tf.float64)
        reward = (
            task * velocity
            if self.goal == "dir"
            else robot.offset - tf.abs(velocity - task)
        )
        cost = robot.control_cost * tf.reduce_sum(controls**2, -1)
        if self.physics.has_contacts:
            contacts = self._part(moved, "contacts")
            cost += robot.contact_cost * tf.reduce_sum(contacts**2, -1)
        reward = tf.cast(reward - cost + robot.alive, tasks.dtype)
        return moved, reward, self._ends(moved)

    def _ends(self, states):
        if not self.physics.robot.heights:
            return tf.zeros(states.shape[:-1], tf.bool)
        lowest, highest = self.physics.robot.heights
        height = states[..., 2]
        finite = tf.reduce_all(tf.math.is_finite(states), -1)
        return ~(finite & (height >= lowest) & (height <= highest))

    def _seen(self):
        """Returns which parts of a state are seen, as pairs of ends."""
        nq, contacts = self.physics.model.nq, self.physics.has_contacts
        last = sum(self.physics.sizes.values())
        if self.physics.mode == "gym":
            seen = [(2 if contacts else 1, nq + self.physics.model.nv)]
            # The first of the bodies is the world, which feels no forces.
            return seen + [(last - 78, last)] * contacts
        return [(0 if contacts else 1, last)]

    def _part(self, states, name):
        """Returns a part of states by its name."""
        sizes = self.physics.sizes
        start = sum(list(sizes.values())[: list(sizes).index(name)])
        return states[..., start : start + sizes[name]]

    def _shaped(self, flat, tasks):
        size = sum(self.physics.sizes.values())
        return tf.reshape(flat, [*tasks.shape[:-1], size])
