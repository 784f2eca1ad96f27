"""Omniglot as one array of binary drawings, packed once and kept in a cache.

Whatever the source, a drawing becomes what `resize_images.py` of cbfinn/maml
makes of it: 28 x 28 pixels by nearest neighbour (Pillow resizes 1-bit images
in no other way, though the script asks for Lanczos), inverted, so that ink is
1 and paper 0.
"""

from __future__ import annotations

import collections
import functools
import io
import logging
import os
import random
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image

from maml_tf import archives
from maml_tf.cache import DataError, cached, first_line
from maml_tf.image_classes import ImageClasses

OMNIGLOT = (1623, 20)  # classes, images in each

_ADDRESS = "https://github.com/brendenlake/omniglot"
_ARCHIVES = ("images_background", "images_evaluation")
_SIDE = 28
_RELEASED_SIDE = 105
_log = logging.getLogger(__name__)
# A drawing is where it lies, ending in alphabet/character/file, and its bytes.
_Drawing = tuple[str, Callable[[], bytes]]


class Split(NamedTuple):
    """Class indices (int64) for meta-training, -validation and -test."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def load_omniglot(
    data_dir: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    expected: tuple[int, int] = OMNIGLOT,
) -> ImageClasses:
    """Loads Omniglot, from the cache if it was packed from the same files.

    Takes the first of these sources that is there:

    1. `data_dir/omniglot_resized/<alphabet>/<character>/*.png`, 28 x 28, the
       tree that cbfinn/maml prepares;
    2. `data_dir/omniglot/images_background` and `images_evaluation`, the
       released archives (`.zip`) or the folders in them, 105 x 105, or all
       their alphabets in `data_dir/omniglot`, as supervised-reptile has them;
    3. `omniglot` of TensorFlow Datasets, which downloads it if it can.

    Source: Lake et al. 2015; binary 28 x 28 images as in Finn et al. 2017.

    Args:
      data_dir: the folder with the data.
      cache_dir: where the packed array (25 MB) is kept; by default
        `$XDG_CACHE_HOME/maml_tf`, or `~/.cache/maml_tf`.
      expected: classes, and images in each, of a complete data set.

    Returns:
      32,460 images of 28 x 28 x 1, 0 is paper and 1 ink, whose classes are
      called `'Alphabet/character01'`. TensorFlow Datasets does not keep the
      files' names: from there they number the images, `'tfds_00.png'`.

    Raises:
      DataError: if no source is there, or it is incomplete or unreadable, or
        the cache cannot be written.
    """
    data_dir = Path(os.path.expanduser(data_dir))
    roots, side = _find_roots(data_dir)
    if not roots:
        _log.info("No Omniglot in %s: TensorFlow Datasets' is taken", data_dir)

    def pack():
        drawings = _drawings(roots) if roots else _tfds_drawings(data_dir)
        return _pack(_decode_all(drawings, side), expected)

    fingerprint = archives.fingerprint(roots, expected)
    images, (names, files) = cached(cache_dir, "omniglot", fingerprint, pack)
    return ImageClasses(images, tuple(names), tuple(map(tuple, files)))


def split_omniglot(names: Sequence[str]) -> Split:
    """Splits Omniglot's classes: 1100 for training, 100 for validation, rest.

    Shuffles the sorted list with Python's generator seeded with 1. Source:
    `DataGenerator` of cbfinn/maml, whose list is in the file system's order;
    ours is sorted, hence the same everywhere.

    Args:
      names: the sorted names of the classes, as in `ImageClasses`.

    Returns:
      Indices into `names`, in the shuffled order.
    """
    order = list(range(len(names)))
    random.Random(1).shuffle(order)
    return Split(*np.split(np.array(order, np.int64), [1100, 1200]))


def split_omniglot_reptile(
    names: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits Omniglot's classes: 1200 for training, the rest for testing.

    Shuffles the sorted list with Python's generator. Source: `omniglot.py` of
    supervised-reptile, draw for draw.

    Args:
      names: the sorted names of the classes, as in `ImageClasses`.
      seed: of the run.

    Returns:
      Indices into `names`, in the shuffled order.
    """
    order = list(range(len(names)))
    random.Random(seed).shuffle(order)
    return tuple(np.split(np.array(order, np.int64), [1200]))


def _find_roots(data_dir: Path) -> tuple[list[Path], int]:
    """Folders or archives to read (none: TFDS), and their images' side."""
    prepared, released = data_dir / "omniglot_resized", data_dir / "omniglot"
    # cbfinn/maml ships this folder with nothing but a script in it.
    if any(path.is_dir() for path in prepared.glob("*/*")):
        return [prepared], _SIDE
    found = []
    for name in _ARCHIVES:
        choices = (released / f"{name}.zip", released / name)
        found.append(next((path for path in choices if path.exists()), None))
    if not any(found):
        # supervised-reptile puts the alphabets of both side by side.
        unpacked = any(released.glob("*/*/*.png"))
        return [released] * unpacked, _RELEASED_SIDE
    if None in found:
        raise DataError(
            f"Half of Omniglot is missing in {released}: expected "
            f"{' and '.join(_ARCHIVES)} (.zip or unpacked), but there is no "
            f"{_ARCHIVES[found.index(None)]}. Download it from {_ADDRESS}."
        )
    return found, _RELEASED_SIDE


