"""Anyone's class folders: any size and colour, any number of images."""

import io
import logging
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from maml_tf.cache import DataError
from maml_tf.class_folders import load_class_folders
from maml_tf.packing import Format

SIZES = {"ant": 3, "bee": 2, "wasp": 4}


def picture(seed, mode="RGB", size=(40, 30), form="png"):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (*size, 3), "uint8"))
    file = io.BytesIO()
    image.convert(mode).save(file, form)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    for name, size in SIZES.items():
        place = tmp_path / "data" / "train" / name
        place.mkdir(parents=True)
        for i in range(size):
            (place / f"{i}.png").write_bytes(picture([len(name), i]))
    return tmp_path / "data"


def load(folder, part="train", size=16, channels=3):
    image_format = Format(size, channels)
    cache = folder.parent / "cache"
    return load_class_folders(folder, part, image_format, cache)


def test_classes_may_be_uneven(folder):
    data = load(folder).data
    assert dict(zip(data.names, data.sizes, strict=True)) == SIZES
    assert data.starts.tolist() == [0, 3, 5]
    assert data.files[1] == ("0.png", "1.png")


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_images_are_resized_and_converted(channels, mode, folder):
    found = load(folder, size=20, channels=channels)
    assert found.data.images.shape == (9, 20, 20, channels)
    assert found.resized == 9
    with Image.open(folder / "train" / "bee" / "1.png") as image:
        small = image.convert(mode).resize((20, 20), Image.Resampling.LANCZOS)
    expected = np.asarray(small).reshape(20, 20, channels)
    np.testing.assert_array_equal(found.data.images[4], expected)


@pytest.mark.parametrize(
    "mode, form", [("1", "png"), ("P", "gif"), ("L", "jpeg"), ("RGBA", "webp")]
)
def test_any_kind_of_image_will_do(mode, form, folder):
    file = folder / "train" / "ant" / f"3.{form}"
    file.write_bytes(picture(0, mode, form=form))
    assert load(folder).data.sizes[0] == 4


def test_each_format_has_a_cache_of_its_own(folder):
    load(folder, size=16)
    load(folder, size=20)
    load(folder, channels=1)
    assert len(list((folder.parent / "cache").iterdir())) == 3


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_names_of_the_validation_folder(name, folder):
    (folder / "train").rename(folder / name)
    assert len(load(folder, "validation").data.names) == 3


def test_other_files_and_hidden_ones_are_passed_over(folder):
    place = folder / "train" / "ant"
    (place / "notes.txt").write_text("x")
    (place / "._0.png").write_bytes(b"x")
    assert load(folder).data.sizes[0] == 3


def test_a_part_that_is_missing_is_named(folder):
    with pytest.raises(DataError) as error:
        load(folder, "test")
    assert f"expected images of test classes in {folder}/test" in str(
        error.value
    )


