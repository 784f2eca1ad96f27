"""A Keras model on a stack of tasks: every weight has a task axis.

Inputs are `[B, n, …]`: B tasks of n examples. An adapted weight is
`[B, *shape]`, one copy for each task; any other weight keeps its shape. The
model is a graph of layers, sequential or functional, and each layer class has
a *rule*, a function of (layer, weight, x), where `weight(variable)` is the
value to use for one of the layer's variables. Layers that merge several
inputs get a list x.

A layer of your own needs a rule of its own:

    @stacked.rule(Scale)
    def _scale(layer, weight, x):
        '''x: [B, n, C]; factor: [B, C], or [C] if it is not adapted.'''
        factor = tf.reshape(weight(layer.factor), [-1, 1, x.shape[-1]])
        return factor * x

A layer without weights that treats every example by itself needs no more than
`stacked.rule(Square)(stacked.example_by_example)`.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from keras import layers

from maml_tf import convolution, functional, models
from maml_tf.adaptation import ApplyFn

_RULES: dict[type, Callable] = {}
_REQUIRED: dict[type, dict] = {}
_UNCHANGED = {"lora_enabled": False, "quantization_mode": None}


def rule(*layer_classes: type, **required):
    """Registers the decorated function as the rule of some layer classes.

    Args:
      *layer_classes: classes of layers. Their subclasses are not included.
      **required: options of the layers, with the only value that the rule can
        handle. A layer with another value is named by `unsupported`.
    """

    def register(function):
        _RULES.update(dict.fromkeys(layer_classes, function))
        options = {**_UNCHANGED, **required}
        _REQUIRED.update(dict.fromkeys(layer_classes, options))
        return function

    return register


def unsupported(model: keras.Model) -> list[str]:
    """Returns why `model` cannot run stacked, a line for each reason.

    Raises:
      ValueError: if the model is not built.
    """
    functional.require_built(model)
    graph = _graph(model)
    if graph is None:
        return [f"{_title(model)} is neither sequential nor functional"]
    reasons = [
        *_wrong_shapes(model.name, graph),
        *(why for call in _calls(graph) for why in _wrong_call(*call)),
    ]
    return list(dict.fromkeys(reasons))


def many_tasks(
    model: keras.Model, variables: Sequence, seed: tf.Tensor | None = None
) -> ApplyFn:
    """Returns `model` as a function of stacked values of some variables.

    The model runs in training mode, as in `functional.one_task`.

    Args:
      model: a sequential or functional model of layers with rules.
      variables: the variables whose stacked values `[B, *shape]` are passed
        as parameters. The others keep their own values.
      seed: integers `[2]`, which random layers need. Their numbers are a
        function of the seed, the count of calls so far and the place in the
        model; every task and example gets its own.

    Raises:
      ValueError: if the model is not built, a layer has no rule, or a layer
        is random and there is no seed.
    """
    if reasons := unsupported(model):
        raise ValueError(f"Cannot stack tasks: {'; '.join(reasons)}.")
    if seed is None:
        _require_no_random_layers(model)
    calls = itertools.count()

    def apply_fn(parameters, x):
        values = {
            id(variable): value
            for variable, value in zip(variables, parameters, strict=True)
        }
        weight = _reader(values, _fold(seed, next(calls)))
        with functional.exact_operations():
            return _run(_graph(model), weight, x)

    return apply_fn


def stack(values: Sequence, tasks) -> list[tf.Tensor]:
    """Returns each value `[*shape]` once for each task: `[tasks, *shape]`."""
    return [tf.broadcast_to(v, [tasks, *v.shape]) for v in values]


def _graph(layer):
    """Returns the graph that the call of a Keras model runs, or None."""
    if not type(layer).call.__module__.startswith("keras."):
        return None  # A subclass with a call of its own.
    graph = getattr(layer, "_functional", layer)
    return graph if isinstance(graph, keras.Function) else None


def _walk(graph, inputs, call):
    """Runs a graph with `call(layer, *args, **kwargs)` for each layer call.

    Keras has no public function for this.
    """
    return graph._run_through_graph(
        inputs, lambda layer: functools.partial(call, layer)
    )


def _run(graph, weight, inputs):
    """Returns the output of a graph whose layers act by their rules."""

    def act(layer, *args, **kwargs):
        del kwargs
        if inner := _graph(layer):
            return _run(inner, weight, *args)
        return _RULES[type(layer)](layer, weight, *args)

    inputs = [
        tf.cast(x, like.dtype)
        for x, like in zip(tf.nest.flatten(inputs), graph.inputs, strict=True)
    ]
    (output,) = tf.nest.flatten(_walk(graph, inputs, act))
    return output


def _calls(graph):
    """Returns the calls in a graph: pairs of a layer and its keywords."""
    calls = []

    def note(layer, *args, **kwargs):
        del args
        calls.append((layer, kwargs))
        return layer.output

    _walk(graph, graph.inputs, note)
    return calls


def _reader(values, seed):
    """Returns `weight`: the value of a variable, or fresh seeds.

    A layer's `SeedGenerator` reads as a seed `[2]`, another one each time.
    """
    draws = itertools.count()

    def weight(variable):
        if isinstance(variable, keras.random.SeedGenerator):
            return _fold(seed, next(draws))
        return values.get(id(variable), variable.value)

    return weight


def _fold(seed, count):
    if seed is None:
        return None
    return tf.random.experimental.stateless_fold_in(seed, count)


def _require_no_random_layers(model):
    for layer, _ in _calls(_graph(model)):
        if _graph(layer):
            _require_no_random_layers(layer)
        elif _is_random(layer):
            raise ValueError(
                f"{_title(layer)} draws random numbers, which takes a seed. "
                "Give one, or remove the layer."
            )


def _is_random(layer):
    generator = keras.random.SeedGenerator
    return any(isinstance(value, generator) for value in vars(layer).values())


def _wrong_shapes(name, graph):
    if len(graph.outputs) != 1:
        yield f"{name} has {len(graph.outputs)} outputs"
    for x in graph.inputs:
        if None in x.shape[1:]:
            yield f"{name} has an input of unknown size {x.shape}"


def _wrong_call(layer, kwargs):
    """Yields why a layer, called with some keywords, has no rule."""
    # Keras itself overrides `training` in a model that is in training mode.
    given = {k for k, v in kwargs.items() if v is not None} - {"training"}
    if given:
        yield f"{_title(layer)} is called with {', '.join(sorted(given))}"
    if _graph(layer):
        yield from unsupported(layer)
    elif not isinstance(layer, keras.Layer):
        yield f"{_title(layer)} is an operation, not a layer"
    elif type(layer) not in _RULES:
        yield f"{_title(layer)} has no stacked rule"
    else:
        yield from _wrong_options(layer)


def _wrong_options(layer):
    for option, value in _REQUIRED[type(layer)].items():
        actual = getattr(layer, option, value)
        if actual != value:
            yield f"{_title(layer)} with {option}={actual!r} has no rule"
    if {layer.compute_dtype, layer.variable_dtype} != {keras.config.floatx()}:
        yield f"{_title(layer)} has the dtype {layer.dtype_policy.name}"


def _title(layer):
    return f"{layer.name} ({type(layer).__name__})"


@rule(
    layers.Activation,
    layers.ELU,
    layers.LeakyReLU,
    layers.ReLU,
    layers.Softmax,
    layers.Identity,
    layers.Rescaling,
    layers.UnitNormalization,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.Flatten,
    layers.Permute,
    layers.RepeatVector,
    layers.Reshape,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.Add,
    layers.Average,
    layers.Concatenate,
    layers.Dot,
    layers.Maximum,
    layers.Minimum,
    layers.Multiply,
    layers.Subtract,
)
def example_by_example(layer, weight, x):
    """The rule of layers without weights that treat each example by itself.

    To them the examples of all tasks, `[B·n, …]`, are one batch. Axes that a
    layer counts are those of this batch, so none is the task axis.
    """
    del weight
    like = tf.nest.flatten(x)[0]
    return _split(layer(tf.nest.map_structure(_merge, x)), like)


@rule(layers.Dense)
def _dense(layer, weight, x):
    return _finish(layer, weight, _product(x, weight(layer.kernel)))


@rule(
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    data_format="channels_last",
    groups=1,
)
def _conv(layer, weight, x):
    kernel = weight(layer.kernel)
    is_shared = len(kernel.shape) == len(layer.kernel.shape)
    if is_shared and layer.padding != "causal":
        y = _split(layer.convolution_op(_merge(x), kernel), x)
    else:
        kernel = tf.reshape(kernel, [-1, *layer.kernel.shape])
        y = convolution.convolve(x, kernel, *_options(layer))
    return _finish(layer, weight, y)


@rule(
    layers.DepthwiseConv1D, layers.DepthwiseConv2D, data_format="channels_last"
)
def _depthwise_conv(layer, weight, x):
    return _finish(layer, weight, _depthwise(layer, weight, x, layer.kernel))


@rule(
    layers.SeparableConv1D, layers.SeparableConv2D, data_format="channels_last"
)
def _separable_conv(layer, weight, x):
    y = _depthwise(layer, weight, x, layer.depthwise_kernel)
    return _finish(layer, weight, _product(y, weight(layer.pointwise_kernel)))


def _depthwise(layer, weight, x, kernel):
    kernel = tf.reshape(weight(kernel), [-1, *kernel.shape])
    return convolution.convolve_depthwise(x, kernel, *_options(layer))


def _options(layer):
    return layer.strides, layer.dilation_rate, layer.padding


def _finish(layer, weight, y):
    """Adds the bias, then applies the activation."""
    if layer.use_bias:
        y += _align(weight(layer.bias), y, [len(y.shape) - 1])
    return layer.activation(y)


@rule(layers.Embedding, mask_zero=False)
def _embedding(layer, weight, x):
    table = weight(layer.embeddings)
    return tf.gather(
        table, tf.cast(x, tf.int32), batch_dims=len(table.shape) - 2
    )


@rule(layers.PReLU)
def _prelu(layer, weight, x):
    alpha = tf.reshape(weight(layer.alpha), [-1, 1, *layer.alpha.shape])
    return tf.nn.relu(x) - alpha * tf.nn.relu(-x)


@rule(layers.BatchNormalization, renorm=False, synchronized=False)
def _batch_normalization(layer, weight, x):
    """By the statistics of a task's batch; frozen, by the moving averages."""
    channels = _axes(layer.axis, x)
    if layer.trainable:
        others = [i for i in range(1, len(x.shape)) if i not in channels]
        y = _standardise(x, others, layer.epsilon)
    else:
        mean, variance = (
            _align(weight(v), x, channels)
            for v in (layer.moving_mean, layer.moving_variance)
        )
        y = (x - mean) * tf.math.rsqrt(variance + layer.epsilon)
    return _scale_and_shift(layer, weight, y, channels)


