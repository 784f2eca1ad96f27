"""Adaptation curves: how a learner does after each inner step."""

import pickle
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf import files, losses
from maml_tf.losses import TaskLoss

LONGEST = 2**40
"""Meta-batches; a data set of more is one without an end."""


class AdaptationCurve(NamedTuple):
    """A metric of every task after 0, 1, …, U inner steps.

    Attributes:
      values: `[tasks, U + 1]`. Step 0 is the unadapted model on the *support*
        set, as the originals score it; the others are scored on the query
        set.
    """

    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean over tasks, `[U + 1]`."""
        return self.values.mean(0, dtype=np.float64)

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation over tasks, `[U + 1]`."""
        return self.values.std(0, dtype=np.float64)

    @property
    def ci95(self) -> np.ndarray:
        """Half width of the 95 % interval, 1.96 · std / √tasks, `[U + 1]`."""
        return half_width(self.values)


def half_width(values: np.ndarray) -> np.ndarray:
    """Returns 1.96 · std / √tasks of values `[tasks, …]`: `[…]`."""
    return 1.96 * values.std(0, dtype=np.float64) / np.sqrt(len(values))


def adaptation_curve(
    learner, data: tf.data.Dataset, metric: TaskLoss
) -> AdaptationCurve:
    """Scores a meta-learner on every task of a finite data set.

    Tasks do not interact, so how they are batched changes nothing.

    Args:
      learner: a `MAML`; it takes `learner.test_inner_steps` steps.
      data: elements `((support_x, support_y, query_x), query_y)`.
      metric: maps (targets, predictions) to a number for each task, `[B]`.

    Raises:
      ValueError: see `scored`; Reptile has no steps to score.
    """
    return scored(scorer(learner, {"score": metric}), data)


def scored(score: Callable, data: tf.data.Dataset) -> AdaptationCurve:
    """Scores the tasks of a finite data set by a `scorer` of one metric.

    Raises:
      ValueError: if the data set has no end, is empty, or its elements are no
        pairs.
    """
    spec = data.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(
            "The data: expected elements ((support_x, support_y, query_x), "
            f"query_y), found {spec}."
        )
    count = int(data.cardinality())
    if count == tf.data.INFINITE_CARDINALITY or count > LONGEST:
        raise ValueError(
            "The data: expected a data set with an end, such as "
            "data.take(100), found one without."
        )
    values = [value for x, y in data for value in score(x, y).values()]
    if not values:
        raise ValueError("The data: expected meta-batches, found none.")
    return AdaptationCurve(np.concatenate(values))


def scorer(learner, metrics: Mapping[str, TaskLoss]) -> Callable:
    """Returns the compiled function that scores one meta-batch.

    It maps the data set's `(x, y)` to the values of each metric by name, laid
    out as in `AdaptationCurve`: `[B, U + 1]`. Keep it where meta-batches come
    one by one, or parameters change: making it anew traces the graph anew.

    Args:
      learner: see `adaptation_curve`.
      metrics: by name, functions as in `adaptation_curve`.

    Raises:
      ValueError: if the learner is no `MAML`, and predicts at its end alone.
    """
    if not hasattr(learner, "scored"):
        raise ValueError(
            "The learner: expected a MAML, which predicts after each step, got "
            f"a {type(learner).__name__}."
        )
    metrics = {k: losses.per_task(m, 1) for k, m in metrics.items()}

    @tf.function
    def score(x, y):
        predictions = learner(x, training=False)

        def curve(metric):
            after = [metric(y, query) for query in predictions.query[1:]]
            before = metric(x[1], predictions.support)
            return tf.stack([before, *after], axis=-1)

        return {name: curve(metric) for name, metric in metrics.items()}

    return score


def write_curve(curve: AdaptationCurve, stem: str) -> None:
    """Writes `stem.csv` and `stem.pkl` in the layout of cbfinn/maml.

    The CSV has a header `update0, …` and three rows: means, standard
    deviations, 95 % half widths. The pickle is `{"mses": [tasks, U + 1]}`,
    whatever the metric.
    """
    header = [f"update{u}" for u in range(len(curve.mean))]
    rows = [row.tolist() for row in (curve.mean, curve.std, curve.ci95)]
    files.replace_table(f"{stem}.csv", [header, *rows])
    with files.replacing(f"{stem}.pkl") as file:
        file.write(_pickled({"mses": curve.values}))


def _pickled(content):
    """Returns a pickle that scripts of the originals' time read, too."""
    # Python 2.7 knows protocol 2, and NumPy 1 a module that NumPy 2 has moved
    # to `numpy._core`, but finds by the old name.
    content = pickle.dumps(content, protocol=2)
    return content.replace(b"cnumpy._core.", b"cnumpy.core.")
