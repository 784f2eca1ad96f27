"""Where a result is from: the program's commit, the machine, libraries."""

import os
import pathlib
import platform
import subprocess

import keras
import tensorflow as tf

from maml_tf import cores

ALL_BUT_RESULTS = (":(top)", ":(top,exclude)results")


def commit() -> str | None:
    """Returns the commit of the program, with "+" if files differ from it.

    Results may, as they compute nothing. `None` if it does not run from a Git
    repository, or Git is missing.
    """
    status = "status", "--porcelain", "--untracked-files=no", "--"
    try:
        revision = _git("rev-parse", "--short=12", "HEAD")
        changed = _git(*status, *ALL_BUT_RESULTS)
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + "+" * bool(changed)


def here() -> dict[str, str]:
    """Returns what computes, in words: the `machine`, no name, and `versions`.

    They are part of every record of an evaluation.
    """
    processor = f"{os.cpu_count()} cores, {platform.machine()}"
    return {
        "machine": ", ".join(
            [processor, *(cores.accelerators() or ["no GPU"])]
        ),
        "versions": f"TensorFlow {tf.__version__}, Keras {keras.__version__}",
    }


def _git(*arguments):
    folder = pathlib.Path(__file__).resolve().parent
    # Of an installed package a repository around it would say nothing.
    tracked = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "."]
    for command in (tracked, ["git", "-C", str(folder), *arguments]):
        done = subprocess.run(
            command, check=True, capture_output=True, text=True
        )
    return done.stdout.strip()