@rule(layers.LayerNormalization, rms_scaling=False)
def _layer_normalization(layer, weight, x):
    axes = _axes(layer.axis, x)
    y = _standardise(x, axes, layer.epsilon)
    return _scale_and_shift(layer, weight, y, axes)


@rule(layers.GroupNormalization)
def _group_normalization(layer, weight, x):
    """The channel axis is split into groups, each with its statistics."""
    (channels,) = _axes(layer.axis, x)
    shape = [*_leading(x), *x.shape[2:]]
    groups = [layer.groups, shape[channels] // layer.groups]
    y = tf.reshape(x, shape[:channels] + groups + shape[channels + 1 :])
    others = [i for i in range(2, len(y.shape)) if i != channels]
    y = tf.reshape(_standardise(y, others, layer.epsilon), shape)
    return _scale_and_shift(layer, weight, y, [channels])


@rule(models.BatchStatisticsNorm)
def _batch_statistics_norm(layer, weight, x):
    beta = _align(weight(layer.beta), x, [len(x.shape) - 1])
    return layer.normalize(x, beta, tuple(range(1, len(x.shape) - 1)))


@rule(models.ExampleNorm)
def _example_norm(layer, weight, x):
    gamma, beta = (
        _align(weight(v), x, [len(x.shape) - 1])
        for v in (layer.gamma, layer.beta)
    )
    return layer.normalize(x, gamma, beta, tuple(range(2, len(x.shape))))


def _standardise(x, axes, epsilon):
    """(x − m) / √(v + ε), with mean m and variance v over `axes`."""
    mean, variance = functional.moments(x, axes, keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + epsilon)


def _scale_and_shift(layer, weight, y, axes):
    """γ y + β, where each may be missing, and varies along `axes`."""
    if layer.scale:
        y *= _align(weight(layer.gamma), y, axes)
    if layer.center:
        y += _align(weight(layer.beta), y, axes)
    return y


@rule(layers.Dropout, noise_shape=None)
def _dropout(layer, weight, x):
    return _drop(layer, weight, x, x.shape[2:])


@rule(
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    data_format="channels_last",
)
def _spatial_dropout(layer, weight, x):
    """Whole channels are dropped."""
    ones = [1] * (len(x.shape) - 3)
    return _drop(layer, weight, x, [*ones, x.shape[-1]])


def _drop(layer, weight, x, mask_shape):
    if not layer.rate:
        return x
    return tf.nn.experimental.stateless_dropout(
        x,
        layer.rate,
        seed=weight(layer.seed_generator),
        noise_shape=[*_leading(x), *mask_shape],
    )


@rule(layers.GaussianNoise)
def _gaussian_noise(layer, weight, x):
    return x + _noise(layer, weight, x, layer.stddev)


@rule(layers.GaussianDropout)
def _gaussian_dropout(layer, weight, x):
    stddev = math.sqrt(layer.rate / (1 - layer.rate))
    return x * (1 + _noise(layer, weight, x, stddev))


def _noise(layer, weight, x, stddev):
    if not stddev:
        return 0.0
    seed = weight(layer.seed_generator)
    return stddev * tf.random.stateless_normal(tf.shape(x), seed, dtype=x.dtype)


def _product(x, kernel):
    """[B, n, …, C] times [(B,) …, C, F] → [B, n, …, F]."""
    kernel = tf.reshape(kernel, [-1, *kernel.shape[-2:]])
    tasks = kernel.shape[0] or tf.shape(kernel)[0]
    y = tf.reshape(x, [tasks, -1, x.shape[-1]]) @ kernel
    return tf.reshape(y, [*_leading(x), *x.shape[2:-1], y.shape[-1]])


def _merge(x):
    """[B, n, …] → [B·n, …]."""
    return tf.reshape(x, [-1, *x.shape[2:]])


def _split(y, like):
    """[B·n, …] → [B, n, …], with B and n those of `like`."""
    return tf.reshape(y, [*_leading(like), *y.shape[1:]])


def _leading(x):
    shape = tf.shape(x)
    return [x.shape[i] or shape[i] for i in range(2)]


def _axes(axis, x):
    """Returns the axes of x that a layer means, which sees no task axis."""
    examples = len(x.shape) - 1
    return [1 + i % examples for i in tf.nest.flatten(axis)]


def _align(weight, x, axes):
    """[(B,) …] → [B or 1, 1, …], to broadcast against x along `axes`."""
    sizes = [x.shape[i] if i in axes else 1 for i in range(2, len(x.shape))]
    return tf.reshape(weight, [-1, 1, *sizes])
