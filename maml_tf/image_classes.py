"""Images in classes: what every data set of images becomes."""

from __future__ import annotations

from collections.abc import Sequence
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
    names: Sequence,
    sizes: np.ndarray,
    *,
    ways: int,
    needed: int,
    flags: tuple[str, str] = ("ways", "shots or queries"),
) -> None:
    """Checks that a task need not repeat a class or an example of one.

    Args:
      names: of the classes that tasks are made of.
      sizes: of each, how many examples there are.
      ways: different classes in a task, N.
      needed: different examples of a class in a task, K + Q.
      flags: the names of what sets the two.

    Raises:
      DataError: if there are fewer than a task needs.
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
