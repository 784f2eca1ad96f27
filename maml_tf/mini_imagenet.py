"""mini-ImageNet, in every form in which people have it.

64, 16 and 20 classes of 600 images, 84 x 84. Source: Vinyals et al. 2016;
classes of Ravi and Larochelle 2017, whose lists are in `data/splits`.
"""

from __future__ import annotations

import collections
import csv
import importlib.resources
import io
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from maml_tf import archives, pickles
from maml_tf.archives import walk
from maml_tf.cache import DataError, first_line
from maml_tf.class_folders import (
    class_name,
    image_files,
    in_class_folders,
    is_image,
)
from maml_tf.packing import Classes, Format, Found, Packed, first_five, packed

IMAGES = 600  # in each class
SIZE = 84
FOLDERS = ("miniImagenet", "miniimagenet", "mini-imagenet", "mini_imagenet")
_CSV = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
_PICKLES = {
    "train": (
        "mini-imagenet-cache-train.pkl",
        "miniImageNet_category_split_train_phase_train.pickle",
    ),
    "validation": (
        "mini-imagenet-cache-val.pkl",
        "miniImageNet_category_split_val.pickle",
    ),
    "test": (
        "mini-imagenet-cache-test.pkl",
        "miniImageNet_category_split_test.pickle",
    ),
}
_log = logging.getLogger(__name__)
_OF_TFDS = "a prepared data set of TensorFlow Datasets"
_FORMS = """\
  train|val|test/<class>/<image>
  train.csv, val.csv, test.csv (filename,label) and their images, prepared or
    raw: images/<filename>, <label>/<filename>, <label>/<label>_<n>.JPEG or
    <label>.tar
  mini-imagenet-cache-train|val|test.pkl
  miniImageNet_category_split_train_phase_train|val|test.pickle
  any of these in a .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz or .zip
  mini_imagenet, prepared by TensorFlow Datasets"""


def load_mini_imagenet(
    data_dir: str | os.PathLike[str],
    part: str,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Packed:
    """Loads one part of mini-ImageNet, from the cache if it was packed before.

    Takes whatever form lies in `data_dir/miniImagenet` (also `miniimagenet`,
    `mini-imagenet`, `mini_imagenet`, or an archive of that name), or in
    `data_dir` itself.

    Images of another size are resized to 84 x 84 by `proc_images.py` of
    cbfinn/maml with Lanczos' filter, by supervised-reptile to the nearest
    pixel.

    Args:
      data_dir: a folder or an archive.
      part: "train", "validation" or "test".
      cache_dir: see `maml_tf.cache.cached`; the training part takes 0.8 GB.
      resample: the filter.

    Raises:
      DataError: if no form is there, or classes or images are missing, empty,
        unreadable or unsafe to read.
    """
    root = find_root(Path(os.path.expanduser(data_dir)))

    def find():
        found = find_form(root, part)
        _check_complete(found, root, part, IMAGES)
        return found

    image_format = Format(SIZE, 3, resample)
    name = f"mini_imagenet_{part}_{resample.name.lower()}"
    settings = part, IMAGES
    result = packed(cache_dir, name, root, settings, image_format, find)
    if result.form == _OF_TFDS:
        _log.info("No mini-ImageNet in %s: %s is taken", root, _OF_TFDS)
    return result


def class_list(part: str) -> list[str]:
    """Returns the WordNet ids of a part's classes, sorted."""
    folder = importlib.resources.files("maml_tf") / "splits"
    return (folder / f"mini_imagenet_{part}.txt").read_text().split()


def find_root(data_dir: Path) -> Path:
    """Returns the folder or archive in a data folder that is the data set's."""
    for name in FOLDERS:
        for suffix in ("", *archives.SUFFIXES):
            path = data_dir / f"{name}{suffix}"
            # cbfinn/maml ships this folder with CSVs and a script in it.
            if path.is_file() or any(map(_is_data, path.glob("*"))):
                return path
    return data_dir


def find_form(root: Path, part: str) -> Found:
    """Returns a part of the data set in the first form that has images.

    Class folders that are whole go before a CSV file whose images are not.

    Args:
      root: a folder or an archive.
      part: "train", "validation" or "test".

    Raises:
      DataError: if there is no form, or one cannot be read.
    """
    sizes, table, pickled = {}, None, None
    for member in walk(root):
        sizes[member.path] = member.size
        if member.path.name == _CSV[part]:
            table = _read_table(member, root / member.path)
        if member.path.name in _PICKLES[part]:
            pickled = member.path
    listed = _listed(table, sizes) if table else {}
    folders = {} if _is_whole(listed, part) else in_class_folders(sizes, part)
    if folders and (not listed or _is_whole(folders, part)):
        return image_files("class folders", root, folders, sizes)
    if listed:
        return image_files("a CSV file and images", root, listed, sizes)
    if pickled:
        return _unpickle(root, pickled)
    return _from_tfds(root, part)


def _is_whole(classes, part):
    counts = {name: len(files) for name, files in classes.items()}
    return counts == dict.fromkeys(class_list(part), IMAGES)


def _is_data(path):
    return path.suffix not in (".csv", ".py", ".md") and path.name[0] != "."


def _check_complete(found, root, part, expected):
    """Refuses classes or images that are missing, and names them."""
    lists = set(class_list(part)), set(found.classes)
    complaints = [
        f"{len(names)} {kind} classes: {' '.join(sorted(names)[:5])}"
        for kind, names in (
            ("missing", lists[0] - lists[1]),
            ("unexpected", lists[1] - lists[0]),
        )
        if names
    ]
    counts = {name: len(files) for name, files in found.classes.items()}
    odd = [f"{name}: {n}" for name, n in counts.items() if n != expected]
    if odd:
        complaints.append(
            f"{len(odd)} classes do not have {expected} images: "
            + ", ".join(odd[:5])
        )
    if found.empty:
        complaints.append(f"{len(found.empty)} empty files")
    if complaints:
        raise DataError(
            f"{root}: expected the {part} part of mini-ImageNet, "
            f"{len(lists[0])} classes of {expected} images, found "
            f"{found.form} with {sum(counts.values())} images in {len(counts)} "
            "classes. Copy or download it again." + first_five(complaints)
        )


def _read_table(member, where) -> list[tuple[str, str]]:
    """Returns the rows of a CSV file, (label, filename)."""
    with archives.reading(where):
        content = member.read()
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
        rows, columns = list(reader), reader.fieldnames or ["nothing"]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{where}: expected a CSV file in UTF-8, found {error}."
        ) from error
    if not {"filename", "label"} <= set(columns):
        raise DataError(
            f"{where}: expected the columns filename and label, found "
            f"{', '.join(columns)}."
        )
    pairs = [(row["label"], row["filename"]) for row in rows]
    if any(None in pair for pair in pairs):
        raise DataError(
            f"{where}: expected a filename and a label in every row, found a "
            "row without."
        )
    return pairs


