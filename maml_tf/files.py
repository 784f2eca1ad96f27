"""Files that are whole or absent, and folders with one process at a time."""

import contextlib
import csv
import errno
import fcntl
import io
import os
import pathlib
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TextIO

ROOM = 1 << 18
"""Bytes that results of a test take at most, or about."""


def require_room(folder: str | os.PathLike[str]) -> None:
    """Refuses a folder that the results of a test cannot be written to.

    Raises:
      OSError: if nothing can be written there, or too little.
    """
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(ROOM))
        file.flush()


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Gives errors of writing the file's name, which those of a full disk lack.

    Raises:
      OSError: as before, with `path` where it named none.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        text = os.strerror(error.errno)
        raise OSError(error.errno, text, os.fspath(path)) from error


def replace_table(path: str | os.PathLike[str], rows: Iterable) -> None:
    """Writes rows as a CSV file, see `replacing`."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        csv.writer(text).writerows(rows)
        text.detach()


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file that takes its place once it is complete and on disk.

    It is written beside, under a name of its own, flushed and renamed. After
    an exception, a kill or a full disk, `path` is what it was before; several
    processes may replace it at once, and the last one stays.

    Args:
      path: the file to write, in an existing folder.

    Raises:
      OSError: if it cannot be written; nothing is left behind.
    """
    path = pathlib.Path(path)
    # Unlike tempfile's, which are private, it gets the usual permissions.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with naming(path), open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def sweep(path: str | os.PathLike[str], age: float = 0.0) -> None:
    """Removes what killed processes left of `replacing` a file.

    Args:
      path: the file; its name may be a pattern.
      age: in seconds, of the youngest to go: others may be writing.
    """
    path, now = pathlib.Path(path), time.time()
    for half in path.parent.glob(f".{path.name}.{16 * '[0-9a-f]'}"):
        # It may be another user's, or gone by now: nothing depends on it.
        with contextlib.suppress(OSError):
            if now - half.stat().st_mtime >= age:
                half.unlink()


def make_again(folder: str | os.PathLike[str]) -> None:
    """Makes a folder that has vanished, if the one it was in is there."""
    if not os.path.isdir(folder):
        os.mkdir(folder)


class BusyError(OSError):
    """A folder that another process works in."""


@contextlib.contextmanager
def exclusive(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other processes that ask for it out of a folder.

    The system takes the lock away from a process that ends in any way. The
    file it is on, `.running`, says who has it, and goes with the lock, but not
    if the process is killed.

    Args:
      folder: an existing folder.

    Raises:
      BusyError: if another process is in it.
      OSError: if the folder cannot be written to.
    """
    path = os.path.join(folder, ".running")
    with _locked(path) as file:
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        host = socket.gethostname()
        try:
            with naming(path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {host} since {started}\n")
                file.flush()
            yield
        finally:
            # A disk that cannot be written to must not hide why it ends.
            with contextlib.suppress(OSError):
                if _is_at(path, file):
                    os.unlink(path)


def _locked(path):
    """Returns an open file with a lock on it, which is at its path."""
    while True:
        file = open(path, "a+")
        try:
            with naming(path):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(_busy(file)) from None
        except OSError:
            file.close()
            raise
        # Whoever had it may have removed it since it was opened.
        if _is_at(path, file):
            return file
        file.close()


def _busy(file):
    with file:
        file.seek(0)
        who = file.read().strip() or "another process"
    return (
        f"{os.path.dirname(file.name)}: in use by {who}. Wait for its end, or "
        "choose another folder."
    )


def _is_at(path, file):
    """Whether the file at a path is this one."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def tolerating(on_save_error: str) -> Iterator[None]:
    """Prints an error of writing, if it is to "continue", not to "stop"."""
    try:
        yield
    except OSError as error:
        if on_save_error == "stop":
            raise
        say(
            f"Not saved: {error}. Training continues, as --on_save_error says.",
            file=sys.stderr,
        )


def on_terminal() -> bool:
    """Returns whether what is printed goes to a terminal; it may be closed."""
    return sys.stdout is not None and sys.stdout.isatty()


def say(line: str, file: TextIO | None = None) -> None:
    """Prints a line; one that a full disk has no room for is lost.

    So are all from one on that nobody reads, as `tee` has ended. Nothing
    depends on them, and what has to be saved says so itself.
    """
    try:
        print(line, file=file, flush=True)
    except BrokenPipeError:
        _mute(file or sys.stdout)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _mute(stream):
    """Lets a stream lead nowhere."""
    # What it still holds would fail again, at the latest as the process ends.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
