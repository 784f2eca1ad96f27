"""Records of evaluations: one JSON file each, the source of all reports."""

import json
import math
import os

from maml_tf import files


def write(path: str | os.PathLike[str], facts: dict) -> None:
    """Writes a record, one fact a line. No number is infinite or `NaN`.

    Args:
      path: of the JSON file.
      facts: by name; numbers that are not finite become `null`.
    """
    lines = [
        f"  {json.dumps(name)}: {json.dumps(_finite(fact), ensure_ascii=False)}"
        for name, fact in facts.items()
    ]
    with files.replacing(path) as file:
        file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())


def read(path: str | os.PathLike[str]) -> dict:
    """Returns a record.

    Raises:
      ValueError: if it is another kind of file.
    """
    with open(path, encoding="utf-8") as file:
        try:
            return dict(json.load(file))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected an object in JSON, found something else "
                f"({error}). Move it away to go on without."
            ) from error


def _finite(fact):
    if isinstance(fact, dict):
        return {name: _finite(part) for name, part in fact.items()}
    if isinstance(fact, (list, tuple)):
        return [_finite(part) for part in fact]
    if isinstance(fact, float) and not math.isfinite(fact):
        return None
    return fact
