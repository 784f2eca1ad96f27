"""Any built Keras model as a function of its parameters, one task at a time."""

import contextlib
import functools
import itertools
import math
from collections.abc import Sequence
from unittest import mock

import keras
import tensorflow as tf

from maml_tf.adaptation import ApplyFn


def moments(x, axes, shift=None, keepdims=False, name=None):
    """Returns mean and variance, right to any order of differentiation.

        m = 1/n Σ xᵢ,  v = 1/n Σ (xᵢ − m)²

    A stand-in for `tf.nn.moments`, which stops the gradient of m inside v:
    its first derivatives are right and its second derivatives are not.
    """
    del shift, name
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
    return tf.reshape(mean, tf.shape(variance)), variance


_tensorflow_max_pool = tf.nn.max_pool


def max_pool(input, ksize, strides, padding, data_format=None, name=None):
    """Returns the maximum of each window, right to any order.

    A stand-in for `tf.nn.max_pool`, whose second derivative under XLA looks
    for the winner of a window among inputs cut to 16 bits. Of equal values
    the first one wins, row by row.

    Args:
      input: `[n, *space, C]`, or `[n, C, *space]` in an "NC…" format.
      ksize: the size of a window: an integer, or one for each axis.
      strides: likewise.
      padding: "VALID", "SAME", or the two widths for each axis of `input`.
      data_format: as in TensorFlow.
      name: not used.
    """
    del name
    x = tf.convert_to_tensor(input)
    sizes, strides = (
        _for_each_axis(value, len(x.shape), data_format)
        for value in (ksize, strides)
    )
    if padding == "SAME":
        padding = list(map(_same_padding, _shape(x), sizes, strides))
    if padding != "VALID":
        x = tf.pad(x, padding, constant_values=x.dtype.min)
    if _lies_apart(sizes, strides, data_format):
        return _max_pool_apart(x, sizes)
    # Backwards: a row's winners come before those of the rows.
    for axis in reversed(range(len(x.shape))):
        x = _max_along(x, axis, sizes[axis], strides[axis])
    return x


def _lies_apart(sizes, strides, data_format):
    """Returns whether `_max_pool_apart` can do it.

    On the CPU TensorFlow pools no channels that come first, and takes no
    average over three dimensions in float64.
    """
    channels_first = (data_format or "").startswith("NC")
    return (
        list(sizes) == list(strides) and len(sizes) < 5 and not channels_first
    )


def _max_pool_apart(x, sizes):
    """Returns the maximum of windows that lie side by side.

    Its derivative puts dy where the winners are. Windows share no winner, so
    the derivative of that sums each window over the winners' mask.
    """
    arguments = sizes, sizes, "VALID"

    def winners(dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = _tensorflow_max_pool(x, *arguments)
        return tape.gradient(y, x, dy)

    def forward(x):
        return _tensorflow_max_pool(x, *arguments), backward

    @tf.custom_gradient
    def backward(dy):
        def pick(g):
            chosen = g * tf.stop_gradient(winners(tf.ones_like(dy)))
            return math.prod(sizes) * tf.nn.avg_pool(chosen, *arguments)

        return winners(dy), pick

    return tf.custom_gradient(forward)(x)


_tensorflow_resize = tf.image.resize


def resize(images, *args, **kwargs):
    """Returns resized images, right to any order.

    A stand-in for `tf.image.resize`, which takes the second derivative of
    bilinear resizing for zero. Resizing is linear, y = A x: its derivative is
    Aᵀ, whose derivative is A.
    """

    def forward(x):
        return _tensorflow_resize(x, *args, **kwargs), transposed

    @tf.custom_gradient
    def transposed(dy):
        zeros = tf.zeros_like(images)
        with tf.GradientTape() as tape:
            tape.watch(zeros)
            y = _tensorflow_resize(zeros, *args, **kwargs)
        return tape.gradient(y, zeros, dy), tf.custom_gradient(forward)

    return tf.custom_gradient(forward)(images)


@contextlib.contextmanager
def exact_operations():
    """Makes Keras's layers use the functions above inside the context.

    On the TensorFlow backend BatchNormalization, LayerNormalization and
    GroupNormalization take their statistics from `tf.nn.moments`,
    MaxPooling1D to 3D are `tf.nn.max_pool`, and UpSampling2D and Resizing
    interpolate by `tf.image.resize`.
    """
    with (
        mock.patch.multiple(tf.nn, moments=moments, max_pool=max_pool),
        mock.patch.object(tf.image, "resize", resize),
    ):
        yield


def require_built(model: keras.Model) -> None:
    """Raises `ValueError` for a model that has no weights yet."""
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} must be built before it is adapted. "
            "Call it once on an example, or give it an `Input`."
        )


