"""Losses and accuracies of tasks; every function states its normalisation.

All take `y` and a prediction whose last two axes are *examples* and *outputs*,
and return one number for each entry of the axes before: a scalar for one task,
`[B]` for a stack of `B` tasks. The published inner learning rates assume
exactly these normalisations. `per_task` makes such a function of any loss of
Keras.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from maml_tf import replicas, shapes
from maml_tf.checks import at_least
from maml_tf.saving import Value, register

_REFUSED_LABEL = re.compile(r"label value of (\S+) .* range of \[0, (\d+)\)")

MEANS = {
    "reduction": ("sum_over_batch_size", "mean"),
    "ignore_class": (None,),
}
"""What a loss of Keras has that is a mean over examples."""
IN_GROUPS = (
    "tasks run in groups, one after another; engine='stacked' runs all at once"
)
ON_REPLICAS = "replicas train, each on tasks of its own"
"""Where a loss has to be a mean over tasks."""
LABELLED = ("sparse_categorical_crossentropy", "ctc", "circle")
"""Losses of Keras whose targets are of another shape than predictions."""
TaskLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Loss: TypeAlias = str | keras.Loss | TaskLoss | list | tuple | dict[str, Any]
"""A loss by its Keras name, an object or function, or one for each output."""


@register
def mean_squared_error(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """Returns the mean squared error over all points of a task.

        L = 1/S Σᵢ (f(xᵢ) − yᵢ)²

    Source: Finn et al. 2017, equation 2; cbfinn/maml divides by the number of
    points.

    Args:
      y: targets `[..., S, D]`.
      prediction: `[..., S, D]`, in the units of `y`.
    """
    _require_shape("targets", y, prediction.shape)
    y, prediction = _comparable(y, prediction)
    y = tf.cast(y, prediction.dtype)
    return tf.reduce_mean(tf.square(prediction - y), axis=(-2, -1))


@register
@dataclasses.dataclass(frozen=True)
class CrossEntropy(Value):
    """The cross-entropy of a task as cbfinn/maml scales it.

        L = −1/K Σᵢ log softmax(f(xᵢ))[yᵢ]

    The sum runs over all examples and K is always the number of *support*
    images per class. On a support set of N·K images this is N times the mean
    cross-entropy; on a query set of N·Q images it is N·Q/K times the mean.

    It is a function of labels `[..., S]`, integers in 0 … N − 1, and logits
    `[..., S, N]`, and its unit is the nat.

    Source: Finn et al. 2017, equation 3; scaling of cbfinn/maml.

    Args:
      shots: K, at least 1.
    """

    shots: int

    def __post_init__(self):
        at_least(1, shots=self.shots)

    def __call__(self, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        _require_shape("labels", y, logits.shape[:-1])
        if tf.executing_eagerly():
            _require_labels(y, logits.shape[-1])
        y, logits = _comparable(y, logits)
        example_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.cast(y, tf.int32), logits
        )
        return tf.reduce_sum(example_losses, axis=-1) / self.shots


@register
def accuracy(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the share of examples whose largest logit is their label's.

    Args:
      y: labels `[..., S]`, integers in 0 … N − 1.
      logits: `[..., S, N]`.
    """
    _require_shape("labels", y, logits.shape[:-1])
    y, logits = _comparable(y, logits)
    hits = tf.equal(tf.argmax(logits, -1), tf.cast(y, tf.int64))
    return tf.reduce_mean(tf.cast(hits, logits.dtype), axis=-1)


def per_task(loss: Loss, task_axes: int) -> TaskLoss:
    """Returns a loss as a function with one number for each task.

    Losses of single examples, as those of Keras are, are averaged over the
    task, or summed where an object's reduction is "sum". Targets that are real
    numbers take the type of the predictions, and predictions of half precision
    are compared in float32. Targets `[…]` of a single output `[…, 1]` get the
    last axis, where the loss is Keras's.

    Args:
      loss: one loss, or one for each output, which are summed.
      task_axes: 1 if targets and predictions have a task axis, else 0.

    Returns:
      A function of targets and predictions. It raises `ValueError` if the loss
      has no number for each task, or compares element with element and the
      targets are of another shape.

    Raises:
      ValueError: if it is no loss.
    """
    if isinstance(loss, (list, tuple, dict)):
        return _sum_of(loss, task_axes)
    if inspect.isclass(loss):
        loss = loss()
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    is_sparse, is_pointwise = _takes_labels(loss), _is_pointwise(loss)
    reduce = _mean
    if isinstance(loss, keras.Loss):
        _require_last_axes(loss)
        reduce = tf.reduce_sum if loss.reduction == "sum" else _mean
        loss = loss.call
    if not callable(loss):
        raise ValueError(
            f"The loss: expected one of Keras or a function, got {loss!r}."
        )

    def task_loss(y, prediction):
        if is_sparse and tf.executing_eagerly():
            _require_labels(y, prediction.shape[-1])
        if is_pointwise:
            y = _of_shape(y, prediction.shape)
        losses = loss(*_comparable(y, prediction))
        _require_task_axes(losses, y, task_axes)
        return reduce(losses, axis=tuple(range(task_axes, len(losses.shape))))

    return task_loss


