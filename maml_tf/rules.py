"""What each kind of layer does with a stack of tasks: its *rule*.

A rule is a function of (layer, weight, x). Inputs x are `[B, n, …]`: B tasks
of n examples; layers that merge several inputs get a list. `weight(variable)`
is the value to use for one of the layer's variables: `[B, *shape]` if each
task has its own, or else `[*shape]`; `weight.tied(variable)` is `Tied` where
all tasks' are the same, for rules that make use of it. `weight(generator)` is a
seed `[2]` for a layer's `SeedGenerator`, another one each time.
"""

import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from keras import layers

from maml_tf import convolution, exact, norms, products, shapes
from maml_tf.tied import Tied, attach, untie


class Rule(NamedTuple):
    """How a class of layers acts, with the other arguments of `rule`."""

    act: Callable
    options: dict
    sums: bool


RULES: dict[type, Rule] = {}
_UNCHANGED = {"lora_enabled": False, "quantization_mode": None}


def rule(*layer_classes: type, sums: bool = False, **options):
    """Registers the decorated function as the rule of some layer classes.

    Args:
      *layer_classes: classes of layers. Their subclasses are not included.
      sums: whether the layer sums many numbers, and so computes in the type
        of its variables, whatever type it takes and gives.
      **options: options of the layers, with the only value that the rule can
        handle. A layer with another value is named by `stacked.unsupported`.
    """

    def register(function):
        entry = Rule(function, {**_UNCHANGED, **options}, sums)
        RULES.update(dict.fromkeys(layer_classes, entry))
        return function

    return register


