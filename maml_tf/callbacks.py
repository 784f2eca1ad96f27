"""Keras callbacks of a training run, counted in meta-iterations.

Training is one Keras epoch that starts at any iteration, so that a run can
be interrupted and continued anywhere.
"""

import math
import signal
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from maml_tf import files
from maml_tf.logs import Table
from maml_tf.replicas import on_several_hosts
from maml_tf.run_folder import CLOCK

LONG = 1_000_000
"""Iterations; a run of more writes no more rows than one of so many."""


class IterationCallback(keras.callbacks.Callback):
    """Calls `on_iteration(iteration)` with the number of updates done.

    Attributes:
      metrics: what the learner has tracked so far, by name.
    """

    def __init__(self, start: int):
        super().__init__()
        self.start = start

    def on_train_batch_end(self, batch, logs=None):
        """Counts."""
        self.metrics = logs
        self.on_iteration(self.start + (batch + 1) * self.model.block)

    def on_iteration(self, iteration: int):
        """To be overridden."""
        raise NotImplementedError


def bar(total: int, unit: str) -> Callable[[int], None]:
    """Returns what shows how many of `total` are done, on a terminal."""
    if not files.on_terminal():
        return lambda done: None
    return keras.utils.Progbar(total, unit_name=unit).update


class Progress(IterationCallback):
    """Shows a bar of iterations, their time and the time left.

    Args:
      start: the iteration at which the run starts or continues.
      end: the iteration at which it ends.
    """

    def __init__(self, start, end):
        super().__init__(start)
        self.show = bar(end - start, "iteration")

    def on_iteration(self, iteration):
        """Moves the bar."""
        self.show(iteration - self.start)


class FirstStep(keras.callbacks.Callback):
    """Says how long the first step took: the others neither trace nor compile.

    It is a block of updates where the learner makes those in one step.
    """

    def on_train_begin(self, logs=None):
        """Looks at the clock."""
        self.began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        """Prints the time since, once."""
        if batch == 0:
            compiles = ", compilation" * bool(self.model.jit_compile)
            seconds = time.monotonic() - self.began
            print_line(f"First step, with tracing{compiles}: {seconds:.1f} s")


