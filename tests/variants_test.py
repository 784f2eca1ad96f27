"""ANIL, Meta-SGD and MAML++ are MAML where they should be, and learn more."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import ANIL, MAML, MAMLPlusPlus, MetaSGD

OPTIONS = {"inner_lr": 0.1, "inner_steps": 2}


def network():
    keras.utils.set_random_seed(0)
    parts = keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)
    return keras.Sequential([keras.Input((2,)), *parts])


def meta_batch():
    rng = np.random.default_rng(0)
    support_x, support_y, query_x, query_y = (
        tf.constant(rng.normal(size=[3, n, d]))
        for n, d in ((4, 2), (4, 1), (5, 2), (5, 1))
    )
    return (support_x, support_y, query_x), query_y


def made(kind, engine="stacked", rate=0.05, **options):
    learner = kind(network(), "mse", **{**OPTIONS, **options}, engine=engine)
    learner.compile(keras.optimizers.SGD(rate), "mse")
    return learner


def meta_gradient(learner):
    (loss, gradients), _ = learner.meta_gradient(meta_batch())
    of = zip(learner.trainable_variables, gradients, strict=True)
    return loss, {
        v.path if v.path.startswith("seq") else v.name: g for v, g in of
    }


def same(actual, expected, tolerance=1e-9):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, tolerance, 1e-7 * tolerance)


KERAS_CONSTANT = 1e-6  # An initializer's number is one of float32.


def test_anil_adapts_the_head_alone(float64):
    anil, maml = made(ANIL), made(MAML, adapt="head")
    assert [v.path for v in anil.adapted] == [
        v.path for v in anil.network.layers[-1].trainable_variables
    ]
    same(*(learner(meta_batch()[0]).query for learner in (anil, maml)))
    _, gradients = meta_gradient(anil)
    assert len(gradients) == 4  # All is meta-learned.
    assert all(np.any(g != 0) for g in gradients.values())


@pytest.mark.parametrize("engine", ["stacked", "looped"])
@pytest.mark.parametrize("kind", [MetaSGD, MAMLPlusPlus])
def test_it_starts_as_maml(kind, engine, float64):
    variant, maml = made(kind, engine), made(MAML, engine)
    x, _ = meta_batch()
    same(variant(x).query, maml(x).query, KERAS_CONSTANT)


def test_meta_sgd_has_the_gradient_of_maml_and_of_its_rates(float64):
    variant, maml = made(MetaSGD), made(MAML)
    loss, gradients = meta_gradient(variant)
    expected, of_maml = meta_gradient(maml)
    same([loss], [expected], KERAS_CONSTANT)
    assert len(gradients) == 2 * len(of_maml)
    shapes = {tuple(rate.shape) for rate in variant.rates}
    assert shapes == {(2, 4), (4,), (4, 1), (1,)}
    rates = [g for name, g in gradients.items() if name.startswith("rate")]
    others = [g for name, g in gradients.items() if "rate" not in name]
    same(others, list(of_maml.values()), KERAS_CONSTANT)
    rate = variant.rates[0]
    np.testing.assert_allclose(
        rates[0][1, 2], slope(variant, rate, [1, 2]), 1e-6
    )


def test_every_layer_and_step_has_a_rate_in_maml_plus_plus(float64):
    variant = made(MAMLPlusPlus)
    assert [rate.shape for rate in variant.rates] == [(2,)] * 4
    _, gradients = meta_gradient(variant)
    for step in range(2):
        found = gradients["rate_2"][step]
        np.testing.assert_allclose(
            found, slope(variant, variant.rates[2], [step]), 1e-6
        )


def slope(learner, variable, place, h=1e-5):
    """Returns the central difference of the loss by one number."""

    def loss(moved):
        before = variable.numpy()
        change = np.zeros_like(before)
        change[tuple(place)] = moved
        variable.assign(before + change)
        found = learner.meta_gradient(meta_batch())[0][0]
        variable.assign(before)
        return float(found)

    return (loss(h) - loss(-h)) / (2 * h)


def test_the_multi_step_loss_is_the_weighted_sum(float64):
    variant = made(MAMLPlusPlus, multi_step_iterations=4)
    x, y = meta_batch()
    by_step = [np.mean((q - y) ** 2) for q in variant(x).query[1:]]
    for update, weights in enumerate(
        [(0.5, 0.5), (0.375, 0.625), (0.25, 0.75), (0.125, 0.875), (0, 1)]
    ):
        variant.optimizer.iterations.assign(update)
        np.testing.assert_allclose(variant.step_weights(), weights)
        loss, _ = meta_gradient(variant)
        np.testing.assert_allclose(loss, np.dot(weights, by_step))
    variant.optimizer.iterations.assign(0)
    outside = variant.compute_loss(x, y, variant(x), training=False)
    np.testing.assert_allclose(outside, by_step[-1])


def test_early_steps_keep_a_weight_until_the_end():
    variant = made(MAMLPlusPlus, inner_steps=5, multi_step_iterations=1000)
    variant.optimizer.iterations.assign(999)
    weights = variant.step_weights().numpy()
    np.testing.assert_allclose(weights, [0.006] * 4 + [0.976], 1e-6)


def test_more_steps_in_evaluation_take_the_last_rate(float64):
    variant = made(MAMLPlusPlus, test_inner_steps=4)
    for rate in variant.rates:
        rate.assign([0.1, 0.03])
    x, _ = meta_batch()
    by_hand = made(MAML, test_inner_steps=2, inner_lr=0.03)
    first = made(MAML, inner_steps=1, inner_lr=0.1)
    one = tf.nest.map_structure(lambda part: part[0], x)
    by_hand.network.set_weights(first.adapt(*one[:2]).get_weights())
    assert len(variant(x).query) == 5
    np.testing.assert_allclose(
        variant(x).query[3][0], by_hand(x).query[2][0], 1e-9
    )


@pytest.mark.parametrize("kind", [ANIL, MetaSGD, MAMLPlusPlus])
def test_it_learns_by_fit(kind):
    learner = made(kind, rate=0.02)
    before = learner.get_weights()
    x, y = tf.nest.map_structure(
        lambda part: tf.cast(part, "float32"), meta_batch()
    )
    data = tf.data.Dataset.from_tensors((x, y)).repeat(20)
    losses = learner.fit(data, verbose=0, shuffle=False, epochs=3).history
    assert losses["loss"][-1] < losses["loss"][0]
    changed = [
        np.any(was != now)
        for was, now in zip(before, learner.get_weights(), strict=True)
    ]
    assert all(changed)
    adapted = learner.adapt(x[0][0], x[1][0])
    np.testing.assert_allclose(
        adapted(x[2][0]), learner.adapt_and_predict(*x)[0], 1e-4, 1e-5
    )


def test_more_steps_than_rates_go_on_with_the_last_rate():
    learner = made(MAMLPlusPlus, inner_steps=2)
    learner.inner_steps = 4
    (loss, _), predictions = learner.meta_gradient(meta_batch())
    assert len(predictions.query) == 4 and np.isfinite(loss)
