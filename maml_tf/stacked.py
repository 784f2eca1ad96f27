"""A Keras model on a stack of tasks: every weight has a task axis.

Inputs are `[B, n, …]`: B tasks of n examples. An adapted weight is
`[B, *shape]`, one copy for each task; any other weight keeps its shape. Each
layer class has a *rule*, a function of (layer, weight, x), where
`weight(variable)` is the value to use for one of the layer's variables.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from maml_tf import functional, models
from maml_tf.adaptation import ApplyFn

_RULES: dict[type, Callable] = {}


def rule(*layer_classes: type):
    """Registers the decorated function as the rule of some layer classes."""

    def register(function):
        _RULES.update(dict.fromkeys(layer_classes, function))
        return function

    return register


def unsupported(model: keras.Model) -> list[str]:
    """Returns why `model` cannot run stacked: its layers without a rule."""
    if not isinstance(model, keras.Sequential):
        return [f"{model.name} is not a keras.Sequential"]
    return [
        f"{layer.name} ({type(layer).__name__}) has no stacked rule"
        for layer in model.layers
        if type(layer) not in _RULES or not _is_supported(layer)
    ]


def many_tasks(model: keras.Model, variables: Sequence) -> ApplyFn:
    """Returns `model` as a function of stacked values of some variables.

    Args:
      model: a `keras.Sequential` of layers with rules.
      variables: the variables whose stacked values `[B, *shape]` are passed
        as parameters. The others keep their own values.

    Raises:
      ValueError: if the model is not built, or a layer has no rule.
    """
    functional.require_built(model)
    if reasons := unsupported(model):
        raise ValueError(f"Cannot stack tasks: {'; '.join(reasons)}.")

    def apply_fn(parameters, x):
        values = {
            id(variable): value
            for variable, value in zip(variables, parameters, strict=True)
        }

        def weight(variable):
            return values.get(id(variable), variable.value)

        x = tf.cast(x, model.compute_dtype)
        for layer in model.layers:
            x = _RULES[type(layer)](layer, weight, x)
        return x

    return apply_fn


def stack(values: Sequence, tasks) -> list[tf.Tensor]:
    """Returns each value `[*shape]` once for each task: `[tasks, *shape]`."""
    return [tf.broadcast_to(v, [tasks, *v.shape]) for v in values]


def _is_supported(layer):
    if not isinstance(layer, layers.Conv2D):
        return True
    return (
        layer.groups == 1
        and layer.dilation_rate == (1, 1)
        and layer.padding in ("same", "valid")
        and layer.data_format == "channels_last"
    )


@rule(
    layers.Activation,
    layers.Flatten,
    layers.GlobalAveragePooling2D,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.ReLU,
    layers.Rescaling,
    layers.Reshape,
    models.MaxPool2x2,
)
def _example_by_example(layer, weight, x):
    """A layer without weights that treats every example by itself."""
    del weight
    return _split(layer(_merge(x)), x)


@rule(layers.Dense)
def _dense(layer, weight, x):
    y = x @ weight(layer.kernel)
    if layer.use_bias:
        y += _align(weight(layer.bias), y)
    return layer.activation(y)


@rule(layers.Conv2D)
def _conv(layer, weight, x):
    kernel = weight(layer.kernel)
    if len(kernel.shape) == 4:
        y = tf.nn.conv2d(
            _merge(x), kernel, layer.strides, layer.padding.upper()
        )
    else:
        y = _conv_per_task(x, kernel, layer.strides, layer.padding)
    y = _split(y, x)
    if layer.use_bias:
        y += _align(weight(layer.bias), y)
    return layer.activation(y)


@rule(models.BatchStatisticsNorm)
def _batch_statistics_norm(layer, weight, x):
    beta = _align(weight(layer.beta), x)
    return layer.normalize(x, beta, tuple(range(1, len(x.shape) - 1)))


@rule(models.ExampleNorm)
def _example_norm(layer, weight, x):
    gamma, beta = (_align(weight(v), x) for v in (layer.gamma, layer.beta))
    return layer.normalize(x, gamma, beta, tuple(range(2, len(x.shape))))


def _merge(x):
    """[B, n, …] → [B·n, …]."""
    return tf.reshape(x, [-1, *x.shape[2:]])


def _split(y, like):
    """[B·n, …] → [B, n, …], with B and n those of `like`."""
    return tf.reshape(y, [*_leading(like), *y.shape[1:]])


def _leading(x):
    shape = tf.shape(x)
    return [x.shape[i] or shape[i] for i in range(2)]


def _align(weight, x):
    """[B, C] → [B, 1, …, 1, C], to broadcast against x; [C] stays."""
    if len(weight.shape) == 1:
        return weight
    ones = [1] * (len(x.shape) - 2)
    return tf.reshape(weight, [-1, *ones, weight.shape[-1]])


def _conv_per_task(x, kernel, strides, padding):
    """Convolves each task's examples with that task's kernel.

    A convolution is a matrix product of patches and kernel, so the filters of
    all tasks make one batched product.

    Args:
      x: `[B, n, H, W, C]`.
      kernel: `[B, h, w, C, F]`.

    Returns:
      `[B·n, H′, W′, F]`.
    """
    tasks, height, width, filters = (kernel.shape[i] for i in (0, 1, 2, 4))
    tasks = tasks or tf.shape(kernel)[0]
    pixels, channels = x.shape[2] * x.shape[3], x.shape[4]
    depth = height * width * channels
    table = _patch_table(x.shape[2:4], (height, width), strides, padding)
    patches = _gather_sum(
        tf.reshape(x, [-1, pixels, channels]),
        table.patch_to_pixel,
        table.pixel_to_patches,
    )
    y = tf.reshape(patches, [tasks, -1, depth]) @ tf.reshape(
        kernel, [tasks, depth, filters]
    )
    return tf.reshape(y, [-1, *table.output_size, filters])


def _gather_sum(x, sources, adjoint):
    """Returns y[m, i] = Σₚ x[m, sources[i, p]], where index n reads a zero.

    The transpose of such a map is another one, so derivatives of every order
    are gathers too: `adjoint` holds the transposed indices. (The derivative
    of `tf.image.extract_patches` is a sparse product, many times slower.)

    Args:
      x: `[m, n, C]`.
      sources: integers `[i, p]` in 0 … n.
      adjoint: integers `[n, q]` in 0 … i.
    """

    @tf.custom_gradient
    def linear(x):
        padded = tf.pad(x, [[0, 0], [0, 1], [0, 0]])
        if sources.shape[1] == 1:
            y = tf.gather(padded, sources[:, 0], axis=1)
        else:
            y = tf.reduce_sum(tf.gather(padded, sources, axis=1), axis=2)
        return y, lambda dy: _gather_sum(dy, adjoint, sources)

    return linear(x)


class _PatchTable(NamedTuple):
    """Which pixel each patch entry reads, and which entries read a pixel.

    Attributes:
      patch_to_pixel: `[H′·W′·h·w, 1]`; index H·W stands for padding.
      pixel_to_patches: `[H·W, most readers of a pixel]`, filled up with the
        index H′·W′·h·w, which stands for nothing.
      output_size: (H′, W′).
    """

    patch_to_pixel: np.ndarray
    pixel_to_patches: np.ndarray
    output_size: tuple[int, int]


def _patch_table(size, window, strides, padding):
    rows, columns = (
        _axis_positions(*axis, padding)
        for axis in zip(size, window, strides, strict=True)
    )
    y = rows[:, None, :, None]
    x = columns[None, :, None, :]
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    nothing = size[0] * size[1]
    pixels = np.where(inside, y * size[1] + x, nothing).reshape(-1)
    readers = [np.flatnonzero(pixels == i) for i in range(nothing)]
    most = max(map(len, readers))
    table = np.full((nothing, most), len(pixels))
    for row, entries in zip(table, readers, strict=True):
        row[: len(entries)] = entries
    return _PatchTable(
        pixels[:, None].astype(np.int32),
        table.astype(np.int32),
        (len(rows), len(columns)),
    )


def _axis_positions(size, window, stride, padding):
    """Returns the positions `[outputs, window]` read along one axis.

    TensorFlow puts the smaller half of an odd "same" padding first.
    """
    if padding == "same":
        outputs = -(-size // stride)
        before = max((outputs - 1) * stride + window - size, 0) // 2
    else:
        outputs, before = (size - window) // stride + 1, 0
    return np.arange(outputs)[:, None] * stride - before + np.arange(window)
