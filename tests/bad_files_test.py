"""Wrong files of data and weights: named in one message, nothing written."""

import builtins
import csv
import hashlib
import io
import json
import os
import pickle
import re

import mini_imagenet_files as forms
import numpy as np
import pytest
import tensorflow as tf
from contents import Runs, npz
from refused_lines import check_refused
from snapshots import check_error

from maml_tf import (
    cache,
    checkpoints,
    class_folders,
    legacy,
    losses,
    mini_imagenet,
    models,
    omniglot,
    packing,
)
from maml_tf.maml import MAML

NAMES = mini_imagenet.class_list("validation")
FIRST, SECOND, *_ = NAMES


# mini-ImageNet's tables


def table(rows, header=("filename", "label")):
    file = io.StringIO()
    csv.writer(file).writerows([header, *rows] if header else rows)
    return file.getvalue().encode()


def rows_of(names=NAMES, ranks=forms.LISTED):
    return [(forms.listed_name(n, r), n) for n in names for r in ranks]


ROWS = rows_of()
FILE = ROWS[0][0]
OTHER = [(f"../outside/{ROWS[0][0]}", FIRST), *ROWS[1:]]
TABLES = {
    "empty": (b"", ["val.csv", "filename and label, found nothing"]),
    "no header": (
        table(ROWS, None),
        ["val.csv", "filename and label", f"found {FILE}, {FIRST}"],
    ),
    "only a header": (table([]), ["validation", "not found"]),
    "another header": (
        table(ROWS, ["image", "class"]),
        [
            "val.csv: expected the columns filename and label",
            "found image, class",
        ],
    ),
    "a header in capitals": (
        table(ROWS, ["Filename", "Label"]),
        ["val.csv", "found Filename, Label"],
    ),
    "semicolons": (
        table(ROWS).replace(b",", b";"),
        ["val.csv", "found filename;label"],
    ),
    "a column": (
        table([r[:1] for r in ROWS], ["filename"]),
        ["found filename"],
    ),
    "a row without a label": (
        table([*ROWS, ("x.jpg",)]),
        ["val.csv", "a filename and a label in every row"],
    ),
    "UTF-16": (
        table(ROWS).decode().encode("utf-16"),
        ["val.csv", "a CSV file in UTF-8", "decode"],
    ),
    "binary": (bytes(range(256)), ["val.csv", "a CSV file in UTF-8"]),
    "a line without end": (
        b"filename,label\n" + b"x" * 200_000,
        ["val.csv", "field larger than field limit"],
    ),
    "a file in two classes": (
        table([*ROWS, (FILE, SECOND)]),
        [f"1 classes do not have 3 images: {SECOND}: 4"],
    ),
    "a file in two classes, another in none": (
        table([*(r for r in ROWS if r != ROWS[3]), (FILE, SECOND)]),
        ["1 images are listed more than once", FILE],
    ),
    "the same row twice, another missing": (
        table([*ROWS[1:], ROWS[1]]),
        [f"1 classes do not have 3 images: {FIRST}: 2"],
    ),
    "a path out of the folder": (
        table(OTHER),
        [f"1 classes do not have 3 images: {FIRST}: 2"],
    ),
    "an absolute path": (
        table([("/etc/hostname", FIRST), *ROWS[1:]]),
        [f"1 classes do not have 3 images: {FIRST}: 2"],
    ),
    "a path of nothing": (
        table([("", FIRST), *ROWS[1:]]),
        [f"1 classes do not have 3 images: {FIRST}: 2"],
    ),
    "a class that is missing": (
        table(rows_of(NAMES[1:])),
        [f"1 missing classes: {FIRST}"],
    ),
    "a class of another part": (
        table([*ROWS, ("x1.jpg", "../x")]),
        ["1 unexpected classes: ../x"],
    ),
}


def mini_images(folder, names=NAMES):
    forms.write(
        folder / "images",
        {
            forms.listed_name(n, r): forms.photo(n, r)
            for n in names
            for r in forms.LISTED
        },
    )