def _listed(table, sizes: Mapping[PurePosixPath, int]) -> Classes:
    """Returns a table's images, by name, or by rank in the raw class."""
    images = sorted(filter(is_image, sizes))
    by_name = {path.name: path for path in images}
    for path in images:
        by_name[f"{class_name(path.parent.name)}/{path.name}"] = path
    by_name |= _ranked(images)
    classes = {}
    for label, filename in sorted(table):
        name = PurePosixPath(filename).name
        path = by_name.get(f"{label}/{name}") or by_name.get(name)
        if path:
            classes.setdefault(label, {})[name] = path
    return classes


def _ranked(images):
    """Returns raw images under the names that the CSV files give them.

    `n0153282900000005.jpg` is the fifth of `n01532829_<number>.JPEG` in the
    order of their numbers, if none is missing.
    """
    numbered = collections.defaultdict(dict)
    for path in images:
        if raw := re.fullmatch(r"(n\d{8})_(\d+)", path.stem):
            numbered[raw[1]][int(raw[2])] = path
    return {
        f"{name}{rank:08}.jpg": path
        for name, paths in numbered.items()
        for rank, (_, path) in enumerate(sorted(paths.items()), 1)
    }


def _unpickle(root, path) -> Found:
    """Returns a part that is one pickle of an array and its labels."""
    for member in walk(root):
        if member.path == path:
            with member.open() as file:
                images, rows = _read_pickle(file, root / path)
    classes = {
        name: {f"{row:05}": row for row in rows[name]} for name in sorted(rows)
    }
    return Found(
        "a pickle",
        classes,
        lambda: ((i, images[i]) for row in rows.values() for i in row),
    )


def _read_pickle(file, where):
    try:
        images, rows = _labelled(_with_text(pickles.load(file)))
        rows = {str(name): sorted(map(int, rows[name])) for name in rows}
        if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE, 3):
            raise ValueError(
                f"expected uint8 images of shape (n, {SIZE}, {SIZE}, 3), found "
                f"{images.dtype} of shape {images.shape}"
            )
        for row in sum(rows.values(), []):
            if not 0 <= row < len(images):
                raise ValueError(
                    f"expected rows 0 … {len(images) - 1}, found {row}"
                )
        return images, rows
    # Damaged pickles raise nearly anything.
    except Exception as error:
        raise DataError(f"{where} cannot be read: {error}.") from error


def _with_text(value):
    """Returns dictionaries of Python 2 with text in the place of bytes."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {_with_text(k): _with_text(v) for k, v in value.items()}
    return value


def _labelled(content) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Returns a pickle's images, and the rows of each class."""
    match content:
        case {"image_data": images, "class_dict": rows}:
            return images, rows
        case {"data": images, "labels": labels, "catname2label": numbers}:
            names = {number: name for name, number in numbers.items()}
            rows = collections.defaultdict(list)
            for row, label in enumerate(labels):
                rows[names[label]].append(row)
            return images, rows
    found = list(content) if isinstance(content, dict) else type(content)
    raise ValueError(
        "expected image_data and class_dict, or data, labels and "
        f"catname2label, found {found}"
    )


def _from_tfds(root, part) -> Found:
    try:
        rows = _tfds_rows(part)
    # TFDS fails in as many ways as disks and installations do.
    except Exception as error:
        there = "has none of"
        if not root.exists():
            there = "does not exist; expected one of"
        raise DataError(
            f"mini-ImageNet's {part} part was not found: {root} {there}\n"
            f"{_FORMS} ({type(error).__name__}: {first_line(error)})\n"
            "Name the folder with --data_dir. The images are a part of "
            "ILSVRC2012, from image-net.org; the CSV files are in "
            "https://github.com/twitter-research/meta-learning-lstm."
        ) from error
    classes = {}
    for i, (label, file, _) in enumerate(rows):
        classes.setdefault(label, {})[file] = i
    images = [image for *_, image in rows]
    return Found(_OF_TFDS, classes, lambda: enumerate(images))


def _tfds_rows(part) -> list[tuple[str, str, bytes]]:
    """Returns class, file name and encoded image of each row, sorted."""
    import tensorflow_datasets as tfds

    folder = os.environ.get("TFDS_DATA_DIR")
    builder = tfds.builder("mini_imagenet", data_dir=folder)
    encoded = {"image": tfds.decode.SkipDecoding()}
    label = builder.info.features["label"].int2str
    return sorted(
        (label(row["label"]), row["file_name"].decode(), row["image"])
        for row in tfds.as_numpy(builder.as_dataset(part, decoders=encoded))
    )
