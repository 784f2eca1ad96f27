"""Meta-learners: engines, modes of execution, and what they minimise."""

import functools
import gc

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf

from maml_tf import (
    MAML,
    JointTraining,
    Reptile,
    cores,
    engines,
    inner_optimizers,
    losses,
    models,
)

TASKS = 3


def randomized(network):
    rng = np.random.default_rng(1)
    for variable in network.trainable_variables:
        variable.assign(0.3 * rng.normal(size=variable.shape))
    return network


def sinusoid():
    rng = np.random.default_rng(0)
    sx, sy = rng.normal(size=(2, TASKS, 4, 1))
    qx, qy = rng.normal(size=(2, TASKS, 6, 1))
    network = randomized(models.sinusoid_mlp())
    return network, losses.mean_squared_error, ((sx, sy, qx), qy)


def images(**options):
    rng = np.random.default_rng(0)
    sx = rng.normal(size=(TASKS, 2, 28, 28, 1))
    qx = rng.normal(size=(TASKS, 4, 28, 28, 1))
    sy, qy = np.tile([0, 1], (TASKS, 1)), np.tile([0, 1, 1, 0], (TASKS, 1))
    network = randomized(models.omniglot_conv(2, filters=4, **options))
    return network, losses.CrossEntropy(1), ((sx, sy, qx), qy)


PROBLEMS = {
    "sinusoid": sinusoid,
    "strided": images,
    "max_pool": lambda: images(max_pool=True),
}


def learn(kind, network, loss, mode="graph", **options):
    learner = kind(network, loss, inner_lr=0.1, **options)
    # One step of size 1 without momentum tells the gradient.
    learner.compile(keras.optimizers.SGD(1.0), loss, **MODES[mode])
    return learner


MODES = {
    "eager": {"run_eagerly": True},
    "graph": {},
    "xla": {"jit_compile": True},
}


def loss_and_gradient(learner, data):
    """Returns what Keras's training computes of a meta-batch."""
    network = learner.network
    before = network.get_weights()
    loss = learner.train_on_batch(*data)
    after = network.get_weights()
    network.set_weights(before)
    return [loss, *(b - a for b, a in zip(before, after, strict=True))]


def ordinary(network, loss, variables, x, y):
    """Returns the mean task loss of the unadapted network, its gradient."""
    values = [variable.value for variable in variables]
    with tf.GradientTape() as tape:
        tasks = [loss(y[i], network(x[i])) for i in range(TASKS)]
        mean = tf.reduce_mean(tasks)
    return [mean, *tape.gradient(mean, values)]


def assert_close(actual, expected, tolerance=1e-9):
    """Relative to the largest entry of each gradient, and of them all."""
    overall = max(np.abs(e).max() for e in expected)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, tolerance, tolerance * overall)


@pytest.mark.parametrize(
    ("problem", "kind", "modes"),
    [
        ("sinusoid", MAML, ["eager", "graph"]),  # XLA: conformance_test.py
        ("sinusoid", JointTraining, MODES),
        ("strided", MAML, ["graph"]),  # eager: refusals_test.py
        ("max_pool", MAML, ["graph"]),  # XLA takes a minute to compile it
    ],
)
@pytest.mark.usefixtures("float64", "not_deterministic")
def test_every_engine_and_mode_is_the_same(problem, kind, modes):
    network, loss, data = PROBLEMS[problem]()
    results = [
        loss_and_gradient(learn(kind, network, loss, mode, engine=engine), data)
        for engine in ("stacked", "looped")
        for mode in modes
    ]
    for result in results[1:]:
        assert_close(result, results[0])


@pytest.mark.parametrize("engine", ["stacked", "looped"])
@pytest.mark.parametrize("problem", ["sinusoid", "strided"])
def test_no_steps_is_ordinary_training(problem, engine, float64):
    network, loss, data = PROBLEMS[problem]()
    learner = learn(MAML, network, loss, inner_steps=0, engine=engine)
    (_, _, x), y = data
    expected = ordinary(network, loss, network.trainable_variables, x, y)
    assert_close(loss_and_gradient(learner, data), expected)


