"""A run's folder: its settings, checkpoints and logs, and who works in it."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator

from maml_tf import checkpoints, files, logs, provenance
from maml_tf.settings import Settings

TABLES = (
    "training.csv",
    "training_curve.csv",
    "validation.csv",
    "curve.csv",
    "seconds.csv",
)
"""All tables that a run may have."""

CLOCK = ("seconds",)
"""Columns of `seconds.csv`."""

IMAGES = ("datasource", "image_size", "image_channels")
"""Settings that say what a network sees."""


class RunFolder:
    """What a training keeps, where its settings say.

    Args:
      config: settings with `folder`, `resume`, `log` and `on_save_error`.
      writes: whether this process writes; of several hosts one does.
    """

    def __init__(self, config, writes: bool = True):
        self.config = config
        self.writes = writes
        self.tables: dict[str, logs.Table] = {}
        self.commit: str | None = None
        self.changes: list[str] = []

    @property
    def resumes(self) -> bool:
        """Whether there is something to continue from."""
        there = checkpoints.list_checkpoints(self.config.folder)
        return self.config.resume and bool(there)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Works in the folder, alone; an earlier run goes unless it resumes.

        A process that does not write leaves all that to the one that does.

        Raises:
          files.BusyError: if another process trains there.
          settings.ConfigError: if the folder cannot be made.
          ValueError: if a table there is none; nothing has been changed.
        """
        if not self.writes:
            yield
            return
        make(self.config)
        with files.exclusive(self.config.folder):
            for name in TABLES:
                logs.read_rows(self._path(name))
                files.sweep(self._path(name))
            files.sweep(self._path("config.json"))
            if not self.config.resume:
                for old in checkpoints.list_checkpoints(self.config.folder):
                    old.path.unlink()
                self._remove_tables()
            yield
            # An earlier process may have been killed before it did so.
            checkpoints.tidy(self.config.folder)

    def _remove_tables(self):
        for name in TABLES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(name))

    def latest(self) -> checkpoints.Checkpoint | None:
        """Returns the checkpoint to go on from; says what changed since.

        Raises:
          checkpoints.DamagedError: if all are damaged.
          checkpoints.CheckpointError: if they are of an original.
          settings.ConfigError: if a setting is not what it was made with.
        """
        found = checkpoints.latest(self.config.folder)
        if found is None:
            if self.config.resume:
                checkpoints.refuse_original(
                    self.config.folder, more="; --noresume trains anew"
                )
            return None
        content = checkpoints.read(found)
        self.commit = content.history.get("commit")
        self.changes = content.history.get("changes", [])
        before = self.config.fixed_at(
            content.phase, found.iteration, content.settings
        )
        for change in self.config.changes_since(before, found.path):
            files.say(f"Changed: {change}")
            self.changes.append(f"{change} from {found.iteration} on")
        return found

    def imports(self) -> bool:
        """Returns whether a run starts from another's checkpoint, or says no.

        It does not where it has checkpoints of its own to go on from. Of
        several hosts the one that writes imports: all go on from what it saves.
        """
        prefix = self.config.import_checkpoint
        if prefix and self.writes and self.resumes:
            files.say(f"Not imported: {prefix}; {self.config.folder} goes on.")
        return bool(prefix) and self.writes and not self.resumes

    def start_from_import(self, learner, phase: str, iteration: int) -> None:
        """Saves an imported learner; rows of a run that saved none go."""
        prefix = self.config.import_checkpoint
        files.say(f"Imported: {prefix}, of step {iteration}")
        name = os.path.basename(prefix)
        self.changes = [f"imported: {name}, of step {iteration}"]
        self._remove_tables()
        self.save(learner, phase, iteration)

    def is_over(
        self, done: checkpoints.Checkpoint | None, iterations: int
    ) -> bool:
        """Returns whether all iterations were done, and says so."""
        over = done is not None and done.iteration >= iterations
        if over:
            path, iteration = done
            files.say(f"Nothing to train: {path} is of iteration {iteration}")
        return over

    def need_not_meet(self, iterations: int) -> bool:
        """Returns whether a run of several hosts is over, and says so.

        A host that died after the last step comes back when others may be
        gone. Settings are compared as by `latest`.
        """
        several = self.config.strategy == "multi_worker" and self.resumes
        done = checkpoints.latest(self.config.folder) if several else None
        if done is None or done.iteration < iterations:
            return False
        with self.entered():
            return self.is_over(self.latest(), iterations)

    def describe(self, explanation: str) -> None:
        """Writes `config.json`: the settings, what they mean, the history.

        That is, as in every checkpoint from here on, the commits that trained,
        this one the last, and what changed meanwhile.
        """
        if not self.writes:
            return
        self.commit = _joined(self.commit, provenance.commit())
        whole = self.config.to_json(explanation, **self._history())
        with files.replacing(self._path("config.json")) as file:
            file.write(whole.encode())

    def scalars(self, name: str = ".") -> logs.Scalars:
        """Returns TensorBoard's scalars in the folder, or one in it."""
        shown = self.config.log and self.writes
        return logs.Scalars(self._path(name) if shown else None)

    def table(
        self,
        name: str,
        start: int,
        show: Callable[[int, dict[str, float]], None] | None = None,
        columns: Iterable[str] | None = None,
    ) -> logs.Table:
        """Returns one of the run's `TABLES`, see `logs.Table`."""
        table = logs.Table(
            self._path(name),
            start,
            show,
            self.config.on_save_error,
            writes=self.writes,
            columns=columns,
        )
        self.tables[name] = table
        return table

    def save(self, learner, phase: str, iteration: int) -> None:
        """Saves a checkpoint once all rows before it are on disk."""
        # Reading metrics takes all replicas, so before anything can fail here.
        arrays = checkpoints.state(learner)
        if not self.writes:
            return
        files.make_again(self.config.folder)
        for table in self.tables.values():
            table.sync()
        settings = dataclasses.asdict(self.config)
        checkpoints.save(
            self.config.folder,
            arrays,
            phase,
            iteration,
            settings,
            self._history(),
        )

    def _history(self):
        return {"commit": self.commit, "changes": self.changes}

    def _path(self, name):
        return os.path.join(self.config.folder, name)


