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
from maml_tf.class_folders import load_class_folders
from maml_tf.image_classes import check_sizes
from maml_tf.packing import Format

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
    pixels = _rows(images)
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
    pixels, shape = _rows(images), images.shape[1:]
    turned = _turned(shape) if rotate else lambda x, turns: x
    turns = 4 if rotate else 1
    choose = _chooser(starts, sizes, turns, (meta_batch_size, ways, shots))

    def meta_batch(t):
        image, turn, labels = choose(_seed(seed, t))
        x = tf.reshape(turned(pixels(image), turn), [*labels.shape, *shape])
        return tf.cast(x, tf.float32) / white, labels

    return meta_batch


def split_queries(
    x: tf.Tensor, y: tf.Tensor, ways: int, queries: int = 1
) -> MetaBatch:
    """Makes the first examples of each class queries, the others the support.

    Args:
      x: `[B, N·(K + Q), …]`, class by class.
      y: labels `[B, N·(K + Q)]`.
      ways: N.
      queries: Q.

    Returns:
      `((support_x, support_y, query_x), query_y)`.
    """

    def split(part):
        tasks, examples, *shape = part.shape
        each = tf.reshape(part, [tasks, ways, examples // ways, *shape])
        return (
            tf.reshape(chosen, [tasks, -1, *shape])
            for chosen in (each[:, :, queries:], each[:, :, :queries])
        )

    (support_x, query_x), (support_y, query_y) = split(x), split(y)
    return (support_x, support_y, query_x), query_y


def from_arrays(
    x: np.ndarray,
    y: np.ndarray,
    *,
    ways: int,
    shots: int,
    queries: int,
    meta_batch_size: int = 4,
    seed: int = 0,
    start: int = 0,
) -> tf.data.Dataset:
    """Returns endless meta-batches of N-way K-shot tasks of labelled examples.

    A task is N different classes in random order, labelled 0 … N − 1 in it,
    and K + Q different examples of each.

    Args:
      x: examples `[examples, …]`. Real numbers become float32, others stay as
        they are.
      y: what class each is of, anything that can be sorted, `[examples]`.
      ways: N.
      shots: K.
      queries: Q, query examples of a class.
      meta_batch_size: B.
      seed: of all draws; meta-batch t depends on the seed and t alone.
      start: t of the first meta-batch.

    Raises:
      DataError: if there are fewer classes, or examples of one, than a task
        needs.
      ValueError: if x and y are not of the same length.
    """
    x, order, names, sizes = _by_class(x, y)
    check_sizes(names, sizes, ways=ways, needed=shots + queries)
    drawn = meta_batch_size, ways, shots + queries
    choose = _chooser(sizes.cumsum() - sizes, sizes, 1, drawn)
    rows, shape = _rows(x), x.shape[1:]

    def meta_batch(t):
        example, _, labels = choose(_seed(seed, t))
        chosen = rows(tf.gather(order, example))
        chosen = tf.reshape(chosen, [*labels.shape, *shape])
        return split_queries(chosen, labels, ways, queries)

    return meta_batches(meta_batch, start)


def from_directory(
    folder: str | os.PathLike[str],
    part: str = "train",
    *,
    image_size: int,
    image_channels: int = 3,
    cache_dir: str | os.PathLike[str] | None = None,
    **options,
) -> tf.data.Dataset:
    """Returns meta-batches of images in class folders, in 0 … 1.

    Args:
      folder: holds `<part>/<class>/<image>`, or is an archive that does.
      part: "train", "validation" (folder `val`) or "test".
      image_size: height and width to which images are resized.
      image_channels: 3, or 1 for grey.
      cache_dir: see `maml_tf.cache.cached`.
      **options: those of `from_arrays`.

    Raises:
      DataError: if images are missing, too few or unreadable.
    """
    image_format = Format(image_size, image_channels)
    data = load_class_folders(folder, part, image_format, cache_dir).data
    labels = np.repeat(data.names, data.sizes)
    return _scaled(from_arrays(data.images, labels, **options))


def from_tfds(name: str, split: str = "train", **options) -> tf.data.Dataset:
    """Returns meta-batches of a data set of TensorFlow Datasets.

    It is one of (input, label) pairs and is read into memory. Images are
    scaled to 0 … 1.

    Args:
      name: `"mnist"`, or another name that `tfds.load` takes.
      split: such as "train".
      **options: those of `from_arrays`.

    Raises:
      DataError: if there are too few classes, or examples of one.
    """
    import tensorflow_datasets as tfds

    whole = tfds.load(name, split=split, as_supervised=True, batch_size=-1)
    x, y = tfds.as_numpy(whole)
    return _scaled(from_arrays(x, y, **options))


def from_function(
    draw: Callable[[tf.Tensor, tf.Tensor], MetaBatch],
    seed: int = 0,
    start: int = 0,
) -> tf.data.Dataset:
    """Returns the meta-batches that a function draws, for regression say.

    Args:
      draw: maps the seed and t, int64 tensors, to
        `((support_x, support_y, query_x), query_y)` with a leading task axis.
        It draws with `tf.random.stateless_*` from these two alone.
      seed: any number.
      start: t of the first meta-batch.
    """
    seed = tf.constant(seed, tf.int64)
    return meta_batches(lambda t: draw(seed, t), start)


def _by_class(x, y):
    """Returns examples, their order by class, and the classes and sizes."""
    x, y = np.asarray(x), np.asarray(y)
    if len(x) != len(y) or y.ndim != 1:
        raise ValueError(
            f"y: expected one label for each of the {len(x)} examples, found "
            f"an array of shape {y.shape}."
        )
    if x.dtype.kind == "f":
        x = x.astype(np.float32, copy=False)
    names, sizes = np.unique(y, return_counts=True)
    return x, np.argsort(y, kind="stable").astype(np.int32), names, sizes


def _scaled(meta_batches):
    """Scales uint8 images to 0 … 1."""

    def scale(x):
        return tf.cast(x, tf.float32) / 255 if x.dtype == tf.uint8 else x

    return meta_batches.map(lambda x, y: ((scale(x[0]), x[1], scale(x[2])), y))


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


def _chooser(starts, sizes, turns, drawn):
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
    starts, sizes = np.int32(starts), np.int32(sizes)
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


def _rows(array):
    """Returns the function from indices `[B, M]` to rows `[B, M, …]`.

    It reads NumPy's memory: of mini-ImageNet's 0.8 GB, mapped from a file,
    `tf.constant` would make two copies.
    """
    rows = array.reshape(len(array), -1)

    def gather(chosen):
        x = tf.numpy_function(rows.__getitem__, [chosen], array.dtype, False)
        return tf.ensure_shape(x, [*chosen.shape, rows.shape[1]])

    return gather


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
