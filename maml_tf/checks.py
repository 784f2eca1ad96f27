"""Checks of numbers that a user gives."""


def at_least(least: int, **numbers: int | None) -> None:
    """Raises `ValueError` for a number below another; `None` is none given."""
    for name, number in numbers.items():
        if number is not None and number < least:
            raise ValueError(
                f"{name}: expected at least {least}, got {number}."
            )