@pytest.mark.parametrize("problem", ["sinusoid", "strided"])
def test_joint_training_is_ordinary_training_on_support(problem, float64):
    network, loss, data = PROBLEMS[problem]()
    learner = learn(JointTraining, network, loss, inner_steps=1)
    (x, y, _), _ = data
    expected = ordinary(network, loss, network.trainable_variables, x, y)
    assert_close(loss_and_gradient(learner, data), expected)


@pytest.mark.parametrize("problem", ["sinusoid", "strided"])
def test_first_order_is_the_gradient_at_phi(problem, float64):
    network, loss, data = PROBLEMS[problem]()
    learner = learn(MAML, network, loss, inner_steps=1, first_order=True)
    actual = loss_and_gradient(learner, data)
    (sx, sy, qx), qy = data
    variables = network.trainable_variables
    theta = [v.numpy() for v in variables]
    total = 0
    for i in range(TASKS):
        values = [v.value for v in variables]
        with tf.GradientTape() as tape:
            support = loss(sy[i], network(sx[i]))
        inner = tape.gradient(support, values)
        for v, t, g in zip(variables, theta, inner, strict=True):
            v.assign(t - 0.1 * g)
        values = [v.value for v in variables]
        with tf.GradientTape() as tape:
            query = loss(qy[i], network(qx[i]))
        outer = [query, *tape.gradient(query, values)]
        total = (
            [a / TASKS for a in outer]
            if i == 0
            else [a + b / TASKS for a, b in zip(total, outer, strict=True)]
        )
        for v, t in zip(variables, theta, strict=True):
            v.assign(t)
    assert_close(actual, total)
    second = learn(MAML, network, loss, inner_steps=1)
    with pytest.raises(AssertionError):
        assert_close(loss_and_gradient(second, data), total, 1e-4)


@pytest.mark.parametrize(
    "problem, kind",
    [
        ("sinusoid", MAML),
        ("sinusoid", JointTraining),
        ("strided", MAML),
        pytest.param("strided", JointTraining, marks=pytest.mark.slow),
    ],
)
def test_fit_decreases_the_loss(problem, kind):
    network, loss, (x, y) = PROBLEMS[problem]()
    learner = learn(kind, network, loss, inner_steps=1)
    data = tf.data.Dataset.from_tensors((x, y)).repeat(20)
    before = learner.evaluate(data.take(1), verbose=0)
    learner.optimizer.learning_rate = 0.01
    learner.fit(data, shuffle=False, verbose=0)
    assert learner.evaluate(data.take(1), verbose=0) < before


@pytest.mark.parametrize("mode", MODES)
def test_block_is_one_update_after_another(mode, float64):
    network, loss, (x, y) = sinusoid()
    start = network.get_weights()
    data = tf.data.Dataset.from_tensors((x, y)).repeat(6)
    results = []
    for block in (1, 3):
        network.set_weights(start)
        learner = learn(MAML, network, loss, mode, block=block)
        learner.optimizer.learning_rate = 0.01
        elements = data.batch(3) if block > 1 else data
        losses = learner.fit(elements, shuffle=False, verbose=0).history
        results.append([*losses["loss"], *network.get_weights()])
    assert_close(*results)
    assert np.abs(results[0][1] - start[0]).max() > 1e-3


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_nothing_is_traced_again(engine):
    network, loss, data = sinusoid()
    calls = []

    def counted(y, prediction):
        calls.append(prediction.shape)
        return loss(y, prediction)

    learner = MAML(network, counted, inner_lr=0.1, engine=engine)
    learner.compile("sgd", loss)
    repeated = tf.data.Dataset.from_tensors(data).repeat()
    train = functools.partial(learner.fit, repeated, shuffle=False, verbose=0)
    train(steps_per_epoch=2)
    traced = len(calls)
    assert traced
    train(steps_per_epoch=20, epochs=2)
    assert len(calls) == traced


