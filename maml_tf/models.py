"""The papers' networks, as ordinary Keras models.

Their initial values, normalisation and pooling are those of cbfinn/maml.
"""

import keras
from keras import layers, ops

from maml_tf import exact

NORM_GRADIENTS = ("exact", "legacy")
"""How a normalisation's variance v is differentiated.

"exact" takes v for what it is, as TensorFlow did up to 1.2, the paper's time.
"legacy" holds the mean inside v constant, as `tf.nn.moments` has done since
1.3: outputs and first derivatives are the same, second derivatives are not.
"""


@keras.saving.register_keras_serializable("maml_tf")
class BatchStatisticsNorm(layers.Layer):
    """Batch normalisation by the statistics of the batch at hand, always.

        y = (x − m) / √(v + ε) + β

    Mean m and biased variance v are taken over all axes but the last, in
    training and in testing: there are no moving averages (*transductive* when
    the batch is a query set). There is no scale γ.

    Normalisation is increasing, so that the maximum of y is that of x,
    normalised. With `max_pool` only the maxima of 2×2 windows of x are.

    Source: `contrib.layers.batch_norm` as cbfinn/maml calls it.

    Args:
      epsilon: ε.
      gradient: one of `NORM_GRADIENTS`, see there.
      max_pool: whether y is max-pooled, in 2×2 windows without padding.
    """

    def __init__(
        self, epsilon=1e-3, gradient="exact", max_pool=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.gradient = _known(gradient)
        self.max_pool = max_pool

    def build(self, input_shape):
        self.beta = self.add_weight(
            shape=input_shape[-1:], initializer="zeros", name="beta"
        )

    def call(self, x):
        axes = list(range(len(x.shape) - 1))
        return self.normalize(x, self.pool(x), self.beta, axes)

    def pool(self, x):
        """Returns what is normalised: x `[n, …, C]`, or its maxima."""
        return ops.max_pool(x, 2) if self.max_pool else x

    def normalize(self, x, pooled, beta, axes):
        """Returns `pooled`, normalised by the statistics of x over `axes`."""
        return _standardise(x, pooled, axes, self) + beta

    def get_config(self):
        own = {
            "epsilon": self.epsilon,
            "gradient": self.gradient,
            "max_pool": self.max_pool,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("maml_tf")
class ExampleNorm(layers.Layer):
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
        self.gamma = self.add_weight(
            shape=channels, initializer="ones", name="gamma"
        )
        self.beta = self.add_weight(
            shape=channels, initializer="zeros", name="beta"
        )

    def call(self, x):
        axes = list(range(1, len(x.shape)))
        return self.normalize(x, self.gamma, self.beta, axes)

    def normalize(self, x, gamma, beta, axes):
        """Normalises over `axes`; γ and β must broadcast against `x`."""
        return gamma * _standardise(x, x, axes, self) + beta

    def get_config(self):
        own = {"epsilon": self.epsilon, "gradient": self.gradient}
        return {**super().get_config(), **own}


def fast_weights(model: keras.Model) -> list[keras.Variable]:
    """Returns the weights that cbfinn/maml adapts in the inner loop.

    These are the kernels and biases of convolutional and dense layers. The β
    and γ of normalisation layers are shared by all tasks and steps; the
    meta-gradient alone moves them.
    """
    weighted = (layers.Dense, layers.Conv2D)
    return [
        variable
        for layer in model.layers
        if isinstance(layer, weighted)
        for variable in layer.trainable_variables
    ]


def sinusoid_mlp(
    inputs: int = 1, norm: str = "None", norm_gradient: str = "exact"
) -> keras.Model:
    """Returns the regression network: inputs → 40 → 40 → 1, ReLU.

    Weights start from a truncated normal of σ = 0.01, biases at 0.

    Source: Finn et al. 2017, section 5.1.

    Args:
      inputs: 1, or 3 for the oracle that also sees amplitude and phase.
      norm: "batch_norm", "layer_norm" or "None".
      norm_gradient: one of `NORM_GRADIENTS`.
    """
    norms = _norms(norm, norm_gradient)
    return _mlp((inputs,), (40, 40), 1, norms, "sinusoid_mlp")


def omniglot_mlp(
    ways: int, norm: str = "batch_norm", norm_gradient: str = "exact"
) -> keras.Model:
    """Returns the non-convolutional network: 784 → 256 → 128 → 64 → 64 → N.

    Source: Finn et al. 2017, appendix A.1.
    """
    hidden = (256, 128, 64, 64)
    norms = _norms(norm, norm_gradient)
    return _mlp((28, 28, 1), hidden, ways, norms, "omniglot_mlp")


def omniglot_conv(
    ways: int,
    filters: int = 64,
    norm: str = "batch_norm",
    max_pool: bool = False,
    norm_gradient: str = "exact",
) -> keras.Model:
    """Returns four 3×3 convolutional blocks, a mean over positions, a dense.

    Convolutions have stride 2, or stride 1 and 2×2 max-pooling. The dense
    kernel starts from a normal of σ = 1, convolutions from Glorot's uniform.

    Source: Finn et al. 2017, section 5.2; initial values of cbfinn/maml.
    """
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *_conv_blocks(filters, _norms(norm, norm_gradient), max_pool),
            layers.GlobalAveragePooling2D(),
            layers.Dense(
                ways,
                kernel_initializer=keras.initializers.RandomNormal(stddev=1.0),
            ),
        ],
        name="omniglot_conv",
    )


