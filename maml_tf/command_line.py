"""How every program ends: a status, and one line for wrong input."""

import sys
from collections.abc import Callable


def guarded(program: str, action: Callable[[], None]) -> int:
    """Calls `action` and returns the exit status.

    Wrong input, data or numbers are one line that begins with the program's
    name, and status 1; a signal is status 130.
    """
    try:
        action()
    except KeyboardInterrupt as interrupt:
        print(f"Stopped by {interrupt}; the same command continues.")
        return 130
    except (ValueError, ArithmeticError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    return 0