@pytest.mark.parametrize(
    "engine", ["stacked", pytest.param("looped", marks=pytest.mark.slow)]
)
def test_memory_does_not_grow(engine):
    network, loss, data = sinusoid()
    learner = learn(MAML, network, loss, engine=engine)
    learner.optimizer.learning_rate = 1e-4
    repeated = tf.data.Dataset.from_tensors(data).repeat()

    def megabytes_after(iterations):
        learner.fit(
            repeated, steps_per_epoch=iterations, shuffle=False, verbose=0
        )
        gc.collect()
        return psutil.Process().memory_info().rss / 1e6

    start = megabytes_after(500)
    # A leak of one meta-gradient an iteration would be 14 MB.
    assert megabytes_after(2000) - start < 7


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_predict_returns_the_last_query_predictions(engine):
    network, loss, (x, _) = images()
    learner = learn(
        MAML, network, loss, inner_steps=1, test_inner_steps=2, engine=engine
    )
    actual = learner.predict(x, verbose=0)
    predictions = learner(x)
    assert len(predictions.query) == 3
    assert actual.shape == (TASKS, 4, 2)
    np.testing.assert_allclose(actual, predictions.query[2], 1e-4, 1e-5)


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_losses_of_examples_are_averaged(engine, float64):
    network, loss, data = sinusoid()
    results = []
    for inner_loss in (loss, keras.losses.mean_squared_error):
        learner = MAML(network, inner_loss, inner_lr=0.1, engine=engine)
        learner.compile("sgd", loss)
        results.append(loss_and_gradient(learner, data))
    assert_close(*results)


def test_adapted_are_the_only_ones_that_adapt(float64):
    network, loss, (x, y) = sinusoid()
    head = network.layers[-1].trainable_variables
    learner = learn(MAML, network, loss, inner_steps=1, adapt=head)
    hidden = keras.Sequential(network.layers[:-1])
    kernel, bias = (v.numpy() for v in head)
    (sx, sy, qx), _ = x, y
    actual = learner(x).query[1]
    for i in range(TASKS):  # the head is linear in its inputs z
        z = hidden(sx[i]).numpy()
        error = 2 / len(z) * (z @ kernel + bias - sy[i])
        phi = kernel - 0.1 * z.T @ error, bias - 0.1 * error.sum(0)
        expected = hidden(qx[i]).numpy() @ phi[0] + phi[1]
        np.testing.assert_allclose(actual[i], expected, 1e-9, 1e-12)


@pytest.mark.parametrize("test_inner_steps", [None, 4])
def test_task_metrics_are_before_and_after(test_inner_steps):
    network, loss, (x, y) = sinusoid()
    learner = MAML(
        network,
        loss,
        inner_lr=0.1,
        inner_steps=2,
        test_inner_steps=test_inner_steps,
        task_metrics={"mse": losses.mean_squared_error},
    )
    learner.compile("sgd", loss)
    logs = learner.evaluate(x, y, batch_size=TASKS, verbose=0, return_dict=True)
    predictions = learner(x)
    expected = {
        "pre_mse": np.mean((predictions.support - x[1]) ** 2),
        "post_mse": np.mean((predictions.query[2] - y) ** 2),
    }
    assert logs.keys() == expected.keys() | {"loss"}
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, 1e-5)


def test_engine_is_chosen(monkeypatch):
    network, loss, (x, _) = sinusoid()

    def choose(network, engine="auto"):
        learner = MAML(network, loss, inner_lr=0.1, engine=engine)
        return learner.engine_for(tf.nest.map_structure(tf.constant, x))

    choice = choose(network)
    assert choice.engine == "stacked" and "MB" in choice.reason
    assert choose(network, "looped") == ("looped", "as asked for", 1)
    with pytest.warns(UserWarning, match="one after another.*gru"):
        choice = choose(recurrent())
    assert choice.engine == "looped" and "gru" in choice.reason
    monkeypatch.setattr(engines, "STACKED_BYTES", 1000)
    monkeypatch.setattr(engines, "SHARED_BYTES", 1000)
    assert choose(network).engine == "looped"


