"""What goes wrong in a training, said as it happens: Keras callbacks."""

import numpy as np
import tensorflow as tf

from maml_tf.callbacks import IterationCallback, Keeper, print_line

CHANCE = 1.05
"""What is no better than chance: 1 / N times this."""


class Alarm(IterationCallback):
    """Says once what is wrong with all of a table's last rows.

    Args:
      start: the iteration at which the run starts or continues.
      table: what to look at.
      rows: how many of the last ones.
      faults: functions from them to what is wrong, or `None`.
    """

    def __init__(self, start, table, rows, faults):
        super().__init__(start)
        self.table = table
        self.rows = rows
        self.faults = faults
        self.seen = 0

    def on_iteration(self, iteration):
        """Looks at new rows, if there are enough."""
        if len(self.table) == self.seen:
            return
        self.seen = len(self.table)
        rows = self.table.last(self.rows)
        # Another phase has others, which say nothing of this one.
        last = [row for row in rows if row["iteration"] > self.start]
        if len(last) < self.rows:
            return
        for fault in list(self.faults):
            if message := fault(last):
                print_line(f"Alarm at iteration {iteration}: {message}")
                self.faults.remove(fault)


def at_chance(column: str, ways: int):
    """Returns the fault of accuracy that is no better than 1 / N."""

    def fault(rows):
        mean = np.mean([row[column] for row in rows])
        if mean > CHANCE / ways:
            return None
        return (
            f"accuracy is {mean:.1%}, no better than chance, 1/{ways}. Likely "
            "causes: an inner or outer step size that is too small or too "
            "large, labels that do not belong to their images, classes that "
            "cannot be told apart."
        )

    return fault


def worsens(before: str, after: str):
    """Returns the fault of an inner loop that makes the loss worse."""

    def fault(rows):
        if any(row[after] <= row[before] for row in rows):
            return None
        return (
            f"adaptation makes the loss worse since iteration "
            f"{rows[0]['iteration']}: {rows[-1][before]:.4g} before, "
            f"{rows[-1][after]:.4g} after. Lower the inner step size."
        )

    return fault


class NonFiniteError(ArithmeticError):
    """Training met a number that is not finite."""


class NonFiniteGuard(Keeper):
    """Stops training at the first loss that is not finite.

    It looks at regular intervals, and before the last checkpoint, at the mean
    loss, which stays so, and at the weights, which the last loss knows nothing
    of; if all are finite, the state is kept. If not, the iterations since are
    repeated, one by one, to name the iteration and the first tensor.

    Args:
      start: the iteration at which the run starts or continues.
      sampler: meta-batch t is `sampler(t)`.
      rates: the flags to lower.
      interval: in iterations. It divides that of everything which saves the
        state or resets the metrics.
    """

    def __init__(self, start: int, sampler, rates: str, interval: int = 10):
        super().__init__(start, interval)
        self.sampler = sampler
        self.rates = rates

    def on_train_begin(self, logs=None):
        """Keeps the initial state."""
        self._variables = [
            *self.model.variables,
            *self.model.optimizer.variables,
        ]
        self._read = tf.function(self._state)
        self._values, _ = self._read()

    def keep(self):
        """Raises `NonFiniteError` if the loss or a weight is not finite."""
        values, are_finite = self._read()
        if not (are_finite and np.isfinite(self.metrics["loss"])):
            raise NonFiniteError(self._explain())
        self._values = values

    def _state(self):
        """Returns copies of all variables, and whether weights are finite."""
        weights = [
            tf.reduce_all(tf.math.is_finite(w.value))
            for w in self.model.weights
            if tf.as_dtype(w.dtype).is_floating
        ]
        values = [tf.identity(v.value) for v in self._variables]
        return values, tf.reduce_all(weights)

    def _explain(self):
        for variable, value in zip(self._variables, self._values, strict=True):
            variable.assign(value)
        for t in range(self._kept, self.done):
            x, y = self.sampler(tf.constant(t, tf.int64))
            for name, tensor in self.model.diagnose(x, y):
                if not np.isfinite(tensor).all():
                    return self._words(t + 1, name)
            if self.model.block > 1:
                x, y = tf.nest.map_structure(lambda part: part[None], (x, y))
            self.model.train_on_batch(x, y)
            if not self._read()[1]:
                return self._words(t + 1, "weights")
        return f"Not finite between iterations {self._kept} and {self.done}."

    def _words(self, iteration, name):
        return (
            f"Not finite at iteration {iteration}: first the {name}. Lower "
            f"{self.rates}."
        )