@rule(
    layers.Activation,
    layers.ELU,
    layers.LeakyReLU,
    layers.ReLU,
    layers.Softmax,
    layers.Identity,
    layers.Normalization,
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
    """The rule of layers without trainable weights that treat examples alone.

    To them the examples of all tasks, `[B·n, …]`, are one batch. Axes that a
    layer counts are those of this batch, so none is the task axis.
    """
    del weight
    like = tf.nest.flatten(x)[0]
    merged = tf.nest.map_structure(shapes.merge, x)
    return _split(layer(merged, training=True), like)


@rule(layers.Dense)
def _dense(layer, weight, x):
    if not x.dtype.is_floating:
        x = tf.cast(x, layer.compute_dtype)
    return _finish(layer, weight, _product(x, weight, layer.kernel))


def _product(x, weight, kernel):
    """[B, n, …, C] times a kernel `[…, C, F]` → [B, n, …, F]."""
    tasks, *others, channels = shapes.sizes(x)
    value = weight.tied(kernel)
    matrix = [channels, kernel.shape[-1]]
    rows = tf.reshape(x, [tasks, -1, channels])
    if isinstance(value, Tied):
        y = shapes.merge(rows) @ tf.reshape(value.shared, matrix)
        y = attach(
            tf.reshape(y, [tasks, -1, matrix[1]]), value.own, lambda: rows
        )
    else:
        y = products.each(rows, tf.reshape(value, [tasks, *matrix]))
    return tf.reshape(y, [tasks, *others, matrix[1]])


@rule(
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    data_format="channels_last",
    groups=1,
)
def _conv(layer, weight, x):
    kernel = weight.tied(layer.kernel)
    window, options = layer.kernel.shape[:-2], _options(layer)
    # Causal padding is no part of a layer's `convolution_op`.
    if isinstance(kernel, Tied) and layer.padding != "causal":
        y = shapes.split(
            layer.convolution_op(shapes.merge(x), kernel.shared), x
        )
        y = attach(
            y, kernel.own, lambda: convolution.patches(x, window, *options)[0]
        )
    else:
        kernel = shapes.with_tasks(untie(kernel), layer.kernel.shape)
        y = convolution.convolve(x, kernel, *options)
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
    return _finish(layer, weight, _product(y, weight, layer.pointwise_kernel))


def _depthwise(layer, weight, x, kernel):
    kernel = shapes.with_tasks(weight(kernel), kernel.shape)
    return convolution.convolve_depthwise(x, kernel, *_options(layer))


def _options(layer):
    return layer.strides, layer.dilation_rate, layer.padding


def _finish(layer, weight, y):
    """Adds the bias, then applies the activation."""
    if layer.use_bias:
        y += shapes.align(weight(layer.bias), y)
    if inspect.isfunction(layer.activation) and (
        layer.activation.__module__.startswith("keras.")
    ):
        return layer.activation(y)
    # Another may count axes, and knows of no task axis.
    return _split(layer.activation(shapes.merge(y)), y)


def _split(y, like):
    """[B·n, …] → [B, n, …], also of the logits that Keras compares."""
    return shapes.predicted(lambda part: shapes.split(part, like), y)


@rule(layers.Embedding, mask_zero=False)
def _embedding(layer, weight, x):
    table, places = weight(layer.embeddings), tf.cast(x, tf.int32)
    places = tf.where(places < 0, places + layer.input_dim, places)
    return tf.gather(table, places, batch_dims=len(table.shape) - 2)


@rule(layers.PReLU)
def _prelu(layer, weight, x):
    alpha = shapes.with_tasks(weight(layer.alpha), [1, *layer.alpha.shape])
    return tf.nn.relu(x) - alpha * tf.nn.relu(-x)


@rule(layers.BatchNormalization, sums=True, renorm=False, synchronized=False)
def _batch_normalization(layer, weight, x):
    """By the statistics of a task's batch; frozen, by the moving averages."""
    if layer.trainable:
        channels = shapes.axes(layer.axis, x)
        others = [i for i in range(1, len(x.shape)) if i not in channels]
        moments = exact.moments(x, others, keepdims=True)
    else:
        averages = layer.moving_mean, layer.moving_variance
        moments = (shapes.align(weight(v), x, layer.axis) for v in averages)
    y = _standardise(x, *moments, layer.epsilon)
    return _scale_and_shift(layer, weight, y)


@rule(layers.LayerNormalization, sums=True, rms_scaling=False)
def _layer_normalization(layer, weight, x):
    moments = exact.moments(x, shapes.axes(layer.axis, x), keepdims=True)
    y = _standardise(x, *moments, layer.epsilon)
    return _scale_and_shift(layer, weight, y)


@rule(layers.GroupNormalization, sums=True)
def _group_normalization(layer, weight, x):
    """The channel axis is split into groups, each with its statistics."""
    (channels,) = shapes.axes(layer.axis, x)
    shape = shapes.sizes(x)
    groups = [layer.groups, shape[channels] // layer.groups]
    y = tf.reshape(x, shape[:channels] + groups + shape[channels + 1 :])
    others = [i for i in range(2, len(y.shape)) if i != channels]
    moments = exact.moments(y, others, keepdims=True)
    y = tf.reshape(_standardise(y, *moments, layer.epsilon), shape)
    return _scale_and_shift(layer, weight, y)


@rule(layers.RMSNormalization, sums=True, axis=[-1])
def _rms_normalization(layer, weight, x):
    square = tf.reduce_mean(tf.square(x), -1, keepdims=True)
    y = x * tf.math.rsqrt(square + layer.epsilon)
    return y * shapes.align(weight(layer.scale), y)


@rule(norms.BatchStatisticsNorm, sums=True)
def _batch_statistics_norm(layer, weight, x):
    pooled = shapes.split(layer.pool(shapes.merge(x)), x)
    gamma = shapes.align(weight(layer.gamma), x) if layer.scale else None
    beta = shapes.align(weight(layer.beta), x)
    axes = list(range(1, len(x.shape) - 1))
    return layer.normalize(x, pooled, gamma, beta, axes)


@rule(norms.NormalizedConv2D, sums=True)
def _normalized_conv(layer, weight, x):
    kernel = shapes.with_tasks(weight(layer.kernel), layer.kernel.shape)
    gamma = weight(layer.gamma) if layer.scale else None
    others = weight(layer.bias), gamma, weight(layer.beta)
    return layer.normalize(x, kernel, *others)


@rule(norms.ExampleNorm, sums=True)
def _example_norm(layer, weight, x):
    gamma, beta = (
        shapes.align(weight(v), x) for v in (layer.gamma, layer.beta)
    )
    return layer.normalize(x, gamma, beta, list(range(2, len(x.shape))))


def _standardise(x, mean, variance, epsilon):
    """(x − m) / √(v + ε)."""
    return (x - mean) * tf.math.rsqrt(variance + epsilon)


def _scale_and_shift(layer, weight, y):
    """γ y + β, where each may be missing, and varies along the layer's axes."""
    if layer.scale:
        y *= shapes.align(weight(layer.gamma), y, layer.axis)
    if layer.center:
        y += shapes.align(weight(layer.beta), y, layer.axis)
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
        noise_shape=[*shapes.sizes(x)[:2], *mask_shape],
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