# A task has 4 support and 6 query points, 8 bytes a number. A pass has layers
# 1 → 2 → 1: products and sums of 2, a tanh of 2, a product and a sum of 1:
# 8 numbers a point.
@pytest.mark.parametrize(("first_order", "steps"), [(False, 10), (True, 1)])
def test_bytes_of_a_task(first_order, steps, float64):
    network = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(2, "tanh"),
            keras.layers.Dense(1),
        ]
    )
    options = {"inner_steps": 10, "first_order": first_order}
    learner = MAML(network, "mse", inner_lr=0.1, **options)
    support, query = (tf.zeros([3, n, 1], tf.float64) for n in (4, 6))
    found = learner.task_bytes((support, None, query))
    assert found == 8 * 8 * (steps * 4 + 6)


def test_nothing_is_rewritten_by_autograph(monkeypatch):
    from tensorflow.python.autograph.impl import api

    found, convert = [], api._convert_actual
    monkeypatch.setattr(
        api, "_convert_actual", lambda *a: found.append(a) or convert(*a)
    )
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    x = tf.zeros([3, 4, 1])
    maml = MAML(network, "mse", inner_lr=0.1, engine="looped")
    sgd = inner_optimizers.SGD(0.1)
    reptile = Reptile(network, sgd, inner_steps=1, inner_loss="mse")
    for learner in maml, reptile:
        learner.adapt_and_predict(x, x, x)
        tf.function(learner.adapt_and_predict, autograph=False)(x, x, x)
    assert not found
    tf.function(lambda: x)()
    assert found  # It would have noticed.


def test_memory_of_what_cannot_be_stacked_is_not_known():
    network = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, kernel_regularizer="l2")]
    )
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    x = tf.zeros([3, 4, 1])
    assert learner.memory_estimate((x, x, x)) is None


@pytest.mark.parametrize(
    ("groups", "limiting"), [(1, "STACKED_BYTES"), (2, "SHARED_BYTES")]
)
def test_groups_are_as_large_as_fits(groups, limiting, monkeypatch):
    monkeypatch.setattr(cores, "side_by_side", lambda: groups)
    monkeypatch.setattr(engines, limiting, 5000)
    choice = engines.choose_by_size(6, 1000)
    assert (choice.engine, choice.group) == ("stacked", 3)
    assert "0.00 MB" in choice.reason
    assert engines.choose_by_size(6, 1000, 2).group == 2
    assert engines.choose_by_size(6, 1000, 5).group == 3
    assert engines.choose_by_size(6, 1000, 1).engine == "looped"
    assert engines.choose_by_size(6, 2501).engine == "looped"
    assert engines.choose_by_size(1, 5001).engine == "stacked"


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("auto", marks=pytest.mark.slow),
        "stacked",
        pytest.param("looped", marks=pytest.mark.slow),
    ],
)
def test_tasks_per_step_change_no_gradient(engine, float64):
    network, loss, data = images()
    data = tf.nest.map_structure(lambda d: np.concatenate([d, d[::-1]]), data)
    results, groups = [], []
    for most in (None, 1, 2, 5):
        learner = learn(MAML, network, loss, engine=engine, tasks_per_step=most)
        results.append(loss_and_gradient(learner, data))
        groups.append(learner.engine_for(data[0]).group)
    # Of the 6 tasks, in equal groups.
    assert groups[1:] == ([1, 1, 1] if engine == "looped" else [1, 2, 3])
    for result in results[1:]:
        assert_close(result, results[0])


@pytest.mark.parametrize(
    "engine, adapt",
    [
        pytest.param("stacked", "all", marks=pytest.mark.slow),
        ("looped", "fast_weights"),
    ],
)
def test_steps_computed_again_change_no_gradient(engine, adapt, float64):
    network, loss, data = images()
    assert_remat_changes_nothing(network, loss, data, engine, adapt)


# Steps that are computed again draw what they drew.
@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_steps_computed_again_drop_the_same(engine, float64):
    _, loss, data = sinusoid()
    assert_remat_changes_nothing(with_dropout(), loss, data, engine)


