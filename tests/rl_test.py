"""Policies, navigation, advantages and trust-region steps by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import cores
from maml_tf.rl import (
    advantages,
    evaluation,
    learners,
    objectives,
    policies,
    trpo,
)
from maml_tf.rl.navigation import Navigation

SEED = tf.constant([0, 1], tf.int64)
DELTA = 0.01


def learner(kind=learners.MAMLTRPO, activation="relu", seed=0, **options):
    keras.utils.set_random_seed(seed)
    network = policies.gaussian_mlp(2, 2, hidden_size=8, activation=activation)
    if kind is not learners.Pretraining:
        options = {"trust_region": DELTA, **options}
    options = {"inner_lr": 0.5, **options}
    return kind(network, Navigation(), horizon=10, **options)


def two_rounds(made, tasks=3, trajectories=4):
    """Returns two batches: before and after adaptation to random goals."""
    goals = Navigation().sample_tasks(SEED, [tasks])
    each = tf.repeat(goals[:, None], trajectories, 1)
    batches = []
    for seed in tf.unstack(tf.random.split(SEED)):
        phi = made.adapted(made.theta(), batches)
        batches.append(made.batch(made.collect(phi, each, seed)))
    return batches


def move(state, action, goal, **options):
    return Navigation(**options).step(
        *(tf.constant([x], tf.float64) for x in (state, action, goal))
    )


def test_a_step_is_clipped_and_rewarded_at_its_end():
    state, reward, done = move((0.0, 0.0), (3.0, -0.5), (0.1, 0.35))
    np.testing.assert_allclose(state, [[0.1, -0.05]])
    np.testing.assert_allclose(reward, [-0.4])
    assert not done
    _, reward, _ = move((0, 0), (3, -0.5), (0.1, 0.35), reward="squared")
    np.testing.assert_allclose(reward, [-0.16])


@pytest.mark.parametrize(
    "offset, options, done",
    [
        ((0.009, 0.009), {}, True),  # although 0.0127 away
        ((0.009, 0.009), {"done": "l2"}, False),
        ((0.009, 0.0), {"done": "l2"}, True),
        ((0.0101, 0.0), {}, False),
        ((0.0, -0.0101), {}, False),
    ],
)
def test_the_goal_is_a_box(offset, options, done):
    *_, found = move(offset, (0, 0), (0, 0), **options)
    assert bool(found[0]) == done


def test_the_oracle_sees_the_goal_and_goals_are_in_range():
    goals = Navigation().sample_tasks(SEED, [1000])
    assert np.abs(goals).max() <= 0.5 and np.abs(goals).max() > 0.49
    oracle = Navigation(shows_task=True)
    seen = oracle.observe(tf.zeros([1000, 2]), goals)
    np.testing.assert_array_equal(seen[:, 2:], goals)
    assert seen.shape[1] == oracle.observation_size == 4


def test_nothing_counts_after_the_end():
    made = learner()
    # Standing in the goal's box ends a trajectory at once, or soon.
    tasks = tf.zeros([1, 50, 2]) + tf.constant([0.0, 0.3])
    found = made.collect(made.shared(made.theta()), tasks, SEED)
    mask = found.mask.numpy()
    assert (np.diff(mask, axis=-1) <= 0).all() and (mask[..., 0] == 1).all()
    changed = found._replace(
        rewards=found.rewards + 100 * (1 - found.mask),
        observations=found.observations + 100 * (1 - found.mask)[..., None],
    )
    first, second = made.batch(found), made.batch(changed)
    np.testing.assert_array_equal(first.advantages, second.advantages)
    np.testing.assert_array_equal(
        advantages.undiscounted(found), advantages.undiscounted(changed)
    )


@pytest.mark.usefixtures("float64")
def test_advantages_are_standardised_by_task():
    rng = np.random.default_rng(0)
    rewards = tf.constant(rng.normal(size=(3, 4, 6)))
    mask = tf.constant((np.arange(6) < rng.integers(2, 7, (3, 4, 1))) * 1.0)
    values = tf.constant(rng.normal(size=(3, 4, 6)))
    raw = advantages.advantages(rewards, values, mask, 0.9, 1.0)
    returns = advantages.discounted(rewards * mask, 0.9)
    np.testing.assert_allclose(raw, (returns - values) * mask, 0, 1e-12)
    standard = advantages.standardize(raw, mask).numpy()
    for task, valid in zip(standard, mask.numpy() > 0, strict=True):
        np.testing.assert_allclose(task[valid].mean(), 0, atol=1e-12)
        np.testing.assert_allclose(task[valid].std(), 1, rtol=1e-7)


def test_the_baseline_sees_observations_up_to_ten():
    near, far = (
        advantages.features(tf.fill([1, 3, 2], v)) for v in (10.0, 20.0)
    )
    np.testing.assert_array_equal(far, near)
    assert float(tf.reduce_max(near)) == 100


def test_returns_are_discounted_sums():
    # 1 + 0.5 · 2 + 0.25 · 4 = 3, 2 + 0.5 · 4 = 4, 4
    found = advantages.discounted(tf.constant([1.0, 2.0, 4.0])[None], 0.5)
    np.testing.assert_allclose(found, [[3.0, 4.0, 4.0]])


def test_one_task_that_is_not_finite_leaves_the_others_alone():
    phi = np.random.default_rng(0).normal(size=(2, 1, 9, 3))
    returns = phi.sum(-1)
    alone = advantages.fit(tf.constant(phi[1:]), tf.constant(returns[1:]))
    phi[0, 0, 0] = np.inf
    found = advantages.fit(tf.constant(phi), tf.constant(returns))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], alone[0], 1e-12)


def test_policies_begin_with_unit_deviation_and_a_floor():
    network = policies.gaussian_mlp(2, 3)
    found = policies.gaussian(network(tf.zeros([5, 2])))
    np.testing.assert_array_equal(found.log_std, np.zeros([5, 3]))
    assert policies.gaussian_mlp(2, 2).count_params() == 10_604
    network.layers[-1].log_std.assign([-99.0, 0.0, 1.0])
    found = policies.gaussian(network(tf.zeros([1, 2])))
    np.testing.assert_allclose(
        found.log_std, [[policies.LOWEST_LOG_STD, 0, 1]], 1e-6
    )


@pytest.mark.usefixtures("float64")
def test_at_theta_nothing_has_changed_yet():
    made = learner()
    batches = two_rounds(made)
    predictions = made.predict_fn(batches)(made.theta())
    last = batches[-1]
    loss = objectives.surrogate(last, predictions, predictions)
    assert abs(float(loss)) < 1e-14
    assert float(objectives.mean_kl(last, predictions, predictions)) == 0


@pytest.mark.usefixtures("float64")
def test_what_lies_after_the_end_cannot_overflow():
    made = learner()
    last = two_rounds(made)[-1]
    mask = np.ones(last.mask.shape)
    mask[:, -1] = 0
    old = made.predict_fn([last])(made.theta())
    far = np.array(last.actions)
    far[:, -1] = 1e3  # so that a ratio of densities is infinite there
    narrow = old - np.eye(4)[2] * 2
    batch = last._replace(mask=tf.constant(mask), actions=tf.constant(far))
    losses = [
        float(objectives.surrogate(batch, predictions, narrow))
        for predictions in (old, narrow)
    ]
    assert np.isfinite(losses).all()


@pytest.mark.usefixtures("float64")
def test_evaluates_in_the_precision_of_the_policy():
    goals = Navigation().test_tasks(2)
    found = evaluation.evaluate(learner(), goals, [0.5], trajectories=3)
    assert found.curve.values.dtype == np.float64
    assert found.curve.values.shape == (2, 2)


@pytest.mark.parametrize("one_noise", [True, False])
def test_tasks_share_their_noise_where_it_is_one(one_noise, monkeypatch):
    monkeypatch.setattr(Navigation, "one_noise", one_noise)
    goals = np.tile(Navigation().test_tasks(1), (3, 1))
    found = evaluation.evaluate(learner(), goals, [0.5], trajectories=3)
    for row in found.curve.values.T:
        assert len(np.unique(row.round(3))) == (1 if one_noise else 3)


@pytest.mark.usefixtures("float64")
def test_each_round_of_an_evaluation_draws_anew():
    goals = Navigation().test_tasks(2)
    found = evaluation.evaluate(learner(), goals, [0.0], trajectories=3)
    before, after = (met.actions.numpy() for met in found.trajectories)
    assert not np.isclose(before, after).any()


@pytest.mark.usefixtures("float64")
def test_step_sizes_of_an_evaluation_are_in_order():
    goals = Navigation().test_tasks(2)
    none, first, second = (
        evaluation.evaluate(learner(), goals, rates, trajectories=3)
        for rates in ([0.0, 0.0], [0.5, 0.0], [0.0, 0.5])
    )
    before, once, twice = none.curve.values.T
    np.testing.assert_array_equal(second.curve.values[:, 1], once)
    assert (first.curve.values[:, 1] != once).all()
    assert (second.curve.values[:, 2] != twice).all()
    np.testing.assert_array_equal(first.curve.values[:, 0], before)


@pytest.mark.usefixtures("float64")
def test_a_policy_adapts_to_what_its_budget_of_steps_keeps():
    made = learner()
    tasks = tf.repeat(tf.constant(Navigation().test_tasks(2))[:, None], 4, 1)
    theta = [tf.repeat(part[None], 2, 0) for part in made.network.weights]
    rate = tf.constant(0.5, tf.float64)
    ends = [
        evaluation._round(made, tasks, budget)(theta, SEED, rate)[2]
        for budget in (0, 1)
    ]
    for whole, first in zip(*ends, strict=True):
        assert not np.allclose(whole, first)


@pytest.mark.usefixtures("float64")
def test_tasks_do_not_interact():
    made = learner()
    first, _ = two_rounds(made)
    other = first._replace(advantages=first.advantages * [[1.0], [-2.0], [1.0]])
    phi, changed = (made.adapted(made.theta(), [b]) for b in (first, other))
    for before, after in zip(phi, changed, strict=True):
        np.testing.assert_array_equal(before[0], after[0])
        np.testing.assert_array_equal(before[2], after[2])
    assert (phi[-1][1] != changed[-1][1]).numpy().all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("rounds", [2, 3])
def test_meta_gradient_against_central_differences(rounds):
    made = learner(activation="tanh")
    first, last = two_rounds(made)
    batches = [first] * (rounds - 1) + [last]
    predict, theta = made.predict_fn(batches), made.theta()
    old = predict(theta)
    found = trpo.linearize(theta, predict, last).gradient
    v = tf.constant(np.random.default_rng(0).normal(size=theta.shape))

    def loss(h):
        return float(objectives.surrogate(last, predict(theta + h * v), old))

    h = 1e-5
    slope = (8 * (loss(h) - loss(-h)) - loss(2 * h) + loss(-2 * h)) / (12 * h)
    np.testing.assert_allclose(tf.tensordot(found, v, 1), slope, 1e-7)


# Of three tasks there are three groups on as many cores, or more; else one.
# Tasks have 30, 20 and 10 steps.
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("at_a_time, groups", [(1, 1), (2, 1), (3, 3), (8, 3)])
def test_groups_side_by_side_are_one_problem(at_a_time, groups, monkeypatch):
    made = learner()
    batches, theta = two_rounds(made), made.theta()
    first, last = batches
    few = np.arange(last.mask.shape[1]) < [[30], [20], [10]]
    batches = [first, last._replace(mask=last.mask * few)]
    sizes = []

    def predict_fn(own):
        sizes.append(own[-1].mask.shape[0])
        return made.predict_fn(own)

    monkeypatch.setattr(cores, "side_by_side", lambda: at_a_time)
    found = trpo.over_groups(theta, predict_fn, batches)
    assert sizes == [3 // groups] * groups
    one = trpo.linearize(theta, made.predict_fn(batches), batches[-1])
    v = one.gradient
    actual, expected = (
        [p.loss, p.gradient, p.curvature(v), *p.score(1.1 * theta)]
        for p in (found, one)
    )
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, 1e-12, 1e-15)


@pytest.mark.usefixtures("float64")
def test_first_order_and_no_adaptation():
    second, first = learner(), learner(first_order=True)
    batches, theta = two_rounds(second), second.theta()
    gradients = [
        trpo.linearize(theta, made.predict_fn(batches), batches[-1]).gradient
        for made in (second, first)
    ]
    assert np.abs(gradients[0] - gradients[1]).max() > 1e-4
    maml, plain = learner(inner_lr=0.0), learner(learners.TRPO)
    one, other = (
        made.step(theta, rounds)
        for made, rounds in ((maml, batches), (plain, batches[-1:]))
    )
    np.testing.assert_allclose(one.theta, other.theta, 0, 1e-6)
    assert float(one.kl) > 0


@pytest.mark.usefixtures("float64")
def test_line_search_holds_both_conditions():
    made = learner()
    step = made.step(made.theta(), two_rounds(made))
    assert float(step.after) < -1e-3  # At θ it is −1 times a mean of zero.
    assert 0 < float(step.kl) <= DELTA


@pytest.mark.parametrize(
    "score", [(1.0, 0.0), (-1.0, 1.0), (np.nan, 0.0), (-1.0, np.nan)]
)
def test_line_search_without_success_keeps_theta(score):
    theta = tf.constant([1.0, 2.0])
    tried = []

    def failing(candidate):
        tried.append(candidate)
        return tuple(map(tf.constant, score))

    step = trpo.line_search(
        theta, tf.ones([2]), failing, tf.constant(0.0), DELTA
    )
    np.testing.assert_array_equal(step.theta, theta)
    assert float(step.after) == float(step.kl) == 0
    assert len(tried) == step.backtracks == trpo.BACKTRACKS
    np.testing.assert_allclose(tried[2], theta - 0.64, 1e-6)


def test_pretraining_moves_by_the_mean_inner_gradient():
    made = learner(learners.Pretraining)
    made.compile(keras.optimizers.SGD(1.0))
    theta = made.theta()
    goals = tf.repeat(Navigation().sample_tasks(SEED, [3])[:, None], 4, 1)
    batch = made.batch(made.collect(made.shared(theta), goals, SEED))
    made.inner_lr = 1.0
    phi = made.adapted(theta, [batch])
    made.update(goals, SEED[None, None])
    mean = np.concatenate([np.mean(p, 0).ravel() for p in phi])
    np.testing.assert_allclose(made.theta(), mean, 1e-4, 1e-5)
