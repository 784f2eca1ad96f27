"""Two trained runs on the same tasks: how much one does better."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf import (
    checkpoints,
    evaluation,
    losses,
    reptile_train,
    samplers,
    tasks,
    train,
)
from maml_tf.config import EVALUATION_TASKS, Config
from maml_tf.explain import task_words
from maml_tf.image_classes import check_enough
from maml_tf.reptile_config import ReptileConfig
from maml_tf.settings import ConfigError

FIXED = ("num_queries", "test_rotations", "label_permutations")
"""Settings of a test that a run of `reptile-tf` leaves no choice of."""
PROTOCOL = (*FIXED, "norm_statistics")
"""Those that both runs of `maml-tf` must have."""


class Run(NamedTuple):
    """A run that is compared: its newest checkpoint, settings and learner."""

    checkpoint: checkpoints.Checkpoint
    config: Config | ReptileConfig
    learner: object

    @property
    def is_reptile(self) -> bool:
        """Whether `reptile-tf` trained it."""
        return isinstance(self.config, ReptileConfig)


class Comparison(NamedTuple):
    """Scores of two runs on the same tasks.

    Attributes:
      tasks: which tasks, in words.
      metric: "accuracy" or "mean squared error".
      steps: names of the columns.
      a: `[tasks, columns]`.
      b: likewise.
    """

    tasks: str
    metric: str
    steps: tuple[str, ...]
    a: np.ndarray
    b: np.ndarray


def load(folder: str, changes: dict) -> Run:
    """Returns the run in a folder.

    Args:
      folder: with `model*.npz`.
      changes: settings that are other than in training, such as `data_dir`.

    Raises:
      checkpoints.CheckpointError: if there is no whole checkpoint.
      settings.ConfigError: for a change that the run leaves no choice of.
    """
    checkpoint = checkpoints.find(folder)
    content = checkpoints.read(checkpoint)
    settings = {**content.settings, **changes}
    if content.phase == reptile_train.PHASE:
        settings |= {"pretrained": True, **_of_reptile(folder, changes)}
        config = _config(ReptileConfig, settings)
        learner = reptile_train.build_learner(config)
        phase = content.phase  # Adam's moments are part of the inner loop.
    else:
        settings |= {"train": False, "test_set": True}
        config = _config(Config, settings)
        learner = train.build_learner(config, train.build_network(config))
        phase = None
    checkpoints.restore(checkpoint, learner, phase)
    return Run(checkpoint, config, learner)


def _of_reptile(folder, changes):
    """Returns the settings that changes are to a run of `reptile-tf`."""
    for field in FIXED:
        if field in changes:
            raise ConfigError(
                f"--{field}: expected none with {folder}, a run of "
                "reptile-tf: tasks have 1 query a class, are not turned, and "
                "have one order of labels."
            )
    if statistics := changes.get("norm_statistics"):
        return {"transductive": _is_transductive(folder, statistics)}
    return {}


def _is_transductive(folder, statistics):
    """Returns what `reptile-tf` calls a choice of `maml-tf`."""
    if statistics == "support":
        raise ConfigError(
            "--norm_statistics: expected queries or support_and_query with "
            f"{folder}, a run of reptile-tf, got 'support'."
        )
    return statistics == "queries"


def _config(kind, settings):
    """Returns settings of a kind; others, of later versions, are left out."""
    names = kind.defaults()
    return kind(**{k: v for k, v in settings.items() if k in names})


def compare(a: Run, b: Run, count: int = EVALUATION_TASKS) -> Comparison:
    """Scores two runs on the same held-out tasks, so many.

    Two runs of `maml-tf` are compared after every inner step. One of
    `reptile-tf` has one score, after its own inner loop, and is held against
    the other's last step, on classes that neither was trained on.

    Raises:
      settings.ConfigError: if they do not learn the same kind of tasks.
    """
    if count < 1:
        raise ConfigError(f"--test_tasks: expected at least 1, got {count}.")
    _require_alike(a, b)
    if a.is_reptile or b.is_reptile:
        return _at_the_end(a, b, count)
    return _step_by_step(a, b, count)


def _step_by_step(a, b, count):
    a_values, b_values = (
        train.score(
            dataclasses.replace(r.config, test_tasks=count), r.learner
        ).values
        for r in (a, b)
    )
    steps = range(1, min(a_values.shape[1], b_values.shape[1]))
    return Comparison(
        _words(a.config, f"{len(a_values)} tasks", "test classes"),
        a.config.metric,
        tuple(f"step {u}" for u in steps),
        a_values[:, steps],
        b_values[:, steps],
    )


def _at_the_end(a, b, count):
    config = b.config if a.is_reptile else a.config
    sampler, words = _common_tasks(config, count, a, b)
    values = (_last(run, sampler, count) for run in (a, b))
    return Comparison(words, "accuracy", ("last step",), *values)


def paired(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of a − b over tasks, and its 95 % half width.

    Args:
      a: `[tasks, …]`.
      b: likewise, of the same tasks.
    """
    return (a - b).mean(0, dtype=np.float64), evaluation.half_width(a - b)


