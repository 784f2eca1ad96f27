"""Anyone's images: `train|val|test/<class>/<image>`, on disk or archived."""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from maml_tf import archives
from maml_tf.archives import walk
from maml_tf.cache import DataError
from maml_tf.packing import Classes, Format, Found, Packed, packed

FOLDERS = {
    "train": ("train",),
    "validation": ("val", "validation", "valid"),
    "test": ("test",),
}
_PARTS = {name: part for part, names in FOLDERS.items() for name in names}
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jp2", ".png", ".bmp", ".gif", ".webp"),
    *(".avif", ".tif", ".tiff", ".tga", ".ppm", ".pgm"),
)


def load_class_folders(
    data_dir: str | os.PathLike[str],
    part: str,
    image_format: Format,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Packed:
    """Loads one part of a folder of class folders, from the cache if it can.

    Looks for `data_dir/<part>/<class>/<image>`, or images deeper in a class;
    `data_dir` may be an archive. Classes may be of different sizes.

    Args:
      data_dir: a folder, or an archive, see `archives.SUFFIXES`.
      part: "train", "validation" (folder `val`) or "test".
      image_format: what the images become.
      cache_dir: see `maml_tf.cache.cached`.

    Raises:
      DataError: if there are no such images, some are unreadable, or another
        part has the same classes.
      ValueError: if there is no such part.
    """
    if part not in FOLDERS:
        names = ", ".join(FOLDERS)
        raise ValueError(f"part: expected one of {names}, got {part!r}.")
    root = Path(os.path.expanduser(data_dir))

    def find():
        sizes = {member.path: member.size for member in walk(root)}
        if not (classes := in_class_folders(sizes, part)):
            raise DataError(_nothing(root, part))
        _require_apart(root, sizes, part, classes)
        return image_files("class folders", root, classes, sizes)

    shape = f"{image_format.size}x{image_format.channels}"
    place = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:8]
    resample = image_format.resample.name.lower()
    name = f"folder_{part}_{shape}_{resample}_{place}"
    return packed(cache_dir, name, root, (part,), image_format, find)


def in_class_folders(sizes: Mapping[PurePosixPath, int], part: str) -> Classes:
    """Returns the images of a part by class and file, both sorted.

    Args:
      sizes: of all files, by path.
      part: "train", "validation" or "test".
    """
    classes: dict[str, dict] = collections.defaultdict(dict)
    for path in sorted(filter(is_image, sizes)):
        found, name, *inner = _in_a_part(path)
        if found == part:
            files, file = classes[class_name(name)], "/".join(inner)
            _require_copy(files.setdefault(file, path), path, sizes)
            files[file] = path
    return {name: classes[name] for name in sorted(classes)}


def _in_a_part(path):
    """Returns the part that the last such folder names, and what follows."""
    for place in range(len(path.parts) - 3, -1, -1):
        if part := _PARTS.get(path.parts[place].lower()):
            return part, *path.parts[place + 1 :]
    return "", ""


def _require_apart(root, sizes, part, classes):
    """Refuses classes that another part has, too: they test nothing new."""
    for other in (name for name in FOLDERS if name != part):
        both = sorted({*classes} & {*in_class_folders(sizes, other)})
        if both:
            raise DataError(
                f"--data_dir={root}: expected other classes in {part} than in "
                f"{other}, found in both: {', '.join(both[:5])}."
            )


def _require_copy(one, other, sizes):
    """Refuses two images of one name, unless one lies packed beside it."""
    packed = [any(map(archives.is_archive, p.parts)) for p in (one, other)]
    is_copy = packed[0] != packed[1] and sizes[one] == sizes[other]
    if one != other and not is_copy:
        raise DataError(
            f"{one} and {other}: expected one image of a name in a class of a "
            "part, found two. Rename or remove one."
        )


def class_name(folder: str) -> str:
    """Returns a class folder's name, or a class archive's without its end."""
    for suffix in archives.SUFFIXES:
        if folder.lower().endswith(suffix):
            return folder[: -len(suffix)]
    return folder


def is_image(path: PurePosixPath) -> bool:
    """Tells from its name whether a file is an image."""
    return path.suffix.lower() in SUFFIXES


def image_files(
    form: str,
    root: Path,
    classes: Classes,
    sizes: Mapping[PurePosixPath, int],
) -> Found:
    """Returns classes of image files, to be read in one walk.

    Args:
      form: what they were recognised as.
      root: what is walked.
      classes: paths by class and file.
      sizes: of the files, by path.
    """
    wanted: set = {
        path for files in classes.values() for path in files.values()
    }

    def read():
        for member in walk(root):
            if member.path in wanted:
                with archives.reading(root / member.path):
                    content = member.read()
                yield member.path, content

    empty = tuple(path for path in sorted(wanted) if not sizes[path])
    return Found(form, classes, read, empty)


def _nothing(root, part):
    folders = "|".join(FOLDERS[part])
    kinds = ", ".join(SUFFIXES)
    found = "no such image" if root.exists() else "nothing"
    if root.is_file() and not archives.is_archive(root):
        found = f"a file that is none of {', '.join(archives.SUFFIXES)}"
    return (
        f"--data_dir={root}: expected images of {part} classes in "
        f"{root}/{folders}/<class>/ ({kinds}), found {found}."
    )
