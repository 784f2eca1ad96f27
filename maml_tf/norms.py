"""Normalisation as the originals do it, by Keras layers."""

import contextlib
import inspect
import threading
from collections.abc import Iterator

import tensorflow as tf
from keras import layers, ops

from maml_tf import convolution, exact, products, shapes
from maml_tf.saving import register

NORM_GRADIENTS = ("exact", "legacy")
"""How a normalisation's variance v is differentiated.

"exact" takes v for what it is, as TensorFlow did up to 1.2, the paper's time.
"legacy" holds the mean inside v constant, as `tf.nn.moments` has done since
1.3: outputs and first derivatives are the same, second derivatives are not.
"""


class _Measured(threading.local):
    """How many examples count, if not all; another thread's may be others."""

    examples: int | None = None


_measured = _Measured()


@contextlib.contextmanager
def statistics_of_first(examples: int) -> Iterator[None]:
    """Lets layers with batch statistics take those of the first examples.

    The others are normalised by them too, but do not count.
    """
    before, _measured.examples = _measured.examples, examples
    try:
        yield
    finally:
        _measured.examples = before


class _Summing(layers.Layer):
    """A layer that computes in its variables' type, also in mixed precision.

    What it takes and gives is in the policy's type; sums of many numbers are
    not.
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def add_weight(self, *args, **kwargs):
        return super().add_weight(*args, autocast=False, **kwargs)

    def call(self, x):
        y = self._act(ops.cast(x, self.variable_dtype))
        return ops.cast(y, self.compute_dtype)

    def get_config(self):
        """Returns all arguments, each of which is an attribute of its name."""
        names = inspect.signature(type(self).__init__).parameters
        own = {n: getattr(self, n) for n in names if n in vars(self)}
        return {**super().get_config(), **own}


@register
class BatchStatisticsNorm(_Summing):
    """Batch normalisation by the statistics of the batch at hand, always.

        y = γ (x − m) / √(v + ε) + β

    Mean m and biased variance v are taken over all axes but the last, in
    training and in testing: there are no moving averages (*transductive* when
    the batch is a query set).

    Normalisation is increasing, so that the maximum of y is that of x,
    normalised. With `max_pool` only the maxima of 2×2 windows of x are.

    Source: `contrib.layers.batch_norm` as cbfinn/maml calls it, without γ;
    `layers.batch_normalization` as supervised-reptile does, with it.

    Args:
      epsilon: ε.
      gradient: one of `NORM_GRADIENTS`, see there.
      max_pool: whether y is max-pooled, in 2×2 windows without padding;
        without γ only, which may be negative.
      scale: whether there is a γ.
    """

    def __init__(
        self,
        epsilon=1e-3,
        gradient="exact",
        max_pool=False,
        scale=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.gradient = _known(gradient)
        self.max_pool = max_pool
        self.scale = scale
        if max_pool and scale:
            raise ValueError("max_pool: expected False with scale=True.")

    def build(self, input_shape):
        channels = input_shape[-1:]
        if self.scale:
            self.gamma = self.add_weight(channels, "ones", name="gamma")
        self.beta = self.add_weight(channels, "zeros", name="beta")

    def _act(self, x):
        axes = list(range(len(x.shape) - 1))
        gamma = self.gamma if self.scale else None
        return self.normalize(x, self.pool(x), gamma, self.beta, axes)

    def pool(self, x):
        """Returns what is normalised: x `[n, …, C]`, or its maxima."""
        return ops.max_pool(x, 2) if self.max_pool else x

    def normalize(self, x, pooled, gamma, beta, axes):
        """Returns `pooled`, normalised by the statistics of x over `axes`."""
        if _measured.examples is not None:
            x = tf.gather(x, tf.range(_measured.examples), axis=axes[0])
        return _standardise(x, pooled, axes, self, gamma) + beta


@register
class NormalizedConv2D(_Summing):
    """A convolution and `BatchStatisticsNorm` in one, for few channels.

    A convolution is linear in its patches. If these have mean m and
    covariance C, the outputs of a filter k have mean mᵀk and variance kᵀCk:

        y = γ (p − m)ᵀ k / √(kᵀCk + ε) + β   for each patch p

    So nothing is measured on the outputs, nor differentiated there, which is
    faster where a patch has fewer entries than there are filters. The bias has
    no effect and gradient zero, as before any such norm; the originals have it.

    Args:
      filters: F.
      kernel_size: of the square window; the padding is "same".
      strides: along both axes.
      epsilon: ε.
      gradient: one of `NORM_GRADIENTS`, see there.
      max_pool: whether y is max-pooled, in 2×2 windows without padding.
      scale: whether there is a γ.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        *,
        epsilon=1e-3,
        gradient="exact",
        max_pool=False,
        scale=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.epsilon = epsilon
        self.gradient = _known(gradient)
        self.max_pool = max_pool
        self.scale = scale

    def build(self, input_shape):
        window, filters = (self.kernel_size,) * 2, (self.filters,)
        self.kernel = self.add_weight(
            shape=(*window, input_shape[-1], self.filters),
            initializer="glorot_uniform",
            name="kernel",
        )
        self.bias = self.add_weight(filters, "zeros", name="bias")
        if self.scale:
            self.gamma = self.add_weight(filters, "ones", name="gamma")
        self.beta = self.add_weight(filters, "zeros", name="beta")

    def _act(self, x):
        gamma = self.gamma if self.scale else None
        weights = self.kernel[None], self.bias, gamma, self.beta
        return shapes.merge(self.normalize(x[None], *weights))

    def normalize(self, x, kernel, bias, gamma, beta):
        """Returns y `[B, n, *outputs, F]` of a stack of tasks.

        Args:
          x: `[B, n, height, width, C]`.
          kernel: `[K, *window, C, F]`; K is B, or 1 if all tasks share it.
          bias: `[(B,) F]`.
          gamma: `[(B,) F]`, or None.
          beta: `[(B,) F]`.
        """
        p, shape = convolution.patches(
            x, kernel.shape[1:3], (self.strides,) * 2, (1, 1), "same"
        )
        k = tf.reshape(kernel, [-1, p.shape[-1], self.filters])
        examples = _measured.examples
        examples = shape[1] if examples is None else examples
        parts = examples * shape[2]  # the rows of their outputs
        measured = p[:, : parts * shape[3]]
        m = _mean_product(tf.ones_like(measured[..., :1]), measured, parts)
        p, measured = p - m, measured - m
        covariance = _mean_product(measured, measured, parts)
        variance = tf.reduce_sum(k * (covariance @ k), 1, True)
        if self.gradient == "legacy":
            variance += tf.square(m @ k - tf.stop_gradient(m @ k))
        k *= tf.math.rsqrt(variance + self.epsilon)
        if gamma is not None:
            k *= shapes.align(gamma, k)
        y = products.each(p, k)
        y = tf.reshape(y, [*shape, self.filters])
        if self.max_pool:
            y = shapes.split(ops.max_pool(shapes.merge(y), 2), y)
        # So that a tape finds the bias, and its gradient is zero, not None.
        return y + shapes.align(beta + 0.0 * bias, y)


