"""The meta-gradient of a model of one's own, against central differences."""

import contextlib
import functools
import warnings
from typing import NamedTuple
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from maml_tf import copies, exact, functional, losses, shapes
from maml_tf.learner import Learner, arguments_of, make
from maml_tf.maml import MAML

TOLERANCE = {"float64": 1e-6, "float32": 5e-2}
"""The largest relative error of a derivative that is taken for right."""

RESIZING = (
    keras.layers.RandomCrop,
    keras.layers.Resizing,
    keras.layers.UpSampling2D,
)
"""Layers that interpolate, which TensorFlow does in float32 alone."""
DIRECTIONS = 3
_STEPS = {"float64": (1e-3, 1e-5, 1e-7), "float32": (1e-2, 3e-3)}


class MetaGradientCheck(NamedTuple):
    """What `check_meta_gradient` found; as text, a line.

    Attributes:
      second_order: whether the meta-gradient is the derivative of the query
        loss after adaptation, through the inner steps.
      error: the largest relative error.
      layer: the layer whose own derivatives are wrong, if one's are.
      dtype: in which type it was computed.
      first_order: whether the learner was asked to be first order.
    """

    second_order: bool
    error: float
    layer: str | None
    dtype: str
    first_order: bool

    def __str__(self):
        error = f"largest relative error {self.error:.1e} in {self.dtype}"
        if self.second_order:
            return f"second order: yes, {error}"
        why = "no layer by itself breaks it"
        if self.first_order:
            why = "as first_order=True asks for"
        elif self.layer:
            why = f"{self.layer} breaks it"
        return f"second order: no, {why}, {error}"


def check_meta_gradient(
    model: keras.Model, task, *, loss: losses.Loss | None = None, seed: int = 0
) -> MetaGradientCheck:
    """Compares a model's meta-gradient with central differences.

    Along random directions d it compares the derivative of the meta-objective
    with (L(θ + h d) − L(θ − h d)) / 2h, to fourth order in h. It computes on a
    copy in float64, or in float32 where the model cannot be copied, does not
    run in float64 or interpolates images. The model itself stays as it is.

    Args:
      model: a `MAML` or another learner of its kind, or a built network, for
        which one inner step of size 0.1 is taken.
      task: `((support_x, support_y, query_x), query_y)` with a task axis, an
        element of the data that the learner trains on. One or two tasks do.
      loss: for a network, the loss of both loops. The default is the mean
        squared error, for integer targets the cross-entropy of logits.
      seed: of the directions.

    Raises:
      ValueError: if the model is neither.
    """
    learner = _learner(model, task, loss)
    task = tf.nest.map_structure(tf.convert_to_tensor, task)
    rng = np.random.default_rng(seed)
    with _like(learner, task) as (like, task, dtype):
        error = _error(_objective(like, task), dtype, rng)
        right, layer = error <= TOLERANCE[dtype], None
        if not right and not learner.first_order:
            layer = _breaking_layer(like.network, task, dtype, rng)
    return MetaGradientCheck(right, error, layer, dtype, learner.first_order)


def _learner(model, task, loss):
    if isinstance(model, MAML):
        return model
    if isinstance(model, Learner) or not isinstance(model, keras.Model):
        raise ValueError(
            "model: expected a MAML or a network, got a "
            f"{type(model).__name__}, which has no meta-gradient."
        )
    y = tf.convert_to_tensor(tf.nest.flatten(task[0][1])[0])
    if loss is None and y.dtype.is_floating:
        loss = losses.mean_squared_error
    elif loss is None:
        loss = losses.CrossEntropy(y.shape[1])
    return MAML(model, loss, inner_lr=0.1, engine="looped")


@contextlib.contextmanager
def _like(learner, task):
    """Yields a copy of a learner, with the task in its type, and the type.

    In float32 its network is the learner's own, with its weights restored.
    """
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    weights = learner.get_weights()
    try:
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            _require_float64(learner.network)
            like = _made_like(learner, _in_float64(learner.network))
            data = shapes.cast(task, "float64")
            like.compute_loss(*data, like(data[0], training=True))
            dtype = "float64"
        # A model of one's own may raise anything here.
        except Exception:
            keras.config.set_floatx(floatx)
            keras.config.set_dtype_policy(policy)
            like = _made_like(learner, learner.network)
            data, dtype = shapes.cast(task, floatx), "float32"
        yield like, data, dtype
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
        learner.set_weights(weights)


def _made_like(learner, network):
    """Returns a learner with the same arguments and weights, compiled."""
    arguments = {**arguments_of(learner), "network": network}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Said when the learner was made.
        like = make(type(learner), arguments)
    like.set_weights(learner.get_weights())
    copies.settle(network)
    loss = getattr(learner, "loss", None) or learner.inner_loss
    of_tasks = functools.partial(losses.per_task, task_axes=1)
    like.compile("sgd", tf.nest.map_structure(of_tasks, loss))
    return like


def _require_float64(network):
    """Refuses layers of which TensorFlow computes in float32 alone."""
    for part in network._flatten_layers():
        exact = getattr(part, "interpolation", None) == "nearest"
        if isinstance(part, RESIZING) and not exact:
            raise TypeError("Images are interpolated in float32.")


