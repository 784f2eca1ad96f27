"""What files hold, made and read."""

import csv
import io

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


def rows(path):
    """Returns the rows of a CSV file with a header, as text by column."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
