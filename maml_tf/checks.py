"""Checks of numbers that a user gives."""

import math
import numbers


def at_least(
    least: int, *, optional: bool = False, **given: int | None
) -> None:
    """Raises `ValueError` unless each is an integer ≥ `least`.

    `None` is one, too, of what is optional.
    """
    for name, number in given.items():
        if optional and number is None:
            continue
        if not isinstance(number, numbers.Integral):
            raise ValueError(f"{name}: expected an integer, got {number!r}.")
        if number < least:
            raise ValueError(
                f"{name}: expected at least {least}, got {number}."
            )


def integers(**given: int) -> None:
    """Raises `ValueError` unless all are integers of 64 bits."""
    for name, number in given.items():
        whole = isinstance(number, numbers.Integral)
        if not whole or not -(2**63) <= number < 2**63:
            raise ValueError(
                f"{name}: expected an integer of 64 bits, got {number!r}."
            )


def finite(**given: float) -> None:
    """Raises `ValueError` unless all are finite numbers."""
    for name, number in given.items():
        if not isinstance(number, numbers.Real) or not math.isfinite(number):
            raise ValueError(
                f"{name}: expected a finite number, got {number!r}."
            )
