"""Files that are whole or absent, whatever happens while they are written."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import BinaryIO


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
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
