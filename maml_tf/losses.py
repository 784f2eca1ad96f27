"""Losses and accuracies of tasks; every function states its normalisation.

All take `y` and a prediction whose last two axes are *examples* and *outputs*,
and return one number for each entry of the axes before: a scalar for one task,
`[B]` for a stack of `B` tasks. The published inner learning rates assume
exactly these normalisations. `per_task` makes such a function of any loss of
Keras.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from maml_tf import shapes
from maml_tf.checks import at_least
from maml_tf.saving import Value, register

LABELLED = (
    "categorical_generalized_cross_entropy",
    "circle",
    "ctc",
    "sparse_categorical_crossentropy",
)
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

    Raises:
      ValueError: if their shapes differ.
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

    Raises:
      ValueError: if it is less, or called with labels of another shape or, not
        in a graph, out of range, or with what a softmax made of logits.
    """

    shots: int

    def __post_init__(self):
        at_least(1, shots=self.shots)

    def __call__(self, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        _require_shape("labels", y, logits.shape[:-1])
        _require_logits(logits)
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

    Raises:
      ValueError: if labels are of another shape, or N is 1.
    """
    _require_shape("labels", y, logits.shape[:-1])
    if logits.shape[-1] == 1:
        raise ValueError(
            "accuracy: expected an output for each class, found one, which is "
            "always the largest. For the probability of one of two classes "
            "take `keras.metrics.binary_accuracy`."
        )
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
      targets are of another shape, or broadcast.

    Raises:
      ValueError: if it is no loss.
    """
    if isinstance(loss, (list, tuple, dict)):
        return _sum_of(loss, task_axes)
    if inspect.isclass(loss):
        loss = loss()
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    is_sparse, reduce = _takes_labels(loss), _mean
    if isinstance(loss, keras.Loss):
        _require_last_axes(loss)
        reduce = tf.reduce_sum if loss.reduction == "sum" else _mean
    if not callable(loss) or isinstance(loss, keras.Metric):
        raise ValueError(
            f"The loss: expected one of Keras or a function, got {loss!r}."
        )

    def task_loss(y, prediction):
        if is_sparse and tf.executing_eagerly():
            _require_labels(y, prediction.shape[-1])
        losses = values(loss, y, prediction)
        _require_task_axes(losses, y, task_axes)
        if not any(map(tf.nest.is_nested, (y, prediction))):
            _require_elementwise(losses.shape, y.shape, prediction.shape)
        return reduce(losses, axis=tuple(range(task_axes, len(losses.shape))))

    return task_loss


def require_saved(loss: Loss | None) -> None:
    """Raises `ValueError` for arguments of a loss that Keras does not save."""
    for part in tf.nest.flatten(loss):
        given = getattr(part, "_fn_kwargs", {})
        known = inspect.signature(type(part)).parameters if given else {}
        for name in given.keys() & known.keys():
            is_default = given[name] == known[name].default
            if not is_default and name not in part.get_config():
                raise ValueError(
                    f"The loss {part.name!r}: Keras does not save its "
                    f"{name}={given[name]!r}, and would load another loss. "
                    "Take a registered function of your own in its place."
                )


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


def shaped(loss: str | keras.Loss | TaskLoss | None, y, prediction):
    """Returns targets in the shape of predictions, where a loss compares them.

    Raises:
      ValueError: if they would have to be broadcast to it.
    """
    if loss is None or not _is_pointwise(keras.losses.get(loss)):
        return y
    return _of_shape(y, prediction.shape)


def values(loss: str | keras.Loss | TaskLoss, y, prediction) -> tf.Tensor:
    """Returns what a loss of Keras, or one's own, is before it is reduced.

    Raises:
      ValueError: if targets are of another shape than predictions.
    """
    loss = keras.losses.get(loss)
    y = shaped(loss, y, prediction)
    call = loss.call if isinstance(loss, keras.Loss) else loss
    return call(*_comparable(y, prediction))


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
        raise wrong_labels(ways, ", ".join(map(str, np.unique(y)[:5])))


def _require_logits(prediction):
    if shapes.are_probabilities(prediction):
        raise ValueError(
            "CrossEntropy: expected logits, found what a softmax or a sigmoid "
            "made of them. Leave that out of the network, or take "
            "`keras.losses.SparseCategoricalCrossentropy()`."
        )


def wrong_labels(ways: int, found: str) -> ValueError:
    """Returns the error that labels, in words, are not in 0 … N − 1."""
    return ValueError(
        f"The labels: expected integers in 0 … {ways - 1}, found {found}."
    )


def _require_elementwise(found, *compared):
    """Refuses a loss of one's own of each target with each prediction."""
    short, long = compared = sorted(map(list, compared), key=len)
    lacks_last = len(long) == len(short) + 1 and long[-1] == 1
    if lacks_last and len(found) == len(long) and found[-1] != 1:
        raise ValueError(
            "The loss: expected it to compare each target with its own "
            f"prediction, but of the shapes {' and '.join(map(str, compared))} "
            f"it made {list(found)}. Give both a last axis of 1, or neither."
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