def assert_remat_changes_nothing(network, loss, data, engine, adapt="all"):
    options = {"engine": engine, "adapt": adapt, "inner_steps": 3}
    results = [
        loss_and_gradient(
            learn(MAML, network, loss, remat=remat, **options), data
        )
        for remat in (False, True)
    ]
    assert_close(*results)


def test_tasks_per_step_need_a_number_of_tasks():
    for engine in ("auto", "stacked"):
        network, loss, _ = images()
        options = {"inner_lr": 0.1, "engine": engine, "tasks_per_step": 2}
        learner = MAML(network, loss, **options)
        shape = [None, 4, *network.input_shape[1:]]
        x = tf.TensorSpec(shape)
        with pytest.raises(ValueError, match="tasks_per_step: .*may change"):
            learner.engine_for((x, None, x))


def test_sizes_that_are_not_known_are_taken_for_the_largest_before():
    network, loss, _ = images()
    learner = MAML(network, loss, inner_lr=0.1)
    features = network.input_shape[1:]
    parts = [tf.TensorSpec([4, n, *features]) for n in (40, 4, None)]
    large, small, unknown = [learner.engine_for((x, None, x)) for x in parts]
    assert large == unknown != small


def recurrent():
    return keras.Sequential(
        [keras.Input((4, 1)), keras.layers.GRU(2), keras.layers.Dense(1)]
    )


def with_dropout():
    return keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(8, "tanh"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_dropout_is_a_function_of_seed_and_update(engine, mode):
    _, loss, data = sinusoid()
    network = with_dropout()

    def train(seed, updates):
        start = network.get_weights()
        learner = learn(MAML, network, loss, mode, engine=engine, seed=seed)
        results = [loss_and_gradient(learner, data) for _ in range(updates)]
        network.set_weights(start)
        return [result[0] for result in results]

    first, second = train(seed=0, updates=2)
    assert [first, second] == train(seed=0, updates=2)
    assert first != second
    assert first != train(seed=1, updates=1)[0]


def test_lists_of_numbers_are_arrays():
    network = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    learner = MAML(network, losses.CrossEntropy(1), inner_lr=0.1)
    x, y = [[1.0, 2.0], [3.0, 4.0]], [0, 1]
    arrays = np.array(x, "float32"), np.array(y)
    for given in ((x, y), (tuple(map(tuple, x)), tuple(y))):
        np.testing.assert_array_equal(
            learner.adapt(*given)(arrays[0]),
            learner.adapt(*arrays)(arrays[0]),
        )
    np.testing.assert_array_equal(
        learner.adapt_and_predict([x], [y], [x]),
        learner.adapt_and_predict(*(a[None] for a in (*arrays, arrays[0]))),
    )


def test_the_loss_of_an_epoch_is_the_mean_over_tasks():
    """The last batch may be of fewer tasks."""
    network, loss, (x, y) = sinusoid()
    learner = MAML(network, loss, inner_lr=0.1)
    learner.compile(keras.optimizers.SGD(0.0), loss)
    options = {"shuffle": False, "verbose": 0}
    parts = learner.fit(x, y, batch_size=2, **options).history["loss"]
    whole = learner.fit(x, y, batch_size=TASKS, **options).history["loss"]
    np.testing.assert_allclose(parts, whole, 1e-5)


@pytest.mark.parametrize(
    "wrapped", [lambda sgd: sgd, keras.optimizers.LossScaleOptimizer]
)
def test_accumulated_gradients_are_of_other_dropout(wrapped):
    network, loss, (x, y) = sinusoid()
    learner = MAML(network, loss, inner_lr=0.1)
    sgd = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    learner.compile(wrapped(sgd), loss)
    seeds = []
    for _ in range(4):
        seeds.append(learner._seeds(1, training=True).numpy().tobytes())
        learner.train_on_batch(x, y)
    assert len(set(seeds)) == 4


class Rows(keras.layers.Layer):
    """A layer that says of its examples what many say: `None`."""

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], 2))

    def call(self, x):
        return x @ self.kernel

    def compute_output_shape(self, shape):
        return (None, 2)


