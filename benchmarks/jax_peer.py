"""JAX: pure functions, tasks by `vmap` or `scan`, two kinds of convolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from workloads import EPSILON, Task


class Peer:
    """One compiled function of parameters and Adam's state."""

    def __init__(self, workload, dtype, variant):
        jax.config.update("jax_enable_x64", dtype == "float64")
        tasks, _, conv = variant.partition(" ")
        self.workload = workload
        self.batch = Task(*map(jnp.asarray, workload.data(dtype)))
        theta = [jnp.asarray(w, dtype) for w in workload.initial_weights()]
        zeros = [jnp.zeros_like(w) for w in theta]
        self.state = theta, zeros, [jnp.copy(z) for z in zeros], jnp.zeros(())
        self.gradient = functools.partial(
            _GRADIENTS[tasks], functools.partial(task_loss, workload, conv)
        )
        self.train = jax.jit(self._train, donate_argnums=0)

    def step(self, iterations):
        """Does meta-iterations, and returns when they are done."""
        for count in self.workload.calls(iterations):
            self.state = self.train(self.state, self.batch, count)
        jax.block_until_ready(self.state)

    def meta_gradient(self):
        """Returns the meta-gradient."""
        gradient = jax.jit(self.gradient)(self.state[0], self.batch)
        return [np.asarray(g) for g in gradient]

    def _train(self, state, batch, count):
        def iteration(state):
            return adam(state, self.gradient(state[0], batch))

        if self.workload.steps_per_call == 1:
            return iteration(state)
        return lax.fori_loop(0, count, lambda _, s: iteration(s), state)


def gradient_by_vmap(loss, theta, batch):
    """Returns the gradient of the mean over tasks, all tasks at once."""

    def mean(theta):
        return jax.vmap(loss, (None, 0))(theta, batch).mean()

    return jax.grad(mean)(theta)


def gradient_by_scan(loss, theta, batch):
    """Returns the gradient of the mean over tasks, one task after another."""

    def add(total, task):
        return jax.tree.map(jnp.add, total, jax.grad(loss)(theta, task)), None

    total, _ = lax.scan(add, jax.tree.map(jnp.zeros_like, theta), batch)
    return [g / len(batch.query_y) for g in total]


_GRADIENTS = {"vmap": gradient_by_vmap, "scan": gradient_by_scan}


def task_loss(workload, conv, theta, task):
    """Returns the query loss of one task after adaptation to it."""
    fast, slow = workload.network.split(theta)

    def loss(fast, x, y):
        return task_error(workload, y, predict(workload, conv, fast, slow, x))

    for _ in range(workload.inner_steps):
        gradients = jax.grad(loss)(fast, task.support_x, task.support_y)
        if workload.first_order:
            gradients = lax.stop_gradient(gradients)
        fast = [
            w - workload.inner_lr * g
            for w, g in zip(fast, gradients, strict=True)
        ]
    return loss(fast, task.query_x, task.query_y)


def task_error(workload, y, prediction):
    """Returns the loss of a prediction for one task."""
    if workload.is_regression:
        return jnp.square(prediction - y).mean()
    log_likelihoods = jax.nn.log_softmax(prediction)
    return -log_likelihoods[jnp.arange(len(y)), y].sum() / workload.shots


def predict(workload, conv, fast, slow, x):
    """Returns the network's outputs for examples of one task."""
    network = workload.network
    *hidden, (kernel, bias) = zip(fast[::2], fast[1::2], strict=True)
    for i, (w, b) in enumerate(hidden):
        if slow:
            x = normalise(CONVS[conv](x, w, network.stride) + b) + slow[i]
        else:
            x = x @ w + b
        x = jax.nn.relu(x)
        if network.max_pool:
            x = max_pool(x)
    if network.flatten:
        x = x.reshape(len(x), -1)
    elif slow:
        x = x.mean((1, 2))
    return x @ kernel + bias


def native_conv(x, kernel, stride):
    """Returns the convolution by XLA's own operation."""
    return lax.conv_general_dilated(
        x, kernel, (stride,) * 2, "SAME", dimension_numbers=_LAYOUT
    )


def im2col_conv(x, kernel, stride):
    """Returns the convolution as a product of nine shifted images."""
    size = -(-x.shape[1] // stride)
    padding = (size - 1) * stride + 3 - x.shape[1]
    sides = (padding // 2, padding - padding // 2)
    x = jnp.pad(x, ((0, 0), sides, sides, (0, 0)))
    length = stride * (size - 1) + 1
    patches = [
        x[:, i : i + length : stride, j : j + length : stride]
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])


CONVS = {"native": native_conv, "im2col": im2col_conv}
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def normalise(x):
    """Returns x by its own mean and variance."""
    x -= x.mean((0, 1, 2))
    return x * lax.rsqrt(jnp.square(x).mean((0, 1, 2)) + EPSILON)


def max_pool(x):
    """Returns the maxima of 2×2 windows; an odd row or column is dropped.

    The gradient of `jnp.max` asks which inputs equal the maximum, and XLA
    may round the two differently. A choice between two has no such question.
    """
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels)
    x = _larger(x[:, :, 0], x[:, :, 1])
    return _larger(x[:, :, :, 0], x[:, :, :, 1])


def _larger(a, b):
    return jnp.where(a >= b, a, b)


def adam(state, gradient):
    """Returns the state after a step of Adam, rate 1e-3."""
    theta, m, v, t = state
    t += 1
    m = [0.9 * m + 0.1 * g for m, g in zip(m, gradient, strict=True)]
    v = [0.999 * v + 0.001 * g * g for v, g in zip(v, gradient, strict=True)]
    rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    theta = [
        w - rate * m / (jnp.sqrt(v) + 1e-8)
        for w, m, v in zip(theta, m, v, strict=True)
    ]
    return theta, m, v, t
