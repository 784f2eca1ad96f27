"""Samplers of few-shot tasks: meta-batch t is a function of (seed, t).

Nothing here keeps a position, so a run resumes by starting at t and the
evaluation tasks are the same for ever. Elements are
`((support_x, support_y, query_x), query_y)` with a leading task axis.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from maml_tf.cache import cached

MetaBatch = tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
Sampler = Callable[[tf.Tensor], MetaBatch]


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
    Omniglot this is the original's own list under Python 3, draw for draw.

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
    pixels = rows_of(images)
    turned = _turned(images.shape[1:]) if rotate else lambda x, turns: x
    # Slots before classes, swapped here once and not in every meta-batch.
    task_list = tf.constant(np.swapaxes(task_list, 1, 2))
    support = task_list.shape[2] * shots

    def meta_batch(t):
        rows = t * meta_batch_size + tf.range(meta_batch_size, dtype=tf.int64)
        chosen = tf.gather(task_list, rows % len(task_list))
        chosen = tf.cast(chosen, tf.int32)
        chosen, turns, labels = _arrange(chosen, seed_at(seed, t))
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
    pixels, shape = rows_of(images), images.shape[1:]
    turned = _turned(shape) if rotate else lambda x, turns: x
    turns = 4 if rotate else 1
    choose = chooser(starts, sizes, turns, (meta_batch_size, ways, shots))

    def meta_batch(t):
        image, turn, labels = choose(seed_at(seed, t))
        x = tf.reshape(turned(pixels(image), turn), [*labels.shape, *shape])
        return tf.cast(x, tf.float32) / white, labels

    return meta_batch


def split_queries(
    x: tf.Tensor, y: tf.Tensor, ways: int, queries: int = 1
) -> MetaBatch:
    """Makes the first examples of each class queries, the others the support.

    Args:
      x: `[B, N·(K + Q), …]`, class by class, or a structure of such.
      y: labels `[B, N·(K + Q)]`.
      ways: N.
      queries: Q.

    Returns:
      `((support_x, support_y, query_x), query_y)`.
    """

    def take(part, which):
        tasks, examples, *shape = part.shape
        each = tf.reshape(part, [tasks, ways, examples // ways, *shape])
        return tf.reshape(each[:, :, which], [tasks, -1, *shape])

    (support_x, support_y), (query_x, query_y) = (
        tf.nest.map_structure(lambda part, w=which: take(part, w), (x, y))
        for which in (slice(queries, None), slice(queries))
    )
    return (support_x, support_y, query_x), query_y


def chooser(
    starts: np.ndarray,
    sizes: np.ndarray,
    turns: int,
    drawn: tuple[int, int, int],
) -> Callable:
    """Returns the function from a seed to what a meta-batch consists of.

    Args:
      starts: index of each class's first example.
      sizes: how many examples each class has.
      turns: as how many classes each of them counts.
      drawn: tasks B, classes N of a task, and examples M of a class.

    Returns:
      A function to example indices, turns and labels, int32 `[B, N·M]` each,
      class by class.
    """
    tasks, ways, examples = drawn
    starts, sizes = (np.asarray(a, np.int32) for a in (starts, sizes))
    counts = tf.fill([tasks], len(sizes) * turns)
    labels = np.tile(np.repeat(np.arange(ways), examples), (tasks, 1))

    def choose(seed):
        seeds = tf.random.split(seed, 2)
        chosen = _different(seeds[0], counts, len(sizes) * turns, ways)
        size, start = (tf.gather(a, chosen // turns) for a in (sizes, starts))
        example = _different(seeds[1], size, sizes.max(), examples)
        example = tf.reshape(example + start[..., None], labels.shape)
        turn = tf.repeat(chosen % turns, examples, axis=1)
        return example, turn, tf.constant(labels, tf.int32)

    return choose


def rows_of(array: np.ndarray) -> Callable:
    """Returns the function from indices `[B, M]` to rows, raveled `[B, M, D]`.

    It reads NumPy's memory: of mini-ImageNet's 0.8 GB, mapped from a file,
    `tf.constant` would make two copies.
    """
    rows = array.reshape(len(array), -1)

    def gather(chosen):
        x = tf.numpy_function(rows.__getitem__, [chosen], array.dtype, False)
        return tf.ensure_shape(x, [*chosen.shape, rows.shape[1]])

    return gather


def seed_at(seed: int, t) -> tf.Tensor:
    """Returns the seed `[2]` of meta-batch t."""
    return tf.stack([tf.cast(seed, tf.int64), tf.cast(t, tf.int64)])


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