@register
class ExampleNorm(_Summing):
    """Layer normalisation of each example, with γ and β for each channel.

        y = γ (x − m) / √(v + ε) + β

    Mean m and biased variance v are taken over all axes but the first.

    Source: `contrib.layers.layer_norm` as cbfinn/maml calls it.

    Args:
      epsilon: ε.
      gradient: one of `NORM_GRADIENTS`, see there.
    """

    def __init__(self, epsilon=1e-12, gradient="exact", **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.gradient = _known(gradient)

    def build(self, input_shape):
        channels = input_shape[-1:]
        self.gamma = self.add_weight(channels, "ones", name="gamma")
        self.beta = self.add_weight(channels, "zeros", name="beta")

    def _act(self, x):
        axes = list(range(1, len(x.shape)))
        return self.normalize(x, self.gamma, self.beta, axes)

    def normalize(self, x, gamma, beta, axes):
        """Normalises over `axes`; γ and β must broadcast against `x`."""
        return gamma * _standardise(x, x, axes, self) + beta


def _known(gradient):
    if gradient not in NORM_GRADIENTS:
        raise ValueError(
            f"gradient: expected one of {NORM_GRADIENTS}, got {gradient!r}."
        )
    return gradient


def _standardise(x, y, axes, layer, gamma=None):
    """Returns γ (y − m) / √(v + ε), with m and v of x over `axes`."""
    if layer.gradient == "legacy":
        mean, variance = exact.legacy_moments(x, axes)
    else:
        mean, variance = exact.moments(x, axes, keepdims=True)
    scale = ops.rsqrt(variance + layer.epsilon)
    return (y - mean) * (scale if gamma is None else scale * gamma)


def _mean_product(a, b, parts):
    """[B, n, C], [B, n, D] → [B, C, D]: the mean of aᵢbᵢᵀ over n.

    It is summed in equal parts, which rounds less: float32 errors move ReLUs
    and maxima.
    """
    tasks, count, *_ = shapes.sizes(b)
    a, b = (
        tf.reshape(v, [tasks * parts, count // parts, v.shape[-1]])
        for v in (a, b)
    )
    sums = products.each(a, b, transpose_a=True)
    sums = tf.reshape(sums, [tasks, parts, *sums.shape[1:]])
    return tf.reduce_sum(sums, 1) / tf.cast(count, b.dtype)
