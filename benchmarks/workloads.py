"""What is measured: few-shot problems as data, alike for every implementation.

Standard library and NumPy only, so that no worker loads another's library.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

EPSILON = 1e-3
"""ε of batch normalisation."""


class Task(NamedTuple):
    """The data of one task, or of a stack of B tasks with a leading axis.

    Attributes:
      support_x: `[S, *features]`, support_y: `[S]` labels, or `[S, 1]`.
      query_x: `[T, *features]`, query_y: `[T]` labels, or `[T, 1]`.
    """

    support_x: np.ndarray
    support_y: np.ndarray
    query_x: np.ndarray
    query_y: np.ndarray


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of `maml_tf.models`, described so that a peer can write it.

    Hidden layers are convolutions, if kernels have four axes, or dense. A
    convolution is 3×3 with "same" padding and bias, then batch normalisation
    by the statistics of the batch, (x − m) / √(v + ε) + β, then ReLU, then
    2×2 max-pooling without padding if there is any. A dense hidden layer has
    a bias and ReLU. The last kernel is dense, on the mean over positions or
    on the flattened features.

    Attributes:
      builder: the function in `maml_tf.models`, and its arguments.
      input_shape: of an example.
      kernels: the kernels' shapes, in order.
      positions: at how many positions of an example each kernel is applied.
      stride: of the convolutions.
      max_pool: whether there is max-pooling.
      flatten: whether the last layer sees all positions, not their mean.
      scale: whether batch normalisation has a γ, before β.
    """

    builder: tuple[str, dict[str, int]]
    input_shape: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    positions: tuple[int, ...]
    stride: int = 1
    max_pool: bool = False
    flatten: bool = False
    scale: bool = False

    @property
    def adapted(self) -> list[bool]:
        """Whether the inner loop adapts each weight: all but the β."""
        return [name != "beta" for name, _ in self.weights()]

    def weights(self):
        """Yields name and shape of the weights, in Keras's order."""
        for kernel in self.kernels:
            yield "kernel", kernel
            yield "bias", kernel[-1:]
            if len(kernel) == 4:
                if self.scale:
                    yield "gamma", kernel[-1:]
                yield "beta", kernel[-1:]

    def gigaflops(self) -> list[float]:
        """Returns each layer's 10⁹ operations: two for a weight's each use."""
        layers = zip(self.kernels, self.positions, strict=True)
        return [2e-9 * math.prod(kernel) * places for kernel, places in layers]

    def split(self, weights):
        """Returns the adapted weights and the others."""
        pairs = list(zip(weights, self.adapted, strict=True))
        return [w for w, a in pairs if a], [w for w, a in pairs if not a]


@dataclasses.dataclass(frozen=True)
class Workload:
    """A meta-iteration to be timed: inner loop, outer gradient, Adam.

        φ ← φ − α ∇_φ L_support(φ)    (U times, from φ = θ)
        meta-gradient: ∇_θ Σᵢ L_query(φᵢ) / B

    The loss of a task is the mean squared error, or the cross-entropy summed
    over examples and divided by K, for the query set too.

    Attributes:
      name: of the workload.
      network: f_θ.
      tasks: B.
      ways: N; 1 means regression.
      shots: K, support examples of a class.
      queries: query examples of a class.
      inner_steps: U.
      inner_lr: α.
      first_order: whether inner gradients are constants.
      steps_per_call: meta-iterations that one call may do, where calls cost.
    """

    name: str
    network: Network
    tasks: int
    ways: int
    shots: int
    queries: int
    inner_steps: int
    inner_lr: float
    first_order: bool = False
    steps_per_call: int = 1

    is_reptile = False
    tolerance = 1e-6
    """How far meta-gradients may be apart in float64, relatively."""

    @property
    def is_regression(self) -> bool:
        """Whether targets are real numbers."""
        return self.ways == 1

    def initial_weights(self) -> list[np.ndarray]:
        """Returns seeded float64 weights in Keras's order.

        Kernels are Glorot's uniform; biases and β are small and not zero, and
        γ is not one, so that no implementation can lose one unnoticed.
        """
        rng = np.random.default_rng(0)
        return [
            _draw(rng, shape) + (name == "gamma")
            for name, shape in self.network.weights()
        ]

    def data(self, dtype: str) -> Task:
        """Returns a seeded meta-batch in `dtype`; labels are int32.

        Classes are noise around a picture of their own: binary for one
        channel, as Omniglot, in 0 … 1 for three. Regression is the sinusoid.
        """
        rng = np.random.default_rng(1)
        make = _sinusoids if self.is_regression else _images
        support_x, support_y, query_x, query_y = make(self, rng)
        return Task(
            support_x.astype(dtype),
            _targets(support_y, dtype),
            query_x.astype(dtype),
            _targets(query_y, dtype),
        )

    def gigaflops(self) -> float:
        """Returns what a meta-iteration must compute, in 10⁹ operations.

        Counted in forward passes, an image of the support set costs nine for
        each second-order inner step, one of the query set three. The first
        layer needs no gradient of its input: four, and two. A first-order
        inner step costs as much as the query set.
        """
        first, *others = self.network.gigaflops()
        query = 3 * sum(others) + 2 * first
        support = query if self.first_order else 9 * sum(others) + 4 * first
        steps = self.inner_steps * self.shots
        return self.tasks * self.ways * (steps * support + self.queries * query)

    def calls(self, iterations: int) -> list[int]:
        """Returns how many of some meta-iterations each call does."""
        whole, rest = divmod(iterations, self.steps_per_call)
        return [self.steps_per_call] * whole + [rest] * bool(rest)


