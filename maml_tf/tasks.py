"""Few-shot tasks: meta-batch t is a function of (seed, t).

Nothing here keeps a position, so a run resumes by starting at t and the
evaluation tasks are the same for ever. Elements are
`((support_x, support_y, query_x), query_y)` with a leading task axis.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf.cache import cached

MetaBatch = tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
Sampler = Callable[[tf.Tensor], MetaBatch]

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
    seeds = tf.random.split(_seed(seed, t), 3)
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


def draw_task_list(
    starts: Sequence[int],
    sizes: Sequence[int],
    length: int,
    ways: int,
    images: int,
    seed: int,
) -> np.ndarray:
    """Draws the fixed list of tasks that cbfinn/maml cycles through.

    Each task is N different classes in random order, and for each class
    `images` different images. With the sorted class and file names of
    Omniglot this is the original's own list, draw for draw.

    Source: `data_generator.py`, `make_data_tensor`; seed 5 and 200,000 tasks
    in training, 6 and 600 in validation and test.

    Args:
      starts: index of each class's first image, in the split's order.
      sizes: how many images each class has.
      length: number of tasks.
      ways: N.
      images: images of a class in a task, support and query together.
      seed: of Python's generator.

    Returns:
      Image indices, int32 `[length, N, images]`.
    """
    rng = random.Random(seed)
    classes = [
        range(start, start + size)
        for start, size in zip(starts, sizes, strict=True)
    ]
    tasks = np.empty([length, ways, images], np.int32)
    for task in tasks:
        chosen = rng.sample(classes, ways)
        rng.shuffle(chosen)
        for row, population in zip(task, chosen, strict=True):
            row[:] = rng.sample(population, images)
    return tasks


def cached_task_list(
    cache_dir: str | os.PathLike[str] | None, *drawing
) -> np.ndarray:
    """Returns `draw_task_list(*drawing)`, drawn once and kept in a file.

    Args:
      cache_dir: see `maml_tf.cache.cached`.
      *drawing: the arguments of `draw_task_list`.

    Returns:
      The same numbers in the smallest unsigned integers that hold them,
      read-only.

    Raises:
      DataError: if the cache cannot be written.
    """
    fingerprint = hashlib.sha256(json.dumps(drawing).encode()).hexdigest()

    def draw():
        drawn = draw_task_list(*drawing)
        return drawn.astype(np.min_scalar_type(drawn.max())), None

    *_, ways, images, _ = drawing
    name = f"tasks_{ways}way_{images}images_{fingerprint[:8]}"
    return cached(cache_dir, name, fingerprint, draw)[0]


def image_sampler(
    images: np.ndarray,
    task_list: np.ndarray,
    *,
    meta_batch_size: int,
    shots: int,
    seed: int,
    rotate: bool,
    white: int = 1,
) -> Sampler:
    """Returns the function from t to meta-batch t of N-way K-shot tasks.

    Meta-batch t holds the tasks t·B, …, (t + 1)·B − 1 of the list, which is
    repeated for ever. Fresh for every t are one rotation by a multiple of 90°
    for each class and, within each image slot, the order of the N classes.

    Source: `data_generator.py` of cbfinn/maml.

    Args:
      images: uint8 `[number of images, height, width, channels]`; they are
        not copied.
      task_list: image indices `[tasks, N, images of a class]`.
      meta_batch_size: B.
      shots: K; the first N·K images are the support set.
      seed: of rotations and orders.
      rotate: whether classes are rotated (Omniglot); images are square then.
      white: the pixel value that becomes 1.
    """
    pixels = _pixels(images)
    turned = _turned(images.shape[1:]) if rotate else lambda x, turns: x
    # Slots before classes, swapped here once and not in every meta-batch.
    task_list = tf.constant(np.swapaxes(task_list, 1, 2))
    support = task_list.shape[2] * shots

    def meta_batch(t):
        rows = t * meta_batch_size + tf.range(meta_batch_size, dtype=tf.int64)
        chosen = tf.gather(task_list, rows % len(task_list))
        chosen = tf.cast(chosen, tf.int32)
        chosen, turns, labels = _arrange(chosen, _seed(seed, t))
        x = turned(pixels(chosen), turns)
        x = tf.reshape(x, [*labels.shape, *images.shape[1:]])
        x = tf.cast(x, tf.float32) / white
        inputs = x[:, :support], labels[:, :support], x[:, support:]
        return inputs, labels[:, support:]

    return meta_batch


def class_sampler(
    images: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    *,
    ways: int,
    shots: int,
    meta_batch_size: int,
    seed: int,
    rotate: bool = False,
    white: int = 1,
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns the function from t to meta-batch t of N·K labelled images.

    A task is N different classes in random order, and K different images of
    each. Fresh for every t.

    Source: `_sample_mini_dataset` of supervised-reptile.

    Args:
      images: uint8 `[number of images, height, width, channels]`; they are
        not copied.
      starts: index of each class's first image.
      sizes: how many images each class has.
      ways: N.
      shots: K.
      meta_batch_size: B.
      seed: of all draws.
      rotate: whether each class turned by 90°, 180° and 270° is one more.
      white: the pixel value that becomes 1.

    Returns:
      A function to float32 images `[B, N·K, …]` and int32 labels `[B, N·K]`,
      class by class.
    """
    pixels, shape = _pixels(images), images.shape[1:]
    turned = _turned(shape) if rotate else lambda x, turns: x
    starts, sizes = np.int32(starts), np.int32(sizes)
    turns = 4 if rotate else 1
    counts = tf.fill([meta_batch_size], len(sizes) * turns)
    labels = np.tile(np.repeat(np.arange(ways), shots), (meta_batch_size, 1))

    def meta_batch(t):
        seeds = tf.random.split(_seed(seed, t), 2)
        chosen = _different(seeds[0], counts, len(sizes) * turns, ways)
        size, start = (tf.gather(a, chosen // turns) for a in (sizes, starts))
        image = _different(seeds[1], size, sizes.max(), shots)
        image += start[..., None]
        turn = tf.repeat(chosen % turns, shots, axis=1)
        x = turned(pixels(tf.reshape(image, labels.shape)), turn)
        x = tf.reshape(x, [*labels.shape, *shape])
        return tf.cast(x, tf.float32) / white, tf.constant(labels, tf.int32)

    return meta_batch


def split_queries(x: tf.Tensor, y: tf.Tensor, ways: int) -> MetaBatch:
    """Makes the first example of each class a query, the others the support.

    Args:
      x: `[B, N·(K + 1), …]`, class by class.
      y: labels `[B, N·(K + 1)]`.
      ways: N.

    Returns:
      `((support_x, support_y, query_x), query_y)`.
    """

    def split(part):
        tasks, examples, *shape = part.shape
        each = tf.reshape(part, [tasks, ways, examples // ways, *shape])
        return (
            tf.reshape(each[:, :, 1:], [tasks, examples - ways, *shape]),
            each[:, :, 0],
        )

    (support_x, query_x), (support_y, query_y) = split(x), split(y)
    return (support_x, support_y, query_x), query_y


def meta_batches(sampler: Sampler, start: int = 0) -> tf.data.Dataset:
    """Returns the meta-batches start, start + 1, … of a sampler."""
    endless = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
    return endless.map(sampler).prefetch(tf.data.AUTOTUNE)


def _arrange(chosen, seed):
    """Shuffles the classes within each image slot and draws their rotations.

    Args:
      chosen: image indices `[B, M, N]`.
      seed: `[2]`.

    Returns:
      Image indices, quarter turns and labels, each `[B, M·N]`.
    """
    tasks, slots, ways = chosen.shape
    seeds = tf.random.split(seed, 2)
    turns = tf.random.stateless_uniform([tasks, ways], seeds[0], 0, 4, tf.int32)
    keys = tf.random.stateless_uniform([tasks, slots, ways], seeds[1])
    labels = tf.argsort(keys)
    chosen = tf.gather(chosen, labels, batch_dims=2)
    labels = tf.reshape(labels, [tasks, slots * ways])
    turns = tf.gather(turns, labels, batch_dims=1)
    return tf.reshape(chosen, labels.shape), turns, labels


def _different(seed, counts, most, drawn):
    """Returns different numbers below each count, in random order.

    Args:
      seed: `[2]`.
      counts: tensor of any shape.
      most: the largest count there can be.
      drawn: how many numbers.

    Returns:
      int32 `[*counts.shape, drawn]`.
    """
    keys = tf.random.stateless_uniform([*counts.shape, most], seed)
    keys = tf.where(tf.range(most) < counts[..., None], keys, -1.0)
    return tf.math.top_k(keys, drawn).indices


def _pixels(images):
    """Returns the function from indices `[B, M]` to rows of pixels.

    It reads NumPy's memory: of mini-ImageNet's 0.8 GB, mapped from a file,
    `tf.constant` would make two copies.
    """
    rows = images.reshape(len(images), -1)

    def pixels(chosen):
        x = tf.numpy_function(rows.__getitem__, [chosen], tf.uint8, False)
        return tf.ensure_shape(x, [*chosen.shape, rows.shape[1]])

    return pixels


def _turned(shape):
    """Returns the function that turns images, as rows of pixels, by 90° each.

    Args:
      shape: of an image; it is square.
    """
    places = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    origins = tf.constant(
        np.stack([np.rot90(places, k).ravel() for k in range(4)])
    )

    def turned(x, turns):
        return tf.gather(x, tf.gather(origins, turns), batch_dims=2)

    return turned


def _sinusoids(x, amplitude, phase, sin):
    y = amplitude[:, None, None] * sin(x - phase[:, None, None])
    return Sinusoids(x, y, amplitude, phase)


def _seed(seed, t):
    return tf.stack([tf.cast(seed, tf.int64), tf.cast(t, tf.int64)])
