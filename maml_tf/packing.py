"""Images found in files, checked, decoded and packed into one array."""

from __future__ import annotations

import collections
import io
import re
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tqdm
from PIL import Image

from maml_tf import archives
from maml_tf.cache import DataError, cached
from maml_tf.image_classes import ImageClasses

Classes = dict[str, dict[str, Hashable]]


class Format(NamedTuple):
    """What images become: `[size, size, channels]`, grey (1) or colour (3).

    `resample` is Pillow's filter for images of another size.
    """

    size: int
    channels: int
    resample: Image.Resampling = Image.Resampling.LANCZOS


class Found(NamedTuple):
    """One part of a data set: what is there, before any image is read.

    Attributes:
      form: what it was recognised as, for people.
      classes: by class and file name, the key under which `read` gives it.
      read: yields the keys and their images, encoded bytes or uint8 arrays, in
        whatever order is fast.
      empty: which files have no content.
    """

    form: str
    classes: Classes
    read: Callable[[], Iterator[tuple[Hashable, bytes | np.ndarray]]]
    empty: tuple[Hashable, ...] = ()


class Packed(NamedTuple):
    """One part of a data set, packed.

    Attributes:
      form: see `Found`.
      resized: how many images had another size.
      data: the images.
    """

    form: str
    resized: int
    data: ImageClasses


def packed(
    cache_dir,
    name: str,
    root: Path,
    settings: tuple,
    image_format: Format,
    find: Callable[[], Found],
) -> Packed:
    """Returns what `find` finds, from the cache if nothing has changed.

    Args:
      cache_dir: see `maml_tf.cache.cached`.
      name: of the cache's file.
      root: the folder or archive of which `find` reads.
      settings: all else that `find` depends on.
      image_format: what images become.
      find: checks what is there, and returns it.

    Raises:
      DataError: if images are empty, unreadable, or listed twice.
    """
    fingerprint = archives.fingerprint([root], (*settings, image_format))

    def make():
        return _pack(find(), image_format, name)

    images, labels = cached(cache_dir, name, fingerprint, make)
    form, resized, names, files = labels
    data = ImageClasses(images, tuple(names), tuple(map(tuple, files)))
    return Packed(form, resized, data)


def first_five(lines) -> str:
    """Returns the first five of some lines, each on a line of its own."""
    return "".join(f"\n  {line}" for line in list(lines)[:5])


def decode(
    content: bytes | np.ndarray, image_format: Format
) -> tuple[np.ndarray, bool]:
    """Returns an image, and whether it had another size.

    Args:
      content: an image file's content, or pixels; transparency becomes white.
      image_format: what it becomes.

    Returns:
      uint8 `[size, size, channels]`, and a bool.

    Raises:
      ValueError: if a channel has more than 8 bits, which would be cut off;
        in a colour PPM that cannot be told.
    """
    with _opened(content) as image:
        # Of colours Pillow cuts them off itself; its raw mode tells.
        raw = str(getattr(image, "tile", ""))
        if image.mode[0] in "IF" or re.search(";16[BLN]", raw):
            raise ValueError(
                "expected 8 bits a channel, found more (Pillow's mode "
                f"{image.mode})"
            )
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        image = image.convert("L" if image_format.channels == 1 else "RGB")
        size = image_format.size, image_format.size
        if resized := image.size != size:
            image = image.resize(size, image_format.resample)
        return np.asarray(image).reshape(*size, -1), resized


def _opened(content):
    if isinstance(content, bytes):
        return Image.open(io.BytesIO(content))
    return Image.fromarray(content)


def _pack(found: Found, image_format: Format, name: str):
    """Returns the array, and its labels as `cached` keeps them."""
    _refuse_empty(found)
    places = _places(found.classes)
    unread = set(places)
    size = image_format.size
    shape = len(places), size, size, image_format.channels
    images, resized, unusable = np.empty(shape, np.uint8), 0, []
    bar = tqdm.tqdm(found.read(), f"Packing {name}", shape[0], disable=None)
    for key, content in bar:
        try:
            images[places[key]], changed = decode(content, image_format)
            resized += changed
        # Broken images raise nearly anything; all of it is reported below.
        except Exception as error:
            unusable.append(f"{key}: {error}")
        unread.discard(key)
    unusable += [f"{key}: expected an image, found none" for key in unread]
    if unusable:
        raise DataError(
            f"{len(unusable)} of {len(places)} images cannot be read. Copy or "
            f"download them again. The first:{first_five(unusable)}"
        )
    names, files = list(found.classes), list(map(list, found.classes.values()))
    return images, (found.form, resized, names, files)


def _refuse_empty(found):
    total = sum(map(len, found.classes.values()))
    if found.empty:
        raise DataError(
            f"{len(found.empty)} of {total} images are empty files, 0 bytes. "
            "Copy or download them again. The first:" + first_five(found.empty)
        )


def _places(classes):
    """Returns the place of each key in the array; keys must differ."""
    keys = [key for files in classes.values() for key in files.values()]
    places = {key: place for place, key in enumerate(keys)}
    if len(places) < len(keys):
        counts = collections.Counter(keys)
        twice = [key for key, count in counts.items() if count > 1]
        raise DataError(
            f"{len(keys) - len(places)} images are listed more than once. The "
            f"first:{first_five(twice)}"
        )
    return places
