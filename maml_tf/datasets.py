"""Omniglot as one array of binary drawings, packed once and kept in a cache.

Whatever the source, a drawing becomes what `resize_images.py` of cbfinn/maml
makes of it: 28 x 28 pixels by nearest neighbour (Pillow resizes 1-bit images
in no other way, though the script asks for Lanczos), inverted, so that ink is
1 and paper 0.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import random
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

_ADDRESS = "https://github.com/brendenlake/omniglot"
_ARCHIVES = ("images_background", "images_evaluation")
_PREPARED = "omniglot_resized"
_SIDE = 28
_RELEASED_SIDE = 105
# Part of every cache's fingerprint: to be raised when packing changes.
_PACKING = 1
_log = logging.getLogger(__name__)


class DataError(ValueError):
    """Data that is missing, incomplete or unreadable, and what to do."""


class ImageClasses(NamedTuple):
    """Images in classes of equal size.

    Attributes:
        images: uint8 `[classes, images per class, height, width, channels]`,
            mapped from the cache's file and read-only.
        names: One per class, `'Alphabet/character01'`, sorted.
        files: Per class the names of its image files, sorted, aligned with
            the second axis of `images`. Drawings from TensorFlow Datasets
            have lost theirs: `'tfds_00.png'`, ... is the order they come in.
    """

    images: np.ndarray
    names: tuple[str, ...]
    files: tuple[tuple[str, ...], ...]


class Split(NamedTuple):
    """Class indices (int64) of meta-training, -validation and -test."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Counts(NamedTuple):
    """How many classes there are, and how many images in each."""

    classes: int
    images: int


OMNIGLOT = Counts(classes=1623, images=20)


class _Drawing(NamedTuple):
    path: tuple[str, str, str]  # alphabet, character, file
    where: str  # the same for the eyes of a user
    read: Callable[[], bytes]


def load_omniglot(
    data_dir: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    expected: Counts = OMNIGLOT,
) -> ImageClasses:
    """Loads Omniglot, from the cache if it was packed from the same files.

    The first of these sources that is there is taken:

    1. `data_dir/omniglot_resized/<alphabet>/<character>/*.png`, 28 x 28, the
       tree that cbfinn/maml prepares;
    2. `data_dir/omniglot/images_background` and `images_evaluation`, the
       released archives (`.zip`) or the folders in them, 105 x 105;
    3. `omniglot` of TensorFlow Datasets, which downloads it if it can.

    Source: Lake et al. 2015; binary images as in Finn et al. 2017.

    Args:
        data_dir: The folder with the data.
        cache_dir: Where the packed array (25 MB) is kept. By default
            `$XDG_CACHE_HOME/maml_tf`, or `~/.cache/maml_tf`.
        expected: What a complete data set holds.

    Returns:
        Images `[1623, 20, 28, 28, 1]` of 0 (paper) and 1 (ink).

    Raises:
        DataError: No source is there, or it is incomplete or unreadable, or
            the cache cannot be written.
    """
    data_dir, cache = Path(data_dir).expanduser(), _cache_folder(cache_dir)
    roots = _find_roots(data_dir)
    fingerprint = _fingerprint(roots, expected)
    if (cached := _read_cache(cache, fingerprint)) is not None:
        return cached
    with _explain_unwritable(cache):
        _replace(cache / "omniglot.probe", lambda file: None)
        (cache / "omniglot.probe").unlink()
    _log.info("Packing Omniglot into %s (once, some seconds) ...", cache)
    drawings = _drawings(roots) if roots else _tfds_drawings(data_dir)
    side = _SIDE if data_dir / _PREPARED in roots else _RELEASED_SIDE
    packed = _pack(_decode_all(drawings, side), expected)
    with _explain_unwritable(cache):
        _write_cache(cache, fingerprint, packed)
    return _read_cache(cache, fingerprint) or packed


def split_omniglot(names: Sequence[str]) -> Split:
    """Splits Omniglot's classes: 1100 for training, 100 for validation, rest.

    Shuffles the sorted list with Python's generator seeded with 1. Source:
    `DataGenerator` of cbfinn/maml, whose list is in the file system's order;
    ours is sorted, hence the same everywhere.

    Args:
        names: The sorted names of the classes, as in `ImageClasses`.

    Returns:
        Indices into `names`, in the shuffled order.
    """
    order = list(range(len(names)))
    random.Random(1).shuffle(order)
    return Split(*np.split(np.array(order, np.int64), [1100, 1200]))


