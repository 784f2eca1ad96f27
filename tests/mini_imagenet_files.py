"""Writes small data sets with mini-ImageNet's classes, in every form."""

import csv
import functools
import io
import pathlib
import pickle
import tarfile
import zipfile

import numpy as np
from PIL import Image

from maml_tf import mini_imagenet
from maml_tf.image_classes import PARTS

IMAGES = 3  # in each class
FOLDERS = dict(zip(PARTS, ("train", "val", "test"), strict=True))
LISTED = (2, 4, 5)  # which of a class's raw images the CSVs name, from 1
RAW = (6, 11, 120, 1004, 1300)  # the raw images' numbers, in order


@functools.cache
def photo(name, rank, side=84):
    """A JPEG that depends on class and rank."""
    rng = np.random.default_rng([int(name[1:]), rank])
    coarse = rng.integers(0, 256, (6, 6, 3), "uint8")
    image = Image.fromarray(coarse).resize((side, side))
    file = io.BytesIO()
    image.save(file, "jpeg")
    return file.getvalue()


def pixels(name, rank, side=84, resample=Image.Resampling.LANCZOS):
    with Image.open(io.BytesIO(photo(name, rank, side))) as image:
        return np.asarray(image.resize((84, 84), resample))


def expected(part, **options):
    """The array of a part: class by class, rank by rank."""
    names = mini_imagenet.class_list(part)
    return np.stack([pixels(n, r, **options) for n in names for r in LISTED])


def listed_name(name, rank):
    return f"{name}{rank:08}.jpg"


def write(folder, files):
    for path, content in files.items():
        path = folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def each_image(ranks=LISTED):
    for part in PARTS:
        for name in mini_imagenet.class_list(part):
            for rank in ranks:
                yield part, name, rank


def tables():
    for part in PARTS:
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow(["filename", "label"])
        for p, name, rank in each_image():
            if p == part:
                writer.writerow([listed_name(name, rank), name])
        yield f"{FOLDERS[part]}.csv", file.getvalue().encode()


def tree(folder, ranks=LISTED):
    """The original's `train|val|test/<wnid>/*.jpg`."""
    write(
        folder,
        {
            f"{FOLDERS[part]}/{name}/{listed_name(name, rank)}": photo(
                name, rank
            )
            for part, name, rank in each_image(ranks)
        },
    )


def flat(folder):
    """`images/*.jpg` and three CSVs."""
    write(folder, dict(tables()))
    write(
        folder / "images",
        {listed_name(n, r): photo(n, r) for _, n, r in each_image()},
    )


def class_images(folder):
    """`images/<wnid>/*.jpg` and three CSVs."""
    write(folder, dict(tables()))
    write(
        folder / "images",
        {f"{n}/{listed_name(n, r)}": photo(n, r) for _, n, r in each_image()},
    )


def raw_folders(folder, side=84):
    """ILSVRC2012's `<wnid>/<wnid>_<number>.JPEG`, more than the CSVs name."""
    write(folder, dict(tables()))
    write(folder / "train", dict(raw_images(side)))


def raw_images(side=84):
    for part in PARTS:
        for name in mini_imagenet.class_list(part):
            for rank, number in enumerate(RAW, 1):
                path = f"{name}/{name}_{number}.JPEG"
                yield path, photo(name, rank, side)


def raw_tars(folder):
    """ILSVRC2012's class archives `<wnid>.tar`, and the CSVs."""
    write(folder, dict(tables()))
    for path, content in raw_images():
        name, file = path.split("/")
        with tarfile.open(folder / f"{name}.tar", "a") as archive:
            add(archive, file, content)


def add(archive, path, content):
    info = tarfile.TarInfo(path)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def cache_pickles(folder, protocol=2):
    """`mini-imagenet-cache-*.pkl`."""
    for part, folder_name in FOLDERS.items():
        names = mini_imagenet.class_list(part)
        rows = np.arange(len(names) * IMAGES).reshape(-1, IMAGES)
        content = {
            "image_data": expected(part),
            "class_dict": dict(zip(names, rows.tolist(), strict=True)),
        }
        path = f"mini-imagenet-cache-{folder_name}.pkl"
        write(folder, {path: pickle.dumps(content, protocol)})


def split_pickles(folder):
    """`miniImageNet_category_split_*.pickle`, of a shuffled array."""
    for part, phase in zip(
        PARTS, ("train_phase_train", "val", "test"), strict=True
    ):
        names = mini_imagenet.class_list(part)
        labels = np.repeat(np.arange(len(names)), IMAGES)
        # Classes are mixed, but the images of one keep their order.
        ranks = np.tile(np.arange(IMAGES), len(names))
        order = np.argsort(ranks, kind="stable")
        content = {
            "data": expected(part)[order],
            "labels": labels[order].tolist(),
            "catname2label": {name: i for i, name in enumerate(names)},
            "label2catname": dict(enumerate(names)),
        }
        path = f"miniImageNet_category_split_{phase}.pickle"
        write(folder, {path: pickle.dumps(content, 2)})


FORMS = (
    tree,
    flat,
    class_images,
    raw_folders,
    raw_tars,
    cache_pickles,
    split_pickles,
)


def archive(folder, suffix):
    """Puts a folder into an archive beside it, and returns the archive."""
    path = folder.with_name(folder.name + suffix)
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    inside = [pathlib.PurePath("top", p.relative_to(folder)) for p in files]
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as whole:
            for file, name in zip(files, inside, strict=True):
                whole.write(file, name)
    else:
        mode = "w:gz" if suffix.endswith("gz") else "w"
        with tarfile.open(path, mode) as whole:
            for file, name in zip(files, inside, strict=True):
                whole.add(file, name)
    return path