def _drawings(roots: Iterable[Path]) -> Iterator[_Drawing]:
    for root in roots:
        _log.info("Reading %s", root)
        for member in archives.walk(root):
            if member.path.suffix == ".png" and len(member.path.parts) > 2:
                yield f"{root}/{member.path}", member.read


def _tfds_drawings(data_dir: Path) -> Iterator[_Drawing]:
    try:
        rows, alphabet_name = _tfds_rows()
    # TFDS fails in as many ways as networks, disks and installations do.
    except Exception as error:
        both = " and ".join(f"{name}.zip" for name in _ARCHIVES)
        raise DataError(
            f"Omniglot was not found. Looked for\n"
            f"  {data_dir}/omniglot_resized/<alphabet>/<character>/*.png\n"
            f"  {data_dir}/omniglot/{both} (or unpacked)\n"
            f"  tensorflow_datasets: {type(error).__name__}: "
            f"{first_line(error)}\n"
            f"{data_dir} {'exists' if data_dir.is_dir() else 'does not exist'}."
            f" Download {both} from {_ADDRESS} (folder python) into "
            f"{data_dir}/omniglot, or name another data folder."
        ) from error
    seen = collections.Counter()
    for row in rows:
        character = f"character{row['alphabet_char_id'] + 1:02d}"
        name = f"{alphabet_name(row['alphabet'])}/{character}"
        where = f"tensorflow_datasets/{name}/tfds_{seen[name]:02d}.png"
        seen[name] += 1
        yield where, functools.partial(bytes, row["image"])


def _tfds_rows() -> tuple[Iterable[dict], Callable[[int], str]]:
    """Rows with images still encoded, and the alphabets' names by number."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("omniglot")
    if not builder.is_prepared():
        # Without a network, TFDS itself keeps trying for over three minutes.
        request = urllib.request.Request(_ADDRESS, method="HEAD")
        urllib.request.urlopen(request, timeout=5).close()
        builder.download_and_prepare()
    encoded = {"image": tfds.decode.SkipDecoding()}
    rows = builder.as_dataset(split="train+test", decoders=encoded)
    return tfds.as_numpy(rows), builder.info.features["alphabet"].int2str


def _decode(png: bytes, side: int) -> np.ndarray:
    """One drawing, uint8 `[28, 28, 1]`, ink 1 and paper 0."""
    if not png:
        raise ValueError("empty, 0 bytes")
    with Image.open(io.BytesIO(png)) as image:
        if image.size != (side, side):
            size = "{} x {}".format(*image.size)
            raise ValueError(f"{size} pixels, expected {side} x {side}")
        bits = image.convert("1", dither=Image.Dither.NONE)
    small = bits.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    return 1 - np.asarray(small, np.uint8)[:, :, None]


def _decode_all(
    drawings: Iterable[_Drawing], side: int
) -> dict[str, dict[str, np.ndarray]]:
    """Images by class and file; fails if one is unusable."""
    images, unusable = collections.defaultdict(dict), []
    for where, read in drawings:
        *_, alphabet, character, file = PurePath(where).parts
        try:
            images[f"{alphabet}/{character}"][file] = _decode(read(), side)
        # Broken data raises nearly anything; all of it is reported below.
        except Exception as error:
            unusable.append(f"\n  {where}: {error}")
    if unusable:
        empty = sum(line.endswith(" 0 bytes") for line in unusable)
        raise DataError(
            f"{len(unusable)} images cannot be used, {empty} of them empty. "
            f"Copy or download them again. The first:{''.join(unusable[:5])}"
        )
    return images


def _pack(
    images: dict[str, dict[str, np.ndarray]], expected: tuple[int, int]
) -> tuple[np.ndarray, tuple[list[str], list[list[str]]]]:
    """Images, and names and files; fails if a class is missing or uneven."""
    images = {
        name: dict(sorted(images[name].items())) for name in sorted(images)
    }
    sizes = {name: len(group) for name, group in images.items()}
    odd = {name: n for name, n in sizes.items() if n != expected[1]}
    if len(images) != expected[0] or odd:
        first = "".join(f"\n  {name}: {odd[name]}" for name in list(odd)[:5])
        raise DataError(
            f"Expected {expected[0]} classes of {expected[1]} images, found "
            f"{len(images)} classes, {len(odd)} of them of another size. Copy "
            f"the data again, or download it from {_ADDRESS}.{first}"
        )
    rows = [image for group in images.values() for image in group.values()]
    return np.array(rows), (list(images), list(map(list, images.values())))
