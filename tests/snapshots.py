"""What is on disk, to compare before and after."""

import hashlib
import os

import pytest


def snapshot(folder):
    """Returns of everything in a folder what it is and what is in it."""
    return {
        os.path.relpath(path, folder): _content(path)
        for path in sorted(folder.rglob("*"))
    }


def _content(path):
    if path.is_symlink():
        return "link", os.readlink(path)
    if path.is_file():
        content = path.read_bytes()
        return len(content), hashlib.sha256(content).hexdigest()
    return "folder" if path.is_dir() else "other"


def check_error(call, fragments, folder, kind=ValueError):
    """Calls what raises an error; there is nothing on disk but as before."""
    before = snapshot(folder)
    with pytest.raises(kind) as error:
        call()
    for fragment in fragments:
        assert fragment in str(error.value)
    assert snapshot(folder) == before