def test_empty_files_are_counted(folder):
    (folder / "train" / "bee" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 9 images are empty") as error:
        load(folder)
    assert "train/bee/0.png" in str(error.value)


@pytest.mark.parametrize(
    "one, other",
    [
        ("train/red/0.png", "leaves/train/red/0.png"),
        ("validation/red/0.png", "val/red/0.png"),
    ],
)
def test_two_images_of_one_name_are_refused(one, other, tmp_path):
    for seed, path in enumerate((one, other)):
        place = tmp_path / "data" / path
        place.parent.mkdir(parents=True)
        place.write_bytes(picture(seed))
    part = "train" if "train" in one else "validation"
    with pytest.raises(
        DataError, match="expected one image of a name"
    ) as error:
        load(tmp_path / "data", part)
    assert one in str(error.value) and other in str(error.value)


def test_an_archive_may_lie_beside_what_was_unpacked_from_it(folder):
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        for path in (folder / "train").rglob("*.png"):
            archive.write(path, path.relative_to(folder))
    assert load(folder).data.sizes.tolist() == [*SIZES.values()]


def test_an_archive_of_other_images_is_no_copy(folder):
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.writestr("train/bee/0.png", picture(9) + b"more")
    with pytest.raises(DataError, match="expected one image of a name"):
        load(folder)


def test_dots_in_the_names_of_class_archives(folder):
    for i in (1, 2):
        path = folder / "train" / f"Quercus sp. {i}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("0.png", picture(i))
    found = load(folder).data.names
    assert found == ("Quercus sp. 1", "Quercus sp. 2", *SIZES)


@pytest.mark.parametrize("mode, form", [("I;16", "png"), ("F", "tiff")])
def test_more_than_eight_bits_are_refused(mode, form, folder):
    path = folder / "train" / "bee" / f"deep.{form}"
    deep = np.linspace(0, 60000, 64).reshape(8, 8)
    kind = np.float32 if mode == "F" else np.uint16
    Image.fromarray(deep.astype(kind)).save(path)
    with pytest.raises(DataError, match=f"deep.{form}: expected 8 bits a cha"):
        load(folder)


def test_folders_in_a_class_are_of_the_class(folder):
    deeper = folder / "train" / "bee" / "more" / "yet"
    deeper.mkdir(parents=True)
    (deeper / "0.png").write_bytes(picture(0))
    data = load(folder).data
    assert data.sizes.tolist() == [3, 3, 4]
    assert data.files[1] == ("0.png", "1.png", "more/yet/0.png")


def test_classes_that_two_parts_have_are_named(folder):
    shutil.copytree(folder / "train" / "bee", folder / "test" / "bee")
    for part, other in [("train", "test"), ("test", "train")]:
        message = f"other classes in {part} than in {other}, .* both: bee"
        with pytest.raises(DataError, match=message):
            load(folder, part)


def test_the_last_folder_called_as_a_part_is_the_part(folder):
    outer = folder.parent / "test"
    outer.mkdir()
    folder.rename(outer / "set")
    assert load(outer.parent).data.sizes.tolist() == [*SIZES.values()]
    with pytest.raises(DataError, match="expected images of test classes"):
        load(outer.parent, "test")


def test_a_flat_archive_of_a_part_is_no_class(folder):
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.writestr("train/bee.0.png", picture(1))
        archive.writestr("more/train/0.png", picture(2))
    assert load(folder).data.names == (*SIZES,)


def test_what_shows_through_is_white(folder):
    pixels = np.zeros([16, 16, 4], "uint8")
    pixels[:8, :, 3] = 255  # ink above, and nothing below
    pixels[8:10, :, 3] = 51  # but for a shadow
    path = folder / "train" / "bee" / "0.png"
    Image.fromarray(pixels).save(path)
    found = load(folder, channels=1).data.images[3, ..., 0]
    assert (found[:8] == 0).all() and (found[10:] == 255).all()
    assert (found[8:10] == 204).all()


@pytest.mark.parametrize("kind, channels", [(2, 3), (4, 2), (6, 4)])
def test_colours_of_sixteen_bits_are_refused(kind, channels, folder):
    """Pillow writes none."""

    def chunk(name, content):
        whole = name + content
        size, check = len(content), zlib.crc32(whole)
        return struct.pack(">I", size) + whole + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 2, 2, 16, kind, 0, 0, 0)
    rows = 2 * (b"\0" + bytes(4 * channels))
    (folder / "train" / "bee" / "deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match="deep.png: expected 8 bits a channel"):
        load(folder)


def test_a_cache_among_the_data_is_made_once(folder, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(2):
        load_class_folders(folder, "train", Format(16, 3), folder / "cache")
    assert caplog.text.count("Making") == 1


def test_two_data_sets_share_a_cache(folder, tmp_path, caplog):
    shutil.copytree(folder, tmp_path / "more")
    caplog.set_level(logging.INFO)
    for _ in range(2):
        for place in (folder, tmp_path / "more"):
            load(place)
    assert caplog.text.count("Making") == 2
