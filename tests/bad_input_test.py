"""Wrong flags and folders: one message that names them, nothing written."""

import io
import os
import struct
import zlib

import mini_imagenet_files as forms
import pytest
from contents import tarred, zipped
from PIL import Image
from refused_lines import PROGRAMS, check_refused

from maml_tf import main

# Flags. The first word of a line is the one that is wrong.

MAML_FLAGS = """
--datasource=  | one of sinusoid, omniglot, miniimagenet, folder, got ''
--datasource=Omniglot | one of sinusoid, omniglot, miniimagenet, folder, got
--datasource=cifar | one of sinusoid, omniglot, miniimagenet, folder, got
--norm=batchnorm | one of batch_norm, layer_norm, None, got 'batchnorm'
--norm=group_norm | one of batch_norm, layer_norm, None, got 'group_norm'
--norm=none | one of batch_norm, layer_norm, None, got 'none'
--norm_gradient= | one of exact, legacy, got ''
--norm_gradient=right | one of exact, legacy, got 'right'
--engine=fast | one of auto, stacked, looped, got 'fast'
--engine=Stacked | one of auto, stacked, looped, got 'Stacked'
--on_save_error=ignore | one of stop, continue, got 'ignore'
--select=best | one of latest, validation, got 'best'
--select=validation | latest with --datasource=sinusoid, got 'validation'
--test_iter=5 --select=validation --datasource=omniglot | -1 with --select
--baseline=maml | one of None, oracle, got 'maml'
--baseline=random | one of None, oracle, got 'random'
--baseline=oracle --datasource=omniglot | None unless --datasource=sinusoid
--baseline=oracle --datasource=folder | None unless --datasource=sinusoid
--conv=False --datasource=folder | True with --datasource=folder, got False
--conv=False --datasource=miniimagenet --max_pool | True with --datasource
--max_pool=False --datasource=miniimagenet | True with --datasource=min
--num_queries=3 | -1 with --datasource=sinusoid, got 3
--num_queries=0 --datasource=omniglot | an integer of at least 1, got 0
--num_queries=0 --datasource=folder | an integer of at least 1, got 0
--num_queries=-2 --datasource=omniglot | an integer of at least 1, got -2
--image_size=8 --datasource=folder | an integer of at least 16, got 8
--image_size=15 --datasource=folder | an integer of at least 16, got 15
--image_size=28 --datasource=omniglot | 84 unless --datasource=folder, got 28
--image_size=32 | 84 unless --datasource=folder, got 32
--image_channels=1 | 3 unless --datasource=folder, got 1
--image_channels=2 --datasource=folder | one of 1, 3, got 2
--image_channels=4 --datasource=folder | one of 1, 3, got 4
--num_classes=1 | an integer of at least 2, got 1
--num_classes=1 --datasource=omniglot | an integer of at least 2, got 1
--seed=4294967296 | an integer of at most 4294967295, got 4294967296
--seed=-1 | an integer of at least 0, got -1
--seed=-1 --explain | an integer of at least 0, got -1
--update_lr=-1e-3 | a positive number, got -0.001
--train_update_lr=-2 | a positive number, got -2.0
--update_lr=1e999 | a positive number, got inf
--meta_lr=NaN --train=False | a positive number, got nan
--train_update_batch_size=-2 --train=False | an integer of at least 1, got -2
--metatrain_iterations=0 | at least 1 iteration here or in --pretrain
--test_iter=-2 | an integer of at least -1, got -2
--test_iter=-3 --train=False | an integer of at least -1, got -3
--logdir= | the path of a folder, got ''
--logdir=/proc/x | a folder that can be made (No such file or directory), got
--metatrain_iterations=-1 | an integer of at least 0, got -1
--pretrain_iterations=-1 | an integer of at least 0, got -1
--tasks_per_step=0 | an integer of at least 1, got 0
--jit_compile=True | one of auto, true, false, got 'True'
--jit_compile=true --deterministic | auto or false with --deterministic, got
--jit_compile=true --remat | auto or false with --remat, got 'true'
--jit_compile=true --strategy=mirrored --logical_devices=2 | auto or false with
--strategy=tpu | one of none, mirrored, multi_worker, got 'tpu'
--logical_devices=2 | -1 unless --strategy=mirrored, got 2
--logical_devices=0 --strategy=mirrored | an integer of at least 1, got 0
--worker_timeout=0 --strategy=multi_worker | a positive number, got 0.0
--worker_timeout=1e30 | at most 9.22337e+09 seconds, got 1e+30
--dtype_policy=mixed_float16 | one of float32, mixed_bfloat16, got
""".strip().splitlines()
MAML_FLAGS += [
    f"--{size}={value} | an integer of at least {least}, got {value}"
    for least, *sizes in (
        (1, "meta_batch_size", "update_batch_size", "num_updates"),
        (1, "num_filters", "train_update_batch_size"),
        (2, "num_classes"),
    )
    for size in sizes
    for value in (0, -3)
]
MAML_FLAGS += [
    f"--{rate}={value} | a positive number, got {float(value)}"
    for rate in ("meta_lr", "update_lr", "train_update_lr")
    for value in ("nan", "inf", "0", "-0.5")
]
MAML_WORDS = """
--num_classes=2.5 | --num_classes=2.5: invalid literal for int()
--num_classes=five | --num_classes=five: invalid literal for int()
--num_classes= | --num_classes=: invalid literal for int()
--num_classes=1e3 | --num_classes=1e3: invalid literal for int()
--meta_lr=fast | --meta_lr=fast: could not convert string to float
--meta_lr=0,1 | --meta_lr=0,1: could not convert string to float
--train=perhaps | --train=perhaps: ('Non-boolean argument to boolean flag
--num.classes=5 | 'num.classes'
--NUM_CLASSES=5 | 'NUM_CLASSES'
--notrain=1 | notrain
--nodatasource | nodatasource
--classes=5 | 'classes'
--metabatch_size=3 | metabatch_size
--num_classes | num_classes
-7 | '7'
train | expected flags only, got 'train'
stray | expected flags only, got 'stray'
--train True | --train: expected --train=True, got --train True.
--nolog --train False | --train: expected --train=False, got
-resume 0 --train=False | --resume: expected --resume=0, got
--update_lr 0 0 | expected flags only, got '0'
--notrain True | expected flags only, got 'True'
-- --num_classes=5 | expected flags only, got '--num_classes=5'
'' | expected flags only, got ''
""".strip().splitlines()
REPTILE_FLAGS = """
--datasource=cifar | one of sinusoid, omniglot, miniimagenet, folder, got
--classes=0 | an integer of at least 2, got 0
--classes=1 | an integer of at least 2, got 1
--shots=0 | an integer of at least 1, got 0
--shots=-5 | an integer of at least 1, got -5
--train-shots=-1 | an integer of at least 0, got -1
--inner-batch=0 | an integer of at least 1, got 0
--inner-iters=0 | an integer of at least 1, got 0
--eval-batch=-1 | an integer of at least 1, got -1
--eval-iters=0 | an integer of at least 1, got 0
--eval-samples=0 | an integer of at least 1, got 0
--eval-interval=0 | an integer of at least 1, got 0
--meta-batch=0 | an integer of at least 1, got 0
--meta-iters=0 | an integer of at least 1, got 0
--learning-rate=0 | a positive number, got 0.0
--learning-rate=nan | a positive number, got nan
--learning-rate=-1 | a positive number, got -1.0
--meta-step=inf | a positive number, got inf
--meta-step-final=nan | a number of at least 0, got nan
--meta-step-final=inf | a number of at least 0, got inf
--meta-step-final=-0.1 | a number of at least 0, got -0.1
--weight-decay=0 | a positive number, got 0.0
--seed=-1 | an integer of at least 0, got -1
--seed=99999999999999999999 | an integer of at most 4294967295, got 9999
--foml-tail=0 --foml | 1 … 4, fewer than the shots of training, got 0
--foml-tail=5 --foml | 1 … 4, fewer than the shots of training, got 5
--foml-tail=1 | it with --foml and classes only
--foml-tail=1 --foml --datasource=sinusoid | it with --foml and classes only
--inner-iters=1 --foml --foml-tail=1 | at least 2 with --foml-tail, got 1
--eval-batch=26 --replacement | at most the 25 examples of a task, got 26
--inner-batch=6 --replacement --shots=1 | at most the 5 examples
--inner-batch=9 --replacement --shots=1 --train-shots=1 | at most the 5 ex
--inner-batch=16 --replacement --foml --foml-tail=2 --shots=5 | at most the 15
--image-size=15 | an integer of at least 16, got 15
--image-size=64 | 84 unless --datasource=folder, got 64
--image-channels=2 | one of 1, 3, got 2
--engine=none | one of auto, stacked, looped, got 'none'
--on-save-error= | one of stop, continue, got ''
--checkpoint= | the path of a folder, got ''
--checkpoint=/proc/x --datasource=sinusoid | a folder that can be made (No su
""".strip().splitlines()
REPTILE_WORDS = """
--bogus=1 | bogus
--shots=x | --shots=x: invalid literal for int()
--shots=many | --shots=many: invalid literal for int()
--shots= | --shots=: invalid literal for int()
--sgd=maybe | --sgd=maybe: ('Non-boolean argument to boolean flag
--meta-step=1/2 | --meta_step=1/2: could not convert string to float
--num_classes=5 | 'num_classes'
-inner.batch=5 | 'inner.batch'
--shots | shots
--noexplain=1 | noexplain=1 does not take an argument
--shots 5 5 | expected flags only, got '5'
--reset-inner-optimizer false | --reset_inner_optimizer=false, got
omniglot | expected flags only, got 'omniglot'
stray | expected flags only, got 'stray'
""".strip().splitlines()


