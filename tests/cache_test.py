"""What comes from the cache is what was made, or it is made again."""

import logging
import os

import numpy as np
import pytest

from maml_tf import cache

ARRAY = np.arange(2000, dtype=np.uint16).reshape(2, 500, 2)
LABELS = {"names": ["Ä", "b"], "numbers": [1, 2]}


def made():
    return ARRAY, LABELS


def never():
    pytest.fail("makes it again")


def get(folder, make, fingerprint="one", name="name"):
    return cache.cached(folder, name, fingerprint, make)


def assert_made(found):
    array, labels = found
    np.testing.assert_array_equal(array, ARRAY)
    assert array.dtype == ARRAY.dtype
    assert labels == LABELS


def test_hit_does_not_make(tmp_path):
    assert_made(get(tmp_path, made))
    assert_made(get(tmp_path, never))


def test_array_is_mapped_and_read_only(tmp_path):
    for make in (made, never):
        array, _ = get(tmp_path, make)
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(ARRAY),
        ARRAY[:, ::7],
        ARRAY.astype(">u2"),
        np.linspace(0, 1, 5, dtype=np.float32),
        np.empty([0, 3], np.int64),
    ],
)
def test_every_layout_is_kept(array, tmp_path):
    get(tmp_path, lambda: (array, None))
    found, labels = get(tmp_path, never)
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert labels is None


def truncate(content):
    return content[:-1]


def cut_in_labels(content):
    return content[:20]


def flip_last(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def flip_first_pixel(content):
    place = content.index(b"\n") + 1
    return content[:place] + b"\1" + content[place + 1 :]


def change_shape(content):
    return content.replace(b"[2, 500, 2]", b"[500, 2, 2]")


def change_dtype(content):
    return content.replace(b"<u2", b"<i2")


def change_label(content):
    return content.replace(b'"b"', b'"c"')


def change_fingerprint(content):
    return content.replace(b'"one"', b'"two"')


def empty(content):
    return b""


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        cut_in_labels,
        flip_last,
        flip_first_pixel,
        change_shape,
        change_dtype,
        change_label,
        change_fingerprint,
        empty,
    ],
)
def test_damaged_file_is_made_again(damage, tmp_path, caplog):
    get(tmp_path, made)
    (path,) = tmp_path.iterdir()
    intact = path.read_bytes()
    # A new file, since pages of the old one may still be mapped.
    path.unlink()
    path.write_bytes(damage(intact))
    assert path.read_bytes() != intact
    assert_made(get(tmp_path, made))
    assert path.read_bytes() == intact
    assert f"Rebuilding the damaged cache {path}" in caplog.text
    assert_made(get(tmp_path, never))


def test_other_fingerprint_is_made_without_a_warning(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    get(tmp_path, lambda: (ARRAY + 1, "other"), fingerprint="two")
    assert_made(get(tmp_path, made))
    assert "was made from other data" in caplog.text
    assert all(record.levelno == logging.INFO for record in caplog.records)
    assert len(list(tmp_path.iterdir())) == 1


def test_names_lie_side_by_side(tmp_path):
    get(tmp_path, made)
    get(tmp_path, lambda: (ARRAY + 1, None), name="other")
    assert_made(get(tmp_path, never))


def test_mapped_array_survives_its_replacement(tmp_path):
    found = get(tmp_path, made)
    get(tmp_path, lambda: (ARRAY + 1, None), fingerprint="two")
    assert_made(found)


def test_another_process_packs_meanwhile(tmp_path, caplog):
    def overtaken():
        get(tmp_path, lambda: (ARRAY + 1, None), fingerprint="two")
        return made()

    assert_made(get(tmp_path, overtaken))
    assert_made(get(tmp_path, never))
    assert len(list(tmp_path.iterdir())) == 1
    assert not caplog.records


def test_file_replaced_at_once_does_not_matter(tmp_path, monkeypatch):
    write = cache._write

    def lose(path, fingerprint, array, labels):
        write(path, fingerprint, array, labels)
        write(path, "two", array + 1, None)

    monkeypatch.setattr(cache, "_write", lose)
    assert_made(get(tmp_path, made))


def test_failing_make_leaves_nothing(tmp_path):
    def fail():
        raise FileNotFoundError("source")

    # As it is: not the cache's fault, hence no DataError.
    with pytest.raises(FileNotFoundError, match="source"):
        get(tmp_path, fail)
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    with pytest.raises(cache.DataError, match=f"cache folder {folder} cannot"):
        get(folder, never)


def test_read_only_folder_is_refused_before_the_work(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(f"Permission denied: {dir}")

    # Not by mode bits, which the superuser may ignore.
    monkeypatch.setattr(cache.tempfile, "TemporaryFile", refuse)
    with pytest.raises(cache.DataError, match="Permission denied"):
        get(tmp_path, never)


def test_full_disk_is_named(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(cache.files, "replacing", full)
    with pytest.raises(cache.DataError, match="No space left"):
        get(tmp_path, made)


def test_default_folder_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    get(None, made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    get(None, made)
    for folder in (".cache", "xdg"):
        assert (tmp_path / folder / "maml_tf" / "name.array").is_file()


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    get("~/here", made)
    assert (tmp_path / "here" / "name.array").is_file()


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    old, new = (tmp_path / f".name.array.{16 * d}" for d in "01")
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    get(tmp_path, made)
    assert not old.exists() and new.exists()
