"""Folders and archives read alike, front to back, whatever lies in what.

Standard library only.
"""

import contextlib
import functools
import gzip
import hashlib
import lzma
import os
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from maml_tf.cache import SUFFIX, DataError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,  # an encrypted file, or compression that is not known
)


class Member(NamedTuple):
    """A file in a folder or in an archive.

    Attributes:
      path: where it is, from the folder or archive walked; an archive in there
        looks like a folder, `'n01532829.tar/n01532829_6.JPEG'`.
      size: in bytes.
      open: opens it for reading. In an archive that works while the walk
        stands at this member.
    """

    path: PurePosixPath
    size: int
    open: Callable[[], IO]

    def read(self) -> bytes:
        """Returns the content."""
        with self.open() as file:
            return file.read()


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Tells from its name whether a file is an archive that can be walked."""
    return os.fspath(path).lower().endswith(SUFFIXES)


def walk(root: Path) -> Iterator[Member]:
    """Yields the files of a folder or an archive, and of archives in it.

    A folder's come sorted, an archive's as they lie, so that a compressed one
    is read once. Hidden files, and those that macOS strews, are left out.

    Args:
      root: a folder, or an archive whose name ends in one of `SUFFIXES`.

    Raises:
      DataError: if an archive cannot be read.
    """
    for path in _files_on_disk(root):
        inside = path.relative_to(root) if path != root else Path()
        opened = functools.partial(open, path, "rb")
        size = _stat(path).st_size
        member = Member(PurePosixPath(inside), size, opened)
        yield from _expand(member, str(path))


def fingerprint(roots: Iterable[Path], settings) -> str:
    """Returns a word that changes when a file on disk or a setting does.

    Packed data may lie among the files; they are none.
    """
    lines = [f"version 4, {settings}"]  # 4 is of what is made of the files
    for root in roots:
        for path in _files_on_disk(root):
            if path.suffix == SUFFIX:
                continue
            is_ = _stat(path)
            lines.append(f"{path.absolute()} {is_.st_size} {is_.st_mtime_ns}")
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _files_on_disk(root: Path, within: tuple = ()) -> Iterator[Path]:
    """Yields the visible files of a folder, sorted, or a file itself."""
    if root.is_file():
        yield root
    if not root.is_dir() or (here := root.resolve()) in within:
        return  # A link may lead back to a folder that it is in.
    with reading(root):
        names = sorted(filter(_is_visible, os.listdir(root)))
    paths = [root / name for name in names]
    folders = dict.fromkeys(filter(os.path.isdir, paths))
    yield from (path for path in paths if path not in folders)
    for folder in folders:
        yield from _files_on_disk(folder, (*within, here))


def _stat(path):
    """Returns the `stat` of a file; a pipe, say, would never end."""
    with reading(path):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError("expected a file, found a pipe or a device")
        return found


def _expand(member, name):
    """Yields a member, or what is in it if it is an archive."""
    if not is_archive(name):
        yield member
        return
    kind = _zip_members if name.lower().endswith(".zip") else _tar_members
    with reading(name), member.open() as file:
        for inner in kind(file):
            if all(map(_is_visible, inner.path.parts)):
                whole = inner._replace(path=member.path / inner.path)
                yield from _expand(whole, f"{name}/{inner.path}")


def _zip_members(file):
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                opened = functools.partial(archive.open, info)
                # Old programs of Windows write its own separator.
                path = PurePosixPath(info.filename.replace("\\", "/"))
                yield Member(path, info.file_size, opened)


def _tar_members(file):
    with tarfile.open(fileobj=file) as archive:
        for info in archive:
            is_link = info.islnk() or info.issym()
            if info.isfile() or is_link:
                opened = functools.partial(_extracted, archive, info)
                # A link's own size is 0, which would be an empty file.
                yield Member(
                    PurePosixPath(info.name), info.size or is_link, opened
                )
        # Python takes a cut or damaged header for the end.
        archive.fileobj.seek(archive.offset)
        size = tarfile.BLOCKSIZE
        if archive.fileobj.read(size) != bytes(size):
            raise tarfile.ReadError("it is cut off or damaged")
        _refuse_linked_folders(archive.getmembers())


def _refuse_linked_folders(infos):
    """Refuses links to folders: what is in them would be missed."""
    links = {PurePosixPath(i.name): i.linkname for i in infos if i.issym()}
    links = {p: to for p, to in links.items() if all(map(_is_visible, p.parts))}
    if not links:
        return
    folders = {f for info in infos for f in PurePosixPath(info.name).parents}
    for place, to in links.items():
        if PurePosixPath(posixpath.normpath(place.parent / to)) in folders:
            raise _linked(place, "a folder")


def _extracted(archive, info):
    with contextlib.suppress(KeyError):
        if file := archive.extractfile(info):
            return file
    raise _linked(info.name, "what is no file in it")


def _linked(path, target):
    return DataError(
        f"{path}: expected a file in the archive, found a link to {target}. "
        "Pack what links lead to, with tar -h."
    )


@contextlib.contextmanager
def reading(name: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what reading a file raises into `DataError`, which names it."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{name} cannot be read: {error}. Copy or download it again."
        ) from error


def _is_visible(name):
    return not name.startswith((".", "__MACOSX"))