def row(text):
    line, _, fragments = text.partition(" | ")
    return line.strip(), fragments.strip()


@pytest.mark.parametrize(
    "program, text",
    [
        *(("maml-tf", text) for text in MAML_FLAGS),
        *(("reptile-tf", text) for text in REPTILE_FLAGS),
    ],
)
def test_values(program, text, capsys, home):
    line, fragments = row(text)
    flag = line.split("=")[0].split()[0].replace("-", "_").replace("__", "--")
    expected, found, value = fragments.partition(", got")
    wanted = [f"{flag}: expected {expected}", found + value]
    error = check_refused(program, line, wanted, capsys, home)
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "program, text",
    [
        *(("maml-tf", text) for text in MAML_WORDS),
        *(("reptile-tf", text) for text in REPTILE_WORDS),
    ],
)
def test_words_that_are_no_flags(program, text, capsys, home):
    line, fragment = row(text)
    error = check_refused(program, line, [fragment], capsys, home)
    assert len(error.splitlines()) == 1


SWALLOWED = """
maml-tf --update_lr --train=False
maml-tf --norm --nolog
reptile-tf --data-dir --pretrained
reptile-tf -train-shots -sgd
maml-rl-tf --goal --train=False
""".strip().splitlines()


@pytest.mark.parametrize("line", SWALLOWED)
def test_a_flag_does_not_take_the_next_for_its_value(line, capsys, home):
    program, flag, following = line.split()
    name = flag.lstrip("-").replace("-", "_")
    expected = f"--{name}: expected --{name}=VALUE"
    check_refused(program, f"{flag} {following}", [expected], capsys, home)


