"""What `compile` and `fit` are given: losses of all tasks, and weights."""

import functools
import inspect
import re
from collections.abc import Callable

import keras
import tensorflow as tf

from maml_tf import losses, replicas, shapes
from maml_tf.losses import Loss

_REFUSED_LABEL = re.compile(r"label value of (\S+) .* range of \[0, (\d+)\)")

MEANS = {
    "reduction": ("sum_over_batch_size", "mean"),
    "ignore_class": (None,),
}
"""Attributes of a loss of Keras, and their values if it is a mean."""
IN_GROUPS = (
    "tasks run in groups, one after another; engine='stacked' runs all at once"
)
ON_REPLICAS = "replicas train, each on tasks of its own"
"""Where a loss has to be a mean over tasks."""


def mean_of_tasks(each: tf.Tensor, weight: tf.Tensor | None) -> tf.Tensor:
    """Returns the mean of task losses `[B]`, each times its weight, if any.

    Raises:
      ValueError: if weights are not `[B]`.
    """
    if weight is None:
        return tf.reduce_mean(each)
    found = [list(part.shape) for part in tf.nest.flatten(weight)]
    if len(found) != 1 or not each.shape.is_compatible_with(found[0]):
        raise ValueError(
            "sample_weight: expected one for each task where no loss is "
            f"compiled, found the shape {', '.join(map(str, found))}."
        )
    return tf.reduce_mean(each * tf.cast(weight, each.dtype))


def uncompiled(loss: Loss, y, prediction, weight) -> tf.Tensor:
    """Returns the mean of a learner's own loss: 1 / R on each of R replicas."""
    each = losses.per_task(loss, 1)(y, prediction)
    mean = mean_of_tasks(each, weight) / replicas.count()
    return tf.cast(mean, keras.config.floatx())


def of_tasks(weight: tf.Tensor | None, loss: Loss, y, prediction):
    """Returns weights of tasks `[B]`, or of examples, for each value of a loss.

    Keras itself would take them for weights along the values' last axes.

    Raises:
      ValueError: if weights are not those of the loss's values.
    """
    if weight is None or loss is None:
        return weight
    if isinstance(loss, (list, tuple, dict)):
        return _of_outputs(weight, loss, y, prediction)
    values = losses.values(loss, y, prediction)
    _require_weights(weight.shape, values.shape)
    others = [1] * (len(values.shape) - len(weight.shape))
    weight = tf.reshape(weight, [*shapes.sizes(weight), *others])
    # A loss may divide by the sum of weights, of which each value has one.
    return tf.broadcast_to(weight, tf.shape(values))


def _of_outputs(weight, loss, y, prediction):
    """Returns `of_tasks` of each output, where weights are of examples."""
    weights = tf.nest.flatten(weight)
    outputs = [*_by_output(loss, y, prediction)]
    for part in weights:
        if part is not None and len(part.shape) == 1:
            raise ValueError(
                "sample_weight: expected none with a loss for each output, or "
                f"a weight for each example, found {list(part.shape)}."
            )
    weights *= len(outputs) if len(weights) == 1 else 1  # one may be for all
    if len(weights) != len(outputs):
        return weight
    pairs = zip(weights, outputs, strict=True)
    found = [of_tasks(part, *output) for part, output in pairs]
    return tf.nest.pack_sequence_as(y, found)


def _require_weights(shape, values):
    """Refuses weights that are not of values; one may be for a whole row."""
    sizes = [None if i and size == 1 else size for i, size in enumerate(shape)]
    if not values[: len(sizes)].is_compatible_with(sizes):
        raise ValueError(
            "sample_weight: expected weights of the loss's values, "
            f"{list(values)}, or of tasks, {list(values[:1])}, found "
            f"the shape {list(shape)}."
        )


def require_of_tasks(weight) -> None:
    """Raises `ValueError` for weights that are not `[B]`."""
    if tf.nest.is_nested(weight):
        found = "some for each output"
    elif weight is None or len(weight.shape) == 1:
        return
    else:
        found = f"the shape {list(weight.shape)}"
    raise ValueError(
        f"sample_weight: expected one for each task, found {found}."
    )


def require_weighable(metrics, weight) -> None:
    """Raises `ValueError` for metrics that would misuse weights of tasks.

    Args:
      metrics: the compiled `weighted_metrics`.
      weight: of tasks `[B]`, or of examples, or `None`.
    """
    if weight is None or len(tf.nest.flatten(weight)[0].shape) != 1:
        return
    for metric in metrics:
        is_keras = type(metric).__module__.startswith("keras.")
        if is_keras and not isinstance(metric, keras.metrics.Mean):
            raise ValueError(
                "weighted_metrics: expected means where weights are of tasks, "
                f"got {metric.name!r}. Give a weight for each query."
            )


def require_means(loss: Loss, y, prediction, where: str = IN_GROUPS) -> None:
    """Raises `ValueError` for a compiled loss that is no mean over tasks.

    Args:
      loss: one loss, or one for each output.
      y: targets of some tasks.
      prediction: of the same tasks.
      where: why it has to be one. Keras adds up replicas' sums, too.
    """
    for part in tf.nest.flatten(loss):
        found = {
            name: getattr(part, name)
            for name, mean in MEANS.items()
            if getattr(part, name, mean[0]) not in mean
        }
        if found and (where, found) != (ON_REPLICAS, {"reduction": "sum"}):
            raise ValueError(
                "The compiled loss: expected a mean over examples, found "
                f"{found}, where {where}."
            )
    for compared in _by_output(loss, y, prediction):
        _require_each(*compared, where=where)


def shaped(loss: Loss, y, prediction):
    """Returns targets as the compiled loss of each output compares them.

    Raises:
      ValueError: for targets that a loss of Keras would broadcast.
    """
    found = [losses.shaped(*each) for each in _by_output(loss, y, prediction)]
    return tf.nest.pack_sequence_as(y, found) if found else y


def _by_output(loss, y, prediction):
    """Returns loss, targets and predictions of each output, if all have one."""
    parts = [tf.nest.flatten(each) for each in (loss, y, prediction)]
    alike = len({*map(len, parts)}) == 1
    return zip(*parts, strict=True) if alike else ()


def _require_each(loss, y, prediction, *, where):
    """Refuses a compiled loss that has no number for each task."""
    values = prediction if loss is None else losses.values(loss, y, prediction)
    if not values.shape[:1].is_compatible_with(y.shape[:1]):
        raise ValueError(
            "The compiled loss: expected numbers for each task, got the shape "
            f"{list(values.shape)}, where {where}."
        )


def naming_labels(method: Callable) -> Callable:
    """Returns a method of Keras that names labels which are out of range.

    In a graph on a processor TensorFlow refuses them, at the end of a message
    of pages.
    """

    @functools.wraps(method)
    def named(*args, **kwargs):
        try:
            return method(*args, **kwargs)
        except tf.errors.InvalidArgumentError as error:
            if found := _REFUSED_LABEL.search(error.message):
                raise losses.wrong_labels(int(found[2]), found[1]) from None
            raise

    named.__doc__ = inspect.getdoc(method)  # which may be that of its base
    return named