def _in_float64(network):
    config = keras.saving.serialize_keras_object(network)
    return keras.saving.deserialize_keras_object(_typed(config))


def _typed(config):
    """Returns a configuration in which every floating type is float64."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(_typed, config))
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return "float64"
    typed = {key: _typed(value) for key, value in config.items()}
    if "float" in str(config.get("dtype")):
        typed["dtype"] = "float64"
    return typed


def _objective(learner, task):
    """Returns the meta-objective for `_error`: where it is, and a function."""
    variables = learner.trainable_variables
    values = [tf.convert_to_tensor(variable.value) for variable in variables]

    @tf.function(autograph=False)
    def gradient(values):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return learner.meta_gradient(task)[0]

    return values, gradient


def _error(objective, dtype, rng):
    """Returns the largest error of a function's gradient.

    Args:
      objective: a point, a list of tensors, and a function that returns value
        and gradient at such a point.
      dtype: of the point.
      rng: draws directions.

    Returns:
      The error relative to the largest slope, infinity if there is no gradient.
      Of several step sizes the best counts: a large one may step over a kink,
      or where the function is no number; a small one rounds.
    """
    point, gradient_fn = objective
    errors, slopes = [], []
    try:
        _, gradient = gradient_fn(point)
    except LookupError:  # TensorFlow has no derivative of a derivative.
        return np.inf
    for _ in range(DIRECTIONS):
        d = _direction(point, rng)
        slopes.append(float(_dot(gradient, d)))
        found = [
            _difference(lambda h, d=d: gradient_fn(_moved(point, d, h))[0], h)
            for h in _STEPS[dtype]
        ]
        # The smallest number, if there is one.
        errors.append(np.fmin.reduce(np.abs(np.subtract(slopes[-1], found))))
    return float(np.max(errors) / max(max(map(abs, slopes)), 1e-30))


def _direction(point, rng):
    """Returns a random direction of length 1."""
    parts = [rng.normal(size=part.shape) for part in point]
    length = np.sqrt(sum(np.sum(part**2) for part in parts))
    return [
        tf.constant(part / length, like.dtype)
        for part, like in zip(parts, point, strict=True)
    ]


def _moved(point, direction, h):
    return [p + h * d for p, d in zip(point, direction, strict=True)]


def _dot(gradient, direction):
    parts = zip(gradient, direction, strict=True)
    return tf.add_n([tf.reduce_sum(g * d) for g, d in parts])


def _difference(function, h):
    """Returns a derivative at 0: (8 (f₁ − f₋₁) − (f₂ − f₋₂)) / 12 h."""
    below2, below, above, above2 = (
        float(function(k * h)) for k in (-2, -1, 1, 2)
    )
    return (8 * (above - below) - (above2 - below2)) / (12 * h)


def _breaking_layer(network, task, dtype, rng):
    """Returns the name of the first layer whose derivatives are wrong.

    Parts are before the layers that they are part of.
    """
    (support_x, *_), _ = task
    x = tf.nest.map_structure(lambda part: part[0], support_x)
    for layer, args, kwargs in _layer_calls(network, x):
        objectives = _first_and_second(layer, args, kwargs, rng)
        if any(_error(f, dtype, rng) > TOLERANCE[dtype] for f in objectives):
            return f"{layer.name} ({type(layer).__name__})"
    return None


def _layer_calls(network, x):
    """Returns the calls of all layers for an input, as they are completed."""
    calls, run = [], keras.Layer.__call__

    def note(layer, *args, **kwargs):
        output = run(layer, *args, **kwargs)
        calls.append((layer, args, kwargs))
        return output

    with mock.patch.object(keras.Layer, "__call__", note):
        functional.one_task(network, [])([], x, tf.constant([0, 1], tf.int64))
    return calls


def _first_and_second(layer, args, kwargs, rng):
    """Yields two functions for `_error`: Σ sin f, and its slope.

    f is the layer as a function of its weights and floating inputs.
    """
    variables = layer.trainable_variables
    inputs = tf.nest.flatten((args, kwargs))
    floats = [i for i, x in enumerate(inputs) if shapes.is_floating(x)]
    point = [tf.convert_to_tensor(v.value) for v in variables]
    point += [inputs[i] for i in floats]
    if not point:
        return

    def value(point):
        weights, given = point[: len(variables)], list(inputs)
        for i, x in zip(floats, point[len(variables) :], strict=True):
            given[i] = x
        args_, kwargs_ = tf.nest.pack_sequence_as((args, kwargs), given)
        mapping = list(zip(variables, weights, strict=True))
        with exact.operations(), keras.StatelessScope(mapping):
            outputs = tf.nest.flatten(layer(*args_, **kwargs_))
        return tf.add_n([tf.reduce_sum(tf.sin(out)) for out in outputs])

    d = _direction(point, rng)
    first = _with_gradient(value)
    yield point, first
    yield point, _with_gradient(lambda point: _dot(first(point)[1], d))


def _with_gradient(function):
    def value_and_gradient(point):
        with tf.GradientTape() as tape:
            tape.watch(point)
            value = function(point)
        gradient = tape.gradient(value, point, unconnected_gradients="zero")
        return value, [tf.convert_to_tensor(g) for g in gradient]

    return value_and_gradient