def check_enough(available: Counts, ways: int, images: int) -> None:
    """Checks that tasks can be drawn without repeating a class or an image.

    Args:
        available: Classes of the split, and images in each.
        ways: Different classes in a task, N.
        images: Different images per class in a task, support and query: K + Q.

    Raises:
        DataError: There are fewer.
    """
    if ways > available.classes:
        raise DataError(
            f"--num_classes={ways}: a task needs {ways} different classes, "
            f"but only {available.classes} are available. Lower --num_classes."
        )
    if images > available.images:
        raise DataError(
            f"--update_batch_size: a task needs {images} different images of "
            "each class (support and query together), but only "
            f"{available.images} are available. Lower --update_batch_size."
        )


# ---------------------------------------------------------------- sources


def _find_roots(data_dir: Path) -> list[Path]:
    """The folders or archives to read, none if only TFDS is left."""
    prepared, released = data_dir / _PREPARED, data_dir / "omniglot"
    # cbfinn/maml ships this folder with nothing but a script in it.
    if any(path.is_dir() for path in prepared.glob("*/*")):
        return [prepared]
    found, missing = [], []
    for name in _ARCHIVES:
        choices = [released / f"{name}.zip", released / name]
        present = [path for path in choices if path.exists()]
        found += present[:1]
        missing += choices[:1] if not present else []
    if found and missing:
        raise DataError(
            f"Half of Omniglot is missing: found {found[0]}, but not "
            f"{missing[0]} (or the folder in it). Download it from {_ADDRESS}"
            f" (folder python) into {released}."
        )
    return found


def _drawings(roots: Iterable[Path]) -> Iterator[_Drawing]:
    for root in roots:
        _log.info("Reading %s", root)
        yield from (_folder if root.is_dir() else _archive)(root)


def _folder(root: Path) -> Iterator[_Drawing]:
    for path in _png_files(root):
        yield _Drawing(path.parts[-3:], str(path), path.read_bytes)


def _archive(root: Path) -> Iterator[_Drawing]:
    try:
        archive = zipfile.ZipFile(root)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{root} cannot be read as a zip archive: {error}. Download it "
            f"again from {_ADDRESS} (folder python)."
        ) from error
    with archive:
        for name in archive.namelist():
            path = PurePosixPath(name)
            if path.suffix == ".png" and not _is_junk(path.parts):
                read = functools.partial(archive.read, name)
                yield _Drawing(path.parts[-3:], f"{root}/{name}", read)


def _png_files(root: Path) -> list[Path]:
    paths = root.glob("*/*/*.png")
    return sorted(path for path in paths if not _is_junk(path.parts[-3:]))


def _is_junk(parts: Iterable[str]) -> bool:
    """Whether macOS, not Omniglot, put this file there."""
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def _tfds_drawings(data_dir: Path) -> Iterator[_Drawing]:
    try:
        rows, alphabet_name = _tfds_rows()
    # TFDS fails in as many ways as networks, disks and installations do.
    except Exception as error:
        raise DataError(_nothing_found(data_dir, error)) from error
    seen = collections.Counter()
    for row in rows:
        alphabet = alphabet_name(row["alphabet"])
        character = f"character{row['alphabet_char_id'] + 1:02d}"
        file = f"tfds_{seen[alphabet, character]:02d}.png"
        seen[alphabet, character] += 1
        path = (alphabet, character, file)
        where = "tensorflow_datasets:" + "/".join(path)
        yield _Drawing(path, where, functools.partial(bytes, row["image"]))


