"""What the programs share: settings from flags, and how a program ends."""

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from maml_tf.settings import ConfigError

PATHS = ("logdir", "folder", "import_checkpoint")
"""Fields that are paths, but for those of data."""
COMMENT = re.compile("#|//")
"""How a line of a file of flags begins that is none."""


def fields(kind: type, values: Mapping, told: Mapping[str, Any]) -> dict:
    """Returns the fields of settings: given by flags, or told, or defaults.

    Args:
      kind: a subclass of `settings.Settings`.
      values: absl's flags by name.
      told: fields known from elsewhere, for flags that are not given.
    """
    flags = {f: values[kind.flag_name(f)] for f in kind.__dataclass_fields__}
    found = {
        field: flag.value if flag.present else told.get(field, flag.value)
        for field, flag in flags.items()
    }
    # No shell expands ~ after the = of a flag.
    paths = {f: os.path.expanduser(found[f]) for f in PATHS if found.get(f)}
    return found | paths


def expanded(
    arguments: Sequence[str], within: tuple[str, ...] = ()
) -> list[str]:
    """Returns a command line with the lines of files of flags in their place.

    `--flagfile=PATH` and `--flagfile PATH` name a file, on the command line or
    in another; empty lines, and those that begin with # or //, are comments.
    After `--` nothing is a flag.

    Args:
      arguments: a command line, or the lines of a file.
      within: the files that these lines are from, outermost first.

    Raises:
      ConfigError: if a file cannot be read, or includes itself.
    """
    words, found = iter(arguments), []
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--flagfile", "-flagfile"):
            path = os.path.expanduser(value if equals else next(words, ""))
            found += expanded(_lines(path, within), (*within, path))
            continue
        found.append(word)
        if word == "--":
            found += words
    return found


def _lines(path, within):
    if path in within:
        raise ConfigError(
            f"--flagfile={path}: expected flags, found that the file includes "
            f"itself, by way of {within[-1]}."
        )
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--flagfile={path}: expected a text file of flags, found that it "
            f"cannot be read ({error})."
        ) from error
    return [line for line in lines if line and not COMMENT.match(line)]


def check_rest(rest: Sequence[str]) -> None:
    """Refuses what is left of a command line without its flags.

    Raises:
      ConfigError: if there is anything.
    """
    if not rest:
        return
    advice = ""
    if rest[0].lower() in ("true", "false"):
        advice = f" Write --flag={rest[0]}, with =, where it is a flag's value."
    raise ConfigError(f"expected flags only, got {rest[0]!r}.{advice}")


def guarded(program: str, action: Callable[[], None]) -> int:
    """Calls `action` and returns the exit status.

    Wrong input, data or numbers, and too little memory, are one line that
    begins with the program's name, and status 1; a signal is status 128 and
    its number. What a terminal has no letters for is printed as codes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        action()
    except KeyboardInterrupt as interrupt:
        name = str(interrupt) or signal.SIGINT.name
        print(
            f"Stopped by {name}; the same command goes on with training, with "
            "--resume, and begins a test anew."
        )
        return 128 + signal.Signals[name]
    except (ValueError, ArithmeticError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        print(f"{program}: {_out_of_memory(error)}", file=sys.stderr)
        return 1
    return 0


def _out_of_memory(error):
    """Returns what could not be had, out of a report of many lines."""
    asked = re.search(r"[^:\n]*\ballocat(e|ing)\b.*", str(error))
    what = asked[0].strip() if asked else type(error).__name__
    return (
        f"out of memory ({what}). Fewer tasks at once need less; --explain "
        "estimates how much."
    )
