"""A program: its flags, the settings that they give, and how it ends."""

import dataclasses
import io
import itertools
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

import tensorflow as tf
from absl import flags

from maml_tf import files
from maml_tf.settings import ConfigError, Settings

Groups = Mapping[str, Mapping[str, str]]
"""By title: names of flags, and what they mean."""
ACTIONS = {
    "check_data": (bool, False),
    "compare": (bool, False),
    "explain": (bool, False),
    "export_checkpoint": (str, None),
}
"""Flags that are no settings, but say what to do: types and defaults."""
DEFINE = {
    bool: flags.DEFINE_bool,
    float: flags.DEFINE_float,
    int: flags.DEFINE_integer,
    str: flags.DEFINE_string,
}
"""What defines a flag of a type."""
IS_FLAG = re.compile("--?[A-Za-z]")
"""How a flag begins; a negative number does not."""
TRUTHS = {"true", "t", "1", "false", "f", "0"}
"""Values of a flag that is true or false, in small letters."""
HELP = {"--help", "-h", "-help", "--helpfull", "--helpshort", "-?"}

PATHS = {"logdir", "checkpoint", "import_checkpoint", "export_checkpoint"}
"""Flags that are paths, but for those of data."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program of flags.

    Attributes:
      name: of the command.
      title: the first lines of its help.
      kind: of its settings.
      groups: its flags, of the types and defaults of the settings' fields.
      joint: what joins the words of a flag in its help; - and _ are understood.
    """

    name: str
    title: str
    kind: type[Settings]
    groups: Groups
    joint: str = "_"

    def run(
        self,
        action: Callable[[Sequence[str]], None],
        arguments: Sequence[str] | None,
    ) -> int:
        """Helps, or calls `action` with the command line.

        Args:
          action: what the program does.
          arguments: the command line without the program's name; `None` is
            that of this process.

        Returns:
          The exit status, see `guarded`.
        """
        arguments = sys.argv[1:] if arguments is None else arguments
        if HELP & set(arguments):
            return guarded(self.name, lambda: print(self.help_text()))
        return guarded(self.name, lambda: action(arguments))

    def parse(self, arguments: Sequence[str]) -> flags.FlagValues:
        """Parses a command line of flags alone, see `split`.

        Raises:
          ConfigError: also for what is no flag.
        """
        values, rest = self.split(arguments)
        check_rest(values, rest, arguments)
        return values

    def split(
        self, arguments: Sequence[str]
    ) -> tuple[flags.FlagValues, list[str]]:
        """Returns the flags of a command line, and the words that are none.

        `--flagfile=FILE` reads more flags.

        Raises:
          ConfigError: for an unknown flag, or a value of the wrong kind.
        """
        try:
            return self._split(arguments)
        except (flags.Error, ValueError) as error:
            raise ConfigError(f"{error}") from error

    def _split(self, arguments):
        values, words = self._defined(), expanded(arguments)
        end = words.index("--") if "--" in words else len(words)
        given = [*map(_underscored, words[:end])]
        _require_values(values, given)
        _, *rest = values([self.name, *given, *words[end:]])
        for name in PATHS.intersection(values):
            if path := values[name].value:
                # No shell expands ~ after the = of a flag.
                values[name].value = os.path.expanduser(path)
        return values, rest

    def _defined(self):
        """Returns the flags with their defaults."""
        values, types = flags.FlagValues(), get_type_hints(self.kind)
        known: dict[str, tuple[type, Any]] = dict(ACTIONS)
        for field, default in self.kind.defaults().items():
            known[self.kind.flag_name(field)] = _only(types[field]), default
        for group in self.groups.values():
            for name, meaning in group.items():
                kind, default = known[name]
                DEFINE[kind](name, default, meaning, flag_values=values)
        return values

    def help_text(self) -> str:
        """Returns all flags by group, with their defaults, under the title."""
        values, lines = self._defined(), [self.title.strip(), ""]
        for title, group in self.groups.items():
            lines.append(f"{title}:")
            for name, meaning in group.items():
                flag = f"--{name.replace('_', self.joint)}"
                text = f"{meaning} (default: {values[name].value})"
                lines += textwrap.wrap(
                    f"{flag:<25} {text}",
                    80,
                    initial_indent="  ",
                    subsequent_indent=28 * " ",
                )
            lines.append("")
        lines.append("--flagfile=FILE reads more flags, one a line.")
        return "\n".join(lines)


def _only(hint):
    """Returns the one type of a field's values, besides that of `None`."""
    parts = get_args(hint) or [hint]
    types = {part if isinstance(part, type) else type(part) for part in parts}
    [only] = types - {type(None)}
    return only


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
    return [w for w in lines if w and not w.startswith(("#", "//"))]


def _underscored(word):
    """Returns a word, if it is a flag, with its hyphens as underscores."""
    if not IS_FLAG.match(word):
        return word
    name, equals, value = word.lstrip("-").partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _require_values(values, words):
    """Refuses a flag that would take the next one for its value."""
    for word, following in itertools.pairwise(words):
        name = word.lstrip("-")
        takes_one = name in values and not values[name].boolean
        if IS_FLAG.match(word) and takes_one and IS_FLAG.match(following):
            raise ConfigError(
                f"--{name}: expected --{name}=VALUE, found no value before "
                f"{following}."
            )


def check_rest(
    values: flags.FlagValues, rest: Sequence[str], arguments: Sequence[str]
) -> None:
    """Refuses what is left of a command line without its flags.

    Args:
      values: the flags, see `Program.split`.
      rest: the words that are none.
      arguments: the command line.

    Raises:
      ConfigError: if there is anything.
    """
    if not rest:
        return
    word, *_ = rest
    if word.lower() in TRUTHS:
        _refuse_truth(word, values, arguments)
    raise ConfigError(f"expected flags only, got {word!r}.")


def _refuse_truth(word, values, arguments):
    """Refuses the value of a flag that takes it after = alone."""
    for before, following in itertools.pairwise(expanded(arguments)):
        name = _underscored(before).lstrip("-")
        takes_it = name in values and values[name].boolean
        if IS_FLAG.match(before) and takes_it and following == word:
            raise ConfigError(
                f"--{name}: expected --{name}={word}, got --{name} {word}."
            )


def fields(
    kind: type[Settings], values: Mapping, told: Mapping[str, Any]
) -> dict:
    """Returns the fields of settings: given by flags, or told, or defaults.

    Args:
      kind: a subclass of `settings.Settings`.
      values: absl's flags by name.
      told: fields known from elsewhere, for flags that are not given.
    """
    given = {f: values[kind.flag_name(f)] for f in kind.defaults()}
    return {
        field: flag.value if flag.present else told.get(field, flag.value)
        for field, flag in given.items()
    }


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
        files.say(
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
    return f"out of memory ({what}). Fewer tasks at once need less."