def _require_last_axes(loss):
    """Refuses axes counted from the first, which is that of tasks here."""
    axes = tf.nest.flatten(getattr(loss, "axis", None))
    if any(axis is not None and axis >= 0 for axis in axes):
        raise ValueError(
            "The loss: expected axes counted from the last one, −1, got "
            f"axis={loss.axis}."
        )


def _mean(values, axis):
    """Returns means over axes, of what `ignore_class` leaves if it is given."""
    kept = getattr(values, "_keras_mask", None)
    if kept is None:
        return tf.reduce_mean(values, axis)
    kept = tf.cast(kept, values.dtype)
    count = tf.reduce_sum(kept, axis)
    return tf.math.divide_no_nan(tf.reduce_sum(values * kept, axis), count)


def with_penalty(loss: Loss, task_axes: int) -> Callable:
    """Returns `per_task` of predictions that come with a penalty, as pairs."""
    task_loss = per_task(loss, task_axes)

    def penalised(y, output):
        prediction, penalty = output
        losses = task_loss(y, prediction)
        return losses + tf.cast(penalty, losses.dtype)

    return penalised


def _sum_of(losses, task_axes):
    parts = [per_task(part, task_axes) for part in tf.nest.flatten(losses)]

    def task_loss(y, prediction):
        _require_alike("loss", losses, prediction)
        _require_alike("targets", y, prediction)
        y, prediction = map(tf.nest.flatten, (y, prediction))
        triples = zip(parts, y, prediction, strict=True)
        return tf.add_n([part(a, b) for part, a, b in triples])

    return task_loss


def _require_alike(what, given, prediction):
    expected, found = map(_places, (prediction, given))
    if expected != found:
        raise ValueError(
            f"The {what}: expected one for each output, {expected}, found "
            f"{found}."
        )


def _places(structure):
    """Returns the names, or the number, of a structure's parts."""
    if isinstance(structure, dict):
        return f"named {', '.join(sorted(structure))}"
    several = isinstance(structure, (list, tuple))
    return f"{len(structure)} in a list" if several else "a single one"


def _takes_labels(loss):
    """Whether a loss is Keras's cross-entropy of integer labels, all of them.

    With `ignore_class` one label may be any number.
    """
    sparse = keras.losses.SparseCategoricalCrossentropy
    if isinstance(loss, sparse):
        return loss.ignore_class is None
    return loss is keras.losses.sparse_categorical_crossentropy


def _is_pointwise(loss):
    """Whether a loss is Keras's and its targets are as its predictions."""
    function = getattr(loss, "fn", loss)
    is_own = getattr(function, "__module__", "").startswith("keras.")
    return is_own and function.__name__ not in LABELLED


def _of_shape(y, shape):
    """Returns targets of a shape, which nothing may be broadcast to."""
    if len(y.shape) == len(shape) - 1 and shape[-1] == 1:
        y = tf.expand_dims(y, -1)
    if len(y.shape) == len(shape) + 1 and y.shape[-1] == 1:
        y = tf.squeeze(y, -1)
    _require_shape("targets", y, shape)
    return y


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
    each = per_task(loss, 1)(y, prediction)
    mean = mean_of_tasks(each, weight) / replicas.count()
    return tf.cast(mean, keras.config.floatx())


def of_tasks(weight: tf.Tensor | None, loss: Loss, y, prediction):
    """Returns weights `[B]` of tasks with as many axes as a loss has values.

    Keras itself would take them for weights of examples where it can.

    Raises:
      ValueError: if weights are not those of the loss's values.
    """
    found = [part.shape for part in tf.nest.flatten(weight) if part is not None]
    if isinstance(loss, (list, tuple, dict)):
        if all(len(shape) != 1 for shape in found):
            return weight
        raise ValueError(
            "sample_weight: expected none with a loss for each output, or a "
            f"weight for each example, found {list(found[0])}."
        )
    if weight is None:
        return None
    values = _values(loss, y, prediction)
    _require_weights(found, values.shape)
    if len(weight.shape) > 1:
        return weight
    weight = tf.reshape(weight, [-1, *[1] * (len(values.shape) - 1)])
    # A loss may divide by the sum of weights, of which each value has one.
    return tf.broadcast_to(weight, tf.shape(values))


