"""Checkpoints of a training run: whole or absent, exact, ten kept.

`model{iteration}.npz` holds the network's weights, the optimizers' states and
the running metrics after `iteration` updates: all that training depends on,
since meta-batch t depends on (seed, t) alone.
"""

import pathlib
import re
import zipfile
from typing import NamedTuple

import numpy as np

from maml_tf import files

KEPT = 10


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another architecture."""


class Checkpoint(NamedTuple):
    """Where a checkpoint is, and after how many updates it was taken."""

    path: pathlib.Path
    iteration: int


def list_checkpoints(folder: str) -> list[Checkpoint]:
    """Returns the checkpoints in a folder, oldest first."""
    found = [
        Checkpoint(path, int(match[1]))
        for path in pathlib.Path(folder).glob("model*.npz")
        if (match := re.fullmatch(r"model(\d+)\.npz", path.name))
    ]
    return sorted(found, key=lambda checkpoint: checkpoint.iteration)


def find(folder: str, iteration: int = -1) -> Checkpoint:
    """Returns the checkpoint of an iteration, or the latest for −1.

    Raises:
      CheckpointError: if there is none.
    """
    checkpoints = list_checkpoints(folder)
    for checkpoint in reversed(checkpoints):
        if iteration in (-1, checkpoint.iteration):
            return checkpoint
    if iteration == -1:
        raise CheckpointError(
            f"{folder}: expected a checkpoint, model*.npz, found none."
        )
    there = ", ".join(str(c.iteration) for c in checkpoints) or "none"
    raise CheckpointError(
        f"--test_iter={iteration}: expected model{iteration}.npz in {folder}, "
        f"found the iterations: {there}."
    )


def save(folder: str, learner, phase: str, iteration: int) -> pathlib.Path:
    """Writes a checkpoint and removes the oldest beyond ten.

    The file is written beside, flushed to disk and renamed, so that a killed
    process or a full disk leaves the earlier checkpoints as they were.

    Args:
      folder: an existing folder.
      learner: a compiled meta-learner.
      phase: "pretrain" or "meta": whose optimizer it is.
      iteration: updates done, both phases together.
    """
    path = pathlib.Path(folder) / f"model{iteration}.npz"
    state = {name: np.asarray(v) for name, v in _state(learner).items()}
    with files.replacing(path) as file:
        np.savez(file, phase=phase, iteration=iteration, **state)
    for old in list_checkpoints(folder)[:-KEPT]:
        old.path.unlink()
    return path


def restore(checkpoint: Checkpoint, learner, phase: str | None) -> None:
    """Sets a learner to a checkpoint; nothing is set if anything is wrong.

    Args:
      checkpoint: see `find`.
      learner: a compiled meta-learner.
      phase: the phase that goes on. A checkpoint of another phase, or `None`
        (evaluation), gives the network's weights alone.

    Raises:
      CheckpointError: if the file is damaged or of another architecture.
    """
    arrays = _read(checkpoint.path)
    state = _state(learner)
    if str(arrays["phase"]) != phase:
        state = {k: v for k, v in state.items() if k.startswith("network/")}
    _check_same_shapes(checkpoint.path, arrays, state)
    for name, variable in state.items():
        variable.assign(arrays[name])


def _state(learner):
    """Returns all variables that training changes, by name."""
    groups = {
        "network": learner.network.variables,
        "inner": learner.inner_variables,
        "optimizer": learner.optimizer.variables,
        "metrics": learner.metrics_variables,
    }
    return {
        f"{group}/{index}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }


def _read(path):
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("no archive of arrays")
            file.seek(0)
            arrays = dict(np.load(file, allow_pickle=False))
        if "phase" not in arrays:
            raise ValueError("no phase in it")
        return arrays
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint, found a damaged file ({error}). "
            "Delete it to use the one before."
        ) from error


def _check_same_shapes(path, arrays, state):
    prefixes = tuple({name.split("/")[0] + "/" for name in state})
    found = {k: v.shape for k, v in arrays.items() if k.startswith(prefixes)}
    expected = {name: tuple(v.shape) for name, v in state.items()}
    if found != expected:
        wrong = sorted(
            name
            for name in found.keys() | expected.keys()
            if found.get(name) != expected.get(name)
        )
        raise CheckpointError(
            f"{path} is of another architecture: for {wrong[0]} expected "
            f"{expected.get(wrong[0], 'nothing')}, found "
            f"{found.get(wrong[0], 'nothing')} ({len(wrong)} differ in all)."
        )
