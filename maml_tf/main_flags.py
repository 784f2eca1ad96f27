"""What a program with flags is, and the flags that several have."""

import dataclasses
import itertools
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from maml_tf import command_line
from maml_tf.settings import ConfigError, Settings

Groups = Mapping[str, Sequence[tuple[Callable, str, str]]]
"""By title: kind, name and meaning of each flag, which settings' fields have
the defaults of."""
IS_FLAG = re.compile("--?[A-Za-z]")
"""How a flag begins; a negative number does not."""
HELP = {"--help", "-h", "-help", "--helpfull", "--helpshort", "-?"}

BOOL, INT = flags.DEFINE_bool, flags.DEFINE_integer
FLOAT, STRING = flags.DEFINE_float, flags.DEFINE_string

FOLDER = (
    (
        BOOL,
        "resume",
        "continue from the latest checkpoint, or replace it",
    ),
    (BOOL, "log", "write TensorBoard summaries"),
)
"""Flags of a run's folder."""

DATA = (
    (
        STRING,
        "data_dir",
        "folder with omniglot/, omniglot_resized/ or miniImagenet/, or of "
        "--datasource=folder: train|val|test/<class>/<image>",
    ),
    (STRING, "cache_dir", "folder of packed data; default ~/.cache/maml_tf"),
    (INT, "image_size", "to which --datasource=folder resizes, in pixels"),
    (INT, "image_channels", "of --datasource=folder: 3, colour, or 1, grey"),
)
"""Flags of where images are from."""

DEVICES = (
    (
        STRING,
        "strategy",
        "devices that share each meta-batch of training: none, one device; "
        "mirrored, all GPUs; multi_worker, those of all hosts that the "
        "environment variable TF_CONFIG names, of which the first one writes",
    ),
    (
        INT,
        "logical_devices",
        "parts of the processor that stand for GPUs, to try mirrored",
    ),
    (
        FLOAT,
        "worker_timeout",
        "seconds to wait for all hosts of multi_worker",
    ),
)
"""Flags of who trains."""

PRECISION = (
    (
        STRING,
        "dtype_policy",
        "Keras's policy of what layers compute in: float32 or mixed_bfloat16, "
        "which keeps weights, statistics and losses in float32",
    ),
)
"""The flag of what numbers are computed in."""

RUN = (
    (
        BOOL,
        "deterministic",
        "let the same command give the same bits, also on a GPU",
    ),
    (
        STRING,
        "on_save_error",
        "stop, or continue to train, when logs or a checkpoint cannot be saved",
    ),
    (BOOL, "explain", "say what the flags mean, and do nothing"),
)
"""Flags of how a program runs."""

CHECK_DATA = (
    (
        BOOL,
        "check_data",
        "say what is found in --data_dir, pack it into --cache_dir, and do no "
        "more",
    ),
)
"""The flag of a program that does nothing else."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program of flags.

    Attributes:
      name: of the command.
      title: the first lines of its help.
      kind: of its settings.
      groups: its flags.
      joint: what joins the words of a flag in its help; - and _ are understood.
    """

    name: str
    title: str
    kind: type[Settings]
    groups: Groups
    joint: str = "_"

    def run(
        self, action: Callable[[Sequence[str]], None], arguments: Sequence[str]
    ) -> int:
        """Helps, or calls `action` with the command line.

        Args:
          action: what the program does.
          arguments: the command line without the program's name.

        Returns:
          The exit status, see `command_line.guarded`.
        """
        if HELP & set(arguments):
            print(self.help_text())
            return 0
        return command_line.guarded(self.name, lambda: action(arguments))

    def parse(self, arguments: Sequence[str]) -> flags.FlagValues:
        """Parses a command line of flags alone, see `split`.

        Raises:
          ConfigError: also for what is no flag.
        """
        values, rest = self.split(arguments)
        command_line.check_rest(rest)
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
        values, words = self._defined(), command_line.expanded(arguments)
        end = words.index("--") if "--" in words else len(words)
        given = [*map(_underscored, words[:end])]
        _require_values(values, given)
        _, *rest = values([self.name, *given, *words[end:]])
        return values, rest

    def _defined(self):
        """Returns the flags with their defaults; what is no setting is off."""
        values, fields = flags.FlagValues(), self.kind.__dataclass_fields__
        defaults = {self.kind.flag_name(f): fields[f].default for f in fields}
        for define, name, meaning in itertools.chain(*self.groups.values()):
            off = None if define is STRING else False
            define(name, defaults.get(name, off), meaning, flag_values=values)
        return values

    def help_text(self) -> str:
        """Returns all flags by group, with their defaults, under the title."""
        values, lines = self.parse([]), [self.title.strip(), ""]
        for group, rows in self.groups.items():
            lines.append(f"{group}:")
            for _, name, meaning in rows:
                flag = f"--{name.replace('_', self.joint)}"
                text = f"{meaning} (default: {values[name].value})"
                lines += textwrap.wrap(
                    f"{flag:<25} {text}",
                    80,
                    initial_indent="  ",
                    subsequent_indent=28 * " ",
                )
            lines.append("")
        return "\n".join(lines)


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
