"""Reptile in JAX: a compiled scan over tasks around one over mini-batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax_peer import CONVS, normalise


class Peer:
    """One compiled function of parameters and the inner Adam's state."""

    def __init__(self, workload, dtype, variant):
        jax.config.update("jax_enable_x64", dtype == "float64")
        self.workload = workload
        self.conv = CONVS[variant]
        support_x, support_y, *_ = map(jnp.asarray, workload.data(dtype))
        self.tasks = support_x, support_y, jnp.asarray(workload.batches())
        self.theta = [jnp.asarray(w, dtype) for w in workload.initial_weights()]
        self.adam = [jnp.zeros_like(w) for w in self.theta], jnp.zeros((), int)
        self.gradient = jax.jit(self._gradient)
        self.train = jax.jit(self._train, donate_argnums=(0, 1))

    def step(self, iterations):
        """Does meta-iterations, and returns when they are done."""
        for _ in range(iterations):
            self.theta, self.adam = self.train(self.theta, self.adam)
        jax.block_until_ready(self.theta)

    def meta_gradient(self):
        """Returns the meta-gradient."""
        gradient, _ = self.gradient(self.theta, self.adam)
        return [np.asarray(g) for g in gradient]

    def _train(self, theta, adam):
        gradient, adam = self._gradient(theta, adam)
        rate = self.workload.meta_step
        return [
            w - rate * g for w, g in zip(theta, gradient, strict=True)
        ], adam

    def _gradient(self, theta, adam):
        def task(carry, data):
            total, adam = carry
            x, y, batches = data
            step = functools.partial(self._step, x, y)
            (phi, adam), _ = lax.scan(step, (theta, adam), batches)
            return (jax.tree.map(jnp.add, total, phi), adam), None

        zeros = [jnp.zeros_like(w) for w in theta]
        (total, adam), _ = lax.scan(task, (zeros, adam), self.tasks)
        tasks = self.workload.tasks
        gradient = [w - t / tasks for w, t in zip(theta, total, strict=True)]
        return gradient, adam

    def _step(self, x, y, carry, batch):
        phi, (v, t) = carry
        gradient = jax.grad(self._loss)(phi, x[batch], y[batch])
        t += 1
        v = [
            0.999 * v + 0.001 * g * g for v, g in zip(v, gradient, strict=True)
        ]
        rate = self.workload.inner_lr * jnp.sqrt(1 - 0.999 ** t.astype(x.dtype))
        phi = [
            w - rate * g / (jnp.sqrt(v) + 1e-8)
            for w, g, v in zip(phi, gradient, v, strict=True)
        ]
        return (phi, (v, t)), None

    def _loss(self, phi, x, y):
        *blocks, kernel, bias = phi
        for w, b, gamma, beta in zip(
            *(blocks[i::4] for i in range(4)), strict=True
        ):
            x = self.conv(x, w, self.workload.network.stride) + b
            x = jax.nn.relu(normalise(x) * gamma + beta)
        logits = x.reshape(len(x), -1) @ kernel + bias
        return -jax.nn.log_softmax(logits)[jnp.arange(len(y)), y].sum()
