"""What the programs share: settings from flags, and how a program ends."""

import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any


def fields(kind: type, values: Mapping, told: Mapping[str, Any]) -> dict:
    """Returns the fields of settings: given by flags, or told, or defaults.

    Args:
      kind: a subclass of `settings.Settings`.
      values: absl's flags by name.
      told: fields known from elsewhere, for flags that are not given.
    """
    flags = {f: values[kind.flag_name(f)] for f in kind.__dataclass_fields__}
    return {
        field: flag.value if flag.present else told.get(field, flag.value)
        for field, flag in flags.items()
    }


def guarded(program: str, action: Callable[[], None]) -> int:
    """Calls `action` and returns the exit status.

    Wrong input, data or numbers are one line that begins with the program's
    name, and status 1; a signal is status 128 and its number.
    """
    try:
        action()
    except KeyboardInterrupt as interrupt:
        name = str(interrupt) or signal.SIGINT.name
        print(f"Stopped by {name}; the same command continues.")
        return 128 + signal.Signals[name]
    except (ValueError, ArithmeticError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    return 0
