"""Reptile and FOML: equivalences, memory, and use as a library."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import FOML, Reptile, losses, models
from maml_tf.inner_optimizers import SGD, Adam, State

TASKS, POINTS = 3, 6


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, TASKS, POINTS, 1))


def network():
    keras.utils.set_random_seed(0)
    return models.reptile_sinusoid_mlp()


def learner(kind=Reptile, optimizer=None, meta_step=0.5, **options):
    options = {
        "inner_steps": 4,
        "inner_batch": 2,
        "inner_loss": losses.mean_squared_error,
        **options,
    }
    made = kind(network(), optimizer or SGD(0.1), **options)
    made.compile(keras.optimizers.SGD(meta_step))
    return made


def trained(*arguments, updates=2, **options):
    """Returns the weights after some updates."""
    made = learner(*arguments, **options)
    for _ in range(updates):
        made.train_on_batch(*data())
    return made.network.get_weights()


def assert_same(actual, expected, tolerance=1e-10):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, tolerance, tolerance)


def differ(some, others):
    return any((s != o).any() for s, o in zip(some, others, strict=True))


def test_one_step_of_sgd_is_joint_training(float64):
    x, y = data()
    start = network()
    with tf.GradientTape() as tape:
        loss = losses.mean_squared_error(
            y, tf.stack([start(x[i]) for i in range(TASKS)])
        )
        loss = tf.reduce_mean(loss)
    gradients = tape.gradient(
        loss, [v.value for v in start.trainable_variables]
    )
    expected = [
        w - 0.5 * 0.1 * g
        for w, g in zip(start.get_weights(), gradients, strict=True)
    ]
    actual = trained(inner_steps=1, inner_batch=None, updates=1)
    assert_same(actual, expected)


@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.01)])
def test_foml_with_one_inner_step_is_reptile(optimizer, float64):
    assert_same(
        trained(FOML, optimizer, inner_steps=1),
        trained(Reptile, optimizer, inner_steps=1),
    )


def test_foml_follows_the_last_mini_batch(float64):
    assert differ(trained(FOML), trained(Reptile))


@pytest.mark.parametrize(
    "option", [{"weight_decay": 0.5}, {"replacement": True}, {"seed": 1}]
)
def test_options_change_what_is_learnt(option):
    assert differ(trained(**option), trained())


def test_mini_batches_of_a_test_are_its_own():
    made = learner(test_inner_steps=3, test_inner_batch=5)
    x, y = (part[0] for part in data())
    drawn = made.draw_test(tf.constant(data()[1]), made._seed(False))
    assert drawn.shape == (TASKS, 3, 5)
    theta = made.network(x).numpy()
    np.testing.assert_allclose(made.adapt(x, y, steps=0)(x), theta, 1e-6)
    assert differ([made.adapt(x, y)(x).numpy()], [theta])


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_another_draw_has_other_mini_batches(engine):
    made = learner(test_inner_batch=5, engine=engine)
    x, y = data()
    zero, again, one = (
        made((x, y, x), draw=draw).numpy() for draw in (0, 0, 1)
    )
    np.testing.assert_array_equal(zero, again)
    found = made.predict((x, y, x), verbose=0)
    np.testing.assert_allclose(zero, found, 1e-4, 1e-6)
    assert (abs(zero - one).max((1, 2)) > 1e-3).all()


@pytest.mark.parametrize(
    "optimizer, options",
    [(SGD(0.1), {}), (Adam(0.01), {"reset_inner_optimizer": True})],
)
@pytest.mark.parametrize("kind", [Reptile, FOML])
def test_stacked_is_one_at_a_time(kind, optimizer, options, float64):
    together, in_turn = (
        trained(kind, optimizer, engine=engine, **options)
        for engine in ("stacked", "looped")
    )
    assert_same(together, in_turn)


def test_what_adam_remembers_passes_from_task_to_task(float64):
    forgetful = trained(optimizer=Adam(0.01), reset_inner_optimizer=True)
    assert differ(trained(optimizer=Adam(0.01)), forgetful)
    # The second task begins where the first one left Adam.
    made = learner(optimizer=Adam(0.01))
    made.train_on_batch(*data())
    power = made.inner_state.scalars[1]
    np.testing.assert_allclose(power, 0.999 ** (4 * TASKS))


def test_nothing_passes_where_adam_forgets(float64):
    made = learner(optimizer=Adam(0.01), reset_inner_optimizer=True)
    made.train_on_batch(*data())
    assert made.inner_state.scalars[1] == 1


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_prediction_leaves_everything_as_it_was(engine, float64):
    made = learner(optimizer=Adam(0.01), engine=engine)
    made.train_on_batch(*data())
    before = [v.numpy() for v in made.variables]
    x, y = data()
    predictions = made.predict_on_batch((x, y, x))
    assert predictions.shape == x.shape
    assert_same([v.numpy() for v in made.variables], before, 0)


@pytest.mark.parametrize("transductive", [True, False])
def test_engines_predict_the_same(transductive, float64):
    x, y = data()
    stacked, looped = (
        learner(optimizer=Adam(0.01), engine=engine, transductive=transductive)(
            (x, y, x[:, :4])
        )
        for engine in ("stacked", "looped")
    )
    assert_same([stacked], [looped])


def test_queries_alone_see_the_support_set_only(float64):
    # Through batch statistics, in one batch every query sees the others.
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [keras.Input((1,)), keras.layers.BatchNormalization()]
    )
    x, y = data()
    one, other = x[:, :3].copy(), x[:, :3].copy()
    other[:, 1:] += 1  # another second and third query
    for transductive in (True, False):
        made = Reptile(
            net,
            SGD(0.1),
            inner_steps=1,
            inner_loss=losses.mean_squared_error,
            transductive=transductive,
        )
        first, second = (made((x, y, q))[:, 0] for q in (one, other))
        assert np.allclose(first, second) != transductive


def test_tail_is_kept_from_other_mini_batches():
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    made = FOML(net, SGD(0.1), inner_steps=4, inner_batch=3, tail_shots=1)
    made.compile(keras.optimizers.SGD(1.0))
    y = tf.constant([[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    first, last = made.draw(y)
    assert first.shape == (2, 3, 3) and last.shape == (2, 1, 2)
    np.testing.assert_array_equal(np.sort(last[:, 0]), [[0, 3], [0, 3]])
    assert not np.isin(first, [0, 3]).any()


def test_tail_is_of_sets_of_any_size():
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    options = {"inner_steps": 4, "inner_batch": 3, "tail_shots": 1}
    made = FOML(net, SGD(0.1), **options)
    made.compile(keras.optimizers.SGD(1.0))
    x, y = np.zeros([2, 6, 1]), np.array([[0, 0, 0, 1, 1, 1]] * 2)
    made.fit(x, y, verbose=0)
    made.fit(x[:, 1:5], y[:, 1:5], verbose=0)  # Keras traces for all sizes.
    refused = pytest.raises(tf.errors.InvalidArgumentError, match="fewer than")
    with refused:
        made.fit(x[:, 2:4], y[:, 2:4], verbose=0)


def test_a_tail_needs_a_network_that_tells_the_classes():
    options = {"inner_steps": 1, "inner_loss": "mse", "tail_shots": 1}
    with pytest.raises(ValueError, match="functional, with one output; 'of_"):
        FOML(OfThree(), SGD(0.1), **options)


def test_what_scalars_remember_passes_from_task_to_task():
    made = learner(optimizer=Slowing())
    made.train_on_batch(*data())
    assert [float(v) for v in made.inner_variables] == [TASKS * 4]


def test_no_inner_steps_are_refused_later_too():
    made = learner()
    made.inner_steps, made.test_inner_steps = 0, -1
    with pytest.raises(ValueError, match="inner_steps: expected at least 1"):
        made.train_on_batch(*data())
    with pytest.raises(ValueError, match="steps: expected at least 0"):
        made.adapt(*(part[0] for part in data()))


class Slowing:
    """Gradient descent with α = 0.1 / t, of which t is remembered."""

    def init(self, parameters):
        return State(scalars=(tf.zeros([]),))

    def update(self, gradient, state, parameters):
        t = state.scalars[0] + 1
        return parameters - 0.1 / t * gradient, State(scalars=(t,))


def test_fits_as_a_keras_model_with_a_schedule():
    made = learner(optimizer=Adam(0.01))
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 20, 0.0)
    made.compile(keras.optimizers.SGD(schedule), "mse", metrics=["mae"])
    x, y = (part.astype("float32") for part in data())
    dataset = tf.data.Dataset.from_tensors((x, y)).repeat()
    history = made.fit(
        dataset, steps_per_epoch=10, epochs=2, shuffle=False, verbose=0
    )
    first, second = history.history["loss"]
    assert second < first
    scores = made.evaluate(
        tf.data.Dataset.from_tensors(((x, y, x), y)),
        verbose=0,
        return_dict=True,
    )
    assert scores["loss"] < first and scores["mae"] > 0


class OfThree(keras.Model):
    """A network of three inputs, which it does not tell of."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self([np.ones([1, 1])] * 3)

    def call(self, inputs):
        return self.dense(tf.concat(inputs, -1))


