"""Where a result is from: the program's commit, the machine, libraries."""

import os
import pathlib
import platform
import subprocess

import keras
import tensorflow as tf

ALL_BUT_RESULTS = (":(top)", ":(top,exclude)results")


def commit() -> str | None:
    """Returns the commit of the program, with "+" if files differ from it.

    Results may, as they compute nothing. `None` if it does not run from a Git
    repository, or Git is missing.
    """
    status = "status", "--porcelain", "--untracked-files=no", "--"
    try:
        # Of an installed package a repository around it would say nothing.
        _git("ls-files", "--error-unmatch", ".")
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
        "machine": ", ".join([processor, *(_gpus() or ["no GPU"])]),
        "versions": f"TensorFlow {tf.__version__}, Keras {keras.__version__}",
    }


def _gpus():
    details = tf.config.experimental.get_device_details
    gpus = tf.config.list_physical_devices("GPU")
    return [str(details(gpu).get("device_name", "GPU")) for gpu in gpus]


def _git(*arguments):
    folder = pathlib.Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()
