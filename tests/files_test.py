"""A file is whole or absent; nothing else ever lies beside it."""

import contextlib
import errno
import os
import stat
import subprocess
import sys

import pytest

from maml_tf import files


@pytest.fixture(params=[None, b"whole"])
def before(request, tmp_path):
    """What the folder holds before a write: nothing, or a whole file."""
    if request.param is not None:
        (tmp_path / "file").write_bytes(request.param)
    return contents(tmp_path)


# Writes sys.argv[3] bytes to sys.argv[2] where files end at 1000 bytes, as on
# a full disk. A process of its own: the limit also holds for its output. The
# module is run from its path, without the package and its TensorFlow.
FULL_DISK = """
import resource, runpy, sys
replacing = runpy.run_path(sys.argv[1])["replacing"]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with replacing(sys.argv[2]) as file:
        file.write(bytes(int(sys.argv[3])))
except OSError as error:
    sys.exit(error.errno)
"""


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_file_takes_its_place_at_the_end(before, tmp_path):
    with files.replacing(tmp_path / "file") as file:
        file.write(b"new")
        file.flush()
        others = contents(tmp_path)
        assert others.pop(os.path.basename(file.name)) == b"new"
        assert others == before
    assert contents(tmp_path) == {"file": b"new"}


def test_file_is_on_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    called = []

    def noted(name, done):
        return lambda *given: [called.append(name), done(*given)]

    for name in ("fsync", "replace"):
        monkeypatch.setattr(files.os, name, noted(name, getattr(os, name)))
    with files.replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert called == ["fsync", "replace"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_exception_leaves_what_was_there(error, before, tmp_path):
    with pytest.raises(error), files.replacing(tmp_path / "file") as file:
        file.write(b"half")
        raise error
    assert contents(tmp_path) == before


# 2000 bytes stay in Python's buffer and fail only when it is flushed.
@pytest.mark.parametrize("size", [2000, 2_000_000])
def test_full_disk_leaves_what_was_there(size, before, tmp_path):
    arguments = [files.__file__, tmp_path / "file", str(size)]
    child = subprocess.run([sys.executable, "-c", FULL_DISK, *arguments])
    assert child.returncode == errno.EFBIG
    assert contents(tmp_path) == before


def test_two_writers_do_not_share_a_file(tmp_path):
    path = tmp_path / "file"
    with files.replacing(path) as first, files.replacing(path) as second:
        first.write(b"first")
        second.write(b"second")
    # Contexts end in reverse, so the first one is the last to be renamed.
    assert contents(tmp_path) == {"file": b"first"}


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        with files.replacing(tmp_path / "missing" / "file"):
            pytest.fail("the file is open")


def test_permissions_are_the_usual_ones(tmp_path):
    with files.replacing(tmp_path / "file"):
        pass
    (tmp_path / "usual").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.fixture
def full():
    """A file on a disk that is full."""
    file = open("/dev/full", "w")
    yield file
    with contextlib.suppress(OSError):
        file.close()


def test_a_full_disk_is_named():
    with pytest.raises(OSError, match="No space left.*'some/file'") as raised:
        with files.naming("some/file"), open("/dev/full", "w") as file:
            file.write("x")
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "error", [OSError("x"), FileNotFoundError(errno.ENOENT, "x", "other")]
)
def test_other_errors_stay(error):
    with pytest.raises(OSError) as raised, files.naming("some/file"):
        raise error
    assert raised.value is error


def test_a_file_that_is_replaced_on_a_full_disk_is_named(tmp_path):
    with pytest.raises(OSError, match="'.*/file'"):
        with files.replacing(tmp_path / "file"):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_line_on_a_full_disk_is_lost_and_no_more(full):
    files.say("x", file=full)


UNHEARD = """
import runpy, sys
say = runpy.run_path(sys.argv[1])["say"]
for stream in (sys.stdout, sys.stderr):
    say("lost", stream)
    print("lost as well", file=stream)
"""


def test_lines_that_nobody_reads_are_lost_and_no_more():
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-c", UNHEARD, files.__file__]
    assert subprocess.run(line, stdout=writer, stderr=writer).returncode == 0
    os.close(writer)


def test_what_killed_processes_left_is_removed(tmp_path):
    for name in ("x", "y"):
        for digits in ("0123456789abcdef", "fedcba9876543210"):
            (tmp_path / f".{name}.{digits}").touch()
    old = tmp_path / ".x.0123456789abcdef"
    os.utime(old, (0, 0))
    others = [tmp_path / "x", tmp_path / ".x.py", tmp_path / ".running"]
    for path in others:
        path.touch()
    files.sweep(tmp_path / "x", age=60.0)
    assert not old.exists() and len(list(tmp_path.glob(".x.*"))) == 2
    files.sweep(tmp_path / "x")
    left = {*others, *tmp_path.glob(".y.*")}
    assert {*tmp_path.iterdir()} == left and len(left) == 5
