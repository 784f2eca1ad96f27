"""Checkpoints of a training run: whole or absent, exact, ten kept.

`model{iteration}.npz` holds the network's weights, the optimizers' states and
the running metrics after `iteration` updates: all that training depends on,
since meta-batch t depends on (seed, t) alone. With it are the settings of the
run, its history, and a checksum.
"""

import hashlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maml_tf import files

KEPT = 10


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another architecture."""


class DamagedError(CheckpointError):
    """A checkpoint whose content is not what was written."""


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


def whole(folder: str) -> Iterator[Checkpoint]:
    """Yields the checkpoints that are whole, newest first; names others.

    Raises:
      DamagedError: if there are some, but none is whole.
    """
    found, damaged = False, []
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            read(checkpoint)
        except DamagedError as error:
            damaged.append(error)
            continue
        except CheckpointError:
            if os.path.lexists(checkpoint.path):
                raise
            continue  # A training beside this has removed it.
        _name(damaged)
        found, damaged = True, []
        yield checkpoint
    if damaged and not found:
        raise DamagedError(
            f"{damaged[0]} No other checkpoint in its folder is whole; "
            "--noresume starts anew."
        )
    _name(damaged)


def _name(damaged):
    for damage in damaged:
        print(f"Passed over: {damage}", file=sys.stderr)


def refuse_original(folder: str, iteration: int = -1, more: str = "") -> None:
    """Refuses a folder with checkpoints of an original, and none of ours.

    Args:
      folder: of a run.
      iteration: that is asked for; −1 is the latest.
      more: what else may be done, for the message.

    Raises:
      CheckpointError: says how to read the one asked for, or which are there.
    """
    theirs = {
        int(match[1]): path.with_suffix("")
        for path in pathlib.Path(folder).glob("model*.index")
        if (match := re.fullmatch(r"model(?:\.ckpt-)?(\d+)\.index", path.name))
    }
    if not theirs or list_checkpoints(folder):
        return
    if iteration not in (-1, *theirs):
        there = ", ".join(map(str, sorted(theirs)))
        raise CheckpointError(
            f"--test_iter={iteration}: expected one of the iterations in "
            f"{folder}, found {there}, of TensorFlow 1."
        )
    prefix = theirs[max(theirs) if iteration == -1 else iteration]
    asked = "" if iteration == -1 else ", without --test_iter"
    raise CheckpointError(
        f"{folder}: expected checkpoints of this program, model*.npz, "
        f"found {prefix.name}.index, of TensorFlow 1. "
        f"--import_checkpoint={prefix} reads it{asked}{more}."
    )


def latest(folder: str) -> Checkpoint | None:
    """Returns the newest of the `whole` checkpoints, `None` without any."""
    return next(whole(folder), None)


def find(folder: str, iteration: int = -1) -> Checkpoint:
    """Returns the checkpoint of an iteration, or the `latest` for −1.

    Raises:
      CheckpointError: if there is none.
    """
    refuse_original(folder, iteration)
    if iteration == -1:
        if found := latest(folder):
            return found
        raise CheckpointError(
            f"{folder}: expected a checkpoint, model*.npz, found none."
        )
    checkpoints = list_checkpoints(folder)
    for checkpoint in checkpoints:
        if iteration == checkpoint.iteration:
            return checkpoint
    there = ", ".join(str(c.iteration) for c in checkpoints) or "none"
    raise CheckpointError(
        f"--test_iter={iteration}: expected model{iteration}.npz in {folder}, "
        f"found the iterations: {there}."
    )


def save(
    folder: str,
    arrays: dict[str, np.ndarray],
    phase: str,
    iteration: int,
    settings: dict,
    history: dict | None = None,
) -> pathlib.Path:
    """Writes a checkpoint and removes the oldest beyond ten.

    The file is written beside, flushed to disk and renamed, so that a killed
    process or a full disk leaves the earlier checkpoints as they were.

    Args:
      folder: an existing folder.
      arrays: the `state` of a compiled meta-learner.
      phase: "pretrain", "meta", "reptile", "policy" or "imported": whose
        optimizer it is.
      iteration: updates done, both phases together.
      settings: of the run, for `read` to return.
      history: how the run came here, likewise.
    """
    path = pathlib.Path(folder) / f"model{iteration}.npz"
    facts = {
        "phase": phase,
        "iteration": iteration,
        "settings": json.dumps(settings),
        "history": json.dumps(history or {}),
    }
    entries = {**{k: np.asarray(v) for k, v in facts.items()}, **arrays}
    with files.replacing(path) as file:
        np.savez(file, checksum=_checksum(entries), **entries)
    tidy(folder)
    return path


def tidy(folder: str) -> None:
    """Removes the oldest checkpoints beyond ten, and half-written ones.

    A killed process may have left them. No other may be saving there.
    """
    for old in list_checkpoints(folder)[:-KEPT]:
        old.path.unlink()
    files.sweep(pathlib.Path(folder) / "model*.npz")


class Content(NamedTuple):
    """What is in a checkpoint.

    Attributes:
      phase: whose optimizer it is, see `save`.
      settings: of the run.
      arrays: the variables' values by name.
      history: how the run came there.
    """

    phase: str
    settings: dict
    arrays: dict[str, np.ndarray]
    history: dict


def read(checkpoint: Checkpoint) -> Content:
    """Reads a checkpoint, and compares it with its checksum.

    Raises:
      DamagedError: if it is not what was written.
      CheckpointError: if it cannot be read at all.
    """
    path = checkpoint.path
    try:
        with open(path, "rb") as file:
            content, iteration = _content(file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).") from error
    if iteration != checkpoint.iteration:
        raise DamagedError(
            f"{path}: expected the checkpoint of its name, found that of "
            f"another iteration, {iteration}."
        )
    return content


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
    content = read(checkpoint)
    variables = _variables(learner)
    if content.phase != phase:
        variables = {
            k: v for k, v in variables.items() if k.startswith("network/")
        }
    _check_same_shapes(checkpoint.path, content.arrays, variables)
    for name, variable in variables.items():
        variable.assign(content.arrays[name])


def state(learner) -> dict[str, np.ndarray]:
    """Returns the values of all variables that training changes, by name."""
    return {k: np.asarray(v) for k, v in _variables(learner).items()}


def _variables(learner):
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


def _content(file):
    """Returns what is in a file, and its iteration, if the checksum agrees."""
    try:
        arrays = dict(np.load(file, allow_pickle=False))
        checksum = str(arrays.pop("checksum"))
        if checksum != _checksum(arrays):
            raise ValueError("its content was changed")
        iteration = int(arrays.pop("iteration"))
        phase = str(arrays.pop("phase"))
        settings, history = (
            dict(json.loads(str(arrays.pop(name, "{}"))))
            for name in ("settings", "history")
        )
        return Content(phase, settings, arrays, history), iteration
    except Exception as error:  # whatever a damaged archive leads to
        raise DamagedError(
            f"{file.name}: expected a checkpoint, found a damaged file "
            f"({type(error).__name__}: {error})."
        ) from error


def _checksum(entries):
    """Returns SHA-256 of names, kinds, shapes and bytes."""
    digest = hashlib.sha256()
    for name, values in sorted(entries.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


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
