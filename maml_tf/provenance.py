"""Where a result is from: the commit of the program, and the machine."""

import os
import pathlib
import platform
import subprocess


def commit() -> str | None:
    """Returns the commit of the program, with "+" if files differ from it.

    `None` if it does not run from a Git repository, or Git is missing.
    """
    try:
        revision = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + "+" * bool(changed)


def machine(accelerators: list[str]) -> str:
    """Returns what computes, in words: cores and accelerators, no name."""
    cores = f"{os.cpu_count()} cores, {platform.machine()}"
    return ", ".join([cores, *(accelerators or ["no GPU"])])


def _git(*arguments):
    folder = pathlib.Path(__file__).resolve().parent
    # Of an installed package a repository around it would say nothing.
    tracked = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "."]
    for command in (tracked, ["git", "-C", str(folder), *arguments]):
        done = subprocess.run(
            command, check=True, capture_output=True, text=True
        )
    return done.stdout.strip()
