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
    flags: tuple[str, str] = ("num_classes", "update_batch_size"),
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
    if ways > len(classes):
        raise DataError(
            f"A task needs {ways} different classes (--{flags[0]}), but only "
            f"{len(classes)} are available. Lower --{flags[0]}."
        )
    smallest = min(classes, key=lambda c: data.sizes[c])
    if images_needed > data.sizes[smallest]:
        raise DataError(
            f"A task needs {images_needed} different images a class "
            f"(--{flags[1]}), but only {data.sizes[smallest]} are available in "
            f"{data.names[smallest]}. Lower --{flags[1]}."
        )
