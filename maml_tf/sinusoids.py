"""Sinusoid regression tasks, y = A sin(x − phase)."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf.samplers import Sampler, seed_at

AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, np.pi)
INPUTS = (-5.0, 5.0)


class Sinusoids(NamedTuple):
    """A stack of B sinusoid tasks of n points, y = A sin(x − phase).

    Attributes:
      x, y: `[B, n, 1]`.
      amplitude, phase: `[B]`; the phase in radians.
    """

    x: np.ndarray
    y: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray


def draw_sinusoids(
    rng: np.random.RandomState, tasks: int, points: int
) -> Sinusoids:
    """Draws sinusoid tasks in the order in which cbfinn/maml draws them.

    A ~ U[0.1, 5], phase ~ U[0, π], x ~ U[−5, 5].

    Source: Finn et al. 2017, section 5.1; `data_generator.py`.
    """
    amplitude = rng.uniform(*AMPLITUDES, tasks)
    phase = rng.uniform(*PHASES, tasks)
    x = np.stack([rng.uniform(*INPUTS, (points, 1)) for _ in range(tasks)])
    return _sinusoids(x, amplitude, phase, np.sin)


def sinusoids_at(
    seed: int,
    t,
    tasks: int,
    points: int,
    phases: tuple[float, float] = PHASES,
) -> Sinusoids:
    """Draws meta-batch t of sinusoid tasks inside a graph, float32."""
    seeds = tf.random.split(seed_at(seed, t), 3)
    amplitude = tf.random.stateless_uniform([tasks], seeds[0], *AMPLITUDES)
    phase = tf.random.stateless_uniform([tasks], seeds[1], *phases)
    x = tf.random.stateless_uniform([tasks, points, 1], seeds[2], *INPUTS)
    return _sinusoids(x, amplitude, phase, tf.sin)


def split_regression(sinusoids: Sinusoids, shots: int, oracle: bool = False):
    """Returns the first K points as support set and the others as query set.

    Args:
      sinusoids: B tasks.
      shots: K.
      oracle: whether amplitude and phase are appended to every input, as for
        the baseline that knows its task.

    Returns:
      `((support_x, support_y, query_x), query_y)`.
    """
    x, y = sinusoids.x, sinusoids.y
    if oracle:
        ones = tf.ones_like(x)
        task = (sinusoids.amplitude, sinusoids.phase)
        x = tf.concat([x, *(v[:, None, None] * ones for v in task)], -1)
    return (x[:, :shots], y[:, :shots], x[:, shots:]), y[:, shots:]


def sinusoid_sampler(
    *,
    meta_batch_size: int,
    shots: int,
    seed: int,
    queries: int | None = None,
    oracle: bool = False,
    phases: tuple[float, float] = PHASES,
) -> Sampler:
    """Returns the function from t to meta-batch t of sinusoid regression.

    There are `queries` query points, by default as many as support points.
    """
    points = shots + (queries or shots)

    def meta_batch(t):
        drawn = sinusoids_at(seed, t, meta_batch_size, points, phases)
        return split_regression(drawn, shots, oracle)

    return meta_batch


def sinusoid_test_tasks(tasks: int, shots: int) -> Sinusoids:
    """Returns the very tasks that cbfinn/maml tests on, float32.

    They are what its generator yields one by one after `np.random.seed(1)`.
    """
    rng = np.random.RandomState(1)
    drawn = [draw_sinusoids(rng, 1, 2 * shots) for _ in range(tasks)]
    columns = zip(*drawn, strict=True)
    return Sinusoids(*(np.concatenate(c).astype(np.float32) for c in columns))


def _sinusoids(x, amplitude, phase, sin):
    y = amplitude[:, None, None] * sin(x - phase[:, None, None])
    return Sinusoids(x, y, amplitude, phase)
