"""Takes the records of tests into results/records, beside the paper's values.

A record is what a program writes beside a test's CSV file.
"""

import dataclasses
import hashlib
import pathlib

import multitask
import published

from maml_tf import files, main, main_reptile, main_rl, records

PROGRAMS = {
    "classification": main,
    "regression": main,
    "multitask": multitask,
    "reptile": main_reptile,
    "rl": main_rl,
}
"""What takes the flagfiles of each folder."""
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
PHASES = ("pretrain_iterations", "meta_iterations")
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
            if row.part == part
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
    differences = [*record["deviations"]]
    if record["iterations"] is None:  # Imported: its scores alone tell it.
        differences.append(str(record["mean"]))
    if differences:
        words.append(_short("; ".join(differences)))
    return ".".join(word for word in words if word)


def published_iterations(name: str, flagfile: str, part: str) -> int:
    """Returns how many the original does; the quickstart is a short one.

    Random parameters are not trained.
    """
    if name == "quickstart":
        return 70_000
    if part == "random":
        return 0
    config = settings(flagfile, *_method(flagfile, part))
    return sum(getattr(config, "phases", [config.meta_iterations]))


def settings(flagfile: str, *more: str):
    """Returns the settings that a flagfile and more flags describe."""
    program = PROGRAMS[flagfile.split("/")[0]]
    line = [f"--flagfile={published.ROOT / 'flags' / flagfile}", *more]
    return program.config_from_flags(program.PROGRAM.parse(line))


def _method(flagfile, part):
    """Returns the flag of one of several methods, if there is one."""
    return [f"--algo={part}"] * flagfile.startswith("rl/")


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
    line = [rows[0].flagfile, *_method(rows[0].flagfile, part)]
    trained = tested = settings(*line)
    if hasattr(trained, "test_set"):  # Others test what they have trained.
        tests = [r.test_flags for r in rows if int(r.shots) == record["shots"]]
        more = *published.TEST, *" ".join(tests[:1]).split()
        tested = settings(*line, *more)
    changes = record.get("changes") or []
    imported = record.get("selected") == "imported"
    return [
        *[f"the checkpoint is imported: {record.get('checkpoint')}"] * imported,
        *_phases(record["settings"], trained, part),
        *_changed(record["settings"], trained),
        *_changed(record.get("test_settings"), tested),
        *(c for c in changes if c.split(":")[0].strip("-") not in FREE),
    ]


def _changed(found, config):
    """Yields the settings that are not what flags, and the paper, say."""
    expected = dataclasses.asdict(config)
    for field, value in (found or {}).items():
        flag = config.flag_name(field)
        if flag not in FREE and value != expected.get(field, value):
            yield f"--{flag}={value}, not {expected[field]}"


def _phases(found, config, part):
    """Yields phases of training that there were, but not in the paper.

    The flagfile of the quickstart is not that of its pretrained network.
    """
    for field in PHASES if found and part != "pretrained" else ():
        expected = getattr(config, field, 0)
        if bool(found.get(field, expected)) != bool(expected):
            yield f"--{config.flag_name(field)}={found[field]}, not {expected}"