def load_mini(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini_imagenet, "IMAGES", forms.IMAGES)
        return mini_imagenet.load_mini_imagenet("data", "validation", "cache")


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_mini_imagenet(name, home):
    content, fragments = TABLES[name]
    folder = home / "data" / "miniImagenet"
    mini_images(folder)
    forms.write(folder, {"val.csv": content, "images/x1.jpg": b"x"})
    # What lies outside is there, and is not read.
    if re.search("path out|absolute|of nothing", name):
        (folder / "images" / FILE).unlink()
        forms.write(home / "data/outside", {FILE: forms.photo(FIRST, 2)})
    check_error(lambda: load_mini(home), fragments, home, cache.DataError)


# mini-ImageNet's pickles


def content_of(**changes):
    images = np.zeros([48, 84, 84, 3], np.uint8)
    rows = np.arange(48).reshape(16, 3).tolist()
    whole = {
        "image_data": images,
        "class_dict": dict(zip(NAMES, rows, strict=True)),
    }
    return {**whole, **changes}


def split_content(**changes):
    whole = {
        "data": np.zeros([48, 84, 84, 3], np.uint8),
        "labels": np.repeat(np.arange(16), 3).tolist(),
        "catname2label": {name: i for i, name in enumerate(NAMES)},
    }
    return {**whole, **changes}


def rows_with(rows):
    return {**content_of()["class_dict"], FIRST: rows}


MADE, PICKLE = "made", "mini-imagenet-cache-val.pkl"
PICKLES = {
    "a function that makes a folder": (Runs(os.mkdir, MADE), "posix.mkdir"),
    "a shell": (Runs(os.system, f"touch {MADE}"), "posix.system"),
    "code": (Runs(eval, f"open('{MADE}', 'w')"), "builtins.eval"),
    "code in the images": (
        content_of(image_data=Runs(exec, f"open('{MADE}', 'w')")),
        "builtins.exec",
    ),
    "code in an array of objects": (
        content_of(image_data=np.array([Runs(os.mkdir, MADE)], object)),
        "posix.mkdir",
    ),
    "code in a name": (
        content_of(class_dict={Runs(os.mkdir, MADE): [0]}),
        "posix.mkdir",
    ),
    "an attribute": (Runs(getattr, "text", "upper"), "builtins.getattr"),
    "a function": (np.load, "it asks for"),
    "a file": (Runs(builtins.open, MADE, "w"), "it asks for"),
    "nothing": (None, "NoneType"),
    "a list": ([content_of()], "<class 'list'>"),
    "a list of numbers": ([1, 2], "found <class 'list'>"),
    "other keys": ({"x": 1}, "found ['x']"),
    "one key": ({"image_data": np.zeros(3)}, "found ['image_data']"),
    "images of floats": (
        content_of(image_data=np.zeros([48, 84, 84, 3])),
        "found float64 of shape (48, 84, 84, 3)",
    ),
    "images in a row": (
        content_of(image_data=np.zeros(3)),
        "found float64 of shape (3,)",
    ),
    "images of another size": (
        content_of(image_data=np.zeros([48, 32, 32, 3], np.uint8)),
        "found uint8 of shape (48, 32, 32, 3)",
    ),
    "a list of images": (content_of(image_data=[[0]]), "cannot be read"),
    "no rows": (content_of(class_dict=None), "cannot be read"),
    "a row that is no number": (
        content_of(class_dict=rows_with(["a", 1, 2])),
        "cannot be read",
    ),
    "rows that are a number": (
        content_of(class_dict=rows_with(7)),
        "cannot be read",
    ),
    "a row beyond the images": (
        content_of(class_dict=rows_with([0, 1, 48])),
        "rows 0 … 47",
    ),
    "a row below the images": (
        content_of(class_dict=rows_with([-1, 1, 2])),
        "rows 0 … 47",
    ),
    "too many labels": (
        split_content(labels=[*split_content()["labels"], 15]),
        "rows 0 … 47",
    ),
    "a label without a name": (
        split_content(labels=[16] * 48),
        "cannot be read",
    ),
    "labels that are a number": (split_content(labels=3), "cannot be read"),
}
"""What cannot be read as images and their classes."""
COUNTS = {
    "a row twice": (content_of(class_dict=rows_with([0, 0, 1])), "3 images"),
    "a row of two classes": (
        content_of(class_dict=rows_with([0, 1, 3])),
        "listed more than once",
    ),
    "a class that is a number": (
        content_of(class_dict={3: [0, 1, 2]}),
        "1 unexpected classes: 3",
    ),
    "too few labels": (split_content(labels=[0] * 3), "15 missing classes"),
}
"""What can, but is not the part of mini-ImageNet."""


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_of_mini_imagenet(name, home):
    value, fragment = PICKLES[name]
    forms.write(home / "data", {PICKLE: pickle.dumps(value)})
    fragments = [f"data/{PICKLE} cannot be read: ", fragment]
    check_error(lambda: load_mini(home), fragments, home, cache.DataError)


