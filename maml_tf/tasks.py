"""Few-shot tasks as data sets, of a sampler or of data of one's own.

Elements are `((support_x, support_y, query_x), query_y)` with a leading task
axis; element t depends on (seed, t) alone.
"""

import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from maml_tf.checks import at_least, integers
from maml_tf.class_folders import load_class_folders
from maml_tf.image_classes import check_enough
from maml_tf.packing import Format
from maml_tf.samplers import (
    MetaBatch,
    Sampler,
    chooser,
    rows_of,
    seed_at,
    split_queries,
)


def meta_batches(sampler: Sampler, start: int = 0) -> tf.data.Dataset:
    """Returns the meta-batches start, start + 1, … of a sampler."""
    endless = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
    return untuned(endless.map(sampler).prefetch(tf.data.AUTOTUNE))


def untuned(data: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a data set that tf.data does not tune while it is read.

    There is little to tune, and an iterator that ends can wait for the tuner's
    next turn: as long as it has been in use, up to a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def from_arrays(
    x: ArrayLike | dict[str, ArrayLike],
    y: ArrayLike,
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
      x: examples `[examples, …]`, or a dictionary or tuple of such arrays, as a
        network of several inputs takes. Real numbers become float32, others
        stay as they are.
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
      ValueError: if x and y are not of the same length, or a number is not
        at least one, or the seed no integer.
    """
    at_least(
        1,
        ways=ways,
        shots=shots,
        queries=queries,
        meta_batch_size=meta_batch_size,
    )
    at_least(0, start=start)
    integers(seed=seed)
    x, order, names, sizes = _by_class(x, y)
    check_enough(names, sizes, ways=ways, needed=shots + queries)
    drawn = meta_batch_size, ways, shots + queries
    choose = chooser(sizes.cumsum() - sizes, sizes, 1, drawn)
    readers = tf.nest.map_structure(_reader, x)

    def meta_batch(t):
        example, _, labels = choose(seed_at(seed, t))
        place = tf.gather(order, example)
        chosen = tf.nest.map_structure(lambda read: read(place), readers)
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
      ValueError: if another argument is out of range.
    """
    at_least(1, image_size=image_size)
    if image_channels not in (1, 3):
        raise ValueError(
            f"image_channels: expected 1 or 3, got {image_channels!r}."
        )
    image_format = Format(image_size, image_channels)
    data = load_class_folders(folder, part, image_format, cache_dir).data
    labels = np.repeat(data.names, data.sizes)
    return _scaled(from_arrays(data.images, labels, **options))


def from_tfds(name: str, split: str = "train", **options) -> tf.data.Dataset:
    """Returns meta-batches of a data set of TensorFlow Datasets.

    It is one of (input, label) pairs, inputs of one shape, and is read into
    memory. Images are scaled to 0 … 1.

    Args:
      name: `"mnist"`, or another name that `tfds.load` takes.
      split: such as "train".
      **options: those of `from_arrays`.

    Raises:
      DataError: if there are too few classes, or examples of one.
      ValueError: if inputs differ in shape.
    """
    import tensorflow_datasets as tfds

    whole = tfds.load(name, split=split, as_supervised=True).batch(1024)
    try:
        x, y = map(np.concatenate, zip(*tfds.as_numpy(whole), strict=True))
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"{name}: expected inputs of one shape, found others "
            f"({error.message}). Resize them, and give them to from_arrays."
        ) from error
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
      seed: an integer.
      start: t of the first meta-batch.

    Raises:
      ValueError: if `seed` or `start` is out of range.
    """
    integers(seed=seed)
    at_least(0, start=start)
    seed = tf.constant(seed, tf.int64)
    return meta_batches(lambda t: draw(seed, t), start)


def _by_class(x, y):
    """Returns examples, their order by class, and the classes and sizes."""
    x = _array("x", x) if isinstance(x, list) else x  # not a nest
    x, y = tf.nest.map_structure(_examples, x), _array("y", y)
    if not (parts := tf.nest.flatten(x)):
        raise ValueError("x: expected an array or several, found none.")
    for part in parts:
        if y.shape != (len(part),):
            raise ValueError(
                f"y: expected one label for each of the {len(part)} examples, "
                f"found an array of shape {y.shape}."
            )
    try:
        names, sizes = np.unique(y, return_counts=True)
    except TypeError as error:
        raise ValueError(
            f"y: expected labels of one kind, numbers or text, found {error}."
        ) from error
    if any(name != name for name in names):
        raise ValueError("y: expected a label for each example, found nan.")
    return x, np.argsort(y, kind="stable").astype(np.int32), names, sizes


def _examples(x):
    x = _array("x", x)
    if x.ndim == 0 or x.dtype.kind not in "biuf":
        raise ValueError(
            f"x: expected an array of numbers, an example in each row, found "
            f"{x.dtype} of shape {x.shape}."
        )
    # TensorFlow takes the bytes of another machine's integers for its own.
    kind = np.float32 if x.dtype.kind == "f" else x.dtype.newbyteorder("=")
    return x.astype(kind, copy=False)


def _array(name, values):
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{name}: expected rows of one shape, found others ({error})."
        ) from error


def _reader(x):
    """Returns the function from places `[B, M]` to examples `[B, M, …]`."""
    rows = rows_of(x)
    return lambda place: tf.reshape(rows(place), [*place.shape, *x.shape[1:]])


def _scaled(meta_batches):
    """Scales uint8 images to 0 … 1."""

    def scale(x):
        return tf.cast(x, tf.float32) / 255 if x.dtype == tf.uint8 else x

    return meta_batches.map(lambda x, y: ((scale(x[0]), x[1], scale(x[2])), y))