def test_a_layer_need_not_tell_the_number_of_examples():
    network = keras.Sequential([keras.Input([1]), Rows()])
    x, y = np.random.default_rng(0).normal(size=[2, TASKS, 4, 1])
    data = (x, np.tile(y, 2), x), np.tile(y, 2)
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    learner.compile("sgd", "mse")
    learner.fit(*data, verbose=0)
    assert learner.predict(data[0], verbose=0).shape == (TASKS, 4, 2)


@pytest.mark.parametrize("loss", [None, "mse"])
def test_a_network_in_float64_is_trained_as_any(loss):
    with models.dtype_policy("float64"):
        network = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    x, y = np.random.default_rng(0).normal(size=[2, TASKS, 4, 1])
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    learner.compile("sgd", loss)
    before = network.get_weights()
    learner.fit((x, y, x), y, verbose=0)
    assert (network.get_weights()[0] != before[0]).all()
    assert network.get_weights()[0].dtype == "float64"


def two_outputs():
    inputs = keras.Input([1])
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in "ab"}
    network = keras.Model(inputs, outputs)
    each = {"a": "mse", "b": "mse"}
    learner = MAML(network, each, inner_lr=0.1, engine="looped")
    learner.compile("sgd", each)
    x, y = np.random.default_rng(0).normal(size=[2, TASKS, 4, 1])
    return learner, (x, {"a": y, "b": y}, x), {"a": y, "b": 2 * y}


def two_heads():
    x = keras.Input([1])
    outputs = [keras.layers.Dense(1, name=name)(x) for name in ("z", "a")]
    return keras.Model(x, outputs)


@pytest.mark.parametrize("kind", ["maml", "reptile"])
def test_targets_have_the_places_of_outputs(kind):
    options = {"inner_steps": 2, "engine": "looped"}
    each = ["mse", "mse"]
    if kind == "maml":
        learner = MAML(two_heads(), each, inner_lr=0.1, **options)
    else:
        descent = inner_optimizers.SGD(0.1)
        learner = Reptile(two_heads(), descent, inner_loss=each, **options)
    x = np.ones([2, 3, 1])
    with pytest.raises(ValueError, match="targets: expected.*2 in a list, fou"):
        learner.adapt_and_predict(x, {"z": 5 * x, "a": -5 * x}, x)
    with pytest.raises(ValueError, match="targets: expected.*found named a, z"):
        learner.adapt(x[0], {"z": 5 * x[0], "a": -5 * x[0]})
    z, a = learner.adapt_and_predict(x, [5 * x, -5 * x], x)
    assert (z.numpy() > 1).all() and (a.numpy() < -1).all()


def test_weights_of_tasks_are_for_metrics_that_are_means():
    network = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    learner = MAML(network, "mse", inner_lr=0.1)
    x = np.random.default_rng(0).normal(size=[TASKS, TASKS, 1])
    data, weight = ((x, x, x), np.round(x)), np.arange(TASKS)
    learner.compile("sgd", "mse", weighted_metrics=["mae"])
    learner.evaluate(*data, sample_weight=weight, verbose=0)
    learner.compile("sgd", "mse", weighted_metrics=[keras.metrics.AUC()])
    with pytest.raises(ValueError, match="weighted_metrics: .*got 'auc'"):
        learner.evaluate(*data, sample_weight=weight, verbose=0)


def test_what_adapts_is_not_frozen_later():
    network, loss, (x, y) = sinusoid()
    learner = MAML(network, loss, inner_lr=0.1)
    learner.compile("sgd", loss)
    network.layers[-1].trainable = False
    for use in (
        lambda: learner.adapt(x[0][0], x[1][0]),
        lambda: learner.adapt_and_predict(*x),
        lambda: learner.train_on_batch(x, y),
    ):
        with pytest.raises(ValueError, match="frozen or taken out after"):
            use()


class Offset(keras.layers.Layer):
    """Adds what does not train at first."""

    def build(self, shape):
        self.offset = self.add_weight(shape[-1:], "zeros", trainable=False)

    def call(self, x):
        return x + self.offset