@pytest.mark.parametrize("name", COUNTS)
def test_pickles_of_other_classes_or_images(name, home):
    value, fragment = COUNTS[name]
    forms.write(home / "data", {PICKLE: pickle.dumps(value)})
    check_error(lambda: load_mini(home), [fragment], home, cache.DataError)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_pickles_of_which_a_part_is_missing(keep, home, capsys):
    content = pickle.dumps(content_of())[:keep]
    forms.write(home / "data", {PICKLE: content})
    line = "--datasource=miniimagenet --max_pool --num_filters=2"
    fragments = [f"data/{PICKLE} cannot be read"]
    check_refused("maml-tf", line, fragments, capsys, home)


MINI_FOLDERS = {
    "missing": ({}, ["data does not exist; expected one of\n"]),
    "empty": ({"data/x.txt": b""}, ["data has none of\n"]),
    "a table without images": (
        {"data/val.csv": table(ROWS)},
        ["data has none of"],
    ),
    "too few images": (
        {f"data/val/{FIRST}/1.jpg": b"x"},
        ["15 missing classes", f"{FIRST}: 1", "16 classes of 600 images"],
    ),
}


@pytest.mark.parametrize("program", ["maml-tf", "reptile-tf"])
@pytest.mark.parametrize("name", MINI_FOLDERS)
def test_folders_of_mini_imagenet(name, program, home, capsys):
    files, fragments = MINI_FOLDERS[name]
    if program == "reptile-tf":  # Its first part is the training part.
        files = {k.replace("val", "train"): v for k, v in files.items()}
        fragments = [f for f in fragments if FIRST not in f and "15" not in f]
        fragments = [f.replace("16 classes", "64 classes") for f in fragments]
    forms.write(home, files)
    line = "--datasource=miniimagenet"
    line += " --max_pool" * (program == "maml-tf")
    check_refused(program, line, fragments, capsys, home)


# Omniglot