class TrainingLog(IterationCallback):
    """Means over each window of iterations: a row, and a line.

    Every `window` iterations the learner's metrics are written and start
    afresh; every `print_interval` the mean of the windows since is printed as
    cbfinn/maml prints it, before and after adaptation, unless there is no line.

    Args:
      start: the iteration at which the run starts or continues.
      table: where rows go.
      line: makes the printed line of an iteration and a row of means, or
        `None`.
      window: in iterations.
      print_interval: in iterations, a multiple of `window`.
    """

    def __init__(
        self,
        start: int,
        table: Table,
        line: Callable[[int, dict[str, float]], str] | None,
        *,
        window: int,
        print_interval: int = 1,
    ):
        super().__init__(start)
        self.table = table
        self.line = line
        self.window = window
        self.print_interval = print_interval

    def on_train_begin(self, logs=None):
        """Keeps the metrics of an interrupted window, which Keras resets."""
        self.window_so_far = [v.numpy() for v in self.model.metrics_variables]
        self._reset = tf.function(self.model.reset_metrics)

    def on_epoch_begin(self, epoch, logs=None):
        """Gives the interrupted window its metrics back."""
        pairs = zip(
            self.model.metrics_variables, self.window_so_far, strict=True
        )
        for variable, value in pairs:
            variable.assign(value)

    def on_iteration(self, iteration):
        """Writes a window that is complete."""
        if iteration % self.window:
            return
        self.table.append(iteration, self.metrics)
        self._reset()
        if self.line and iteration % self.print_interval == 0:
            rows = self.table.last(self.print_interval // self.window)
            means = {k: np.mean([row[k] for row in rows]) for k in self.metrics}
            print_line(self.line(iteration, means))


class Scores(IterationCallback):
    """Scores the learner at regular intervals: a row, and a line.

    Args:
      start: the iteration at which the run starts or continues.
      table: where rows go.
      score: maps the iteration to a row.
      interval: in iterations.
      line: makes the printed line of an iteration and a row, or `None`.
      first: an iteration that is scored, from which intervals count.
    """

    def __init__(self, start, table, score, interval, line=None, first=0):
        super().__init__(start)
        self.table = table
        self.score = score
        self.interval = interval
        self.line = line
        self.first = first

    def on_iteration(self, iteration):
        """Writes a row, and prints it."""
        if (iteration - self.first) % self.interval:
            return
        row = self.score(iteration)
        self.table.append(iteration, row)
        if self.line:
            print_line(self.line(iteration, row))


class Keeper(IterationCallback):
    """Calls `keep()` at regular intervals, and for the rest at the end.

    Args:
      start: the iteration at which the run starts or continues.
      interval: in iterations.

    Attributes:
      done: updates done.
    """

    def __init__(self, start: int, interval: int):
        super().__init__(start)
        self.interval = interval
        self.done = self._kept = start

    def on_iteration(self, iteration):
        """Keeps if it is time."""
        self.done = iteration
        if iteration % self.interval == 0:
            self._keep()

    def on_train_end(self, logs=None):
        """Keeps what has been done since."""
        if self._kept < self.done:
            self._keep()

    def _keep(self):
        self.keep()
        self._kept = self.done

    def keep(self):
        """To be overridden."""
        raise NotImplementedError


class Saver(Keeper):
    """Saves a checkpoint at regular intervals and when training stops.

    Args:
      start: the iteration at which the run starts or continues.
      save: saves the state after an iteration.
      interval: in iterations.
      on_save_error: "stop", or "continue": the next one may succeed. The last
        one must.
    """

    def __init__(self, start, save, interval, on_save_error="stop"):
        super().__init__(start, interval)
        self.save = save
        self.on_save_error = on_save_error

    def on_iteration(self, iteration):
        """Saves if it is time."""
        with files.tolerating(self.on_save_error):
            super().on_iteration(iteration)

    def keep(self):
        """Saves."""
        self.save(self.done)


class Clock(Keeper):
    """Writes how long training has taken, at regular intervals and at its end.

    Seconds count from here, and go on where an earlier run stopped: with
    another table of iterations they give a curve over time. Nothing is written
    where it is not known how long that took.

    Args:
      start: the iteration at which the run starts or continues.
      table: where rows go.
      interval: in iterations.
    """

    def __init__(self, start: int, table: Table, interval: int):
        super().__init__(start, interval)
        self.table = table
        known = {row["iteration"]: row["seconds"] for row in table.last(1)}
        before = known.get(start) if start else 0.0
        self.began = None if before is None else time.monotonic() - before

    def keep(self):
        """Writes a row."""
        if self.began is None:
            return
        seconds = round(time.monotonic() - self.began, 1)
        self.table.append(self.done, {"seconds": seconds})


def keepers(
    run, learner, phase: str, start: int, interval: int
) -> list[Keeper]:
    """Returns what keeps the time and the state of a run in its folder.

    Args:
      run: the `RunFolder`.
      learner: what is saved.
      phase: of training, by which a checkpoint is restored.
      start: the iteration at which the run starts or continues.
      interval: in iterations.
    """
    return [
        Clock(start, run.table("seconds.csv", start, columns=CLOCK), interval),
        Saver(
            start,
            lambda done: run.save(learner, phase, done),
            interval,
            run.config.on_save_error,
        ),
    ]


class StopOnSignal(keras.callbacks.Callback):
    """Ends training after the current step on SIGINT or SIGTERM.

    A second signal ends the process at once.

    Attributes:
      received: the signal, or `None`.
    """

    def __init__(self):
        super().__init__()
        self.received = None
        self._previous = {}

    def on_train_begin(self, logs=None):
        """Listens."""
        self._previous = {
            s: signal.signal(s, self._stop)
            for s in (signal.SIGINT, signal.SIGTERM)
        }

    def release(self):
        """Stops listening; `fit` may have failed before it began."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number, frame):
        del frame
        self.received = signal.Signals(number)
        self.model.stop_training = True
        # Python's own handler would wait for the end of TensorFlow's call.
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)


def thinned(interval: int, iterations: int) -> int:
    """Returns an interval for a run of so many iterations, see `LONG`."""
    return interval * math.ceil(max(iterations, LONG) / LONG)


def fit(learner, data, start: int, end: int, others) -> None:
    """Trains from iteration `start` to `end`, with a bar on a terminal.

    Args:
      learner: a compiled meta-learner.
      data: its meta-batches, or blocks of them.
      start: the iteration at which the run starts or continues.
      end: the iteration at which it ends.
      others: callbacks.

    Raises:
      KeyboardInterrupt: after SIGINT or SIGTERM, when callbacks are done. One
        host of several cannot stop by itself: there a signal ends the process.
    """
    stop = StopOnSignal()
    several = on_several_hosts(learner.distribute_strategy)
    listening = [] if several else [stop]
    try:
        learner.fit(
            data,
            steps_per_epoch=(end - start) // learner.block,
            shuffle=False,
            verbose=0,
            callbacks=[FirstStep(), *others, *listening, Progress(start, end)],
        )
    finally:
        stop.release()
    if stop.received:
        raise KeyboardInterrupt(stop.received.name)


def print_line(line: str) -> None:
    """Prints a line of its own over a progress bar that may be there."""
    files.say(f"\r{line:<79}" if files.on_terminal() else line)
