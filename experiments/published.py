"""The published numbers, and what is known about ours. Standard library."""

import csv
import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping

ROOT = pathlib.Path(__file__).resolve().parents[1]
TABLE = ROOT / "experiments" / "published.csv"
RECORDS = ROOT / "results" / "records"
BASELINES = ("pretrain", "random", "oracle")
"""Methods that an experiment tests if `--algo` says so."""
TEST = ("--train=False", "--test_set=True")
"""Flags of every test that is apart from training."""
TASKS = re.compile(r"--(?:test_tasks|eval_samples|test_goals)=(\d+), not (\d+)")
"""A deviation that makes an interval wider or narrower, and no more."""
REAL = int | float
KINDS = {
    **dict.fromkeys(("experiment", "part", "metric", "selected"), str),
    **dict.fromkeys(("mean", "ci95"), [REAL | None]),
    "deviations": list,
    **dict.fromkeys(("published_iterations", "tasks", "shots"), int),
    **dict.fromkeys(("queries", "iterations", "seed"), int | None),
    **dict.fromkeys(("norm_statistics", "commit", "machine"), str | None),
    "paper": dict,
    "seconds": REAL | None,
}
"""What every record has, and of which kind, see `read`."""
TABLE_KINDS = {
    "experiment": str,
    **dict.fromkeys(("seed", "iterations"), int),
    "commit": str | None,
    "rows": [
        {
            "choice": str,
            **dict.fromkeys(("mean", "ci95"), REAL),
            **dict.fromkeys(("difference", "difference_ci95"), REAL | None),
            "paired": bool,
            "tasks": int,
        }
    ],
}
"""Likewise of protocols.json."""


@dataclasses.dataclass(frozen=True)
class Number:
    """One number of a paper: a line of published.csv.

    Attributes:
      name: of the experiment; several numbers may share it.
      part: which of several methods that the experiment tests, or "".
      source: paper, and table or figure.
      value: as printed, or "" where the paper draws a curve.
      ci95: half width of the paper's interval, or "".
      unit: "%" (accuracy), "MSE", or "return" of an episode.
      step: the inner step at which it is measured.
      shots: K of the test; in reinforcement learning, trajectories.
      flagfile: in flags/, or "" for another method's number.
      test_flags: flags of the test alone.
      data: none, omniglot, miniimagenet or mujoco.
      hours: of training and test on two cores, or "" if not measured.
      gpu_hours: on one GPU, likewise.
      note: how it differs from the paper by intent, or "".
    """

    name: str
    part: str
    source: str
    value: str
    ci95: str
    unit: str
    step: str
    shots: str
    flagfile: str
    test_flags: str
    data: str
    hours: str
    gpu_hours: str
    note: str

    @property
    def origin(self) -> str:
        """Paper, table or figure, and which of several methods."""
        return ", ".join(filter(None, (self.source, self.part)))

    @property
    def paper(self) -> str:
        """The paper's value in words."""
        if not self.value:
            return ""
        interval = f" ± {self.ci95}" if self.ci95 else ""
        return f"{self.value}{interval}{' %' * (self.unit == '%')}"


def numbers() -> list[Number]:
    """Returns all of them."""
    with open(TABLE, newline="", encoding="utf-8") as file:
        return [Number(**row) for row in csv.DictReader(file)]


def by_name() -> dict[str, list[Number]]:
    """Returns them by experiment."""
    found: dict[str, list[Number]] = {}
    for number in numbers():
        found.setdefault(number.name, []).append(number)
    return found


def placed(
    name: str, flagfile: str, flags: list[str]
) -> tuple[list[str], pathlib.Path]:
    """Returns flags with a folder of its own for each seed, and the folder."""
    key = "checkpoint" if flagfile.startswith("reptile") else "logdir"
    usual = "1" if flagfile.startswith("rl/") else "0"
    given = dict(flag.lstrip("-").partition("=")[::2] for flag in flags)
    if key in given:
        return flags, pathlib.Path(given[key]).expanduser()
    seed = given.get("seed", usual)
    folder = f"logs/{name}" + (f"_seed{seed}" if seed != usual else "")
    return [*flags, f"--{key}={folder}"], ROOT / folder