def test_three_inputs_are_not_taken_for_queries():
    made = Reptile(OfThree(), SGD(0.1), inner_steps=1, inner_loss="mse")
    made.compile("sgd")
    x, y = data()
    before = made.network.get_weights()
    made.train_on_batch((x, x, x), y)
    assert differ(before, made.network.get_weights())


def test_the_plan_lists_the_layers():
    plan = learner(optimizer=Adam(0.01)).execution_plan()
    assert plan.choice.engine == "looped"
    assert plan.choice.reason == "as fast as stacked"
    assert not any(reasons for *_, reasons in plan.layers)
    assert [kind for _, kind, _ in plan.layers].count("Dense") == 3


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_dropout_draws_anew_in_every_step(engine, float64):
    # f(x) = b + drop(x) for x = 2: a mask of one half is 0 or 4. One mask for
    # all steps would leave the mean over 40 points the same in each.
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dropout(0.5)])
    net.add(keras.layers.Dense(1, kernel_initializer="ones"))
    losses_seen = set()
    for steps in (1, 2, 3):
        made = Reptile(
            net,
            SGD(0.0),
            inner_steps=steps,
            inner_loss=losses.mean_squared_error,
            engine=engine,
        )
        made.compile(keras.optimizers.SGD(1.0))
        twos = np.full([1, 40, 1], 2.0)
        loss = made.train_on_batch(twos, np.zeros_like(twos))
        losses_seen.add(round(float(np.squeeze(loss)), 6))
    assert len(losses_seen) > 1


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Reptile, {"inner_batch": None, "engine": "stacked"}),
        (Reptile, {"inner_batch": 3, "transductive": True}),
        (Reptile, {"inner_batch": 2, "replacement": True}),
        (FOML, {"inner_batch": 3, "engine": "stacked", "transductive": True}),
    ],
)
def test_one_learner_takes_sets_of_several_sizes(kind, options):
    """From the second on Keras traces with sizes that are not known."""
    made = learner(kind, **options)
    rng = np.random.default_rng(0)
    for support, queries in ((4, 3), (6, 2)):
        x, y = rng.normal(size=(2, 2, support, 1))
        query = rng.normal(size=(2, queries, 1))
        found = made.predict((x, y, query), verbose=0)
        expected = made.adapt_and_predict(x, y, query)
        np.testing.assert_allclose(found, expected, 1e-4, 1e-5)
        made.fit(x, y, verbose=0)


