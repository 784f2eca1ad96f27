"""Processes of their own for everything that is measured.

A worker waits on a pipe while others work, so that one run can interleave
implementations whose libraries would disturb each other in one process.
"""

import dataclasses
import importlib
import multiprocessing
import resource
import time
from typing import NamedTuple

import numpy as np

GEMM_SIZE = 2048


@dataclasses.dataclass(frozen=True)
class Implementation:
    """Where an implementation is, and the ways to run it.

    Attributes:
      module: holds its `Peer`.
      library: what it needs installed.
      image_variants: ways to run a convolutional network, the most promising
        first.
      point_variants: the same for a network without convolutions.
      reptile_module: holds its `Peer` for Reptile.
      reptile_variants: the ways to run that, if any.
    """

    module: str
    library: str
    image_variants: tuple[str, ...] = ("",)
    point_variants: tuple[str, ...] = ("",)
    reptile_module: str = ""
    reptile_variants: tuple[str, ...] = ()

    def variants(self, workload) -> tuple[str, ...]:
        """Returns the ways to run a workload."""
        if workload.is_reptile:
            return self.reptile_variants
        if workload.is_regression:
            return self.point_variants
        return self.image_variants

    def peer(self, workload, dtype: str, variant: str):
        """Returns its `Peer`, in the process that calls this."""
        return self.load(workload).Peer(workload, dtype, variant)

    def load(self, workload):
        """Imports and returns the module for a workload, with its library."""
        name = self.reptile_module if workload.is_reptile else self.module
        return importlib.import_module(name)


_JAX = ("scan im2col", "vmap im2col", "scan native", "vmap native")
_CONVOLUTIONS = ("native", "im2col")
_ALL, _ONE = ("all threads",), ("one thread",)  # for an operation

IMPLEMENTATIONS = {
    "ours": Implementation(
        "ours",
        "tensorflow",
        reptile_module="reptile_ours",
        reptile_variants=("",),
    ),
    "map_fn": Implementation("tensorflow_map_fn", "tensorflow", _ALL, _ALL),
    # No library of its own, but a setting that suits it better than all.
    "map_fn_tuned": Implementation(
        "tensorflow_map_fn", "tensorflow", _ONE, _ONE
    ),
    "jax": Implementation(
        "jax_peer",
        "jax",
        _JAX,
        ("vmap", "scan"),
        "reptile_jax",
        _CONVOLUTIONS,
    ),
    "torch_loop": Implementation(
        "torch_loop",
        "torch",
        _CONVOLUTIONS,
        reptile_module="reptile_torch",
        reptile_variants=_CONVOLUTIONS,
    ),
    "torch_func": Implementation("torch_func", "torch", _CONVOLUTIONS),
}


class WorkerError(RuntimeError):
    """A worker stopped with an error, or was stopped."""


class Sample(NamedTuple):
    """What a timing worker answers.

    Attributes:
      ms: milliseconds of one meta-iteration, the mean of those asked for.
      first_step_s: seconds from building to the end of the first call.
      peak_mb: most memory that the process has held so far, in 2²⁰ bytes.
    """

    ms: float
    first_step_s: float
    peak_mb: float


class Worker:
    """A process that makes a function, then calls it when asked.

    Args:
      name: for messages.
      make: called in the process with `arguments`, returns the function.
    """

    def __init__(self, name, make, *arguments):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, *arguments), daemon=True
        )
        self._process.start()
        theirs.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def ask(self, request=None, limit: float | None = None):
        """Returns the answer to a request.

        Raises:
          TimeoutError: if there is none within `limit` seconds.
          WorkerError: if the process has ended.
        """
        try:
            self._pipe.send(request)
            if not self._pipe.poll(limit):
                raise TimeoutError
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            raise WorkerError(f"{self.name} ended early, see above.") from None

    def close(self):
        """Ends the process."""
        self._process.kill()
        self._process.join()


def _serve(pipe, make, *arguments):
    answer = make(*arguments)
    while True:
        pipe.send(answer(pipe.recv()))


def gradient_maker(implementation, variant, workload):
    """Returns a function that returns the float64 meta-gradient."""
    peer = implementation.peer(workload, "float64", variant)
    return lambda _: peer.meta_gradient()


def timer(implementation, variant, workload):
    """Returns a function from a number of meta-iterations to a `Sample`.

    The first step is done before, and timed; importing the library is not.
    """
    implementation.load(workload)
    start = time.perf_counter()
    peer = implementation.peer(workload, "float32", variant)
    peer.step(workload.steps_per_call)
    first_step_s = time.perf_counter() - start

    def sample(iterations):
        start = time.perf_counter()
        peer.step(iterations)
        ms = 1e3 * (time.perf_counter() - start) / iterations
        return Sample(ms, first_step_s, peak_mb())

    return sample


def gemm_timer():
    """Returns a function that measures matrix products, in 10⁹ operations/s.

    The product of two float32 matrices of 2048 × 2048 by NumPy's BLAS: the
    best of some, since nothing is faster than the machine.
    """
    rng = np.random.default_rng(0)
    a, b = rng.random((2, GEMM_SIZE, GEMM_SIZE), np.float32)

    def product():
        start = time.perf_counter()
        a @ b
        return time.perf_counter() - start

    return lambda _: 2e-9 * GEMM_SIZE**3 / min(product() for _ in range(5))


def peak_mb() -> float:
    """Returns the most memory this process has held, on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
