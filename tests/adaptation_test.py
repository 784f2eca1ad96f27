"""The inner loop, by hand and against central differences."""

import numpy as np
import pytest
import tensorflow as tf

from maml_tf import losses
from maml_tf.adaptation import adapt, gradient_descent
from maml_tf.seeds import fold

# f(x) = θx at θ = 0.7, α = 0.1, mean squared error.
# Support (1, 3), (2, 1): dL = (θ − 3) + 2 (2θ − 1) = 5θ − 5.
# Query (−1, 2), (0.5, 0): dL = (φ + 2) + 0.5 (0.5φ) = 1.25φ + 2.
THETA = 0.7
SUPPORT = [[1.0], [2.0]], [[3.0], [1.0]]
QUERY = [[-1.0], [0.5]], [[2.0], [0.0]]


def linear(parameters, x):
    return x * parameters[0]


def tensors(arrays):
    return [tf.constant(array, tf.float64) for array in arrays]


def meta_gradient(apply_fn, theta, support, query, **options):
    """Returns the adaptation, and the gradient of the summed query loss."""
    with tf.GradientTape() as tape:
        tape.watch(theta)
        adaptation = adapt(
            apply_fn, losses.mean_squared_error, theta, *support, **options
        )
        prediction = apply_fn(adaptation.phi[-1], query[0])
        loss = tf.reduce_sum(losses.mean_squared_error(query[1], prediction))
    return adaptation, loss, tape.gradient(loss, theta)


# φ₁ = 0.7 + 0.1 · 1.5 = 0.85, φ₂ = 0.85 + 0.1 · 0.75 = 0.925; each step has
# dφᵤ₊₁/dφᵤ = 1 − 0.1 · 5 = 0.5. Query gradients: 1.25 · 0.7 + 2 = 2.875,
# 1.25 · 0.85 + 2 = 3.0625 and 1.25 · 0.925 + 2 = 3.15625.
@pytest.mark.parametrize(
    "steps, first_order, phi, gradient",
    [
        (0, False, [0.7], 2.875),
        (1, False, [0.7, 0.85], 1.53125),
        (1, True, [0.7, 0.85], 3.0625),
        (2, False, [0.7, 0.85, 0.925], 0.7890625),
        (2, True, [0.7, 0.85, 0.925], 3.15625),
    ],
)
def test_by_hand(steps, first_order, phi, gradient):
    adaptation, _, actual = meta_gradient(
        linear,
        tensors([THETA]),
        tensors(SUPPORT),
        tensors(QUERY),
        update=gradient_descent(0.1),
        inner_steps=steps,
        first_order=first_order,
    )
    np.testing.assert_allclose([p[0] for p in adaptation.phi], phi, 1e-14)
    np.testing.assert_allclose(actual[0], gradient, 1e-14)
    # The support predictions of φ₀, …: θ · 1 and θ · 2.
    expected = [[[p], [2 * p]] for p in phi[:-1]]
    assert len(adaptation.support) == steps
    for prediction, values in zip(adaptation.support, expected, strict=True):
        np.testing.assert_allclose(prediction, values, 1e-14)


# The second task has support (1, 1), (1, 1): dL = 2θ − 2, φ = 0.76 and
# dφ/dθ = 0.8; query (1, 0), (1, 0): dL = 2φ = 1.52, meta-gradient 1.216.
def test_stack_of_tasks_is_task_by_task():
    ones, zeros = [[1.0], [1.0]], [[0.0], [0.0]]
    adaptation, _, gradient = meta_gradient(
        linear,
        tensors([[[[THETA]], [[THETA]]]]),
        tensors([[x, ones] for x in SUPPORT]),
        tensors([[QUERY[0], ones], [QUERY[1], zeros]]),
        update=gradient_descent(0.1),
        inner_steps=1,
    )
    phi = np.ravel(adaptation.phi[1][0])
    np.testing.assert_allclose(phi, [0.85, 0.76], 1e-14)
    np.testing.assert_allclose(np.ravel(gradient), [1.53125, 1.216], 1e-14)


def test_steps_below_zero_are_refused():
    with pytest.raises(ValueError, match="inner_steps: expected at least 0"):
        adapt(
            linear,
            losses.mean_squared_error,
            tensors([THETA]),
            *tensors(SUPPORT),
            update=gradient_descent(0.1),
            inner_steps=-1,
        )


def test_parameter_without_influence_stays():
    adaptation = adapt(
        linear,
        losses.mean_squared_error,
        tensors([THETA, 5.0]),
        *tensors(SUPPORT),
        update=gradient_descent(0.1),
        inner_steps=1,
    )
    np.testing.assert_allclose(adaptation.phi[1], [0.85, 5.0], 1e-14)


@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_is_the_central_difference(steps):
    def network(parameters, x):
        hidden, bias, output = parameters
        return tf.tanh(x @ hidden + bias) @ output

    rng = np.random.default_rng(0)
    theta, direction = (
        tensors([rng.normal(size=s) for s in [(2, 5), (5,), (5, 1)]])
        for _ in range(2)
    )
    support, query = (
        tensors([rng.normal(size=(6, 2)), rng.normal(size=(6, 1))])
        for _ in range(2)
    )

    def at(h):
        shifted = [t + h * d for t, d in zip(theta, direction, strict=True)]
        return meta_gradient(
            network,
            shifted,
            support,
            query,
            update=gradient_descent(0.2),
            inner_steps=steps,
        )[1:]

    gradient = at(0)[1]
    slope = sum(np.sum(g * d) for g, d in zip(gradient, direction, strict=True))
    difference = (at(1e-5)[0] - at(-1e-5)[0]) / 2e-5
    np.testing.assert_allclose(slope, difference, 1e-6)


# Predictions are the seed: each step has its own, in a graph as without.
@pytest.mark.parametrize("mode", [lambda f: f, tf.function])
def test_each_step_draws_by_its_own_seed(mode):
    def predict(parameters, x, seed):
        return x * parameters[0] + tf.cast(seed, x.dtype)

    @mode
    def drawn():
        return adapt(
            predict,
            losses.mean_squared_error,
            tensors([0.0]),
            *tensors([np.zeros([1, 2])] * 2),
            update=gradient_descent(0.1),
            inner_steps=3,
            seed=tf.constant([1, 2]),
        ).support

    expected = [[fold([1, 2], u)] for u in range(3)]
    np.testing.assert_array_equal(drawn(), expected)


# In a graph all steps after the first share a trace, but not of first order.
@pytest.mark.parametrize("first_order, traces", [(False, 2), (True, 4)])
def test_a_graph_takes_the_same_steps(first_order, traces):
    calls = []

    def counted(parameters, x):
        calls.append(None)
        return tf.tanh(linear(parameters, x))

    def found():
        *_, gradient = meta_gradient(
            counted,
            tensors([THETA]),
            tensors(SUPPORT),
            tensors(QUERY),
            update=lambda phi, slopes, u: [phi[0] - 0.1 * (u + 1) * slopes[0]],
            inner_steps=4,
            first_order=first_order,
        )
        return gradient

    expected = found()
    calls.clear()
    np.testing.assert_allclose(tf.function(found)(), expected, 1e-14)
    assert len(calls) == traces + 1  # and the query's
