"""Takes the records of tests into results/records, beside the paper's values.

A record is what a program writes beside a test's CSV file.
"""

import hashlib
import pathlib

import published
from multitask import MultitaskConfig

from maml_tf import files, records
from maml_tf.config import Config
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
    "eval_interval",
    "metatrain_iterations",
    "n_itr",
    "pretrain_iterations",
    "pretrained",
    "seed",
    "train",
    "train_update_batch_size",
    "train_update_lr",
}
"""Flags that change no number, or what a record has a name of its own for."""
CURVES = ("curve.csv", "validation.csv")
"""Scores during training, of Reptile and of MAML."""
SCORED = ("eval_batch", "eval_steps", "transductive")
"""Settings of Reptile's tests, and of its scores during training."""


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
            record = records.read(path)
            taken.append(collected(name, record, part, _curve(path, record)))
    return taken


def _curve(path, record):
    """Returns the scores during training, if they are of the same test."""
    curves = [c for c in map(path.with_name, CURVES) if c.exists()]
    if not curves or record.get("selected") == "imported":
        return None
    of_training = records.read(path.with_name("config.json"))
    of_test = record.get("test_settings") or {}
    other = [k for k in SCORED if of_test.get(k) != of_training.get(k)]
    return None if other else curves[0]


def collected(
    name: str,
    record: dict,
    part: str = "",
    curve: pathlib.Path | None = None,
) -> str:
    """Writes one record with the paper's values, and returns its file's name.

    Added are `experiment`, `part` (which of several methods), `paper`
    (the values by step), `published_iterations` and `deviations`, and `curve`,
    a copy of the scores during training, if they are given.
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
        "published_iterations": published_iterations(name, flagfile, part),
        "deviations": deviations(name, record, part),
        **record,
    }
    stem = _stem(whole)
    published.RECORDS.mkdir(parents=True, exist_ok=True)
    if curve:
        whole["curve"] = f"curves/{stem}.csv"
        copy = published.RECORDS.parent / whole["curve"]
        copy.parent.mkdir(exist_ok=True)
        with files.replacing(copy) as beside:
            beside.write(curve.read_bytes())
    records.write(published.RECORDS / f"{stem}.json", whole)
    return f"{stem}.json"


def _stem(record):
    """Returns the name of a record's file: no two that differ share one."""
    words = [record["experiment"], record["part"], f"{record['shots']}shot"]
    words += [f"seed{record['seed']}", str(record["iterations"])]
    if record["deviations"]:
        words.append(_short("; ".join(record["deviations"])))
    return ".".join(word for word in words if word)


def published_iterations(name: str, flagfile: str, part: str) -> int:
    """Returns how many the original does; the quickstart is a short one."""
    if name == "quickstart":
        return 70_000
    flags = published.flags_of(flagfile)
    own = original(flags.get("env", ""), part)
    if "meta_iterations" in own:
        return own["meta_iterations"]
    return sum(int(flags.get(each, 0)) for each in published.ITERATIONS)


def _short(text):
    """Returns a word for a text that is too long for a file's name."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def deviations(name: str, record: dict, part: str = "") -> list[str]:
    """Returns in what training and test were not the flagfile's, in words.

    Args:
      name: of the experiment.
      record: what a test wrote. `settings` are those of training, and
        `test_settings` those of the test; older records have none. `changes`
        are those of settings during the training.
      part: see `collected`.
    """
    rows = published.by_name()[name]
    given = published.flags_of(rows[0].flagfile)
    tests = [r.test_flags for r in rows if int(r.shots) == record["shots"]]
    more = tests[0].split() if tests else []
    of_test = published.flags_in([*published.TEST, *more])
    kind = CONFIGS[rows[0].flagfile.split("/")[0]]
    own = original(given["env"], record["algo"]) if kind is RLConfig else {}
    changes = record.get("changes") or []
    imported = record.get("selected") == "imported"
    return [
        *[f"the checkpoint is imported: {record.get('checkpoint')}"] * imported,
        *_phases(kind, record["settings"], given, part),
        *_changed(kind, record["settings"], given, own),
        *_changed(kind, record.get("test_settings"), given | of_test, own),
        *(c for c in changes if c.split(":")[0].strip("-") not in FREE),
    ]


def _changed(kind, settings, given, own):
    """Yields the settings that are not what flags, and the paper, say."""
    fields = kind.defaults()
    for field, value in (settings or {}).items():
        flag = kind.flag_name(field)
        if flag in FREE or field not in fields:
            continue
        expected = own.get(field, _expected(kind, field, given))
        if value != expected:
            yield f"--{flag}={value}, not {expected}"


def _phases(kind, settings, given, part):
    """Yields phases of training that there were, but not in the paper."""
    for field, value in (settings or {}).items():
        flag = kind.flag_name(field)
        if flag in published.ITERATIONS and part not in published.BASELINES:
            expected = _expected(kind, field, given)
            if bool(value) != bool(expected):
                yield f"--{flag}={value}, not {expected}"


def _expected(kind, field, given):
    """Returns what flags say of a field, or its default."""
    flag = kind.flag_name(field)
    default = kind.defaults()[field]
    return _like(default, given[flag]) if flag in given else default


def _like(default, text):
    """Returns a flag's text as a value of the default's kind."""
    if isinstance(default, bool):
        return text == "True"
    if isinstance(default, (int, float)):
        return type(default)(float(text))
    return int(text) if default is None and text.isdigit() else text
