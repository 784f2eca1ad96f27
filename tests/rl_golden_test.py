"""The simulation, advantages, inner update and TRPO against golden arrays."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import stacked
from maml_tf.rl import (
    advantages,
    learners,
    objectives,
    policies,
    published,
    rollouts,
    trpo,
)
from maml_tf.rl.navigation import Navigation
from maml_tf.tied import Tied, tie

NAMES = ("W0", "b0", "W1", "b1", "W2", "b2", "log_std")
SEED = tf.constant([0, 0], tf.int64)
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def arrays(golden):
    return lambda name: golden(f"rl/{name}")


def policy(given):
    network = policies.gaussian_mlp(2, 2, hidden_size=8)
    network.set_weights([given[f"param_{name}"] for name in NAMES])
    return network


def function(network):
    return stacked.many_tasks(network, network.trainable_variables)


def values(network):
    return [variable.value for variable in network.trainable_variables]


def collect(network, goals, noise):
    theta = [Tied(value) for value in values(network)]
    apply_fn = function(network)
    tasks = tf.broadcast_to(goals[:, None], [*noise.shape[:2], 2])
    return rollouts.collect(
        Navigation(),
        lambda o: apply_fn(theta, o),
        tasks,
        tf.constant(noise),
        tf.zeros_like(tasks),
    )


def test_rollout(arrays):
    want = arrays("nav_rollout")
    found = collect(policy(want), want["goal"][None], want["noise"][None])
    for name, array in (
        ("obs", found.observations),
        ("act", found.actions),
        ("rew", found.rewards),
        ("mask", found.mask),
    ):
        shape = array.shape[1:]
        valid = np.reshape(
            want["ro_mask"], [*shape[:2], *[1] * (len(shape) - 2)]
        )
        np.testing.assert_allclose(
            array[0] * valid, want[f"ro_{name}"] * valid, rtol=0, atol=1e-13
        )
    np.testing.assert_allclose(
        advantages.undiscounted(found)[0], want["undiscounted_returns"], 1e-13
    )
    np.testing.assert_array_equal(
        tf.reduce_sum(found.mask, -1)[0], want["lengths"]
    )


def test_rollout_in_float32(arrays):
    want = arrays("nav_rollout")
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    network = policy(want)
    found = collect(
        network,
        want["goal"][None].astype("float32"),
        want["noise"][None].astype("float32"),
    )
    mask = want["ro_mask"]
    np.testing.assert_array_equal(found.mask[0], mask)
    np.testing.assert_allclose(
        found.observations[0] * mask[..., None],
        want["ro_obs"] * mask[..., None],
        rtol=0,
        atol=2e-6,
    )


@pytest.mark.parametrize(
    "dtype, tolerance", [("float64", 1e-11), ("float32", 2e-6)]
)
def test_advantages(arrays, dtype, tolerance):
    want = arrays("advantages")
    obs, rew, mask = (
        tf.constant(want[k][None], dtype) for k in ("obs", "rew", "mask")
    )

    def close(found, name):
        array = np.where(want["mask"] > 0, want[name], 0)
        scale = max(1.0, np.abs(array).max())
        np.testing.assert_allclose(found, array, 0, tolerance * scale)

    returns = advantages.discounted(rew * mask, 0.99) * mask
    close(returns[0], "returns")
    phi = advantages.features(obs) * mask[..., None]
    weights = advantages.fit(phi, returns)
    if dtype == "float64":
        np.testing.assert_allclose(weights[0], want["weights"], 1e-10, 1e-10)
    baseline = advantages.predict(phi, weights) * mask
    close(baseline[0], "values")
    for lam, name in ((1.0, "adv_raw"), (0.95, "adv_raw_lam095")):
        raw = advantages.advantages(rew, baseline, mask, 0.99, lam)
        close(raw[0], name)
    found = advantages.batch(
        advantages.Trajectories(obs, obs, rew, mask),
        discount=0.99,
        gae_lambda=1.0,
    )
    close(tf.reshape(found.advantages, mask.shape)[0], "adv")


def test_inner_update(arrays):
    want = arrays("inner_update")
    network = policy(want)
    one = [tf.constant(want[k][None]) for k in ("obs", "act", "adv")]
    batch = advantages.Batch(*one, tf.ones_like(one[2]))
    apply_fn, theta = function(network), [tie(v, 1) for v in values(network)]
    prediction = apply_fn(theta, batch.observations)
    gaussian = policies.gaussian(prediction)
    np.testing.assert_allclose(gaussian.mean[0], want["mean"], 0, 1e-14)
    log_pi = policies.log_density(gaussian, batch.actions)
    np.testing.assert_allclose(log_pi[0], want["logp"], 0, 1e-13)
    loss = objectives.policy_loss(batch, prediction)
    np.testing.assert_allclose(loss, want["loss"][None], 0, 1e-14)
    phi = objectives.adapted(apply_fn, theta, [batch], float(want["alpha"]))
    for name, array, start in zip(NAMES, phi, values(network), strict=True):
        adapted = want[f"adapted_{name}"]
        np.testing.assert_allclose(array[0], adapted, 0, 1e-14)
        slope = (start - array[0]) / want["alpha"]
        np.testing.assert_allclose(slope, want[f"grad_{name}"], 0, 1e-14)
    after = objectives.policy_loss(batch, apply_fn(phi, batch.observations))
    np.testing.assert_allclose(after, want["loss_after"][None], 0, 1e-14)


def test_gaussian_and_kl(arrays):
    want = arrays("gauss_kl")
    old, new = (
        policies.Gaussian(
            tf.constant(want[f"mean_{k}"]),
            tf.zeros_like(want[f"mean_{k}"]) + want[f"log_std_{k}"],
        )
        for k in ("old", "new")
    )
    kl = policies.kl_divergence(old, new)
    np.testing.assert_allclose(kl, want["kl_old_new_eps"], 0, 1e-14)
    np.testing.assert_allclose(kl, want["kl_old_new"], 1e-7)
    kl = policies.kl_divergence(new, old)
    np.testing.assert_allclose(kl, want["kl_new_old"], 1e-7)
    log_pi = policies.log_density(old, tf.constant(want["mean_new"]))
    np.testing.assert_allclose(log_pi, want["logp_old_at_mean_new"], 0, 1e-13)


@pytest.mark.parametrize("iterations", [3, 10])
def test_conjugate_gradient(arrays, iterations):
    want = arrays("cg")
    matrix, b = tf.constant(want["A"]), tf.constant(want["b"])
    x, product = trpo.conjugate_gradient(
        lambda v: tf.linalg.matvec(matrix, v), b, iterations
    )
    np.testing.assert_allclose(x, want[f"x{iterations}"], 1e-10)
    np.testing.assert_allclose(product, tf.linalg.matvec(matrix, x), 1e-10)


@pytest.fixture
def meta(arrays):
    """Returns the golden step, a learner at its θ, and its two batches."""
    want = arrays("meta_step")
    learner = learners.MAMLTRPO(
        policy(want),
        Navigation(),
        horizon=20,
        inner_lr=float(want["alpha"]),
        trust_region=float(want["delta"]),
    )
    tasks = np.repeat(want["goals"][:, None], 4, 1)
    batches, rounds = [], []
    for name in ("pre", "post"):
        phi = learner.adapted(learner.theta(), batches)
        noise = tf.constant(want[f"noise_{name}"])
        rounds.append(learner.act(phi, tf.constant(tasks), noise, SEED))
        batches.append(learner.batch(rounds[-1]))
    return want, learner, batches, rounds


def test_meta_step_collects(meta):
    want, learner, batches, rounds = meta
    for name, batch, found in zip(
        ("pre", "post"), batches, rounds, strict=True
    ):
        mask = want[f"{name}_mask"]
        np.testing.assert_array_equal(found.mask, mask)
        for key, array in (
            ("obs", found.observations),
            ("act", found.actions),
            ("rew", found.rewards),
            ("adv", tf.reshape(batch.advantages, mask.shape)),
        ):
            valid = mask.reshape(*mask.shape, *[1] * (len(array.shape) - 3))
            golden = want[f"{name}_{key}"] * valid
            np.testing.assert_allclose(array * valid, golden, 0, 1e-11)
    phi = learner.adapted(learner.theta(), batches[:1])
    flat = np.concatenate([np.reshape(p, [3, -1]) for p in phi], 1)
    np.testing.assert_allclose(flat, want["phi"], 0, 1e-12)


def test_meta_gradient_and_curvature(meta):
    want, learner, batches, _ = meta
    predict, last = learner.predict_fn(batches), batches[-1]
    vectors = np.stack([want["v"], *np.eye(len(want["theta"]))])

    @tf.function(autograph=False)
    def linearized(theta):
        problem = trpo.linearize(theta, predict, last)
        products = tf.map_fn(problem.curvature, tf.constant(vectors))
        return problem.loss, problem.gradient, products

    loss, gradient, products = linearized(tf.constant(want["theta"]))
    np.testing.assert_allclose(loss, want["loss_at_theta"], 0, 1e-13)
    np.testing.assert_allclose(gradient, want["meta_grad"], 0, 1e-12)
    product, hessian = products[0], products[1:].numpy()
    np.testing.assert_allclose(product, want["Hv"], 1e-9, 1e-11)
    np.testing.assert_allclose(hessian, want["kl_hessian"], 0, 1e-10)
    np.testing.assert_allclose(hessian, hessian.T, 0, 1e-12)
    assert np.linalg.eigvalsh(hessian).min() > -1e-10


def test_curvature_is_the_hessian_of_kl_by_three_tapes(meta):
    want, learner, batches, _ = meta
    predict, last = learner.predict_fn(batches), batches[-1]
    theta, v = tf.constant(want["theta"]), tf.constant(want["v"])
    old = tf.stop_gradient(predict(theta))
    with tf.GradientTape() as outer:
        outer.watch(theta)
        with tf.GradientTape() as inner:
            inner.watch(theta)
            kl = objectives.mean_kl(last, predict(theta), old)
        slope = inner.gradient(kl, theta)
    assert float(kl) == 0 and np.abs(slope).max() < 1e-7
    found = outer.gradient(slope, theta, output_gradients=v)
    np.testing.assert_allclose(found, want["Hv"], 1e-6, 1e-8)


def test_trust_region_step(meta):
    want, learner, batches, _ = meta
    theta = tf.constant(want["theta"])
    predict, last = learner.predict_fn(batches), batches[-1]
    problem = trpo.linearize(theta, predict, last)
    direction, curved = trpo.conjugate_gradient(
        trpo.damped(problem.curvature), problem.gradient
    )
    np.testing.assert_allclose(direction, want["cg_x"], 1e-8, 1e-9)
    size = trpo.step_size(direction, curved, float(want["delta"]))
    np.testing.assert_allclose(size, want["initial_step"], 1e-9)
    step = learner.step(theta, batches)
    assert step.backtracks == want["accepted_n"]
    for name in ("theta", "loss", "kl"):
        found = {"loss": step.after}.get(name, getattr(step, name, None))
        np.testing.assert_allclose(found, want[f"{name}_new"], 0, 1e-9)


def test_surrogate_and_kl_away_from_theta(meta):
    want, learner, batches, _ = meta
    predict, last = learner.predict_fn(batches), batches[-1]
    old = predict(tf.constant(want["theta"]))
    new = predict(tf.constant(want["theta_probe"]))
    loss, kl = (
        function(last, new, old)
        for function in (objectives.surrogate, objectives.mean_kl)
    )
    np.testing.assert_allclose(loss, want["loss_probe"], 0, 1e-12)
    np.testing.assert_allclose(kl, want["kl_probe"], 0, 1e-12)


def test_goals_of_a_test_are_those_of_the_authors_files(arrays):
    goals = Navigation().test_tasks(40)
    np.testing.assert_array_equal(goals, arrays("paper_curves")["point_goals"])


@pytest.mark.parametrize("env", published.RETURNS)
def test_published_returns_are_means_of_the_authors_files(arrays, env):
    files = arrays("paper_curves")
    for algo, means in published.RETURNS[env].items():
        name = {"nav2d": "point"}.get(env, env), algo.removesuffix("_trpo")
        found = files["_".join(name)].mean(-1)
        assert [f"{x:.2f}" for x in found] == [f"{x:.2f}" for x in means]