HALVES = ("images_background", "images_evaluation")
DRAWINGS = "data/omniglot_resized/Greek/character01"
OMNIGLOT = {
    "missing": ({}, ["data does not exist", "Omniglot was not found"]),
    "empty": ({"data/x": b""}, ["data exists", "Omniglot was not found"]),
    "a file": ({"data": b""}, ["data does not exist"]),
    "a file in the place of the folder": (
        {"data/omniglot": b"x"},
        ["Omniglot was not found"],
    ),
    **{
        f"only {half}": (
            {f"data/omniglot/{half}.zip": b""},
            ["Half of Omniglot is missing in data/omniglot", other],
        )
        for half, other in zip(HALVES, HALVES[::-1], strict=True)
    },
    "archives that are empty": (
        {f"data/omniglot/{half}.zip": b"" for half in HALVES},
        ["data/omniglot/images_background.zip cannot be read"],
    ),
    "archives that are none": (
        {f"data/omniglot/{half}.zip": b"PK\3" for half in HALVES},
        ["data/omniglot/images_background.zip cannot be read"],
    ),
    "folders that are empty": (
        {f"data/omniglot/{half}/x.txt": b"" for half in HALVES},
        ["1623 classes of 20 images", "found 0 classes"],
    ),
    "an empty drawing": (
        {f"{DRAWINGS}/0.png": b""},
        [f"{DRAWINGS}/0.png: empty, 0 bytes"],
    ),
    "text as a drawing": (
        {f"{DRAWINGS}/0.png": b"x"},
        [f"{DRAWINGS}/0.png: cannot identify"],
    ),
    "a photo as a drawing": (
        {f"{DRAWINGS}/0.png": forms.photo(FIRST, 1)},
        [f"{DRAWINGS}/0.png: 84 x 84 pixels, expected 28 x 28"],
    ),
    "one drawing": (
        {f"{DRAWINGS}/0.png": forms.photo(FIRST, 1, side=28)},
        ["found 1 classes, 1 of them of another size", "character01: 1"],
    ),
}


@pytest.mark.parametrize("program", ["maml-tf", "reptile-tf"])
@pytest.mark.parametrize("name", OMNIGLOT)
def test_omniglot(name, program, home, capsys):
    files, fragments = OMNIGLOT[name]
    forms.write(home, files)
    line = "--datasource=omniglot"
    check_refused(program, line, fragments, capsys, home)


def test_a_drawing_that_is_a_link_to_itself(home):
    forms.write(home, {f"{DRAWINGS}/1.png": b"x"})
    (home / DRAWINGS / "0.png").symlink_to("0.png")
    check_error(
        lambda: omniglot.load_omniglot("data", "cache"),
        [f"{DRAWINGS}/0.png cannot be read", "symbolic links"],
        home,
        cache.DataError,
    )


def test_a_name_that_is_no_utf_8(home):
    path = os.fsdecode(b"data/val/a/\xff.png")
    forms.write(home, {path: b"x"})
    check_error(
        lambda: class_folders.load_class_folders(
            "data", "validation", packing.Format(16, 3), "cache"
        ),
        ["val/a/\udcff.png", "1 of 1 images cannot be read"],
        home,
        cache.DataError,
    )


def test_an_image_that_is_gone_when_it_is_read(home):
    found = packing.Found("files", {"a": {"0.png": "key"}}, lambda: iter(()))
    check_error(
        lambda: packing.packed(
            "cache", "some", home, (), packing.Format(16, 3), lambda: found
        ),
        ["1 of 1 images cannot be read", "key: expected an image, found none"],
        home,
        cache.DataError,
    )


# Caches


def cached(folder="cache"):
    array, labels = np.arange(6, dtype=np.uint8), ["a"]
    return cache.cached(folder, "some", "one", lambda: (array, labels))


def with_checksum(array=b"\0", **about):
    """Returns a cache file that agrees with its checksum."""
    whole = json.dumps(about).encode()
    about["sha256"] = hashlib.sha256(whole + array).hexdigest()
    return json.dumps(about).encode() + b"\n" + array


SHAPE = {"dtype": "|u1", "shape": [1]}
DAMAGED_CACHES = {
    "empty": b"",
    "a newline": b"\n",
    "garbage": b"\x80\xff\0\n\n",
    "text": b"404 not found\n",
    "a list": b"[1, 2]\n123",
    "a number": b"3\n123",
    "other words": b'{"version": 2}\n123',
    "no shape": with_checksum(dtype="|u1"),
    "no fingerprint": with_checksum(**SHAPE, labels=None),
    "no labels": with_checksum(**SHAPE, fingerprint="one"),
    "objects": with_checksum(
        bytes(8), dtype="|O", shape=[1], fingerprint="one", labels=[]
    ),
    "a negative shape": with_checksum(
        dtype="|u1", shape=[-1], fingerprint="one", labels=[]
    ),
    "a huge shape": with_checksum(
        dtype="|u1", shape=[2**62], fingerprint="one", labels=[]
    ),
    "no dtype there is": with_checksum(
        dtype="float7", shape=[1], fingerprint="one", labels=[]
    ),
}


