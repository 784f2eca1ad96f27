"""Folders and archives look alike, to any depth."""

import io
import tarfile
import zipfile

import pytest

from maml_tf.archives import walk
from maml_tf.cache import DataError

FILES = {"a.txt": b"one", "b/c.txt": b"two", "b/d/e.bin": b"\x00" * 2000}


def tarred(files, mode="w"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(f"./{path}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("b/", "")
        for path, content in files.items():
            archive.writestr(path, content)
    return file.getvalue()


PACKERS = {
    ".tar": tarred,
    ".tar.gz": lambda files: tarred(files, "w:gz"),
    ".tgz": lambda files: tarred(files, "w:gz"),
    ".zip": zipped,
}


def contents(root):
    found = {str(m.path): (m.size, m.read()) for m in walk(root)}
    for size, content in found.values():
        assert size == len(content)
    return {path: content for path, (_, content) in found.items()}


def test_a_folder(tmp_path):
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert contents(tmp_path) == FILES
    assert list(contents(tmp_path)) == sorted(FILES)


@pytest.mark.parametrize("suffix", PACKERS)
def test_an_archive(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(PACKERS[suffix](FILES))
    assert contents(path) == FILES


@pytest.mark.parametrize("outer", PACKERS)
@pytest.mark.parametrize("inner", PACKERS)
def test_an_archive_in_an_archive_in_a_folder(inner, outer, tmp_path):
    whole = {f"deep/in{inner}": PACKERS[inner](FILES), "beside.txt": b"x"}
    (tmp_path / f"out{outer}").write_bytes(PACKERS[outer](whole))
    inside = f"out{outer}/deep/in{inner}"
    expected = {f"{inside}/{path}": content for path, content in FILES.items()}
    expected[f"out{outer}/beside.txt"] = b"x"
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("suffix", PACKERS)
def test_hidden_files_are_left_out(suffix, tmp_path):
    junk = {".DS_Store": b"x", "__MACOSX/b/c.txt": b"x", "b/._c.txt": b"x"}
    (tmp_path / f"x{suffix}").write_bytes(PACKERS[suffix]({**FILES, **junk}))
    (tmp_path / ".hidden").write_bytes(b"x")
    assert len(contents(tmp_path)) == len(FILES)


@pytest.mark.parametrize("suffix", PACKERS)
def test_what_is_no_archive_is_named(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"404 not found")
    with pytest.raises(DataError, match=f"x{suffix} cannot be read"):
        contents(tmp_path)
