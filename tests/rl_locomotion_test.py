"""Half-cheetah and ant: observations, rewards, ends, and training."""

import numpy as np
import pytest
import tensorflow as tf

from maml_tf import main_rl
from maml_tf.rl import locomotion

pytest.importorskip("mujoco", reason="needs the extra mujoco")
pytest.importorskip("gymnasium", reason="needs the extra mujoco")

SEED = tf.constant([0, 1], tf.int64)


def start(env, mode="paper", tasks=((1.0,), (-1.0,))):
    made = locomotion.build(env, mode, False)
    tasks = tf.constant(tasks)
    return made, tasks, made.reset(tasks, SEED)


@pytest.mark.parametrize(
    "env, mode, numbers, seconds",
    [
        ("cheetah_dir", "paper", 20, 0.01),
        ("cheetah_vel", "gym", 17, 0.05),
        ("ant_dir", "paper", 125, 0.02),
        ("ant_vel", "gym", 105, 0.05),
    ],
)
def test_observations_and_control_interval(env, mode, numbers, seconds):
    made, tasks, states = start(env, mode)
    observed = made.observe(states, tasks)
    assert observed.shape == (2, numbers) == (2, made.observation_size)
    assert made.physics.seconds == pytest.approx(seconds)
    oracle = locomotion.build(env, mode, True)
    assert oracle.observation_size == numbers + 1


@pytest.mark.parametrize("mode, spread", [("paper", 0.01), ("gym", 0.058)])
@pytest.mark.parametrize("env", ["cheetah_dir", "ant_dir"])
def test_first_states_are_a_pose_and_noise(env, mode, spread):
    physics = locomotion.build(env, mode, False).physics
    nq, nv = physics.model.nq, physics.model.nv
    states = physics.first(np.array([0, 1]), 2000)
    pose = np.array(physics.model.qpos0)
    if (env, mode) == ("ant_dir", "paper"):
        legs = [0, 1, 0, -1, 0, -1, 0, 1]
        pose = np.array([0, 0, 0.55, 1, 0, 0, 0, *legs])
    velocities = states[:, nq : nq + nv]
    for found, mean, std in (
        (states[:, :nq], pose, spread),  # 0.1 / √3 if it is uniform
        (velocities, np.zeros(nv), 0.1),
    ):
        np.testing.assert_allclose(found.mean(0), mean, 0, 0.2 * std)
        np.testing.assert_allclose(found.std(0), [std] * len(mean), 0.1)


@pytest.mark.parametrize("env", ["cheetah_dir", "ant_dir"])
def test_direction_is_rewarded_by_the_centre_of_mass(env):
    made, tasks, states = start(env)
    moved, reward, done = made.step(
        states, tf.constant([[3.0] * made.action_size] * 2), tasks
    )
    com = made._part(moved, "com") - made._part(states, "com")
    velocity = com[:, 0] / made.physics.seconds
    cost = {"cheetah_dir": 0.05, "ant_dir": 0.005}[env] * made.action_size
    alive = 0.0
    if env == "ant_dir":
        contacts = made._part(moved, "contacts")
        alive = 0.05 - 0.0005 * np.sum(contacts.numpy() ** 2, -1)
    want = velocity * [1, -1] - cost + alive
    np.testing.assert_allclose(reward, want, 1e-5)
    assert not done.numpy().any()


@pytest.mark.parametrize("env, alive", [("cheetah_vel", 0), ("ant_vel", 1.05)])
def test_velocity_is_rewarded_by_its_distance(env, alive):
    made, tasks, states = start(env, tasks=((0.0,), (2.0,)))
    still = tf.zeros([2, made.action_size])
    moved, reward, _ = made.step(states, still, tasks)
    com = made._part(moved, "com") - made._part(states, "com")
    velocity = com[:, 0] / made.physics.seconds
    cost = 0.0
    if env == "ant_vel":
        contacts = made._part(moved, "contacts").numpy()
        cost = 0.0005 * np.sum(contacts**2, -1)
    want = alive - np.abs(velocity - [0, 2]) - cost
    np.testing.assert_allclose(reward, want, 1e-5)


@pytest.mark.parametrize("env", ["cheetah_vel", "ant_vel"])
def test_velocities_of_a_test_are_those_of_the_authors_files(env, golden):
    goals = locomotion.build(env, "paper", False).test_tasks(40)
    expected = golden("rl/paper_curves")[f"{env}_goals"]
    np.testing.assert_array_equal(goals[:, 0], expected)


def test_a_step_depends_on_its_robot_alone():
    made, tasks, states = start("cheetah_dir")
    actions = tf.constant([[0.5] * 6, [-0.5] * 6])
    both, *_ = made.step(states, actions, tasks)
    alone, *_ = made.step(states[1:], actions[1:], tasks[1:])
    np.testing.assert_array_equal(both[1:], alone)


def test_the_ant_ends_out_of_its_heights():
    made, _, states = start("ant_dir")
    high = np.array(states)
    for heights, ends in (
        ((1.1, 0.5), [True, False]),
        ((0.15, 0.25), [True, False]),
        ((0.95, np.nan), [False, True]),
    ):
        high[:, 2] = heights
        np.testing.assert_array_equal(made._ends(high), ends)


def test_trains_and_resumes(tmp_path, capsys):
    line = [
        "--env=cheetah_dir",
        "--n_itr=1",
        "--meta_batch_size=2",
        "--fast_batch_size=2",
        "--max_path_length=5",
        "--hidden_size=4",
        "--test_goals=2",
        "--test_trajectories=2",
        f"--logdir={tmp_path}",
    ]
    assert main_rl.main(line) == 0
    assert main_rl.main([*line, "--n_itr=2"]) == 0
    assert "Iteration 2: return" in capsys.readouterr().out
