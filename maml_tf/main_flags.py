"""Flags in groups, as `reptile-tf` and `maml-rl-tf` have them."""

import textwrap
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from maml_tf import command_line
from maml_tf.settings import ConfigError

Groups = Mapping[str, Sequence[tuple[Callable, str, str]]]
"""By title: kind, name and meaning of each flag, which settings' fields have
the defaults of."""

FOLDER = (
    (
        flags.DEFINE_bool,
        "resume",
        "continue from the latest checkpoint, or replace it",
    ),
    (flags.DEFINE_bool, "log", "write TensorBoard summaries"),
)
"""Flags of a run's folder."""

DEVICES = (
    (
        flags.DEFINE_string,
        "strategy",
        "devices that share each meta-batch of training: none, one device; "
        "mirrored, all GPUs; multi_worker, those of all hosts that the "
        "environment variable TF_CONFIG names, of which the first one writes",
    ),
    (
        flags.DEFINE_integer,
        "logical_devices",
        "parts of the processor that stand for GPUs, to try mirrored",
    ),
    (
        flags.DEFINE_float,
        "worker_timeout",
        "seconds to wait for all hosts of multi_worker",
    ),
)
"""Flags of who trains."""

PRECISION = (
    (
        flags.DEFINE_string,
        "dtype_policy",
        "Keras's policy of what layers compute in: float32 or mixed_bfloat16, "
        "which keeps weights, statistics and losses in float32",
    ),
)
"""The flag of what numbers are computed in."""

RUN = (
    (
        flags.DEFINE_bool,
        "deterministic",
        "let the same command give the same bits, also on a GPU",
    ),
    (
        flags.DEFINE_string,
        "on_save_error",
        "stop, or continue to train, when logs or a checkpoint cannot be saved",
    ),
    (flags.DEFINE_bool, "explain", "say what the flags mean, and do nothing"),
)
"""Flags of how a program runs."""


def parse(
    program: str, kind: type, groups: Groups, arguments: Sequence[str]
) -> flags.FlagValues:
    """Parses a command line without the program's name.

    Words are joined by hyphens or underscores: `--inner-batch` is
    `--inner_batch`. `--flagfile=FILE` reads more flags.

    Args:
      program: its name.
      kind: of the settings.
      groups: its flags.
      arguments: the command line.

    Raises:
      ConfigError: for what is no flag, or a value of the wrong kind.
    """
    try:
        return _parse(program, kind, groups, arguments)
    except (flags.Error, ValueError) as error:
        raise ConfigError(f"{error}") from error


def _parse(program, kind, groups, arguments):
    values, defaults = flags.FlagValues(), _defaults(kind)
    for rows in groups.values():
        for define, name, meaning in rows:
            off = None if define is flags.DEFINE_string else False
            define(name, defaults.get(name, off), meaning, flag_values=values)
    command_line.check_flagfiles(arguments)
    arguments = values.read_flags_from_files(arguments, force_gnu=True)
    _, *rest = values([program, *map(_underscored, arguments)])
    command_line.check_rest(rest)
    return values


def help_text(title: str, kind: type, groups: Groups) -> str:
    """Returns all flags by group, with their defaults, under a title."""
    values, lines = _parse("", kind, groups, []), [title, ""]
    for group, rows in groups.items():
        lines.append(f"{group}:")
        for _, name, meaning in rows:
            flag = f"--{name.replace('_', '-')}"
            text = f"{meaning} (default: {values[name].value})"
            lines += textwrap.wrap(
                f"{flag:<25} {text}",
                80,
                initial_indent="  ",
                subsequent_indent=28 * " ",
            )
        lines.append("")
    return "\n".join(lines)


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Returns whether a command line asks for the flags."""
    return bool({"--help", "-h", "-help", "--helpfull"} & set(arguments))


def _defaults(kind):
    return {
        kind.flag_name(name): field.default
        for name, field in kind.__dataclass_fields__.items()
    }


def _underscored(argument):
    """Returns a flag with its name's hyphens as underscores."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"
