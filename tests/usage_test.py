"""The usage lines of cbfinn/maml, trained and tested from end to end.

Their data sets are made up, in the folders where the original looks for them.
"""

import csv
import functools
import shlex
import shutil

import mini_imagenet_files
import numpy as np
import pytest
from command_lines import run
from PIL import Image

from maml_tf import mini_imagenet, omniglot, train

CLASSES, DRAWINGS = 1230, 2
PHOTOS = 20
USAGE = """
--datasource=sinusoid --logdir=logs/sine/ --metatrain_iterations=70000 --norm=None --update_batch_size=10
--datasource=sinusoid --logdir=logs/sine/ --pretrain_iterations=70000 --metatrain_iterations=0 --norm=None --update_batch_size=10 --baseline=oracle
--datasource=sinusoid --logdir=logs/sine/ --pretrain_iterations=70000 --metatrain_iterations=0 --norm=None --update_batch_size=10
--datasource=omniglot --metatrain_iterations=40000 --meta_batch_size=32 --update_batch_size=1 --update_lr=0.4 --num_updates=1 --logdir=logs/omniglot5way/
--datasource=omniglot --metatrain_iterations=40000 --meta_batch_size=16 --update_batch_size=1 --num_classes=20 --update_lr=0.1 --num_updates=5 --logdir=logs/omniglot20way/
--datasource=miniimagenet --metatrain_iterations=60000 --meta_batch_size=4 --update_batch_size=1 --update_lr=0.01 --num_updates=5 --num_classes=5 --logdir=logs/miniimagenet1shot/ --num_filters=32 --max_pool=True
--datasource=miniimagenet --metatrain_iterations=60000 --meta_batch_size=4 --update_batch_size=5 --update_lr=0.01 --num_updates=5 --num_classes=5 --logdir=logs/miniimagenet5shot/ --num_filters=32 --max_pool=True
""".strip().splitlines()  # noqa: E501


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with `data/`, as the originals' checkout has it."""
    folder = tmp_path_factory.mktemp("project")
    drawings = folder / "data" / "omniglot_resized" / "Alphabet"
    rng = np.random.default_rng(0)
    for character in range(CLASSES):
        place = drawings / f"character{character:04}"
        place.mkdir(parents=True)
        for i in range(DRAWINGS):
            bits = rng.integers(0, 2, (28, 28), "uint8")
            Image.fromarray(255 * bits).save(place / f"{i}.png")
    photos = folder / "data" / "miniImagenet"
    mini_imagenet_files.tree(photos, range(1, PHOTOS + 1))
    return folder


@pytest.fixture(autouse=True)
def short(project, monkeypatch):
    # MAML and the pretrained network would share a folder.
    shutil.rmtree(project / "logs", ignore_errors=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("XDG_CACHE_HOME", str(project / "cache"))
    monkeypatch.setattr(train, "TRAINING_TASKS", 100)
    monkeypatch.setattr(train, "EVALUATION_TASKS", 8)
    monkeypatch.setattr(mini_imagenet, "IMAGES", PHOTOS)
    expected = CLASSES, DRAWINGS
    load = functools.partial(omniglot.load_omniglot, expected=expected)
    monkeypatch.setattr(omniglot, "load_omniglot", load)


# Omniglot with more classes, and mini-ImageNet with more images.
LONG = {USAGE[4], USAGE[6]}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=[pytest.mark.slow] * (line in LONG))
        for line in USAGE
    ],
)
def test_usage(line, project, capsys):
    arguments = shlex.split(line)
    phase = "pretrain" if "--pretrain" in line else "metatrain"
    few = "--nolog", f"--{phase}_iterations=2"
    assert run(*arguments, *few) == 0
    test = "--train=False", "--test_set=True", "--test_tasks=8"
    tested = *arguments, *few, *test
    assert run(*tested) == 0
    written = capsys.readouterr().out.split("Written: ")[1].split(",")[0]
    with open(project / written, newline="") as file:
        header, means, *_ = csv.reader(file)
    assert header == [f"update{u}" for u in range(11)]
    assert all(np.isfinite(float(mean)) for mean in means)


@pytest.mark.parametrize("source", ["miniimagenet", "omniglot", "sinusoid"])
def test_check_data_reports_and_does_no_more(source, project, capsys):
    logdir = project / "unused"
    line = f"--datasource={source}", "--max_pool", "--check_data"
    assert run(*line, f"--logdir={logdir}") == 0
    found = {
        "miniimagenet": "train: class folders, 64 classes of 20 images, 1280 "
        "in all, 0 of them resized",
        "omniglot": "omniglot: 1230 classes of 2 images, 2460 in all",
        "sinusoid": "nothing to check",
    }
    assert found[source] in capsys.readouterr().out
    assert not logdir.exists()


def test_check_data_counts_what_is_short_in_every_part(
    project, capsys, monkeypatch
):
    monkeypatch.setattr(mini_imagenet, "IMAGES", 600)
    line = "--datasource=miniimagenet", "--max_pool", "--check_data"
    assert run(*line) == 1
    error = capsys.readouterr().err
    for classes in (64, 16, 20):
        assert f"{classes} classes do not have 600 images" in error


def test_too_few_images_to_train_on_are_refused(project, capsys, tmp_path):
    line = "--datasource=miniimagenet", "--max_pool", "--update_batch_size=6"
    assert run(*line, f"--logdir={tmp_path / 'logs'}") == 1
    message = capsys.readouterr().err
    assert "A task needs 21 different examples of a class" in message
    assert not (tmp_path / "logs").exists()


def write_folder(folder):
    """Classes of one colour each, and of different sizes."""
    rng = np.random.default_rng(1)
    for part in ("train", "val", "test"):
        for i in range(6):
            place = folder / part / f"{part}{i}"
            place.mkdir(parents=True)
            colour = rng.integers(0, 256, 3)
            for j in range(6 + i):
                noise = rng.integers(-20, 20, (20, 24, 3))
                pixels = np.clip(colour + noise, 0, 255).astype("uint8")
                Image.fromarray(pixels).save(place / f"{j}.png")


@pytest.mark.parametrize(
    "channels", [1, pytest.param(3, marks=pytest.mark.slow)]
)
def test_anyones_class_folders(channels, tmp_path, capsys):
    write_folder(tmp_path / "mine")
    line = (
        f"--datasource=folder --data_dir={tmp_path / 'mine'} --image_size=16 "
        f"--image_channels={channels} --num_classes=3 --update_batch_size=2 "
        "--num_queries=4 --meta_batch_size=4 --update_lr=0.1 --num_filters=8 "
        f"--metatrain_iterations=20 --nolog --logdir={tmp_path}"
    ).split()
    assert run(*line) == 0
    test = "--train=False", "--test_set=True", "--test_tasks=8"
    assert run(*line, *test) == 0
    printed = capsys.readouterr().out
    assert "folder, 3-way 2-shot" in printed
    step_10 = printed.split("\n  10  ")[1].split()[0]
    if channels == 3:
        assert float(step_10) > 60  # by colour; chance is 33
