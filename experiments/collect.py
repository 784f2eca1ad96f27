"""Takes the records of tests into results/records, beside the paper's values.

A record is what `maml-tf` and `reptile-tf` write beside a test's CSV file.
"""

import pathlib
import shutil

import published
from multitask import MultitaskConfig

from maml_tf import records
from maml_tf.config import EVALUATION_TASKS, Config
from maml_tf.reptile_config import ReptileConfig
from maml_tf.rl.config import RLConfig, original

CONFIGS = {
    "classification": Config,
    "regression": Config,
    "multitask": MultitaskConfig,
    "reptile": ReptileConfig,
    "rl": RLConfig,
}
FREE = {
    "algo",
    "seed",
    "meta_iterations",
    "pretrain_iterations",
    "train_shots",
    "train_inner_lr",
    "num_queries",
}


def collect(name: str, folder: pathlib.Path, since: float) -> list[str]:
    """Takes the records that an experiment's folder got since a time.

    Returns:
      The files' names in results/records.
    """
    found = [
        *folder.glob("**/test_*.json"),
        *folder.glob("**/evaluation*.json"),
    ]
    taken = []
    for path in sorted(found):
        if path.stat().st_mtime >= since:
            part = path.parent.parent.name if name == "quickstart" else ""
            curve = path.with_name("curve.csv")  # Reptile's scores
            taken.append(collected(name, records.read(path), part, curve))
    return taken


def collected(
    name: str,
    record: dict,
    part: str = "",
    curve: pathlib.Path | None = None,
) -> str:
    """Writes one record with the paper's values, and returns its file's name.

    Added are `experiment`, `part` (which of several methods), `paper`
    (the values by step), `published_iterations` and `deviations`, and `curve`,
    a copy of the scores during training, if there is such a file.
    """
    part = record.get("algo", part)
    rows = published.by_name()[name]
    flagfile = rows[0].flagfile
    whole = {
        "experiment": name,
        "part": part,
        "paper": {
            row.step: [row.value, row.ci95]
            for row in rows
            if row.value and int(row.shots) == record["shots"]
            if part not in published.BASELINES
        },
        "published_iterations": published.published_iterations(name, flagfile),
        "deviations": deviations(flagfile, record),
        **record,
    }
    words = [name, part, f"{record['shots']}shot", f"seed{record['seed']}"]
    words.append(str(record["iterations"]))
    if whole["deviations"]:
        words.append(f"{len(whole['deviations'])}deviations")
    file = ".".join(word for word in words if word) + ".json"
    published.RECORDS.mkdir(parents=True, exist_ok=True)
    if curve and curve.exists():
        whole["curve"] = f"curves/{pathlib.Path(file).stem}.csv"
        copy = published.RECORDS.parent / whole["curve"]
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(curve, copy)
    records.write(published.RECORDS / file, whole)
    return file


def deviations(flagfile: str, record: dict) -> list[str]:
    """Returns in what training and test were not the flagfile's, in words."""
    kind = CONFIGS[flagfile.split("/")[0]]
    reptile = kind is ReptileConfig
    given, fields = published.flags_of(flagfile), kind.__dataclass_fields__
    own = original(given["env"], record["algo"]) if kind is RLConfig else {}
    found = []
    for field, value in (record["settings"] or {}).items():
        if field in FREE or field not in fields:
            continue
        flag = kind.flag_name(field)
        expected = default = fields[field].default
        if flag in given:
            expected = _like(default, given[flag])
        expected = own.get(field, expected)
        if value != expected:
            found.append(f"--{flag}={value}, not {expected}")
    tasks = {
        ReptileConfig: int(given.get("eval_samples", 10_000)),
        RLConfig: RLConfig.test_goals,
    }
    standard = {
        "classes": "test",
        "tasks": tasks.get(kind, EVALUATION_TASKS),
        "test_rotations": not reptile,
        "label_permutations": 1,
        **({} if reptile else {"norm_statistics": "queries"}),
    }
    for fact, expected in standard.items():
        value = record.get(fact)
        if value is not None and value != expected:
            found.append(f"{fact}: {value}, not {expected}")
    return found


def _like(default, text):
    """Returns a flag's text as a value of the default's kind."""
    if isinstance(default, bool):
        return text == "True"
    if isinstance(default, (int, float)):
        return type(default)(float(text))
    return int(text) if default is None and text.isdigit() else text
