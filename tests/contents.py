"""What files hold, made and read."""

import csv
import io
import tarfile
import zipfile

import numpy as np


class Runs:
    """What runs a function as it is unpickled."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


def npz(arrays):
    """Returns the bytes of an `.npz` of arrays by name."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def tarred(files, mode="w"):
    """Returns the bytes of a TAR archive of contents by path."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(f"./{path}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zipped(files):
    """Returns the bytes of a ZIP archive of them, and of a folder `b`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("b/", "")
        for path, content in files.items():
            archive.writestr(path, content)
    return file.getvalue()


def rows(path):
    """Returns the rows of a CSV file with a header, as text by column."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