def _tfds_rows() -> tuple[Iterable[dict], Callable[[int], str]]:
    """Rows with undecoded images, and the function that names alphabets."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("omniglot")
    if not builder.is_prepared():
        # Without a network TFDS itself retries for more than three minutes.
        request = urllib.request.Request(_ADDRESS, method="HEAD")
        urllib.request.urlopen(request, timeout=5).close()
        builder.download_and_prepare()
    rows = builder.as_dataset(
        split="train+test", decoders={"image": tfds.decode.SkipDecoding()}
    )
    return tfds.as_numpy(rows), builder.info.features["alphabet"].int2str


def _nothing_found(data_dir: Path, error: Exception) -> str:
    archives = " and ".join(f"{name}.zip" for name in _ARCHIVES)
    note = "" if data_dir.is_dir() else " (this folder does not exist)"
    return (
        f"Omniglot was not found. Looked in {data_dir}{note} for\n"
        f"  {data_dir / _PREPARED}/<alphabet>/<character>/*.png\n"
        f"  {data_dir / 'omniglot'}/{archives}, or the folders in them\n"
        f"and tried tensorflow_datasets: {type(error).__name__}: {error}\n"
        f"Download {archives} from {_ADDRESS} (folder python) into "
        f"{data_dir / 'omniglot'}, or name another folder with --data_dir."
    )


# ---------------------------------------------------------------- packing


def _decode(png: bytes, side: int) -> np.ndarray:
    """One drawing, uint8 `[28, 28, 1]`, ink 1 and paper 0."""
    if not png:
        raise ValueError("is empty (0 bytes)")
    with Image.open(io.BytesIO(png)) as image:
        if image.size != (side, side):
            size = "{} x {}".format(*image.size)
            raise ValueError(f"is {size} pixels, expected {side} x {side}")
        bits = image.convert("1", dither=Image.Dither.NONE)
    small = bits.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    return 1 - np.asarray(small, np.uint8)[:, :, None]


def _decode_all(
    drawings: Iterable[_Drawing], side: int
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Images by (alphabet, character) and file; fails if any is unusable."""
    images, unusable = collections.defaultdict(dict), []
    for (alphabet, character, file), where, read in drawings:
        try:
            images[alphabet, character][file] = _decode(read(), side)
        except UnidentifiedImageError:
            unusable.append(f"{where} is not an image")
        # Broken data raises nearly anything; all of it is reported below.
        except Exception as error:
            unusable.append(f"{where} {error}")
    if unusable:
        empty = sum(line.endswith("(0 bytes)") for line in unusable)
        raise DataError(
            f"{len(unusable)} images cannot be used, {empty} of them empty. "
            "Copy or download them again. The first:\n  "
            + "\n  ".join(unusable[:5])
        )
    return images


def _pack(
    images: dict[tuple[str, str], dict[str, np.ndarray]], expected: Counts
) -> ImageClasses:
    """One sorted array of all classes; fails if any is missing."""
    classes = {"/".join(key): images[key] for key in sorted(images)}
    odd = [name for name in classes if len(classes[name]) != expected.images]
    if len(classes) != expected.classes or odd:
        raise DataError(
            f"Omniglot is incomplete: expected {expected.classes} classes of "
            f"{expected.images} images, found {len(classes)} classes, "
            f"{len(odd)} of them with another number of images"
            + "".join(f"; {name}: {len(classes[name])}" for name in odd[:5])
            + f". Copy the data again, or download it from {_ADDRESS}."
        )
    files = tuple(tuple(sorted(group)) for group in classes.values())
    rows = [[classes[n][f] for f in fs] for n, fs in zip(classes, files)]
    return ImageClasses(np.array(rows, np.uint8), tuple(classes), files)


# ---------------------------------------------------------------- cache


def _cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache_dir or Path(home, "maml_tf")).expanduser()


def _fingerprint(roots: Iterable[Path], expected: Counts) -> str:
    """Changes when a source file does, without reading it."""
    lines = [f"omniglot {_PACKING} {expected}"]
    for root in roots:
        for path in [root] if root.is_file() else _png_files(root):
            stat = path.stat()
            lines.append(f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _checksum(array_file: Path, labels: dict) -> str:
    # The whole file: a flipped bit in its header would change the shape.
    digest = hashlib.sha256(np.memmap(array_file, np.uint8, mode="r"))
    digest.update(json.dumps(labels, sort_keys=True).encode())
    return digest.hexdigest()


def _read_cache(folder: Path, fingerprint: str) -> ImageClasses | None:
    array_file, json_file = folder / "omniglot.npy", folder / "omniglot.json"
    if not json_file.exists():
        return None
    try:
        about = json.loads(json_file.read_bytes())
        if about["fingerprint"] != fingerprint:
            _log.info("%s was packed from other data", array_file)
            return None
        if about["sha256"] != _checksum(array_file, about["labels"]):
            raise DataError("its checksum is wrong")
        names, files = about["labels"]["names"], about["labels"]["files"]
        images = np.load(array_file, mmap_mode="r")
        return ImageClasses(images, tuple(names), tuple(map(tuple, files)))
    # Whatever is wrong with a cache, packing it again mends it.
    except Exception as error:
        _log.warning("Rebuilding the damaged cache %s: %s", array_file, error)
        return None


def _write_cache(folder: Path, fingerprint: str, data: ImageClasses) -> None:
    array_file = folder / "omniglot.npy"
    _replace(array_file, lambda file: np.save(file, data.images))
    labels = {"names": data.names, "files": data.files}
    about = {
        "fingerprint": fingerprint,
        "sha256": _checksum(array_file, labels),
        "labels": labels,
    }
    text = json.dumps(about).encode()
    _replace(folder / "omniglot.json", lambda file: file.write(text))


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file that other programs see complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _explain_unwritable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The cache folder {folder} cannot be written: {error}. Name "
            "another one (cache_dir), or set XDG_CACHE_HOME."
        ) from error