@dataclasses.dataclass(frozen=True)
class ReptileWorkload(Workload):
    """A meta-iteration of Reptile: tasks in turn, each on mini-batches.

        φ ← Adam(φ, ∇_φ L(batch))    (U times, from φ = θ)
        meta-gradient: θ − Σᵢ φᵢ / B

    The loss is the cross-entropy summed over a mini-batch. Adam, with β₁ = 0
    and rate `inner_lr`, remembers from task to task and from meta-iteration to
    meta-iteration. θ follows the meta-gradient with the rate `meta_step`.

    Attributes:
      inner_batch: examples in a mini-batch.
      meta_step: ε.
    """

    inner_batch: int = 10
    meta_step: float = 0.1

    is_reptile = True
    tolerance = 1e-3  # PyTorch's Adam adds ε to the corrected √v, ours to √v.

    def batches(self) -> np.ndarray:
        """Returns seeded mini-batches, `[B, U, b]` indices."""
        rng = np.random.default_rng(2)
        size = self.inner_steps, self.inner_batch
        examples = self.ways * self.shots
        drawn = [rng.permutation(examples) for _ in range(self.tasks)]
        return np.array([d[: math.prod(size)].reshape(size) for d in drawn])

    def gigaflops(self) -> float:
        """Returns what it must compute: three forward passes an image."""
        first, *others = self.network.gigaflops()
        images = self.tasks * self.inner_steps * self.inner_batch
        return images * (3 * sum(others) + 2 * first)


def relative_error(found, expected) -> float:
    """Returns ‖found − expected‖ / ‖expected‖ over all arrays together."""
    found, expected = (
        np.concatenate([np.ravel(array) for array in arrays])
        for arrays in (found, expected)
    )
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _draw(rng, shape):
    if len(shape) == 1:
        return 0.1 * rng.standard_normal(shape)
    fans = math.prod(shape[:-2]) * sum(shape[-2:])
    return rng.uniform(-1, 1, shape) * math.sqrt(6 / fans)


def _targets(y, dtype):
    return y.astype(dtype if y.dtype.kind == "f" else "int32")


def _sinusoids(workload, rng):
    points = workload.shots + workload.queries
    x = rng.uniform(-5, 5, (workload.tasks, points, 1))
    amplitude = rng.uniform(0.1, 5, (workload.tasks, 1, 1))
    phase = rng.uniform(0, math.pi, (workload.tasks, 1, 1))
    y, k = amplitude * np.sin(x - phase), workload.shots
    return x[:, :k], y[:, :k], x[:, k:], y[:, k:]


def _images(workload, rng):
    tasks, ways, shape = (
        workload.tasks,
        workload.ways,
        workload.network.input_shape,
    )
    pictures = rng.random((tasks, ways, 1, *shape))

    def draw(images):
        x = 0.5 * (pictures + rng.random((tasks, ways, images, *shape)))
        y = np.arange(ways).repeat(images)
        x = x > 0.75 if shape[-1] == 1 else x
        return x.reshape(tasks, -1, *shape), np.tile(y, (tasks, 1))

    return *draw(workload.shots), *draw(workload.queries)


def mlp() -> Network:
    """Returns the sinusoid's network, 1 → 40 → 40 → 1."""
    return Network(
        builder=("sinusoid_mlp", {}),
        input_shape=(1,),
        kernels=((1, 40), (40, 40), (40, 1)),
        positions=(1, 1, 1),
    )


def omniglot(ways: int, filters: int = 64) -> Network:
    """Returns Omniglot's network, 28 → 14 → 7 → 4 → 2 pixels a side."""
    return Network(
        builder=("omniglot_conv", {"ways": ways, "filters": filters}),
        input_shape=(28, 28, 1),
        kernels=_conv_kernels(1, filters, (filters, ways)),
        positions=(14**2, 7**2, 4**2, 2**2, 1),
        stride=2,
    )


def reptile_omniglot(ways: int) -> Network:
    """Returns Reptile's network for Omniglot."""
    return dataclasses.replace(
        omniglot(ways),
        builder=("reptile_omniglot_conv", {"ways": ways}),
        kernels=_conv_kernels(1, 64, (256, ways)),
        flatten=True,
        scale=True,
    )


def mini_imagenet(ways: int, filters: int = 32) -> Network:
    """Returns mini-ImageNet's network, 84 → 42 → 21 → 10 → 5 pixels a side."""
    return Network(
        builder=("mini_imagenet_conv", {"ways": ways, "filters": filters}),
        input_shape=(84, 84, 3),
        kernels=_conv_kernels(3, filters, (25 * filters, ways)),
        positions=(84**2, 42**2, 21**2, 10**2, 1),
        max_pool=True,
        flatten=True,
    )


def _conv_kernels(channels, filters, dense):
    later = (3, 3, filters, filters)
    return ((3, 3, channels, filters), later, later, later, dense)


_MINI = Workload("mini5", mini_imagenet(5), 4, 5, 1, 15, 5, 0.01)

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("sinusoid10", mlp(), 25, 1, 10, 10, 1, 0.01, False, 100),
        Workload("omniglot5", omniglot(5), 32, 5, 1, 1, 1, 0.4),
        Workload("omniglot20", omniglot(20), 16, 20, 1, 1, 5, 0.1),
        _MINI,
        dataclasses.replace(_MINI, name="mini5_fo", first_order=True),
        dataclasses.replace(_MINI, name="mini5_5shot", shots=5),
        ReptileWorkload("reptile", reptile_omniglot(5), 5, 5, 10, 1, 5, 1e-3),
    )
}