def make(config) -> None:
    """Makes the folder of a run.

    Raises:
      settings.ConfigError: if it cannot be made.
    """
    try:
        os.makedirs(config.folder, exist_ok=True)
    except OSError as error:
        config.refuse("folder", f"a folder that can be made ({error.strerror})")


def make_writable(config) -> None:
    """Makes the folder of a run, if need be, for the results of a test.

    Raises:
      settings.ConfigError: if it cannot be made.
      OSError: see `files.require_room`.
    """
    make(config)
    files.require_room(config.folder)


def tests_import(config) -> bool:
    """Returns whether a test or an export is of the checkpoint to import.

    A training line imports what it starts from, until it has its own.
    """
    own = config.train and checkpoints.list_checkpoints(config.folder)
    return bool(config.import_checkpoint and not own)


def require_same(
    config, checkpoint: checkpoints.Checkpoint, more: Iterable[str] = ()
) -> None:
    """Refuses settings of data or network that are not those of training.

    Args:
      config: settings of a test.
      checkpoint: what is tested.
      more: settings that have to be the same, besides those of images.

    Raises:
      settings.ConfigError: names the flag and both values.
    """
    before = checkpoints.read(checkpoint).settings
    names = [*IMAGES, *more, *["ways"] * config.is_classification]
    kept = {name: before[name] for name in names if name in before}
    config.changes_since(kept, checkpoint.path, tests=True)


def facts_of(config, checkpoint: checkpoints.Checkpoint | None) -> dict:
    """Returns where a result is from: of which checkpoint, by what computed.

    Args:
      config: settings with `folder`, of the evaluation.
      checkpoint: which one; `None` for an imported one, or for initial weights.

    Returns:
      For `records.write`: what `provenance.here` does, the `checkpoint`,
      `iterations` done, `seconds` that they took, the `commit` that trained,
      or several in turn, its `settings` that can change a number, the
      `changes` of settings while it trained, its `seed`, and `test_settings`,
      those of the evaluation that training does not have or had otherwise.
      What is not known is `None`.
    """
    if checkpoint is None:
        names = "iterations", "seconds", "commit", "settings", "changes", "seed"
        imported = config.import_checkpoint
        return {
            **provenance.here(),
            "checkpoint": imported and os.path.basename(imported),
            **dict.fromkeys(names),
            "test_settings": _test_settings(config, {}),
        }
    _, settings, _, history = checkpoints.read(checkpoint)
    trained = {k: v for k, v in settings.items() if k not in config.FREE}
    return {
        **provenance.here(),
        "checkpoint": checkpoint.path.name,
        "iterations": checkpoint.iteration,
        "seconds": _seconds(config.folder, checkpoint.iteration),
        "commit": history.get("commit"),
        "settings": trained,
        "changes": history.get("changes", []),
        "test_settings": _test_settings(config, trained),
        "seed": settings.get("seed"),
    }


def _test_settings(config, trained):
    return {
        field: value
        for field, value in dataclasses.asdict(config).items()
        if field not in Settings.FREE
        if field not in trained or value != trained[field]
    }


def _seconds(folder, iteration):
    path = os.path.join(folder, "seconds.csv")
    rows = logs.read_rows(path, columns=CLOCK)
    return {r["iteration"]: r["seconds"] for r in rows}.get(iteration)


def _joined(before, now):
    """Returns the commits that trained, in turn; `None` if none is known."""
    known = before.split(", ") if before else []
    if now and known[-1:] != [now]:
        known.append(now)
    return ", ".join(known) or None
