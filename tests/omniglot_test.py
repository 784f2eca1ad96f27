"""Every source yields the same array; whatever is wrong is named."""

import io
import itertools
import json
import logging
import random
import sys
import types
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image

from maml_tf import omniglot
from maml_tf.cache import DataError

TINY = (4, 3)  # classes, images in each
PREPARED = "omniglot_resized"
HALVES = {
    "images_background": ("Greek/character01", "Greek/character02"),
    "images_evaluation": ("Aurek-Besh/character01", "Tengwar/character01"),
}
NAMES = tuple(sorted(itertools.chain(*HALVES.values())))


def drawing(name, number, side=105):
    """A 1-bit PNG whose random strokes depend on class and number."""
    generator = random.Random(f"{name} {number}")
    paper = Image.new("1", (105, 105), 1)
    for _ in range(5):
        x, y = generator.randrange(80), generator.randrange(80)
        paper.paste(0, (x, y, x + 25, y + 8))
    if side != 105:
        paper = paper.resize((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    paper.save(file, "png")
    return file.getvalue()


def drawings(names, side=105):
    return {
        f"{name}/{NAMES.index(name):04d}_{number:02d}.png": drawing(
            name, number, side
        )
        for name in names
        for number in range(1, TINY[1] + 1)
    }


def write_tree(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def write_zip(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{path.stem}/{name}", content)


def write_archives(data_dir):
    for half, names in HALVES.items():
        write_zip(data_dir / "omniglot" / f"{half}.zip", drawings(names))


def write_prepared(data_dir):
    write_tree(data_dir / PREPARED, drawings(NAMES, side=28))


def write_unpacked(data_dir):
    for half, names in HALVES.items():
        write_tree(data_dir / "omniglot" / half, drawings(names))


def load(data_dir):
    return omniglot.load_omniglot(
        data_dir, data_dir.parent / "cache", expected=TINY
    )


def assert_same(left, right):
    np.testing.assert_array_equal(left.images, right.images)
    assert left[1:] == right[1:]


class StandInTFDS(types.ModuleType):
    """What the loader uses of tensorflow_datasets, with the tiny data."""

    decode = types.SimpleNamespace(SkipDecoding=object)
    as_numpy = staticmethod(iter)
    prepared = True

    def builder(self, name):
        assert name == "omniglot"
        alphabets = sorted({name.split("/")[0] for name in NAMES})
        feature = types.SimpleNamespace(int2str=lambda i: alphabets[i])
        rows = [
            {
                "image": content,
                "alphabet": np.int64(alphabets.index(path.split("/")[0])),
                "alphabet_char_id": np.int64(path.split("/")[1][-2:]) - 1,
            }
            for path, content in drawings(NAMES).items()
        ]
        random.Random(0).shuffle(rows)
        return types.SimpleNamespace(
            is_prepared=lambda: self.prepared,
            download_and_prepare=lambda: pytest.fail("downloads"),
            as_dataset=lambda split, decoders: rows,
            info=types.SimpleNamespace(features={"alphabet": feature}),
        )


@pytest.fixture(autouse=True)
def tfds(monkeypatch):
    """Offline, and TFDS has nothing prepared unless the test says so."""

    def unreachable(*args, **kwargs):
        raise OSError("no network in tests")

    stand_in = StandInTFDS("tensorflow_datasets")
    stand_in.prepared = False
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", stand_in)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    return stand_in


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def test_images_are_28_by_28_with_ink_one(data_dir):
    write_archives(data_dir)
    data = load(data_dir)
    assert data.images.shape == (12, 28, 28, 1)
    np.testing.assert_array_equal(data.sizes, [3, 3, 3, 3])
    np.testing.assert_array_equal(data.starts, [0, 3, 6, 9])
    assert data.images.dtype == np.uint8
    assert data.names == NAMES
    assert data.files[1] == ("0001_01.png", "0001_02.png", "0001_03.png")
    # Pixel (i, j) of 28 x 28 is the pixel of 105 x 105 its centre falls on.
    nearest = ((np.arange(28) + 0.5) * 105 / 28).astype(int)
    with Image.open(io.BytesIO(drawing(NAMES[1], 3))) as image:
        paper = np.asarray(image)[np.ix_(nearest, nearest)]
    np.testing.assert_array_equal(data.images[5, ..., 0], ~paper)


def write_side_by_side(data_dir):
    for names in HALVES.values():
        write_tree(data_dir / "omniglot", drawings(names))


@pytest.mark.parametrize(
    "write", [write_prepared, write_unpacked, write_side_by_side]
)
def test_trees_equal_the_archives(write, data_dir, tmp_path):
    write_archives(tmp_path / "archives" / "data")
    write(data_dir)
    assert_same(load(data_dir), load(tmp_path / "archives" / "data"))


def test_tfds_has_the_same_images(tfds, data_dir, tmp_path):
    tfds.prepared = True
    write_archives(tmp_path / "archives" / "data")
    archives = load(tmp_path / "archives" / "data")
    data = load(data_dir)
    assert data.names == archives.names
    assert data.files[0] == ("tfds_00.png", "tfds_01.png", "tfds_02.png")
    for i in data.starts:
        ours, theirs = data.images[i : i + 3], archives.images[i : i + 3]
        assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


def test_tfds_data_is_packed_once(tfds, data_dir, monkeypatch, caplog):
    tfds.prepared = True
    data = load(data_dir)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    caplog.set_level("INFO")
    assert_same(load(data_dir), data)
    assert f"No Omniglot in {data_dir}: TensorFlow Datasets'" in caplog.text


def test_prepared_tree_comes_first(data_dir):
    write_prepared(data_dir)
    write_tree(data_dir / "omniglot", {"images_background.zip": b""})
    assert load(data_dir).names == NAMES


def test_prepared_folder_without_images_is_passed_over(data_dir):
    write_archives(data_dir)
    write_tree(data_dir / PREPARED, {"resize_images.py": b""})
    assert load(data_dir).names == NAMES


def test_files_of_macos_are_ignored(data_dir):
    write_unpacked(data_dir)
    background = data_dir / "omniglot" / "images_background"
    greek = "Greek/character01"
    junk = {f"{greek}/.DS_Store": b"x", f"{greek}/._0001_01.png": b"x"}
    write_tree(background, junk)
    names = HALVES["images_evaluation"]
    files = {f"__MACOSX/{names[0]}/0000_01.png": b"x", **drawings(names)}
    write_zip(background.with_name("images_evaluation.zip"), files)
    assert load(data_dir).names == NAMES


@pytest.mark.parametrize("exists", [True, False])
def test_no_data_says_where_it_looked(exists, data_dir):
    if exists:
        data_dir.mkdir()
    with pytest.raises(DataError) as error:
        load(data_dir)
    for word in (
        f"{data_dir}/omniglot_resized/<alphabet>/<character>/*.png",
        f"{data_dir}/omniglot/images_background.zip and images_evaluation.zip",
        "tensorflow_datasets: OSError: no network in tests",
        f"{data_dir} {'exists' if exists else 'does not exist'}",
        "https://github.com/brendenlake/omniglot",
    ):
        assert word in str(error.value)
    assert isinstance(error.value.__cause__, OSError)


def test_tfds_that_is_not_installed_is_the_cause(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match="ModuleNotFoundError"):
        load(data_dir)


@pytest.mark.parametrize("missing", HALVES)
def test_half_an_archive_set_is_refused(missing, data_dir):
    write_archives(data_dir)
    (data_dir / "omniglot" / f"{missing}.zip").unlink()
    with pytest.raises(DataError, match=f"there is no {missing}"):
        load(data_dir)


def test_truncated_archive_is_named(data_dir):
    write_archives(data_dir)
    archive = data_dir / "omniglot" / "images_evaluation.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(DataError, match="evaluation.zip cannot be"):
        load(data_dir)


def test_unusable_images_are_counted_and_named(data_dir):
    write_prepared(data_dir)
    folder = data_dir / PREPARED / "Greek" / "character01"
    empty, truncated, text, large = (
        folder / f"0001_{number:02d}.png" for number in range(1, 5)
    )
    empty.write_bytes(b"")
    truncated.write_bytes(truncated.read_bytes()[:70])
    text.write_text("no image")
    large.write_bytes(drawing("large", 0))
    with pytest.raises(DataError) as error:
        load(data_dir)
    message = str(error.value)
    assert "4 images cannot be used, 1 of them empty" in message
    assert f"{empty}: empty, 0 bytes" in message
    assert f"{truncated}: " in message
    assert f"{text}: cannot identify image" in message
    assert f"{large}: 105 x 105 pixels, expected 28 x 28" in message


def test_unusable_image_in_an_archive_is_named(data_dir):
    write_archives(data_dir)
    archive = data_dir / "omniglot" / "images_background.zip"
    files = drawings(HALVES["images_background"])
    first = next(iter(files))
    write_zip(archive, {**files, first: files[first][:70]})
    inner = f"{archive}/images_background/{first}"
    with pytest.raises(DataError, match=f"1 images .*\n *{inner}: "):
        load(data_dir)


def test_corrupt_member_of_an_archive_is_named(data_dir):
    write_archives(data_dir)
    archive = data_dir / "omniglot" / "images_background.zip"
    # Stored members: a flip inside one contradicts its checksum.
    content = bytearray(archive.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="0001_01.png: Bad CRC-32"):
        load(data_dir)


def test_missing_class_is_refused(data_dir):
    write_prepared(data_dir)
    with pytest.raises(DataError, match="1623 classes of 20 .* 4 "):
        omniglot.load_omniglot(data_dir, data_dir.parent / "cache")


def test_uneven_class_is_named(data_dir):
    write_prepared(data_dir)
    folder = data_dir / PREPARED / "Tengwar" / "character01"
    next(folder.iterdir()).unlink()
    found = "found 4 classes, 1 of them of another size"
    with pytest.raises(DataError, match=found) as error:
        load(data_dir)
    assert "Tengwar/character01: 2" in str(error.value)


def test_cache_equals_what_was_packed(data_dir, monkeypatch):
    write_archives(data_dir)
    packed = load(data_dir)
    monkeypatch.setattr(omniglot, "_decode", lambda *_: pytest.fail("decodes"))
    cached = load(data_dir)
    assert_same(packed, cached)
    assert isinstance(cached.images, np.memmap)


def test_cache_lies_where_xdg_says(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    write_archives(data_dir)
    omniglot.load_omniglot(str(data_dir), expected=TINY)
    (file,) = (tmp_path / "xdg" / "maml_tf").iterdir()
    assert file.name == "omniglot.array"


def test_damaged_cache_is_rebuilt(data_dir, tmp_path, caplog):
    write_archives(data_dir)
    packed = load(data_dir)
    (path,) = (tmp_path / "cache").iterdir()
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])
    assert_same(load(data_dir), packed)
    assert "Rebuilding the damaged cache" in caplog.text


@pytest.mark.parametrize("write", [write_archives, write_prepared])
def test_cache_of_other_data_is_rebuilt(write, data_dir, caplog):
    caplog.set_level(logging.INFO)
    write(data_dir)
    load(data_dir)
    path = max(data_dir.rglob("images_background.zip"), default=None)
    if path:
        files = drawings(HALVES["images_background"])
        files["Greek/character01/0001_01.png"] = drawing("other", 1)
        write_zip(path, files)
    else:
        path = data_dir / PREPARED / "Greek/character01/0001_01.png"
        path.write_bytes(drawing("other", 1, side=28))
    changed = load(data_dir).images[3]
    np.testing.assert_array_equal(
        changed, omniglot._decode(drawing("other", 1), 105)
    )
    assert "was made from other data" in caplog.text
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_unwritable_cache_is_refused_before_the_work(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cache folder .*file/cache"):
        omniglot.load_omniglot(data_dir, tmp_path / "file" / "cache")


def test_small_split_is_all_training():
    split = omniglot.split_omniglot(NAMES)
    assert sorted(split.train) == [0, 1, 2, 3]
    assert split.validation.size == split.test.size == 0


@pytest.fixture
def real(real_data, real_cache):
    return omniglot.load_omniglot(real_data, real_cache)


def test_real_images(real):
    assert real.images.shape == (1623 * 20, 28, 28, 1)
    assert set(np.unique(real.images)) == {0, 1}
    assert 0.07 < real.images.mean() < 0.09
    assert real.images.any(axis=(1, 2, 3)).all()
    assert list(real.names) == sorted(real.names)
    assert len(set(itertools.chain(*real.files))) == 1623 * 20


def test_real_split_is_the_originals(real, real_data):
    path = real_data.parent / "golden" / "maml_omniglot_sampling.json"
    golden = json.loads(path.read_text())
    split = omniglot.split_omniglot(real.names)
    for ours, key in zip(split, ("train", "val", "test"), strict=True):
        assert [real.names[i] for i in ours] == golden[key]


@pytest.mark.parametrize("case", ["maml_d", "maml_h"])
def test_real_images_are_what_the_original_saw(case, real, golden):
    arrays = golden(case)
    seen = np.concatenate([arrays["inputa"], arrays["inputb"]], 1)
    seen = seen.reshape(-1, 28, 28)
    # "images_evaluation/Oriya/character15/1448_02.png:rot270" and the like
    for where, image in zip(arrays["files"].ravel(), seen, strict=True):
        path, turned = str(where).split(":rot")
        _, alphabet, character, file = path.split("/")
        place = real.names.index(f"{alphabet}/{character}")
        index = real.starts[place] + real.files[place].index(file)
        ours = np.rot90(real.images[index, ..., 0], int(turned) // 90)
        np.testing.assert_array_equal(ours, image)


def test_real_archives_equal_the_tree_prepared_from_them(
    real, real_data, data_dir
):
    names = [name for name in real.names if "Tengwar" in name]
    archive = real_data / "omniglot" / "images_evaluation.zip"
    with zipfile.ZipFile(archive) as source:
        for member in source.namelist():
            if "/Tengwar/" in member:
                path = data_dir / member.replace(archive.stem, PREPARED)
                path.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(io.BytesIO(source.read(member))) as image:
                    # The call in the originals' resize_images.py.
                    small = image.resize((28, 28), Image.Resampling.LANCZOS)
                small.save(path)
    tree = omniglot.load_omniglot(
        data_dir, data_dir.parent / "cache", expected=(len(names), 20)
    )
    own = slice(first := real.names.index(names[0]), first + len(names))
    rows = slice(20 * own.start, 20 * own.stop)
    np.testing.assert_array_equal(tree.images, real.images[rows])
    assert tree.names == real.names[own]
    assert tree.files == real.files[own]