@pytest.mark.parametrize("name", DAMAGED_CACHES)
def test_caches_that_are_damaged_are_made_again(name, home, caplog):
    forms.write(home / "cache", {"some.array": DAMAGED_CACHES[name]})
    array, labels = cached()
    np.testing.assert_array_equal(array, np.arange(6))
    assert labels == ["a"]
    assert "damaged cache cache/some.array" in caplog.text
    caplog.clear()
    assert cached()[1] == ["a"]
    assert not caplog.records


def folder_of_the_name(home):
    (home / "cache" / "some.array").mkdir(parents=True)


def file_of_the_name(home):
    (home / "cache").write_bytes(b"mine")


def link_to_itself(home):
    (home / "cache").symlink_to("cache")


@pytest.mark.parametrize(
    "prepare, folder",
    [
        (folder_of_the_name, "cache"),
        (file_of_the_name, "cache"),
        (file_of_the_name, "cache/deeper/still"),
        (link_to_itself, "cache"),
        (link_to_itself, "cache/deeper"),
        (lambda home: None, "/proc/cache"),
        (lambda home: None, 300 * "x"),
    ],
)
def test_caches_that_cannot_be_written(prepare, folder, home):
    prepare(home)
    check_error(
        lambda: cached(folder),
        [f"The cache folder {folder} cannot be written"],
        home,
        cache.DataError,
    )


# Checkpoints

SINE = "--norm=None --train=False"


def network(outputs=1):
    return models.sinusoid_mlp(outputs)


def learner(network):
    made = MAML(network, losses.mean_squared_error, inner_lr=0.1)
    made.compile("adam", "mse")
    made.optimizer.build(made.trainable_variables)
    return made


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns a checkpoint of the sinusoid's network, 5 iterations old."""
    folder = tmp_path_factory.mktemp("saved")
    arrays = checkpoints.state(learner(network()))
    return checkpoints.save(folder, arrays, "meta", 5, {})


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle")
    arrays = checkpoints.state(learner(network(3)))
    return checkpoints.save(folder, arrays, "meta", 5, {})


RUN = "logs/cls_5.mbs_25.ubs_5.numstep1.updatelr0.001nonorm"


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