def mini_imagenet_conv(
    ways: int,
    filters: int = 32,
    norm: str = "batch_norm",
    norm_gradient: str = "exact",
) -> keras.Model:
    """Returns four max-pooled blocks on 84×84×3 images and a dense layer.

    Glorot's uniform throughout; 84 → 42 → 21 → 10 → 5 pixels a side.

    Source: Finn et al. 2017, section 5.2.
    """
    return keras.Sequential(
        [
            keras.Input((84, 84, 3)),
            *_conv_blocks(filters, _norms(norm, norm_gradient), max_pool=True),
            layers.Flatten(),
            layers.Dense(ways),
        ],
        name="mini_imagenet_conv",
    )


def _mlp(input_shape, hidden, outputs, norms, name):
    def dense(units):
        start = keras.initializers.TruncatedNormal(stddev=0.01)
        return layers.Dense(units, kernel_initializer=start)

    stack = [keras.Input(input_shape)]
    if len(input_shape) > 1:
        stack.append(layers.Flatten())
    for units in hidden:
        stack += [dense(units), *norms(), layers.ReLU()]
    return keras.Sequential([*stack, dense(outputs)], name=name)


def _conv_blocks(filters, norms, max_pool):
    strides = 1 if max_pool else 2
    for _ in range(4):
        yield layers.Conv2D(filters, 3, strides, padding="same")
        yield from norms(max_pool)
        yield layers.ReLU()


def _norms(name, gradient):
    """Returns a function that makes the layers of a norm: one, or none.

    Pooling comes with it, before the ReLU: the two commute.
    """

    def make(max_pool=False):
        if name == "batch_norm":
            return [BatchStatisticsNorm(gradient=gradient, max_pool=max_pool)]
        pooling = [layers.MaxPooling2D()] if max_pool else []
        if name == "layer_norm":
            return [ExampleNorm(gradient=gradient), *pooling]
        return pooling

    return make


def _known(gradient):
    if gradient not in NORM_GRADIENTS:
        raise ValueError(
            f"gradient: expected one of {NORM_GRADIENTS}, got {gradient!r}."
        )
    return gradient


def _standardise(x, y, axes, layer):
    """Returns (y − m) / √(v + ε), with m and v of x over `axes`."""
    if layer.gradient == "legacy":
        mean, variance = exact.legacy_moments(x, axes)
    else:
        mean, variance = exact.moments(x, axes, keepdims=True)
    return (y - mean) * ops.rsqrt(variance + layer.epsilon)
