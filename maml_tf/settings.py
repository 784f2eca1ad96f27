"""What the settings of every program share: checks, and JSON.

Standard library only.
"""

import dataclasses
import json
import math
import threading
from collections.abc import Callable, Mapping
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    get_args,
    get_origin,
    get_type_hints,
)

Datasource = Literal["sinusoid", "omniglot", "miniimagenet", "folder"]
SMALLEST_IMAGE = 16  # four halvings leave a pixel


class ConfigError(ValueError):
    """A setting that makes no sense; the message names its flag."""


class Values(NamedTuple):
    """What a field may have, in words and as a function."""

    words: str
    has: Callable[[Any], bool]


def at_least(least: int) -> Values:
    """Returns the integers from `least` on."""
    return Values(f"an integer of at least {least}", lambda n: n >= least)


def at_most(most: int) -> Values:
    """Returns the integers up to `most`."""
    return Values(f"an integer of at most {most}", lambda n: n <= most)


def one_of(*choices) -> Values:
    """Returns these values alone."""
    words = ", ".join(map(str, choices))
    return Values(f"one of {words}", lambda value: value in choices)


def or_unset(values: Values) -> Values:
    """Returns values and −1, which stands for none of them."""
    return values._replace(has=lambda n: n == -1 or values.has(n))


POSITIVE = Values("a positive number", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Values("a number of at least 0", lambda x: 0 <= x < math.inf)
WAIT = Values(
    f"at most {threading.TIMEOUT_MAX:g} seconds",
    lambda x: x <= threading.TIMEOUT_MAX,
)
PREFIX = Values("the prefix of a checkpoint", lambda path: path != "")

# Types of fields, which `Settings` holds them against.
Folder = Annotated[str, Values("the path of a folder", bool)]
Whole = Annotated[int, at_least(0)]
Count = Annotated[int, at_least(1)]
CountOrUnset = Annotated[int, or_unset(at_least(1))]
Several = Annotated[int, at_least(2)]
Seed = Annotated[int, at_least(0), at_most(2**32 - 1)]  # NumPy's largest
Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Seconds = Annotated[float, POSITIVE, WAIT]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What all programs are told; it validates itself.

    Attributes:
      FLAGS: the command line's names of fields, where they differ.
      FREE: fields that mean nothing to a run that continues.
      NOTED: fields that a run may continue with otherwise.
    """

    FLAGS: ClassVar[dict[str, str]] = {}
    FREE: ClassVar[frozenset[str]] = frozenset(
        {
            "cache_dir",
            "data_dir",
            "deterministic",
            "engine",
            "folder",
            "import_checkpoint",
            "jit_compile",
            "log",
            "logdir",
            "logical_devices",
            "on_save_error",
            "plot",
            "remat",
            "resume",
            "strategy",
            "tasks_per_step",
            "worker_timeout",
        }
    )
    NOTED: ClassVar[frozenset[str]] = frozenset()
    import_checkpoint = None  # a field of those that take one

    resume: bool = True
    log: bool = True
    plot: bool = False
    deterministic: bool = False
    on_save_error: Literal["stop", "continue"] = "stop"
    strategy: Literal["none", "mirrored", "multi_worker"] = "none"
    logical_devices: CountOrUnset = -1
    worker_timeout: Seconds = 600.0

    @classmethod
    def defaults(cls) -> dict:
        """Returns every field's default."""
        return {f.name: f.default for f in dataclasses.fields(cls)}

    @classmethod
    def flag_name(cls, field: str) -> str:
        """Returns the command line's name of a field."""
        return cls.FLAGS.get(field, field)

    def to_json(self, explanation: str, **facts) -> str:
        """Returns all settings and what they mean, one fact a line."""
        facts["explanation"] = explanation.splitlines()
        settings = dataclasses.asdict(self)
        whole = json.dumps({**settings, **facts}, indent=2, ensure_ascii=False)
        return whole + "\n"

    @property
    def noted(self) -> frozenset[str]:
        """What a run may continue with otherwise, and has to tell."""
        return self.NOTED

    def fixed_at(self, phase: str, done: int, before: dict) -> dict:
        """Returns which settings of a checkpoint its continuation must have.

        Args:
          phase: of the checkpoint.
          done: its iteration.
          before: its settings.
        """
        del phase, done
        return before

    def changes_since(
        self, before: Mapping, source, *, tests: bool = False
    ) -> list[str]:
        """Returns what a continued run does otherwise than before, in words.

        Args:
          before: the settings that its checkpoint was made with.
          source: where they are from, for the message.
          tests: whether it is tested, and cannot begin anew.

        Raises:
          ConfigError: if a setting differs that has to stay.
        """
        notes, noted = [], self.noted
        free = self.FREE - noted
        for field, now in dataclasses.asdict(self).items():
            was = before.get(field, now)
            if now == was or field in free:
                continue
            if field not in noted:
                others = "" if tests else " (or --noresume, or another folder)"
                made = f"with which {source} was made"
                self.refuse(field, f"{was!r}, {made}{others}")
            notes.append(f"--{self.flag_name(field)}: {was} before, {now}")
        return notes

    def __post_init__(self):
        """Refuses what is not of a field's type, and what no program takes."""
        types = get_type_hints(type(self), include_extras=True)
        for field, kind in types.items():
            if get_origin(kind) is Literal:
                self.check(field, one_of(*get_args(kind)))
            for values in getattr(kind, "__metadata__", ()):
                self.check(field, values)
        if self.strategy != "mirrored":
            self.check_default("logical_devices", "unless --strategy=mirrored")

    def refuse(self, field: str, expected: str) -> None:
        """Raises `ConfigError` for the value of a field."""
        found = getattr(self, field)
        raise ConfigError(
            f"--{self.flag_name(field)}: expected {expected}, got {found!r}."
        )

    def check(self, field: str, values: Values) -> None:
        """Refuses a value that is none of those."""
        if not values.has(getattr(self, field)):
            self.refuse(field, values.words)

    def check_default(self, field: str, where: str) -> None:
        """Refuses a value where nothing heeds another than the default."""
        default = self.defaults()[field]
        if getattr(self, field) != default:
            self.refuse(field, f"{default} {where}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(Settings):
    """What programs of targets are told, whose `datasource` is a field."""

    data_dir: str = "data"
    cache_dir: str | None = None
    image_size: Annotated[int, at_least(SMALLEST_IMAGE)] = 84
    image_channels: Literal[1, 3] = 3
    import_checkpoint: Annotated[str | None, PREFIX] = None
    engine: Literal["auto", "stacked", "looped"] = "auto"
    dtype_policy: Literal["float32", "mixed_bfloat16"] = "float32"

    @property
    def noted(self) -> frozenset[str]:
        """Of one's own images also the place: it tells which they are."""
        is_own = self.datasource == "folder"
        return self.NOTED | {"data_dir"} if is_own else self.NOTED

    @property
    def is_classification(self) -> bool:
        """Whether tasks have classes, rather than real-valued targets."""
        return self.datasource != "sinusoid"

    @property
    def metric(self) -> str:
        """What is published, in words."""
        return "accuracy" if self.is_classification else "mean squared error"

    def __post_init__(self):
        """Refuses what neither `maml-tf` nor `reptile-tf` takes."""
        super().__post_init__()
        if self.datasource != "folder":
            self.check_default("image_size", "unless --datasource=folder")
            self.check_default("image_channels", "unless --datasource=folder")