def _values(loss, y, prediction):
    """Returns a compiled loss before it is reduced."""
    loss = keras.losses.get(loss)
    if _is_pointwise(loss):
        y = _of_shape(y, prediction.shape)
    return getattr(loss, "call", loss)(*_comparable(y, prediction))


def _require_weights(found, values):
    """Refuses weights that are not of values; one may be for a whole row."""
    [shape] = found
    sizes = [None if i and size == 1 else size for i, size in enumerate(shape)]
    if not values[: len(sizes)].is_compatible_with(sizes):
        raise ValueError(
            "sample_weight: expected weights of the loss's values, "
            f"{list(values)}, or of tasks, {list(values[:1])}, found "
            f"the shape {list(shape)}."
        )


def require_of_tasks(weight) -> None:
    """Raises `ValueError` for weights that are not `[B]`."""
    if weight is not None and len(weight.shape) != 1:
        raise ValueError(
            "sample_weight: expected one for each task, found the shape "
            f"{list(weight.shape)}."
        )


def require_weighable(metrics, weight) -> None:
    """Raises `ValueError` for metrics that would count weights of tasks wrong.

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
    parts, *compared = map(tf.nest.flatten, (loss, y, prediction))
    for part in parts:
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
    if all(len(each) == len(parts) for each in compared):
        for part, *pair in zip(parts, *compared, strict=True):
            _require_each(part, *pair, where=where)


def _require_each(loss, y, prediction, *, where):
    """Refuses a compiled loss that has no number for each task."""
    values = prediction if loss is None else _values(loss, y, prediction)
    if not values.shape[:1].is_compatible_with(y.shape[:1]):
        raise ValueError(
            "The compiled loss: expected numbers for each task, got the shape "
            f"{list(values.shape)}, where {where}."
        )


def _comparable(y, prediction):
    """Returns tensors as losses take them; nested ones as they are."""
    if not (tf.is_tensor(y) and tf.is_tensor(prediction)):
        return y, prediction
    if prediction.dtype.is_floating and prediction.dtype.size < 4:
        prediction = shapes.predicted(
            lambda x: tf.cast(x, tf.float32), prediction
        )
    if y.dtype.is_floating:
        y = tf.cast(y, prediction.dtype)
    return y, prediction


def naming_labels(method: Callable) -> Callable:
    """Returns a method of Keras that names labels which are out of range.

    In a graph TensorFlow refuses them, on a processor, and says so in the end
    of a message of pages.
    """

    @functools.wraps(method)
    def named(*args, **kwargs):
        try:
            return method(*args, **kwargs)
        except tf.errors.InvalidArgumentError as error:
            if found := _REFUSED_LABEL.search(error.message):
                raise _wrong_labels(int(found[2]), found[1]) from None
            raise

    named.__doc__ = inspect.getdoc(method)  # which may be that of its base
    return named


def _require_shape(what, y, shape):
    if not tf.TensorShape(y.shape).is_compatible_with(shape):
        raise ValueError(
            f"The {what}: expected, by the predictions, the shape "
            f"{list(shape)}, found {list(y.shape)}."
        )


def _require_labels(y, ways):
    """Refuses labels, where they are known, that are not in 0 … N − 1."""
    y = np.asarray(y)
    if y.dtype.kind not in "biuf" or not np.isin(y, range(ways)).all():
        raise _wrong_labels(ways, ", ".join(map(str, np.unique(y)[:5])))


def _wrong_labels(ways, found):
    return ValueError(
        f"The labels: expected integers in 0 … {ways - 1}, found {found}."
    )


def _require_task_axes(losses, y, task_axes):
    targets, found = tf.nest.flatten(y)[0].shape, losses.shape
    shared = min(len(found), task_axes + 1)
    if len(found) < task_axes or not found[:shared].is_compatible_with(
        targets[:shared]
    ):
        raise ValueError(
            "The loss: expected a number for each task, "
            f"{list(targets[:task_axes])}, or for each example, "
            f"{list(targets[: task_axes + 1])}, got {list(found)}. Reduce over "
            "the last axes alone, or over none."
        )
