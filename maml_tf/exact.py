"""TensorFlow operations with exact derivatives of every order.

The meta-gradient of MAML is a second derivative, and that of some operations
TensorFlow gets wrong without a word, see `docs/second_derivatives.md`. The
functions here stand in for those. Values and first derivatives are the same.
"""

import contextlib
import functools
import math
import threading
from unittest import mock

import tensorflow as tf

from maml_tf import shapes

# Taken here, as `operations` puts the stand-ins in their places.
_tensorflow_max_pool = tf.nn.max_pool
_tensorflow_resize = tf.image.resize
_Function = type(tf.function(lambda: None))
_call_function = _Function.__call__


def moments(x, axes, shift=None, keepdims=False, name=None):
    """Returns mean and variance, right to any order of differentiation.

        m = 1/n Σ xᵢ,  v = 1/n Σ (xᵢ − m)²

    A stand-in for `tf.nn.moments`, which stops the gradient of m inside v:
    its first derivatives are right and its second derivatives are not.
    """
    del shift, name
    mean, variance = _moments(x, axes, tf.identity)
    if keepdims:
        return mean, variance
    return tf.squeeze(mean, axes), tf.squeeze(variance, axes)


def legacy_moments(x, axes):
    """Returns mean and variance with the derivatives of `tf.nn.moments`.

    The axes are kept, with length 1.
    """
    return _moments(x, axes, tf.stop_gradient)


def _moments(x, axes, centre):
    """Returns m and v, axes kept. Their gradient is (dm + 2 (x − m) dv) / n.

    Automatic differentiation would also sum x − m, which is zero, over the
    whole of x, in every derivative again.
    """

    def mean(x):
        return tf.reduce_mean(x, axes, keepdims=True)

    def backward(dm, dv):
        m = mean(x)
        count = tf.cast(tf.size(x) / tf.size(m), x.dtype)
        return (dm + 2 * dv * (x - centre(m))) / count

    def forward(x):
        m = mean(x)
        return (m, mean(tf.square(x - m))), backward

    return tf.custom_gradient(forward)(x)


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
        padding = list(map(_same_padding, shapes.sizes(x), sizes, strides))
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
    channels_last = not _channels_first(data_format)
    return list(sizes) == list(strides) and len(sizes) < 5 and channels_last


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


def _for_each_axis(value, rank, data_format):
    """Returns a window's extent along all axes, batch and channels too."""
    value = [value] if isinstance(value, int) else list(value)
    if len(value) == 1:
        value *= rank - 2
    if len(value) == rank:
        return value
    if _channels_first(data_format):
        return [1, 1, *value]
    return [1, *value, 1]


def _channels_first(data_format):
    return (data_format or "").startswith("NC")


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


def call_anew(function, *args, **kwargs):
    """Calls a `tf.function` that is traced again, and not to be kept.

    Kept, it would go on with the parameters that it first read: tensors here,
    no variables.
    """
    if operations().is_here:
        function = function._clone(None)
    return _call_function(function, *args, **kwargs)


_PLACES = (
    (tf.nn, "moments", moments),
    (tf.nn, "max_pool", max_pool),
    (tf.image, "resize", resize),
    (_Function, "__call__", call_anew),
    # What it wraps would be constant in parameters that are no variables.
    (tf, "recompute_grad", lambda function: function),
)


class StandIns:
    """A context that has stand-ins in place while any thread is inside.

    If each thread placed its own, the first to leave would put TensorFlow's
    back while others are inside, and the last the stand-ins that it found.

    Args:
      places: of each its module, its name there, and what stands in for it.
    """

    def __init__(self, places):
        self._places, self._placed = places, contextlib.ExitStack()
        self._lock, self._threads = threading.Lock(), []

    @property
    def is_here(self) -> bool:
        """Whether this very thread is inside, for what others may not see."""
        return threading.get_ident() in self._threads

    def __enter__(self):
        with self._lock:
            if not self._threads:
                for place in self._places:
                    self._placed.enter_context(mock.patch.object(*place))
            self._threads.append(threading.get_ident())

    def __exit__(self, *error):
        with self._lock:
            self._threads.remove(threading.get_ident())
            if not self._threads:
                self._placed.close()


_stand_ins = StandIns(_PLACES)


def operations() -> contextlib.AbstractContextManager:
    """Makes Keras's layers use these stand-ins inside the context.

    On the TensorFlow backend BatchNormalization, LayerNormalization and
    GroupNormalization take their statistics from `tf.nn.moments`,
    MaxPooling1D to 3D are `tf.nn.max_pool`, UpSampling2D and Resizing
    interpolate by `tf.image.resize`, and `keras.remat` is `tf.recompute_grad`,
    which here computes nothing again. A layer's own `tf.function` is
    traced in each call.
    """
    return _stand_ins