def test_a_variable_that_trains_later_is_meta_learned():
    offset = Offset()
    network = keras.Sequential([keras.Input((1,)), offset])
    offset.offset.trainable = True
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    learner.compile("sgd", "mse")
    zeros, ones = tf.zeros([2, 4, 1]), tf.ones([2, 4, 1])
    (_, [gradient]), _ = learner.meta_gradient(((ones, ones, ones), zeros))
    np.testing.assert_allclose(gradient, [2 * 0.8], 1e-6)


def test_steps_computed_again_refuse_what_trains_later():
    head = keras.layers.Dense(1)
    network = keras.Sequential([keras.Input((1,)), Offset(), head])
    network.layers[0].offset.trainable = True
    options = {"remat": True, "adapt": [head], "engine": "looped"}
    _, loss, data = sinusoid()
    learner = learn(MAML, network, loss, **options)
    with pytest.raises(ValueError, match="remat: .*offset.* not trainable"):
        learner.meta_gradient(data)


def test_what_adapts_is_not_taken_out_later():
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    learner = MAML(network, "mse", inner_lr=0.1)
    network.pop()
    network.add(keras.layers.Dense(3))
    with pytest.raises(ValueError, match="dense.*/kernel was .*taken out"):
        learner.adapt(np.zeros([4, 1]), np.zeros([4, 3]))


def test_statistics_that_a_layer_ignores_are_not_set_later():
    norm = keras.layers.BatchNormalization()
    network = keras.Sequential([keras.Input((1,)), norm])
    learner = MAML(network, "mse", inner_lr=0.1)
    learner.norm_statistics = "support"
    x = np.zeros([2, 4, 1], "f")
    with pytest.raises(ValueError, match="norm_statistics: expected layers"):
        learner.adapt_and_predict(x, x, x)


