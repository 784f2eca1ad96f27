"""Folders and archives look alike, to any depth."""

import io
import os
import pathlib
import tarfile

import pytest
from contents import tarred, zipped

from maml_tf.archives import walk
from maml_tf.cache import DataError

FILES = {"a.txt": b"one", "b/c.txt": b"two", "b/d/e.bin": b"\x00" * 2000}


PACKERS = {
    ".tar": tarred,
    ".tar.gz": lambda files: tarred(files, "w:gz"),
    ".tgz": lambda files: tarred(files, "w:gz"),
    ".tar.bz2": lambda files: tarred(files, "w:bz2"),
    ".tar.xz": lambda files: tarred(files, "w:xz"),
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


def test_a_linked_folder_is_walked_once(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "circle").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.txt").write_bytes(b"three")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    assert contents(tmp_path / "data") == {"b/c.txt": b"three"}


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir()

    def listdir(path):
        if pathlib.Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    whole = os.listdir
    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(DataError, match="shut cannot be read.*denied"):
        contents(tmp_path)


@pytest.mark.parametrize("place", [512, 1536, 1024 + 700, -10240])
def test_a_tar_that_is_cut_off_is_refused(place, tmp_path):
    whole = tarred({"a.txt": b"one", "b.txt": b"two", "c.txt": b"three"})
    (tmp_path / "x.tar").write_bytes(whole[:place])
    with pytest.raises(DataError, match="x.tar cannot be read"):
        list(walk(tmp_path))


def test_a_tar_with_a_damaged_header_is_refused(tmp_path):
    whole = bytearray(tarred({"a.txt": b"one", "b.txt": b"two"}))
    whole[1024 + 3] ^= 1  # of the second file's name
    (tmp_path / "x.tar").write_bytes(whole)
    with pytest.raises(DataError, match="cut off or damaged"):
        contents(tmp_path)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_links_in_a_tar_are_what_they_lead_to(mode, tmp_path):
    path = tmp_path / mode.replace(":", ".").replace("w", "x.tar")
    with tarfile.open(path, mode) as archive:
        for name, kind in {
            "soft.txt": tarfile.SYMTYPE,
            "a.txt": tarfile.REGTYPE,
            "hard.txt": tarfile.LNKTYPE,
        }.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.txt"
            info.size = 3 * (name == "a.txt")
            archive.addfile(info, io.BytesIO(b"one"))
    found = {str(m.path): m.read() for m in walk(path) if m.size}
    names = "a.txt", "hard.txt", "soft.txt"
    assert found == dict.fromkeys(names, b"one")


def test_backslashes_in_a_zip_part_folders(tmp_path):
    (tmp_path / "x.zip").write_bytes(zipped({"b\\c.txt": b"two"}))
    assert contents(tmp_path) == {"x.zip/b/c.txt": b"two"}


def with_link(folder, target, name="a/link"):
    path = folder / "x.tar"
    path.write_bytes(tarred(FILES))
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        archive.addfile(info)


def test_a_link_to_a_folder_in_a_tar_is_refused(tmp_path):
    with_link(tmp_path, "../b")
    with pytest.raises(
        DataError, match="a/link: .* link to a folder. .*tar -h"
    ):
        list(walk(tmp_path))


def test_a_hidden_link_to_a_folder_is_passed_over(tmp_path):
    with_link(tmp_path, "b", ".all")
    assert len(contents(tmp_path)) == len(FILES)


def test_a_link_to_nothing_in_a_tar_is_named_where_it_is_read(tmp_path):
    with_link(tmp_path, "/no/d.txt")
    with pytest.raises(DataError, match="a/link: .* to what is no file in it"):
        for member in walk(tmp_path):
            if member.path.name == "link":
                member.read()
    assert "x.tar/a/link" in {str(member.path) for member in walk(tmp_path)}