def records(folder: pathlib.Path = RECORDS) -> list[dict]:
    """Returns what was measured, see `collect.collected`.

    Raises:
      ValueError: if a file there is no record.
    """
    return [read(path, KINDS) for path in sorted(folder.glob("*.json"))]


def read(path: pathlib.Path, kinds: Mapping) -> dict:
    """Returns a JSON object that has to have some facts of given kinds.

    Args:
      path: of the file.
      kinds: types by name, `[kind]` for a list of one or more, or a dictionary
        of kinds for an object.

    Raises:
      ValueError: if the file is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        get = dict(found).get
        wrong = [k for k in kinds if not _is(get(k, ...), kinds[k])]
        fault = f"wrong or missing: {', '.join(wrong)}" if wrong else ""
    except (TypeError, ValueError) as error:
        fault = str(error)
    if fault:
        raise ValueError(
            f"{path}: expected a result as ./run_experiments.sh writes it, got "
            f"something else ({fault}). Move it away to go on without."
        )
    return found


def _is(value, kind):
    """Returns whether a value is of a kind, see `read`."""
    if isinstance(kind, list):
        is_list = isinstance(value, list) and value != []
        return is_list and all(_is(each, *kind) for each in value)
    if isinstance(kind, dict):
        is_object = isinstance(value, dict)
        return is_object and all(_is(value.get(k, ...), kind[k]) for k in kind)
    return isinstance(value, kind)


def changes(record: dict) -> list[str]:
    """Returns in what a record is not as published, but for more tasks."""
    return [d for d in record["deviations"] if not _is_more_tasks(d)]


def _is_more_tasks(deviation):
    found = TASKS.fullmatch(deviation)
    return bool(found) and int(found[1]) >= int(found[2])


def share(record: dict) -> int | None:
    """Returns how many percent of the published iterations were done, if known.

    They are not of an imported checkpoint. Of none, all were done.
    """
    done, all_ = record["iterations"], record["published_iterations"]
    if done is None:
        return None
    return math.floor(100 * done / all_) if all_ else 100


def progress(record: dict) -> str:
    """Returns iterations done of those published, in words."""
    done = count(record["iterations"])
    return f"{done} of {record['published_iterations']:,}"


def count(iterations: int | None) -> str:
    """Returns a number of iterations in words."""
    return "unknown" if iterations is None else f"{iterations:,}"


def measuring(number: Number, found: list[dict]) -> list[dict]:
    """Returns the records of a number's experiment, part, shots and step."""
    return [
        r
        for r in found
        if r["experiment"] == number.name and r["part"] == number.part
        if r["shots"] == int(number.shots)
        if "steps" in r or int(number.step) < len(r["mean"])
    ]


def status(number: Number, found: list[dict]) -> str:
    """Returns measured, partly, otherwise or not run, by what records say.

    Only where none is as published do others count.
    """
    own = measuring(number, found)
    if not own:
        return "not run"
    alike = [record for record in own if not changes(record)]
    known = [s for s in map(share, alike or own) if s is not None]
    if alike and known and max(known) >= 100:
        return "measured"
    word = "partly" if alike else "otherwise"
    return f"{word} ({max(known)}%)" if known else word


def cells(row: dict) -> list[str]:
    """Returns a row of protocols.json in words: choice to difference."""
    difference = ""
    if row["difference"] is not None:
        how = "paired" if row["paired"] else "other tasks"
        difference = (
            f"{row['difference']:+.2f} ± {row['difference_ci95']:.2f} ({how})"
        )
    score = f"{row['mean']:.2f} ± {row['ci95']:.2f} %"
    return [row["choice"], f"{row['tasks']:,}", score, difference]
