"""What each choice of an evaluation is worth, on one trained Omniglot model."""

import dataclasses
import json

import collect
import numpy as np
import published

from maml_tf import (
    checkpoints,
    comparison,
    evaluation,
    files,
    run_folder,
    train,
)
from maml_tf.config import Config

NAME = "omniglot_5way_1shot"
WHERE = published.ROOT / "results" / "protocols.json"
CHOICES = {
    "15 queries a class": {"num_queries": 15},
    "statistics of the support set and one query": {
        "norm_statistics": "support_and_query"
    },
    "statistics of the support set": {"norm_statistics": "support"},
    "characters not turned": {"test_rotations": False},
    "mean over 5 orders of labels": {"label_permutations": 5},
    "validation classes": {"test_set": False},
    "the best checkpoint on validation classes": {
        "select": "validation",
        "test_iter": -1,
    },
    "10,000 tasks": {"test_tasks": 10_000},
}
OTHER_TASKS = {"num_queries", "test_set"}
MORE_TASKS = {"test_tasks"}
"""Its first tasks are those of the published test: there is no difference."""


def show(given: list[str]) -> None:
    """Scores the trained model in each way, prints and keeps a table.

    Raises:
      checkpoints.CheckpointError: if there is none; says how to train one.
    """
    config = _config(given)
    _require_published(config)
    found = checkpoints.latest(config.folder)
    if found is None:
        raise checkpoints.CheckpointError(
            f"{config.folder}: expected a trained model, found none. Train "
            f"one: ./run_experiments.sh {NAME} --budget=30m --data_dir=DIR"
        )
    # A training beside this may save newer ones.
    config = dataclasses.replace(config, test_iter=found.iteration)
    base = _scores(config)
    rows = [_row("as published (MAML)", base, None, False)]
    print(_line(rows[0]), flush=True)
    for words, changes in CHOICES.items():
        scores = _scores(dataclasses.replace(config, **changes))
        rows.append(_row(words, scores, *_beside(base, {*changes})))
        print(_line(rows[-1]), flush=True)
    _keep(found, config, rows)
    print(f"Written: {WHERE.relative_to(published.ROOT)}")


def _beside(base, changes):
    """Returns what scores are compared with, if anything, and if in pairs."""
    if MORE_TASKS & changes:
        return None, False
    return base, not OTHER_TASKS & changes


def _require_published(config):
    """Refuses another first test than the published, of which choices differ.

    Raises:
      ConfigError: names the flag.
    """
    tried = {field for changes in CHOICES.values() for field in changes}
    for field in sorted(tried):
        default = Config.defaults()[field]
        expected = field == "test_set" or default
        if getattr(config, field) != expected:
            config.refuse(field, f"{expected} with protocols, which tries it")


def _keep(checkpoint, config, rows):
    """Writes the whole table: half of one does not take its place."""
    trained = run_folder.facts_of(config, checkpoint)
    # `show` has chosen the checkpoint.
    chosen = {**trained["test_settings"], "test_iter": -1}
    measured = {**trained, "shots": config.shots, "test_settings": chosen}
    facts = {
        "experiment": NAME,
        "commit": trained["commit"],
        "deviations": collect.deviations(NAME, measured),
        "iterations": checkpoint.iteration,
        "seed": trained["seed"],
        "rows": rows,
    }
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    with files.replacing(WHERE) as file:
        file.write(f"{text}\n".encode())


def _config(given):
    flagfile = published.by_name()[NAME][0].flagfile
    placed, _ = published.placed(NAME, flagfile, given)
    return collect.settings(flagfile, *published.TEST, *placed)


def _scores(config):
    """Returns the accuracy of each task after the paper's inner step, in %."""
    step = int(published.by_name()[NAME][0].step)
    learner = train.load_learner(config)
    return 100 * train.score(config, learner).values[:, step]


def _row(words, scores, base, is_paired):
    """Returns one line of the table as facts."""
    mean = float(scores.mean(dtype=np.float64))
    half = float(evaluation.half_width(scores))
    difference = [None, None]
    if is_paired:
        difference = [float(v) for v in comparison.paired(scores, base)]
    elif base is not None:
        apart = np.hypot(half, evaluation.half_width(base))
        difference = [mean - float(base.mean(dtype=np.float64)), float(apart)]
    return {
        "choice": words,
        "mean": mean,
        "ci95": half,
        "difference": difference[0],
        "difference_ci95": difference[1],
        "paired": is_paired,
        "tasks": len(scores),
    }


def _line(row):
    return "{:<44}{:>7}{:>18}  {}".format(*published.cells(row)).rstrip()
