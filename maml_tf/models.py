"""The papers' networks, as ordinary Keras models.

Their initial values, normalisation and pooling are those of cbfinn/maml, or of
supervised-reptile.
"""

import contextlib

import keras
from keras import layers

from maml_tf.norms import BatchStatisticsNorm, ExampleNorm, NormalizedConv2D

NORMS = ("batch_norm", "layer_norm", "None")


@contextlib.contextmanager
def dtype_policy(name: str):
    """Makes layers that are built inside the context compute by a policy.

    Args:
      name: of a policy of Keras. "mixed_bfloat16" computes in bfloat16 and
        keeps weights, and sums of norms and losses, in float32.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def fast_weights(model: keras.Model) -> list[keras.Variable]:
    """Returns the weights that cbfinn/maml adapts in the inner loop.

    These are the kernels and biases of convolutional and dense layers. The β
    and γ of normalisation layers are shared by all tasks and steps; the
    meta-gradient alone moves them.
    """
    weighted = (layers.Dense, layers.Conv2D, NormalizedConv2D)
    return [
        variable
        for layer in model.layers
        if isinstance(layer, weighted)
        for variable in layer.trainable_variables
        if variable.name in ("kernel", "bias")
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
      norm_gradient: one of `norms.NORM_GRADIENTS`.

    Raises:
      ValueError: if there is no such norm or gradient.
    """
    norms = _norms(norm, norm_gradient)
    return _mlp((inputs,), (40, 40), 1, norms, "sinusoid_mlp")


def omniglot_mlp(
    ways: int, norm: str = "batch_norm", norm_gradient: str = "exact"
) -> keras.Model:
    """Returns the non-convolutional network: 784 → 256 → 128 → 64 → 64 → N.

    Source: Finn et al. 2017, appendix A.1.

    Args:
      ways: N; images `[n, 28, 28, 1]`, ink 1, become logits `[n, N]`.
      norm: see `sinusoid_mlp`.
      norm_gradient: likewise.
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
    """Returns four convolutional blocks, a mean over positions, a dense layer.

    The 3×3 convolutions have stride 2, or stride 1 and 2×2 max-pooling. They
    start from Glorot's uniform, the dense kernel from a normal of σ = 1.

    Source: Finn et al. 2017, section 5.2; initial values of cbfinn/maml.

    Args:
      ways: N; images `[n, 28, 28, 1]`, ink 1, become logits `[n, N]`.
      filters: of each convolution.
      norm: see `sinusoid_mlp`.
      max_pool: whether there is max-pooling.
      norm_gradient: see `sinusoid_mlp`.
    """
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *_conv_blocks(filters, norm, norm_gradient, max_pool),
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
    max_pool: bool = True,
    image_shape: tuple[int, int, int] = (84, 84, 3),
) -> keras.Model:
    """Returns four convolutional blocks, flattened, and a dense layer.

    Glorot's uniform throughout; 84 → 42 → 21 → 10 → 5 pixels a side. The
    paper's has max-pooling; without it, convolutions have stride 2.

    Source: Finn et al. 2017, section 5.2.

    Args:
      ways: N; images `[n, *image_shape]`, in 0 … 1, become logits `[n, N]`.
      filters: of each convolution.
      norm: see `sinusoid_mlp`.
      norm_gradient: likewise.
      max_pool: whether there is max-pooling.
      image_shape: height, width and channels.
    """
    blocks = _conv_blocks(filters, norm, norm_gradient, max_pool)
    return _flattened(image_shape, blocks, ways, "mini_imagenet_conv")


def reptile_omniglot_conv(ways: int) -> keras.Model:
    """Returns four strided blocks of 64 filters, flattened, and a dense layer.

    Each block is convolution, batch normalisation with γ and β, ReLU.

    Source: Nichol et al. 2018, section 6.1; `models.py` of
    supervised-reptile.

    Args:
      ways: N; images `[n, 28, 28, 1]`, ink 0, become logits `[n, N]`.
    """
    blocks = _reptile_blocks(64, strides=2)
    return _flattened((28, 28, 1), blocks, ways, "reptile_omniglot_conv")


def reptile_mini_imagenet_conv(
    ways: int, image_shape: tuple[int, int, int] = (84, 84, 3)
) -> keras.Model:
    """Returns four pooled blocks of 32 filters, flattened, and a dense layer.

    Each block is convolution, batch normalisation with γ and β, 2×2
    max-pooling that keeps odd edges, ReLU; 84 → 42 → 21 → 11 → 6 pixels.

    Source: as `reptile_omniglot_conv`.

    Args:
      ways: N; images `[n, *image_shape]`, in 0 … 1, become logits `[n, N]`.
      image_shape: height, width and channels.
    """
    blocks = _reptile_blocks(32, max_pool=True)
    return _flattened(image_shape, blocks, ways, "reptile_mini_imagenet_conv")


def reptile_sinusoid_mlp() -> keras.Model:
    """Returns the network 1 → 64 → 64 → 1 with tanh.

    Source: Nichol et al. 2018, section 3.
    """
    return keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(64, "tanh"),
            layers.Dense(64, "tanh"),
            layers.Dense(1),
        ],
        name="reptile_sinusoid_mlp",
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


def _flattened(image_shape, blocks, ways, name):
    """Returns blocks, made one after another, flattened, and a dense layer."""
    return keras.Sequential(
        [
            keras.Input(image_shape),
            *blocks,
            layers.Flatten(),
            layers.Dense(ways),
        ],
        name=name,
    )


def _conv_blocks(filters, norm, gradient, max_pool):
    """Yields four blocks; images have few channels, so the first is joined."""
    strides, norms = 1 if max_pool else 2, _norms(norm, gradient)
    for block in range(4):
        if block == 0 and norm == "batch_norm":
            yield NormalizedConv2D(
                filters,
                3,
                strides,
                gradient=gradient,
                max_pool=max_pool,
            )
        else:
            yield layers.Conv2D(filters, 3, strides, padding="same")
            yield from norms(max_pool)
        yield layers.ReLU()


def _reptile_blocks(filters, strides=1, max_pool=False):
    for block in range(4):
        if block == 0:
            yield NormalizedConv2D(filters, 3, strides, scale=True)
        else:
            yield layers.Conv2D(filters, 3, strides, padding="same")
            yield BatchStatisticsNorm(scale=True)
        if max_pool:
            yield layers.MaxPooling2D(padding="same")
        yield layers.ReLU()


def _norms(name, gradient):
    """Returns a function that makes the layers of a norm: one, or none.

    Pooling comes with it, before the ReLU: the two commute.
    """
    if name not in NORMS:
        raise ValueError(f"norm: expected one of {NORMS}, got {name!r}.")

    def make(max_pool=False):
        if name == "batch_norm":
            return [BatchStatisticsNorm(gradient=gradient, max_pool=max_pool)]
        pooling = [layers.MaxPooling2D()] if max_pool else []
        if name == "layer_norm":
            return [ExampleNorm(gradient=gradient), *pooling]
        return pooling

    return make