# Files of flags

UNREADABLE = "--flagfile=a.flags: expected a text file of flags, found that it"
FLAGFILES = {
    "missing": ({}, [UNREADABLE, "No such file"]),
    "a folder": ({"a.flags/b": b""}, [UNREADABLE, "Is a directory"]),
    "binary": ({"a.flags": b"\x80\xff\0"}, [UNREADABLE, "decode"]),
    "an unknown flag": ({"a.flags": b"--bogus=1\n"}, ["'bogus'"]),
    "a value of another kind": ({"a.flags": b"--seed=x\n"}, ["--seed=x"]),
    "a value out of range": ({"a.flags": b"--seed=-4\n"}, ["--seed", "-4"]),
    "a stray word": ({"a.flags": b"seed 4\n"}, ["seed 4"]),
    "itself": (
        {"a.flags": b"--flagfile=a.flags\n"},
        ["includes itself, by way of a.flags"],
    ),
    "itself by way of another": (
        {"a.flags": b"--flagfile=b", "b": b"--seed=3\n--flagfile=a.flags\n"},
        ["includes itself, by way of b"],
    ),
    "a file that is missing": (
        {"a.flags": b"# all\n\n--flagfile=b.flags\n"},
        ["b.flags", "cannot be read"],
    ),
    "a file that is binary": (
        {"a.flags": b"--flagfile b.flags\n", "b.flags": b"\xfe"},
        ["b.flags"],
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("files, fragments", FLAGFILES.values(), ids=FLAGFILES)
def test_flagfiles(files, fragments, program, capsys, home):
    forms.write(home, files)
    check_refused(program, "--flagfile=a.flags", fragments, capsys, home)


# Class folders and their images


def png(mode="RGB", size=(20, 20), form="png"):
    file = io.BytesIO()
    Image.new(mode, size).save(file, form)
    return file.getvalue()


def bomb(side=30_000):
    """A PNG of a few bytes that says it has many pixels."""

    def chunk(name, content):
        length, check = len(content), zlib.crc32(name + content)
        return struct.pack(f">I4s{length}sI", length, name, content, check)

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    parts = (b"IHDR", head), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def classes(parts=("train", "val", "test"), names="abcde", images=2):
    return {
        f"{part}/{name if part == 'val' else part + name}/{i}.png": png()
        for part in parts
        for name in names
        for i in range(images)
    }


def tree(home):
    forms.write(home / "data", classes())


def tree_and(files):
    def prepare(home):
        forms.write(home / "data", {**classes(), **files})

    return prepare


def image(content, name="val/a/9.png"):
    return tree_and({name: content})


def link(target, name="val/a/9.png"):
    def prepare(home):
        tree(home)
        (home / "data" / name).symlink_to(target)

    return prepare


def pipe(name):
    def prepare(home):
        tree(home)
        os.mkfifo(home / "data" / name)

    return prepare


def archive(name, content):
    return lambda home: forms.write(home, {name: content})


def half(content):
    return content[: len(content) // 2]


def flipped(content):
    """Changes the first image in an archive, whose checksum is elsewhere."""
    return replaced(content, content.index(b"IDAT") + 6, 255)


def replaced(content, place, bits):
    changed = bytes([content[place] ^ bits])
    return content[:place] + changed + content[place + 1 :]


def marked(offset, bits):
    """Returns what changes a field of all headers of a ZIP archive."""

    def change(content):
        for header, start in ((b"PK\3\4", offset), (b"PK\1\2", offset + 2)):
            place = content.find(header)
            while place >= 0:
                content = replaced(content, place + start, bits)
                place = content.find(header, place + 1)
        return content

    return change


encrypted, unknown_compression = marked(6, 1), marked(8, 0x63)


def nothing(home):
    pass


FOLDERS = {
    "missing": (
        nothing,
        ["--data_dir=data", "expected images", "found nothing"],
    ),
    "empty": (
        lambda home: (home / "data").mkdir(),
        ["data/", "expected images", "no such image"],
    ),
    "a text file": (
        archive("data", b"images"),
        ["--data_dir=data", "expected images", "found a file that is none"],
    ),
    "a link to itself": (
        lambda home: (home / "data").symlink_to("data"),
        ["data", "found nothing"],
    ),
    "a link to nothing": (
        lambda home: (home / "data").symlink_to("nowhere"),
        ["data", "found nothing"],
    ),
    "no validation part": (
        lambda home: forms.write(home / "data", classes(["train"])),
        ["data/val", "no such image"],
    ),
    "images without classes": (
        lambda home: forms.write(home / "data", {"train/0.png": png()}),
        ["data/val", "no such image"],
    ),
    "only text in classes": (
        lambda home: forms.write(home / "data", {"val/a/0.txt": b"x"}),
        ["data/val", "no such image"],
    ),
    "an empty image": (image(b""), ["val/a/9.png", "1 of 11", "empty"]),
    "only empty images": (
        tree_and({path: b"" for path in classes()}),
        ["10 of 10 images are empty", "val/a/0.png"],
    ),
    "a truncated image": (image(png()[:50]), ["val/a/9.png", "1 of 11"]),
    "an image without its end": (
        image(png("RGB", (300, 300))[:-300]),
        ["val/a/9.png", "truncated"],
    ),
    "a truncated JPEG": (
        image(png("RGB", (99, 99), "jpeg")[:300], "val/a/9.jpg"),
        ["val/a/9.jpg"],
    ),
    "text named as an image": (
        image(b"404 not found"),
        ["val/a/9.png", "cannot identify"],
    ),
    "an archive named as an image": (
        image(zipped({"a": b"x"})),
        ["val/a/9.png", "cannot identify"],
    ),
    "a damaged image": (
        image(flipped(png())),
        ["val/a/9.png", "1 of 11 images cannot be read"],
    ),
    "an image of too many pixels": (
        image(bomb()),
        ["val/a/9.png", "decompression bomb"],
    ),
    "zeros": (image(bytes(10**7)), ["val/a/9.png", "cannot identify"]),
    "a name with a newline": (image(b"x", "val/a/9\n9.png"), ["a/9\n9.png"]),
    "a name with a dash": (image(b"x", "val/a/-9.png"), ["val/a/-9.png"]),
    "a name in Greek": (image(b"x", "val/ä β/γ.png"), ["val/ä β/γ.png"]),
    "a link in a circle": (link("9.png"), ["val/a/9.png", "symbolic links"]),
    "a link to no image": (link("/nowhere.png"), ["val/a/9.png", "No such"]),
    "a link to a device": (link("/dev/zero"), ["val/a/9.png", "device"]),
    "a pipe": (pipe("val/a/9.png"), ["val/a/9.png", "a pipe"]),
    "a pipe named as an archive": (pipe("9.zip"), ["data/9.zip", "a pipe"]),
    "an archive in a folder": (
        tree_and({"train.zip": b"PK\3\4"}),
        ["data/train.zip cannot be read"],
    ),
}
VALIDATION = classes(["val"])
ARCHIVES = {
    "empty.zip": (b"", ["empty.zip cannot be read"]),
    "empty.tar": (b"", ["empty.tar cannot be read"]),
    "empty.tar.gz": (b"", ["empty.tar.gz cannot be read"]),
    "text.tgz": (b"404 not found", ["text.tgz cannot be read"]),
    "nothing.zip": (zipped({}), ["expected images", "no such image"]),
    "nothing.tar": (tarred({}), ["expected images", "no such image"]),
    "half.zip": (
        half(zipped(classes())),
        ["half.zip cannot be read"],
    ),
    "half.tar": (
        tarred(classes())[:9000],
        ["half.tar", "cannot be read", "unexpected end"],
    ),
    "half.tar.gz": (tarred(classes(), "w:gz")[:200], ["half.tar.gz cannot"]),
    "half.tar.bz2": (tarred(classes(), "w:bz2")[:200], ["half.tar.bz2 cannot"]),
    "half.tar.xz": (tarred(classes(), "w:xz")[:200], ["half.tar.xz cannot"]),
    "text.tar.bz2": (b"404 not found", ["text.tar.bz2 cannot be read"]),
    "text.tar.xz": (b"404 not found", ["text.tar.xz cannot be read"]),
    "flipped.zip": (
        flipped(zipped(VALIDATION)),
        ["flipped.zip/val/a/0.png cannot be read", "CRC"],
    ),
    "locked.zip": (
        encrypted(zipped(VALIDATION)),
        ["locked.zip/val/a/0.png cannot be read", "encrypted"],
    ),
    "odd.zip": (
        unknown_compression(zipped(VALIDATION)),
        ["odd.zip/val/a/0.png cannot be read", "compression"],
    ),
    "other.tar.zst": (b"x", ["found a file that is none of .tar, .tar.gz, "]),
    "climbing.zip": (
        zipped({"../../train/a/0.png": b"x"}),
        ["expected images of validation classes"],
    ),
}
FOLDERS |= {
    name: (archive(name, content), fragments)
    for name, (content, fragments) in ARCHIVES.items()
}


TOO_FEW = {
    "one class": ({"names": "a"}, ["--num_classes", "needs 5", "only 1"]),
    "four classes": ({"names": "abcd"}, ["--num_classes", "only 4 are"]),
    "one image": ({"images": 1}, ["--update_batch_size", "2", "only 1 are"]),
}
OF_FOLDERS = (
    "--datasource=folder --image_size=16 --num_classes=5 --update_batch_size=1"
)


@pytest.mark.parametrize("name", FOLDERS)
def test_class_folders(name, capsys, home):
    prepare, fragments = FOLDERS[name]
    prepare(home)
    data = name if name in ARCHIVES else "data"
    line = f"{OF_FOLDERS} --data_dir={data}"
    check_refused("maml-tf", line, fragments, capsys, home)


@pytest.mark.parametrize("name", ["no training part", *TOO_FEW])
def test_class_folders_of_which_a_part_is_whole(name, capsys, home):
    changes, fragments = TOO_FEW.get(
        name, ({"parts": ["val", "test"]}, ["images of train classes"])
    )
    forms.write(home / "data", classes(**changes))
    # What is whole is packed, once.
    main.main([*OF_FOLDERS.split(), "--cache_dir=cache"])
    check_refused("maml-tf", OF_FOLDERS, fragments, capsys, home)
