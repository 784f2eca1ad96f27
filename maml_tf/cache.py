"""Arrays that take long to make, made once and kept in checked files.

A file is one line of JSON (fingerprint, shape, labels, checksum) and the bytes
of the array. Being a single file, it cannot be half of one packing and half of
another when processes pack at the same time.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maml_tf import files

Labelled = tuple[np.ndarray, Any]
SUFFIX = ".array"
ABANDONED = 24 * 3600
"""Seconds after which nobody still writes a file."""
_log = logging.getLogger(__name__)


class DataError(ValueError):
    """Data that is missing, incomplete or unreadable, and what to do."""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, which may be a page."""
    return next(iter(str(error).strip().splitlines()), "")


def cached(
    folder: str | os.PathLike[str] | None,
    name: str,
    fingerprint: str,
    make: Callable[[], Labelled],
) -> Labelled:
    """Returns what `make` returns, from the cache where that is possible.

    A file of another fingerprint, or a damaged one (a warning is logged), is
    made again.

    Args:
      folder: where the file is kept; by default `$XDG_CACHE_HOME/maml_tf`, or
        `~/.cache/maml_tf`.
      name: of the file, without its ending.
      fingerprint: names everything that the array depends on.
      make: returns the array and its labels, anything that JSON can hold.

    Returns:
      The array, read-only, mapped from the file, and its labels, in which
      tuples have become lists.

    Raises:
      DataError: if the folder cannot be written; `make` is not called then.
    """
    path = _folder(folder) / f"{name}{SUFFIX}"
    if (found := _read(path, fingerprint)) is not None:
        return found
    with _writing(path.parent):  # Better refused before the work than after.
        tempfile.TemporaryFile(dir=_existing(path.parent)).close()
    _log.info("Making %s (once)", path)
    array, labels = make()
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, fingerprint, np.ascontiguousarray(array), labels)
    files.sweep(path, ABANDONED)
    # Another process may have replaced it by one of another fingerprint.
    return _read(path, fingerprint) or (array, labels)


def _folder(folder: str | os.PathLike[str] | None) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    found = os.path.expanduser(folder or Path(home, "maml_tf"))
    if found.startswith("~"):
        raise DataError(
            f"The cache folder {found}: this home folder is not known. Name "
            "another one, or set XDG_CACHE_HOME."
        )
    return Path(found)


def _existing(folder: Path) -> Path:
    """Returns a folder, or the nearest above it that there is."""
    return next(f for f in (folder, *folder.parents) if os.path.lexists(f))


def _read(path: Path, fingerprint: str) -> Labelled | None:
    try:
        with open(path, "rb") as file:
            about = json.loads(file.readline())
            array = _map(file, about)
        if about.pop("sha256") != _checksum(about, array):
            raise ValueError("wrong checksum")
        made_of, labels = about["fingerprint"], about["labels"]
    except FileNotFoundError:
        return None
    # Whatever is wrong with a cache, making it again mends it.
    except Exception as error:
        _log.warning("Rebuilding the damaged cache %s: %s", path, error)
        return None
    if made_of != fingerprint:
        _log.info("%s was made from other data", path)
        return None
    return array, labels


def _map(file, about: dict) -> np.ndarray:
    shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
    if dtype.hasobject:  # Its bytes would be taken for addresses.
        raise ValueError(f"expected numbers, found {dtype}")
    return np.memmap(file, dtype, "r", file.tell(), shape)


def _write(path: Path, fingerprint: str, array: np.ndarray, labels) -> None:
    about = {
        "fingerprint": fingerprint,
        "dtype": array.dtype.str,
        "shape": array.shape,
        "labels": labels,
    }
    about["sha256"] = _checksum(about, array)
    with files.replacing(path) as file:
        file.write(json.dumps(about).encode() + b"\n")
        file.write(array.data)


def _checksum(about: dict, array: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(array.ravel().data)
    return digest.hexdigest()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The cache folder {folder} cannot be written: {error}. Name "
            "another one, or set XDG_CACHE_HOME."
        ) from error