CHECKPOINTS = {
    "empty": (lambda c: b"", "a damaged file"),
    "half": (lambda c: c[: len(c) // 2], "a damaged file"),
    "without its end": (lambda c: c[:-1], "a damaged file"),
    "the end alone": (lambda c: c[1000:], "damaged file"),
    "a byte changed": (
        lambda c: c[:1000] + bytes([c[1000] ^ 1]) + c[1001:],
        "model5.npz",
    ),
    "zeros": (lambda c: bytes(1000), "a damaged file"),
    "text": (lambda c: b"404 not found", "a damaged file"),
    "HTML": (lambda c: b"<html></html>", "a damaged file"),
    "an image": (lambda c: forms.photo(FIRST, 1), "a damaged file"),
    "a pickle": (lambda c: pickle.dumps({"a": 1}), "a damaged file"),
    "code": (lambda c: pickle.dumps(Runs(os.mkdir, MADE)), "a damaged file"),
    "code in an array": (
        lambda c: npz({"checksum": np.array([Runs(os.mkdir, MADE)], object)}),
        "a damaged file",
    ),
    "an array": (lambda c: npy(np.zeros(3)), "a damaged file"),
    "no arrays": (lambda c: npz({}), "a damaged file (KeyError"),
    "other arrays": (
        lambda c: npz({"w": np.zeros(3)}),
        "a damaged file (KeyError",
    ),
    "a checksum alone": (
        lambda c: npz({"checksum": ""}),
        "content was changed",
    ),
    "a checksum of numbers": (
        lambda c: npz({"checksum": np.zeros(3)}),
        "content was changed",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(name, saved, home, capsys):
    change, fragment = CHECKPOINTS[name]
    path = f"{RUN}/model5.npz"
    forms.write(home, {path: change(saved.read_bytes())})
    check_refused("maml-tf", SINE, [path, fragment], capsys, home)


def test_a_checkpoint_of_another_architecture(oracle, home, capsys):
    path = f"{RUN}/model5.npz"
    forms.write(home, {path: oracle.read_bytes()})
    fragments = [path, "another architecture", "(1, 40), found (3, 40)"]
    check_refused("maml-tf", SINE, fragments, capsys, home)


@pytest.mark.parametrize(
    "name", ["model7.npz", "model05.npz0", "model.npz", "Model5.npz"]
)
def test_checkpoints_of_another_name(name, saved, home, capsys):
    forms.write(home, {f"{RUN}/{name}": saved.read_bytes()})
    fragments = {
        "model7.npz": [f"{RUN}/model7.npz", "of another iteration"],
    }.get(name, [f"{RUN}: expected a checkpoint, model*.npz, found none"])
    check_refused("maml-tf", SINE, fragments, capsys, home)


@pytest.mark.parametrize(
    "line, fragments",
    [
        ("", [RUN, "found none"]),
        ("--test_iter=4", ["--test_iter=4", "model4.npz", "none"]),
        ("--export_checkpoint=x", [RUN, "found none"]),
        ("--baseline=oracle", ["updatelr0.001oraclenonorm", "found none"]),
        ("--num_updates=5", ["numstep5", "found none"]),
    ],
)
def test_no_checkpoint(line, fragments, home, capsys):
    check_refused("maml-tf", f"{SINE} {line}", fragments, capsys, home)


@pytest.mark.parametrize("what", ["a folder", "a link to itself"])
def test_what_is_in_the_place_of_a_checkpoint(what, home, capsys):
    path = home / RUN / "model5.npz"
    path.parent.mkdir(parents=True)
    if what == "a folder":
        path.mkdir()
    else:
        path.symlink_to("model5.npz")
    fragments = [f"{RUN}/model5.npz", "cannot be read"]
    check_refused("maml-tf", SINE, fragments, capsys, home)


def test_a_checkpoint_that_cannot_be_exported(saved, home, capsys):
    forms.write(home, {f"{RUN}/model5.npz": saved.read_bytes(), "file": b"x"})
    line = f"{SINE} --export_checkpoint=file/model5"
    check_refused("maml-tf", line, ["file"], capsys, home)


def test_where_a_checkpoint_cannot_be_exported_to(saved, home, capsys):
    forms.write(home, {f"{RUN}/model5.npz": saved.read_bytes()})
    line = f"{SINE} --export_checkpoint=/proc/model5"
    words = ["/proc/model5: No such file or directory"]
    check_refused("maml-tf", line, words, capsys, home)


@pytest.mark.parametrize("prefix", ["", "folder/", "model5.index"])
def test_a_prefix_that_is_none_is_refused(prefix, saved, home, capsys):
    forms.write(home, {f"{RUN}/model5.npz": saved.read_bytes()})
    line = f"{SINE} --export_checkpoint={prefix}"
    words = [repr(prefix), "expected the prefix of the files"]
    check_refused("maml-tf", line, words, capsys, home)
    line = f"{SINE} --import_checkpoint="
    words = ["--import_checkpoint: expected the prefix of a checkpoint"]
    if not prefix:
        check_refused("maml-tf", line, words, capsys, home)


@pytest.mark.parametrize(
    "name, content",
    [
        ("seconds.csv", b"garbage\n1\n"),
        ("seconds.csv", b"iteration,seconds\nx,1\n"),
        ("seconds.csv", b"iteration,hours\n5,1\n"),
    ],
)
def test_what_else_a_test_reads_in_a_run(name, content, saved, home, capsys):
    model = {f"{RUN}/model5.npz": saved.read_bytes()}
    forms.write(home, {**model, f"{RUN}/{name}": content})
    check_refused("maml-tf", SINE, [f"{RUN}/{name}: expected"], capsys, home)


# TensorFlow 1 checkpoints

INDEX, DATA = "model5.index", "model5.data-00000-of-00001"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Returns the files of a checkpoint in the original's layout."""
    folder = tmp_path_factory.mktemp("released")
    legacy.save(folder / "model5", learner(network()))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


LEGACY = {
    "no index": ({INDEX: None}, "found no file model5.index"),
    "no data": ({DATA: None}, f"found no file {DATA}"),
    "neither": ({INDEX: None, DATA: None}, "found no file model5.index"),
    "an empty index": ({INDEX: b""}, "damaged files"),
    "empty data": ({DATA: b""}, "damaged files"),
    "a garbled index": ({INDEX: bytes(range(256)) * 4}, "damaged files"),
    "garbled data": ({DATA: bytes(range(256)) * 40}, "damaged files"),
    "text as index": ({INDEX: b"404 not found"}, "damaged files"),
    "data as index": ({INDEX: lambda files: files[DATA]}, "damaged files"),
    "half an index": (
        {INDEX: lambda files: files[INDEX][: len(files[INDEX]) // 2]},
        "damaged files",
    ),
    "half the data": ({DATA: lambda files: files[DATA][:2000]}, "damaged"),
}


@pytest.mark.parametrize("program", ["maml-tf", "reptile-tf"])
@pytest.mark.parametrize("name", LEGACY)
def test_legacy_checkpoints(name, program, released, home, capsys):
    changes, fragment = LEGACY[name]
    for path, content in (released | changes).items():
        if callable(content):
            content = content(released)
        if content is not None:
            forms.write(home, {path: content})
    line = "--import_checkpoint=model5"
    fragments = ["model5: expected a TensorFlow 1 checkpoint", fragment]
    check_refused(program, line, fragments, capsys, home)


def zeros(*shape):
    return np.zeros(shape, np.float32)


OTHERS = {
    "of another program": {"layer/w": zeros(3, 4)},
    "without axes": {"model/conv1": zeros(), "model/b5": zeros()},
    "with an axis": {"model/conv1": zeros(3), "model/b5": zeros(5)},
    "without ways": {"model/conv1": zeros(3, 3, 1, 4), "model/b5": zeros()},
    "of a kernel alone": {"model/Variable": zeros(1, 40)},
    "of five inputs": {"model/Variable": zeros(5, 40)},
    "of Reptile, without axes": {
        "conv2d/kernel": zeros(),
        "dense/bias": zeros(),
    },
    "of Reptile, without ways": {
        "conv2d/kernel": zeros(3, 3, 1, 64),
        "dense/bias": zeros(),
    },
    "of text": {"model/conv1": np.array("a"), "model/b5": np.array(["b"])},
    "of truths": {"model/conv1": np.ones([3, 3, 1, 4], bool)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_legacy_checkpoints_of_other_tensors(name, home, capsys):
    tensors = OTHERS[name]
    tf.raw_ops.SaveV2(
        prefix="other",
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    line = f"{SINE} --import_checkpoint=other"
    check_refused("maml-tf", line, ["other", "expected"], capsys, home)


@pytest.mark.parametrize("prefix", ["folder", "", "folder/", "a/b/c", "~/x"])
def test_legacy_prefixes(prefix, home):
    (home / "folder").mkdir()
    (home / "folder.index").mkdir()
    check_error(
        lambda: legacy.settings(prefix),
        [f"{prefix}: expected a TensorFlow 1 checkpoint"],
        home,
        checkpoints.CheckpointError,
    )