def one_task(
    model: keras.Model, variables: Sequence, seed: tf.Tensor | None = None
) -> ApplyFn:
    """Returns `model` as a function of the values of some of its variables.

    The model runs in training mode: batch statistics are those of the batch
    at hand. Variables that are not listed keep their own values, so a gradient
    reaches them too. Nothing is assigned: updates of moving averages are
    dropped.

    Random layers draw from `seed`: in the k-th call of the returned function
    the same numbers for the same seed and k, and others in every other call.
    (XLA draws others than TensorFlow without it.) Calls are counted as they
    are traced, so make a new function wherever a task's own work begins:
    inside the body of a loop over tasks, not before it.

    Args:
      model: a built Keras model.
      variables: the variables whose values are passed as parameters.
      seed: two integers `[2]` for dropout and noise, different for each task.

    Returns:
      A function of (parameters, inputs). It raises `ValueError` if the model
      draws random numbers without a seed, or remembers anything else from call
      to call, as a stateful recurrent layer does.

    Raises:
      ValueError: if the model is not built.
    """
    require_built(model)
    calls = itertools.count()
    generators = [v for v in model.variables if "seed_generator" in v.path]
    # A moving average's update may be lost. A generator's may not, without a
    # seed, nor that of a state which is not among the model's variables.
    free = {id(v) for v in model.variables}
    if seed is None:
        free -= {id(v) for v in generators}

    def apply_fn(parameters, x):
        mapping = list(zip(variables, parameters, strict=True))
        if seed is not None:
            states = _states(seed, next(calls), len(generators))
            mapping += zip(generators, states, strict=True)
        with exact_operations(), keras.StatelessScope(mapping) as scope:
            prediction = model(x, training=True)
        _require_no_memory(model, scope.state_mapping.keys() - free)
        return prediction

    return apply_fn


def _states(seed, call, generators):
    """Returns the states `[generators, 2]` of seed generators for a call.

    They are drawn together, as a generator counts its own draws up from its
    state, which states one apart would make overlap.
    """
    return tf.unstack(
        tf.random.stateless_uniform(
            [generators, 2],
            tf.random.experimental.stateless_fold_in(seed, call),
            minval=0,
            maxval=tf.int32.max,
            dtype=tf.int32,
        )
    )


def _require_no_memory(model, lost):
    if lost:
        raise ValueError(
            f"The model {model.name!r} draws random numbers or carries a "
            "state from call to call, which a function of its parameters "
            "cannot. For dropout and noise layers pass `seed`, and give "
            "layers of your own a `keras.random.SeedGenerator`; make "
            "recurrent layers with `stateful=False`."
        )


def _for_each_axis(value, rank, data_format):
    """Returns a window's extent along all axes, batch and channels too."""
    if isinstance(value, int):
        value = [value] * (rank - 2)
    if len(value) == rank:
        return value
    channels_first = (data_format or "").startswith("NC")
    return [1, 1, *value] if channels_first else [1, *value, 1]


def _shape(x):
    """Returns the sizes of the axes: integers where they are known."""
    dynamic = tf.shape(x)
    return [size or dynamic[axis] for axis, size in enumerate(x.shape)]


def _same_padding(length, size, stride):
    """Returns the widths of "SAME": as many windows as strides, rounded up."""
    if size == 1:
        return 0, 0  # not a tensor, so that the shape stays known
    total = tf.maximum(size - stride + -length % stride, 0)
    return total // 2, total - total // 2


def _max_along(x, axis, size, stride):
    """Returns the maximum over windows along one axis, without padding."""

    def shifted(i):
        # All are equally long, whether or not the length is known.
        index = [slice(None)] * len(x.shape)
        index[axis] = slice(i, i - size + 1 or None, stride)
        return x[tuple(index)]

    return functools.reduce(tf.maximum, map(shifted, range(size)))
