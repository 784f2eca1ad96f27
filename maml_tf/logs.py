"""A run's logs: tables as CSV, and what TensorBoard shows of them."""

import array
import contextlib
import csv
import glob
import math
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from maml_tf import files


class Table:
    """A CSV file of one row for an iteration, which a resumed run continues.

    Rows after the resumed iteration are dropped: they will come again. All are
    kept, 8 bytes a number, to be written again if the file vanishes.

    Args:
      path: the CSV file.
      start: the iteration at which the run starts or continues.
      show: is told of every row, old and new: iteration and values by name.
      on_save_error: "stop" or "continue"; then rows that could not be written
        are, together with the next one.
      writes: whether the file is written, or only read and gone on with.
      columns: those of its rows besides the iteration, if they are known.

    Raises:
      ValueError: if there is such a file, but not of this kind.
    """

    def __init__(
        self,
        path: str,
        start: int,
        show: Callable[[int, dict[str, float]], None] | None = None,
        on_save_error: str = "stop",
        writes: bool = True,
        columns: Iterable[str] | None = None,
    ):
        self.path = path
        self.writes = writes
        self.show = show
        self.on_save_error = on_save_error
        self._iterations = array.array("q")
        self._values = array.array("d")
        self._names: tuple[str, ...] = ()
        for row in read_rows(path, start, columns):
            self._keep(row)
        if writes and os.path.exists(path):
            self._write_whole()
        for row in self.last(len(self)):
            self._show(row)
        self._whole = bool(len(self))

    def __len__(self) -> int:
        return len(self._iterations)

    def last(self, count: int) -> list[dict[str, float]]:
        """Returns the last rows, all of them if there are fewer."""
        return [self._row(i) for i in range(len(self))[-count:]]

    def append(self, iteration: int, values: dict[str, float]) -> None:
        """Adds a row and writes it at once."""
        self._keep({"iteration": iteration, **values})
        if not self.writes:
            return
        with files.tolerating(self.on_save_error):
            self._write()
            self._show(*self.last(1))

    def _keep(self, row):
        self._names = self._names or tuple(row)[1:]
        self._iterations.append(row["iteration"])
        self._values.extend(row[name] for name in self._names)

    def _row(self, index):
        width = len(self._names)
        values = self._values[index * width : (index + 1) * width]
        row = zip(self._names, values, strict=True)
        return {"iteration": self._iterations[index], **dict(row)}

    def sync(self) -> None:
        """Makes sure that all rows are on disk."""
        if len(self) and not self._has_all():
            self._write_whole()
            self._whole = True
        if os.path.exists(self.path):
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())

    def _has_all(self):
        """Whether the file has every row."""
        return self._whole and os.path.exists(self.path)

    def _write(self):
        """Appends a row to a file that has the others, or writes them all."""
        whole, self._whole = self._has_all(), False
        if whole:
            with (
                files.naming(self.path),
                open(self.path, "a", newline="") as file,
            ):
                csv.writer(file).writerow(self.last(1)[0].values())
        else:
            self._write_whole()
        self._whole = True

    def _write_whole(self):
        files.make_again(os.path.dirname(self.path))
        rows = self.last(len(self))
        files.replace_table(
            self.path, [*rows[:1], *(row.values() for row in rows)]
        )

    def _show(self, row):
        if self.show:
            values = dict(row)
            self.show(values.pop("iteration"), values)


@contextlib.contextmanager
def _named(folder):
    """Makes errors of TensorFlow's files those of Python, of one line."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{folder}: {error.message.splitlines()[0]}") from error


class Scalars:
    """TensorBoard's scalars in a folder, written at once.

    Those of an earlier run of the folder are removed: their tables tell them
    again. TensorFlow 1's stay.

    Args:
      folder: where its files go; without one nothing is written.

    Raises:
      OSError: if that cannot be.
    """

    def __init__(self, folder: str | None):
        self.folder = folder
        if folder is not None:
            pattern = os.path.join(glob.escape(folder), "events.out.*.v2")
            for old in glob.glob(pattern):
                os.unlink(old)
            with _named(folder):
                self._writer = tf.summary.create_file_writer(folder)
            # One call for all of them, as each takes as long as a meta-update.
            self._write = tf.function(self._each)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes values by name.

        Raises:
          OSError: if that fails.
        """
        if self.folder is None:
            return
        # TensorFlow keeps every Python number that it has met, but no arrays.
        arrays = {k: np.array(value, np.float32) for k, value in values.items()}
        with _named(self.folder):
            self._write(tf.constant(np.array(step)), arrays)
            self._writer.flush()

    def _each(self, step, values):
        with self._writer.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)


def read_rows(
    path: str, last: float = math.inf, columns: Iterable[str] | None = None
) -> list[dict]:
    """Returns a table's rows up to an iteration; half a row is none.

    Args:
      path: the CSV file; without it there are no rows.
      last: the iteration.
      columns: those that rows must have besides it, if they are known.

    Raises:
      ValueError: if it is another kind of file, or its columns are others.
    """
    rows = _read(path, last) if os.path.exists(path) else []
    if rows and columns is not None:
        expected = ["iteration", *columns]
        if rows[0].keys() != {*expected}:
            raise ValueError(
                f"{path}: expected the columns {', '.join(expected)}, found "
                f"{', '.join(rows[0])}. Move it away to go on without."
            )
    return rows


def _read(path, last):
    try:
        with open(path, newline="") as file:
            whole = (line for line in file if line.endswith("\n"))
            return [
                _numbers(row)
                for row in csv.DictReader(whole, strict=True)
                if int(row["iteration"]) <= last
            ]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path}: expected a table of numbers with a column iteration, "
            f"found something else ({error}). Move it away to go on without."
        ) from error


def smoothed(
    rows: Sequence[dict], column: str, window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns iterations, and the means of a column's last values.

    Args:
      rows: see `read_rows`.
      column: its name.
      window: how many values; the first rows have those so far.
    """
    x, values = (np.array([r[k] for r in rows]) for k in ("iteration", column))
    sums = np.convolve(values, np.ones(window))[: len(values)]
    return x, sums / np.minimum(np.arange(len(values)) + 1, window)


def _numbers(row):
    iteration = int(row.pop("iteration"))
    numbers = {name: float(value) for name, value in row.items()}
    return {"iteration": iteration, **numbers}