def table(found: Comparison) -> str:
    """Returns both means, and the difference with its interval, by step."""
    percent = found.metric == "accuracy"
    scale, unit, digits = (100, " %", 2) if percent else (1, "", 4)
    lines = [f"{'':<10}{'A':>19}{'B':>19}{'A − B, paired':>23}"]
    columns = [
        (values.mean(0, dtype=np.float64), evaluation.half_width(values))
        for values in (found.a, found.b)
    ]
    columns.append(paired(found.a, found.b))
    for i, step in enumerate(found.steps):
        cells = [
            f"{scale * mean[i]:.{digits}f} ± {scale * half[i]:.{digits}f}{unit}"
            for mean, half in columns
        ]
        lines.append(f"{step:<10}{cells[0]:>19}{cells[1]:>19}{cells[2]:>23}")
    return "\n".join(lines)


def _require_alike(a, b):
    _require_same(a, b, ["datasource", "shots", "image_size", "image_channels"])
    if a.config.is_classification:
        _require_same(a, b, ["ways"])
    if a.config.datasource == "folder":
        _require_same(a, b, ["data_dir"], " --{}=… is for both.")
    if not (a.is_reptile or b.is_reptile):
        _require_same(a, b, PROTOCOL, " --{}=… is for both.")
    elif a.config.datasource != "omniglot":
        raise ConfigError(
            "--compare: expected --datasource=omniglot with a run of "
            f"reptile-tf, found {a.config.datasource!r}: elsewhere the "
            "programs do not prepare the data alike."
        )


def _require_same(a, b, fields, advice=""):
    """Refuses two runs of which a setting differs, with advice on it."""
    for field in fields:
        mine, other = (getattr(run.config, field) for run in (a, b))
        if mine != other:
            raise ConfigError(
                f"--compare: expected runs with the same {field}, found "
                f"{mine!r} in {a.checkpoint.path.parent} and {other!r} in "
                f"{b.checkpoint.path.parent}.{advice.format(field)}"
            )


def _words(config, how_many, classes):
    parts = how_many, task_words(config), classes
    return ", ".join(parts if config.is_classification else parts[:2])


def _common_tasks(config, count, *runs):
    """Returns a sampler of tasks of held-out classes, and says which."""
    data, classes = _held_out(runs)
    images = 1 - data.images if runs[-1].is_reptile else data.images
    needed = config.shots + 1
    check_enough(
        np.take(data.names, classes),
        data.sizes[classes],
        ways=config.ways,
        needed=needed,
        flags=("--num_classes", "--update_batch_size"),
    )
    task_list = samplers.draw_task_list(
        data.starts[classes].tolist(),
        data.sizes[classes].tolist(),
        math.ceil(count / train.TEST_META_BATCH) * train.TEST_META_BATCH,
        config.ways,
        needed,
        6,
    )
    sampler = samplers.image_sampler(
        images,
        task_list,
        meta_batch_size=train.TEST_META_BATCH,
        shots=config.shots,
        seed=1,
        rotate=False,
    )
    ways = [run.config.norm_statistics for run in runs]
    which = (
        f"{len(classes)} classes that both held out, not turned; batch norm's "
        f"statistics of {' and of '.join(ways)}"
    )
    return sampler, _words(config, f"{count} tasks, 1 query a class", which)


def _held_out(runs):
    """Returns the last run's images, and the classes that all held out."""
    held_out = []
    for run in runs:
        program = reptile_train if run.is_reptile else train
        data, classes = program.image_classes(run.config, "test")
        held_out.append(set(classes.tolist()))
    return data, np.array(sorted(set.intersection(*held_out)))


def _last(run, sampler, count):
    """Returns the accuracy of tasks after the last step, `[tasks, 1]`."""
    values, predict = [], tf.function(_predictor(run), autograph=False)
    batches = math.ceil(count / train.TEST_META_BATCH)
    data = tasks.meta_batches(sampler).take(batches)
    for t, ((support_x, support_y, query_x), query_y) in data.enumerate():
        if run.is_reptile:  # paper is 1 and ink 0
            support_x, query_x = 1 - support_x, 1 - query_x
        predictions = predict((support_x, support_y, query_x), t)
        values.append(losses.accuracy(query_y, predictions))
    return np.concatenate(values)[:count, None]


def _predictor(run):
    """Returns the function from inputs and the meta-batch's number."""
    if run.is_reptile:
        return lambda inputs, t: run.learner(inputs, draw=t)
    return lambda inputs, t: run.learner.adapt_and_predict(*inputs)
