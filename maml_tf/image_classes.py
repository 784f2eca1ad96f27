"""Images in classes: what every data set of images becomes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maml_tf.cache import DataError

PARTS = ("train", "validation", "test")


class ImageClasses(NamedTuple):
    """Images in classes, class by class.

    Attributes:
      images: uint8 `[images, height, width, channels]`.
      names: one per class, sorted.
      files: per class the names of its image files, sorted, in the order of
        the images.
    """

    images: np.ndarray
    names: tuple[str, ...]
    files: tuple[tuple[str, ...], ...]

    @property
    def sizes(self) -> np.ndarray:
        """How many images each class has, int64 `[classes]`."""
        return np.array([len(files) for files in self.files], np.int64)

    @property
    def starts(self) -> np.ndarray:
        """Where each class begins in `images`, int64 `[classes]`."""
        return np.cumsum(self.sizes) - self.sizes


def check_enough(
    data: ImageClasses,
    classes: np.ndarray,
    *,
    ways: int,
    images_needed: int,
    flags: tuple[str, str] = ("--num_classes", "--update_batch_size"),
) -> None:
    """Checks that a task need not repeat a class or an image.

    Args:
      data: images in classes.
      classes: indices of those that tasks are made of.
      ways: different classes in a task, N.
      images_needed: different images per class in a task, K + Q.
      flags: the names of the flags that set the two.

    Raises:
      DataError: if there are fewer than a task needs.
    """
    names = [data.names[c] for c in classes]
    sizes = data.sizes[classes]
    check_sizes(names, sizes, ways=ways, needed=images_needed, flags=flags)


def check_sizes(
    names,
    sizes,
    *,
    ways: int,
    needed: int,
    flags: tuple[str, str] = ("ways", "shots or queries"),
) -> None:
    """Checks as `check_enough` does, with names and sizes of the classes.

    Raises:
      DataError: if there are fewer classes, or examples of one, than needed.
    """
    if ways > len(sizes):
        raise DataError(
            f"A task needs {ways} different classes ({flags[0]}), but only "
            f"{len(sizes)} are available. Lower {flags[0]}."
        )
    smallest = int(np.argmin(sizes))
    if needed > sizes[smallest]:
        raise DataError(
            f"A task needs {needed} different examples of a class ({flags[1]})"
            f", but only {sizes[smallest]} are available in "
            f"{names[smallest]}. Lower {flags[1]}."
        )
