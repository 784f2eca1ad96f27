"""Every form of mini-ImageNet gives the same array; what is wrong is named."""

import json
import pathlib
import pickle
import shutil
import tarfile
import tempfile

import mini_imagenet_files as forms
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from maml_tf import mini_imagenet, mini_imagenet_tfds
from maml_tf.cache import DataError
from maml_tf.image_classes import PARTS


@pytest.fixture(autouse=True)
def no_tfds(monkeypatch, tmp_path):
    """TFDS has nothing prepared unless the test prepares it."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(mini_imagenet, "IMAGES", forms.IMAGES)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "miniImagenet"


def load(data_dir, part="validation", **options):
    return mini_imagenet.load_mini_imagenet(
        data_dir, part, data_dir.parent / "cache", **options
    )


def refused(data_dir, part="validation"):
    with pytest.raises(DataError) as error:
        load(data_dir, part)
    assert not list((data_dir.parent / "cache").glob("*"))
    return str(error.value)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("form", forms.FORMS)
def test_every_form_is_the_same_array(form, part, folder):
    form(folder)
    found = load(folder.parent, part)
    assert list(found.data.names) == mini_imagenet.class_list(part)
    assert (found.data.sizes == forms.IMAGES).all()
    assert found.resized == 0
    np.testing.assert_array_equal(found.data.images, forms.expected(part))


@pytest.mark.parametrize("form", forms.FORMS)
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_archives_are_the_same(form, suffix, folder):
    form(folder)
    forms.archive(folder, suffix)
    shutil.rmtree(folder)
    found = load(folder.parent)
    np.testing.assert_array_equal(
        found.data.images, forms.expected("validation")
    )


def test_the_data_folder_may_be_the_data_set_itself(folder):
    forms.tree(folder)
    direct = load(folder)
    np.testing.assert_array_equal(
        direct.data.images, forms.expected("validation")
    )


def test_an_archive_may_be_named(folder):
    forms.flat(folder)
    path = forms.archive(folder, ".tgz")
    shutil.rmtree(folder)
    assert load(path).form == "a CSV file and images"


def test_image_net_in_one_archive_of_archives(folder):
    forms.raw_tars(folder)
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as whole:
        for path in sorted(folder.glob("n*.tar")):
            whole.add(path, path.name)
            path.unlink()
    np.testing.assert_array_equal(
        load(folder.parent).data.images, forms.expected("validation")
    )


@pytest.mark.parametrize(
    "resample", [Image.Resampling.LANCZOS, Image.Resampling.NEAREST]
)
def test_large_images_are_resized_and_counted(resample, folder):
    forms.raw_folders(folder, side=100)
    found = load(folder.parent, resample=resample)
    assert found.resized == len(found.data.images)
    np.testing.assert_array_equal(
        found.data.images,
        forms.expected("validation", side=100, resample=resample),
    )


def test_class_folders_beside_the_csvs_they_were_made_from(folder):
    forms.tree(folder)
    forms.write(folder, dict(forms.tables()))
    np.testing.assert_array_equal(
        load(folder.parent).data.images, forms.expected("validation")
    )


def test_whole_class_folders_of_raw_names_go_before_the_csvs(folder):
    forms.write(folder, dict(forms.tables()))
    for part, name, rank in forms.each_image():
        file = f"{name}_{forms.RAW[rank - 1]}.JPEG"
        place = f"{forms.FOLDERS[part]}/{name}/{file}"
        forms.write(folder, {place: forms.photo(name, rank)})
    found = load(folder.parent)
    assert found.form == "class folders"
    by_name = sorted(forms.LISTED, key=lambda rank: str(forms.RAW[rank - 1]))
    names = mini_imagenet.class_list("validation")
    np.testing.assert_array_equal(
        found.data.images,
        [forms.pixels(name, rank) for name in names for rank in by_name],
    )


def test_rows_of_a_pickle_may_be_in_any_order_or_of_no_class(folder):
    forms.cache_pickles(folder)
    path = folder / "mini-imagenet-cache-val.pkl"
    content = pickle.loads(path.read_bytes())
    more = np.zeros([2, 84, 84, 3], np.uint8)
    content["image_data"] = np.concatenate([content["image_data"], more])
    for rows in content["class_dict"].values():
        rows.reverse()
    path.write_bytes(pickle.dumps(content, 2))
    np.testing.assert_array_equal(
        load(folder.parent).data.images, forms.expected("validation")
    )


def test_the_originals_folder_without_images_is_passed_over(folder):
    forms.write(folder, dict(forms.tables()))
    forms.write(folder, {"proc_images.py": b""})
    forms.tree(folder.parent)
    np.testing.assert_array_equal(
        load(folder.parent).data.images, forms.expected("validation")
    )


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(protocol, folder):
    forms.cache_pickles(folder, protocol)
    np.testing.assert_array_equal(
        load(folder.parent).data.images, forms.expected("validation")
    )


def test_cache_is_used_until_a_file_changes(folder, monkeypatch):
    forms.tree(folder)
    first = load(folder.parent)
    with monkeypatch.context() as patch:
        patch.setattr(mini_imagenet, "find_form", None)
        again = load(folder.parent)
    assert isinstance(again.data.images, np.memmap)
    np.testing.assert_array_equal(again.data.images, first.data.images)
    assert (again.form, again.data[1:]) == (first.form, first.data[1:])
    name = mini_imagenet.class_list("validation")[0]
    path = min((folder / "val" / name).iterdir())
    path.write_bytes(forms.photo(name, 77))
    changed = load(folder.parent).data.images[0]
    np.testing.assert_array_equal(changed, forms.pixels(name, 77))


def test_class_lists_are_the_published_ones(real_data):
    path = real_data / "mini_imagenet_classes.json"
    published = json.loads(path.read_text())
    for part, key in forms.FOLDERS.items():
        assert mini_imagenet.class_list(part) == sorted(published[key])
    assert [len(mini_imagenet.class_list(p)) for p in PARTS] == [64, 16, 20]


# Wrong input


def test_nothing_there_says_what_it_looked_for(folder):
    message = refused(folder.parent)
    assert f"{folder.parent} does not exist" in message
    for word in (
        "train|val|test/<class>/<image>",
        "train.csv, val.csv, test.csv (filename,label)",
        "<label>.tar",
        "mini-imagenet-cache-train|val|test.pkl",
        "miniImageNet_category_split_train_phase_train|val|test.pickle",
        ".tar.gz, .tgz, .tar.bz2, .tar.xz or .zip",
        "TensorFlow Datasets",
    ):
        assert word in message


def test_missing_and_unexpected_classes_are_counted(folder):
    forms.tree(folder)
    first, second, *_ = mini_imagenet.class_list("validation")
    (folder / "val" / first).rename(folder / "val" / "n99999999")
    shutil.rmtree(folder / "val" / second)
    message = refused(folder.parent)
    assert f"2 missing classes: {first} {second}" in message
    assert "1 unexpected classes: n99999999" in message


def test_short_classes_are_counted(folder):
    forms.flat(folder)
    name = mini_imagenet.class_list("validation")[3]
    (folder / "images" / forms.listed_name(name, 2)).unlink()
    message = refused(folder.parent)
    assert f"1 classes do not have 3 images: {name}: 2" in message
    assert "with 47 images in 16 classes" in message


def test_a_missing_image_is_not_taken_for_another(folder):
    forms.class_images(folder)
    name = mini_imagenet.class_list("validation")[3]
    (folder / "images" / name / forms.listed_name(name, 2)).unlink()
    assert f"{name}: 2" in refused(folder.parent)


def test_a_half_download_of_empty_files_is_counted(folder):
    forms.flat(folder)
    for path in sorted((folder / "images").iterdir())[::2]:
        path.write_bytes(b"")
    assert "empty files" in refused(folder.parent)
    assert "of mini-ImageNet" in refused(folder.parent, "train")


def test_unreadable_images_are_counted_and_named(folder):
    forms.tree(folder)
    paths = sorted((folder / "val").rglob("*.jpg"))
    paths[0].write_bytes(paths[0].read_bytes()[:200])
    paths[5].write_text("404 not found")
    message = refused(folder.parent)
    assert "2 of 48 images cannot be read" in message
    for path in (paths[0], paths[5]):
        assert str(path.relative_to(folder)) in message


def test_a_part_that_is_missing_is_named(folder):
    forms.tree(folder)
    shutil.rmtree(folder / "test")
    message = refused(folder.parent, "test")
    assert "mini-ImageNet's test part was not found" in message
    assert message.endswith("twitter-research/meta-learning-lstm.")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_truncated_archives_are_named(suffix, folder):
    forms.tree(folder)
    path = forms.archive(folder, suffix)
    shutil.rmtree(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = refused(folder.parent)
    assert f"miniImagenet{suffix} cannot be read" in message


# TensorFlow Datasets


def test_tfds_data_set_is_the_same_array(folder, tmp_path, caplog):
    forms.class_images(folder)
    manual = tmp_path / "manual"
    folder.rename(manual)
    builder = mini_imagenet_tfds.MiniImagenet(data_dir=tmp_path / "tfds")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual)
    )
    caplog.set_level("INFO")
    found = load(folder.parent)
    assert found.form == "a prepared data set of TensorFlow Datasets"
    assert f"No mini-ImageNet in {folder.parent}: a prepared" in caplog.text
    np.testing.assert_array_equal(
        found.data.images, forms.expected("validation")
    )
    assert found.data.files[0][0].endswith("00000002.jpg")


def test_tfds_refuses_what_is_not_whole(folder, tmp_path):
    forms.class_images(folder)
    shutil.rmtree(next(path.parent for path in folder.rglob("n*.jpg")))
    builder = mini_imagenet_tfds.MiniImagenet(data_dir=tmp_path / "tfds")
    with pytest.raises(DataError, match="1 missing classes"):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=folder)
        )


class TestBuilder(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own tests of a builder."""

    DATASET_CLASS = mini_imagenet_tfds.MiniImagenet
    SPLITS = {"train": 192, "validation": 48, "test": 60}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.EXAMPLE_DIR = pathlib.Path(temporary.name)
        forms.flat(cls.EXAMPLE_DIR)