def test_the_loss_of_an_epoch_is_the_mean_over_tasks():
    """The last batch may be of fewer tasks."""
    x, y = np.random.default_rng(0).normal(size=(2, 5, POINTS, 1))
    made = [learner(inner_batch=None, meta_step=0.0) for _ in range(2)]
    whole, parts = (
        each.fit(x, y, batch_size=size, shuffle=False, verbose=0)
        for each, size in zip(made, (5, 3), strict=True)
    )
    np.testing.assert_allclose(
        *(h.history["loss"] for h in (whole, parts)), 1e-5
    )


@pytest.mark.parametrize(
    "wrapped", [lambda sgd: sgd, keras.optimizers.LossScaleOptimizer]
)
def test_accumulated_gradients_are_of_other_mini_batches(wrapped):
    made = learner()
    sgd = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    made.compile(wrapped(sgd))
    seeds = []
    for _ in range(4):
        seeds.append(tuple(made._seed(True).numpy()))
        made.train_on_batch(*data())
    assert len(set(seeds)) == 4


@pytest.mark.parametrize(
    "scaled",
    [
        lambda: keras.optimizers.SGD(0.5, loss_scale_factor=8.0),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)),
    ],
)
def test_the_step_is_the_same_whatever_scale_a_loss_has(scaled, float64):
    made = learner()
    made.compile(scaled())
    made.train_on_batch(*data())
    assert_same(made.network.get_weights(), trained(updates=1))


@pytest.mark.parametrize("loss", [None, "mse"])
def test_an_evaluation_is_of_the_queries_alone(loss):
    net = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, kernel_regularizer="l2")]
    )
    made = Reptile(net, SGD(0.1), inner_steps=1, inner_loss="mse")
    made.compile("sgd", loss)
    x, y = data()
    weight = np.arange(TASKS)
    task = (x, y, x[:, :TASKS]), y[:, :TASKS]  # as many queries as tasks
    found = made.evaluate(*task, sample_weight=weight, verbose=0)
    each = tf.reduce_mean((made(task[0]) - task[1]) ** 2, (1, 2))
    np.testing.assert_allclose(found, np.mean(weight * each), 1e-4)