class Again(keras.layers.Layer):
    """A layer that computes again what its gradient needs."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, x):
        return keras.remat(lambda x: keras.ops.tanh(x @ self.kernel))(x)


@pytest.mark.parametrize("steps", [1, 3])
def test_what_is_computed_again_adapts(steps):
    sizes = [keras.Input((3,)), Again(), Again(), keras.layers.Dense(2)]
    network = keras.Sequential(sizes)
    hidden = [keras.layers.Dense(4, "tanh", use_bias=False) for _ in "12"]
    plain = keras.Sequential([sizes[0], *hidden, keras.layers.Dense(2)])
    plain.set_weights(network.get_weights())
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=[5, 3]).astype("f"), np.ones([5, 2], "f")
    found, expected = (
        MAML(each, "mse", inner_lr=0.1, engine="looped")
        .adapt(x, y, steps=steps)
        .get_weights()
        for each in (network, plain)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, 1e-4, 1e-5)


def test_examples_of_several_outputs_have_weights():
    learner, x, y = two_outputs()
    ones, zeros = np.ones([TASKS, 4]), np.zeros([TASKS, 4])
    weighted = [
        learner.evaluate(
            x, y, sample_weight=weight, verbose=0, return_dict=True
        )["loss"]
        for weight in (
            {"a": ones, "b": zeros},
            {"a": zeros, "b": ones},
            {"a": ones, "b": ones},
        )
    ]
    np.testing.assert_allclose(weighted[0] + weighted[1], weighted[2], 1e-5)
    assert len(set(weighted)) == 3
    learner.fit(x, y, sample_weight={"a": ones, "b": zeros}, verbose=0)


def test_tasks_of_several_outputs_have_none():
    learner, x, y = two_outputs()
    with pytest.raises(ValueError, match="sample_weight: expected none with a"):
        learner.fit(x, y, sample_weight=np.ones(TASKS), verbose=0)


@pytest.mark.parametrize(
    ("shape", "fragment"),
    [
        ((TASKS, 1, 1), "same leading axes"),
        ((TASKS, 5, 1), "same leading axes"),
    ],
)
def test_refuses_another_number_of_targets_than_queries(shape, fragment):
    network, loss, (x, _) = sinusoid()
    learner = MAML(network, loss, inner_lr=0.1)
    learner.compile("sgd", "mse")
    for method in (learner.fit, learner.evaluate):
        with pytest.raises(ValueError, match=fragment):
            method(x, np.zeros(shape), verbose=0)
        with pytest.raises(ValueError, match="found no query_y"):
            method(x, verbose=0)


@pytest.mark.parametrize("options", [{}, {"tasks_per_step": 1}], ids=str)
@pytest.mark.parametrize("engine", ["stacked", "looped"])
@pytest.mark.parametrize(
    ("units", "activation", "loss"),
    [
        (2, "softmax", "sparse_categorical_crossentropy"),
        (1, "sigmoid", "binary_crossentropy"),
    ],
)
def test_probabilities_are_compared_by_their_logits(
    units, activation, loss, engine, options
):
    """As Keras does; of a probability that is rounded to 1 it has none."""
    layer = keras.layers.Dense(units, activation, use_bias=False)
    network = keras.Sequential([keras.Input([1]), layer])
    kernel = np.float32([[20.0, 0.0][:units]])
    network.set_weights([kernel])
    learner = MAML(
        network,
        loss,
        inner_lr=0.1,
        inner_steps=0,
        engine=engine,
        **options,
    )
    learner.compile(keras.optimizers.SGD(1.0), loss)
    x, y = np.ones([2, 3, 1], "float32"), np.full([2, 3, 1], units - 1)
    found = learner.train_on_batch((x, y, x), y)
    np.testing.assert_allclose(found, 20)
    moved = np.float32([[-1.0, 1.0][:units]])
    np.testing.assert_allclose(network.get_weights()[0], kernel + moved)


def root(y, prediction):
    return tf.sqrt(tf.reduce_mean((y - prediction) ** 2))


@pytest.mark.parametrize("loss", [root, keras.losses.Dice()])
def test_a_loss_over_all_tasks_takes_them_at_once(loss):
    network = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    x = tf.ones([4, 3, 1])
    for options in {"engine": "stacked"}, {"engine": "looped"}:
        learner = MAML(network, "mse", inner_lr=0.1, **options)
        learner.compile("sgd", loss)
        if options["engine"] == "stacked":
            learner.meta_gradient(((x, x, x), x))
            continue
        with pytest.raises(
            ValueError, match="each task, got the shape .*, where tas"
        ):
            learner.meta_gradient(((x, x, x), x))


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_arrays_have_a_meta_gradient(engine):
    network = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    learner = MAML(network, "mse", inner_lr=0.1, engine=engine)
    learner.compile("sgd", "mse")
    x = np.ones([4, 3, 1], "float32")
    (loss, _), _ = learner.meta_gradient(((x, x, x), x))
    x = tf.constant(x)
    (other, _), _ = learner.meta_gradient(((x, x, x), x))
    assert loss == other


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_integers_go_where_keras_takes_them(engine):
    layers = keras.layers
    network = keras.Sequential(
        [keras.Input([2, 2], dtype="uint8"), layers.Flatten(), layers.Dense(1)]
    )
    learner = MAML(network, "mse", inner_lr=1e-4, engine=engine)
    learner.compile("sgd", "mse")
    x = np.arange(24, dtype="uint8").reshape(2, 3, 2, 2)
    y = np.ones([2, 3, 1], "float32")
    assert np.isfinite(learner.train_on_batch((x, y, x), y))


class Residual(keras.Model):
    """It adds its input to what a layer makes of it in its own type."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(2, "tanh")
        self.out = keras.layers.Dense(1)

    def call(self, x):
        return self.out(x + self.hidden(x))


def test_a_subclass_takes_data_of_another_precision():
    network = Residual()
    network(tf.ones([1, 2]))
    learner = MAML(network, "mse", inner_lr=0.1, engine="looped")
    learner.compile("sgd", "mse")
    x, y = tf.ones([4, 3, 2], tf.float64), tf.ones([4, 3, 1], tf.float64)
    (loss, _), _ = learner.meta_gradient(((x, y, x), y))
    assert np.isfinite(loss)
