"""One replica, two and four: each has its tasks, and training is the same."""

import pytest
from own_process import check_runs, check_runs_on_hosts

PROGRAM = """
import sys

import keras, numpy as np, tensorflow as tf
from maml_tf import MAML, Reptile, inner_optimizers

keras.config.disable_traceback_filtering()
[cpu] = tf.config.list_physical_devices("CPU")
parts = [tf.config.LogicalDeviceConfiguration()] * 4
tf.config.set_logical_device_configuration(cpu, parts)
x = np.random.default_rng(0).normal(size=(10, 4, 6, 2)).astype("float32")
y, other_y = x[..., :1] ** 2, x[..., 1:] ** 2
data = {"maml": ((x, y, -x), other_y), "reptile": (x, y)}[sys.argv[1]]
dropout, engine = float(sys.argv[3]), sys.argv[2]

def build():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential([
        layers.Dense(8, "tanh"), layers.Dropout(dropout), layers.Dense(1)
    ])
    network.build([None, 2])
    if sys.argv[1] == "maml":
        learner = MAML(
            network, "mse", inner_lr=0.1, inner_steps=3, engine=engine
        )
        optimizer = keras.optimizers.SGD(0.1, global_clipnorm=0.5)
        outer = "mse" if engine == "stacked" else None  # the inner one
        learner.compile(optimizer, outer, metrics=["mae"])
    else:
        learner = Reptile(
            network, inner_optimizers.SGD(0.02), inner_steps=3, inner_batch=4,
            inner_loss="mse", engine=engine,
        )
        learner.compile(keras.optimizers.SGD(0.1))
    return learner

def gradient(strategy, learner):
    elements = tf.data.Dataset.from_tensor_slices(data)
    [*element] = strategy.experimental_distribute_dataset(elements.take(1))
    step = lambda element: learner.meta_gradient(element)[0][1]
    parts = tf.function(lambda: strategy.run(step, (element[0],)))()
    return [strategy.reduce("SUM", part, axis=None) for part in parts]

def train(strategy):
    with strategy.scope():
        learner = build()
    found = gradient(strategy, learner) if sys.argv[1] == "maml" else []
    batches = tf.data.Dataset.from_tensor_slices(data)
    epochs = int(sys.argv[5])
    history = learner.fit(batches, epochs=epochs, shuffle=False, verbose=0)
    return found, [*history.history.values(), *learner.network.get_weights()]

found, end = train(tf.distribute.get_strategy())
cpus = [f"CPU:{i}" for i in range(int(sys.argv[4]))]
same, other = train(tf.distribute.MirroredStrategy(cpus))
for one, two in zip(found, same, strict=True):
    assert tf.norm(one - two) < 1e-6 * tf.norm(one)
for one, two in zip(end, other, strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        "maml stacked 0.0 2 2",
        pytest.param("maml stacked 0.0 4 20", marks=pytest.mark.slow),
        pytest.param("maml looped 0.3 2 20", marks=pytest.mark.slow),
        "reptile looped 0.3 4 2",
        pytest.param("reptile looped 0.3 2 20", marks=pytest.mark.slow),
    ],
)
def test_replicas_train_as_one(arguments):
    check_runs(PROGRAM, arguments)


TWO = """
import sys

import keras, numpy as np, tensorflow as tf
from maml_tf import MAML, Reptile, inner_optimizers

keras.config.disable_traceback_filtering()
[cpu] = tf.config.list_physical_devices("CPU")
parts = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, parts)
x = np.random.default_rng(0).normal(size=(8, 3, 1)).astype("float32")

def batches(size, *parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(size)

def maml(optimizer=keras.optimizers.SGD, loss="mse", **options):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        network = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
        learner = MAML(network, "mse", inner_lr=0.1)
        learner.compile(optimizer(), loss, **options)
    return learner

def refuses(words, method="fit", **options):
    try:
        getattr(maml(**options), method)(batches(4, (x, x, x), x), verbose=0)
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError

def refused():
    whole = lambda y, p: tf.reduce_mean(tf.square(y - p))
    of_weights = keras.losses.MeanSquaredError("mean_with_sample_weight")
    words = "each task, got the shape [], where replicas train"
    refuses(words, loss=whole)
    refuses(words, "evaluate", loss=whole)
    refuses("found {'reduction': 'mean_with_samp", loss=of_weights)
    sgd = lambda: keras.optimizers.SGD(gradient_accumulation_steps=2)
    words = "gradient_accumulation_steps: replicas of a strategy cannot train"
    refuses(words, optimizer=sgd)
    scaled = lambda: keras.optimizers.LossScaleOptimizer(sgd())
    refuses(words, optimizer=scaled)

def same(optimizer, loss):
    ends = []
    for strategy in (
        tf.distribute.get_strategy(),
        tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
    ):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            network = keras.Sequential([
                keras.Input([1]), keras.layers.Dense(1)
            ])
            learner = MAML(network, "mse", inner_lr=0.1, engine="stacked")
            learner.compile(optimizer(), loss)
        learner.fit(batches(4, (x, x, x), 2 * x), verbose=0)
        ends.append(network.get_weights())
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)

def total():
    loss = keras.losses.MeanSquaredError("sum")
    same(lambda: keras.optimizers.SGD(0.01), loss)

def clipped():
    options = {"clipvalue": 0.05, "loss_scale_factor": 8.0}
    same(lambda: keras.optimizers.SGD(1.0, **options), "mse")

def uneven():
    learner, data = maml(), batches(3, (x, x, x), x)
    try:
        learner.fit(data, verbose=0)
    except ValueError as error:
        assert "found parts of 2, 1 tasks; batch with `drop_" in str(error)
    else:
        raise AssertionError
    assert learner.evaluate(data, verbose=0) > 0

def short():
    learner = maml(steps_per_execution=5)
    history = learner.fit(batches(4, (x, x, x), x), verbose=0).history
    assert learner.optimizer.iterations == 2 and history["loss"][0] > 0

def eager():
    learner, found = maml(run_eagerly=True), []
    learner.inner_update = lambda phi, *_: (
        found.append(tf.executing_eagerly()) or phi
    )
    learner.fit(batches(8, (x, x, x), x), verbose=0)
    assert found[-1]

def measured():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        network = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
        learner = Reptile(
            network, inner_optimizers.SGD(0.1), inner_steps=1, inner_loss="mse"
        )
        learner.compile("sgd", "mse", metrics=["mae"])
    training, tests = batches(4, x, x), batches(4, (x, x, x), x)
    first = learner.fit(training, verbose=0).history
    both = learner.fit(training, validation_data=tests, verbose=0).history
    assert [*first] == ["loss"] and [*both] == ["loss", "val_loss", "val_mae"]
    assert both["val_mae"][0] > 0

def reptile(strategy, engine):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    with strategy.scope():
        network = keras.Sequential([
            keras.Input([1]), layers.Dense(8), layers.Dropout(0.5),
            layers.Dense(1),
        ])
        learner = Reptile(
            network, inner_optimizers.SGD(0.1), inner_steps=2,
            inner_loss="mse", engine=engine, transductive=True,
        )
        learner.compile("sgd", "mse")
    return learner

def dropout():
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    learner, task = reptile(two, "stacked"), tf.constant(x[:1])
    draws = [tf.constant([[[0, 1, 2]]])]
    change = lambda: learner.changes(task, task, draws)[0]
    ends = tf.function(lambda: two.run(change), autograph=False)().values
    assert tf.reduce_any(ends[0] != ends[1])
    losses = [
        reptile(strategy, "looped").evaluate(
            batches(8, (x, x, x), x), verbose=0
        )
        for strategy in (tf.distribute.get_strategy(), two)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)

def scaled():
    one = tf.distribute.get_strategy()
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for far, scale in ((1.0, 4.0), (np.inf, 2.0)):
        ends, tasks = [], x[:4].copy()
        tasks[3] *= far  # of the second replica
        for strategy in (one, two):
            keras.utils.set_random_seed(0)
            with strategy.scope():
                network = keras.Sequential([
                    keras.Input([1]), keras.layers.Dense(1)
                ])
                learner = MAML(network, "mse", inner_lr=0.1)
                optimizer = keras.optimizers.LossScaleOptimizer(
                    keras.optimizers.SGD(0.1, clipvalue=0.05), 4.0
                )
                learner.compile(optimizer, "mse")
            before = network.get_weights()
            data = batches(4, (tasks, tasks, tasks), 2 * tasks)
            learner.fit(data, verbose=0)
            assert tf.convert_to_tensor(optimizer.dynamic_scale.value) == scale
            ends.append(network.get_weights())
        np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-6)
        assert (ends[1][0] == before[0]).all() == (scale == 2)

for case in sys.argv[1:]:
    globals()[case]()
"""


# TensorFlow confuses what replicas add up eagerly with what others did.
@pytest.mark.parametrize(
    "cases",
    ["uneven short measured dropout scaled refused total clipped", "eager"],
)
def test_two_replicas(cases):
    check_runs(TWO, cases)


HOSTS = """
import keras, numpy as np, tensorflow as tf
from maml_tf import MAML

strategy = tf.distribute.MultiWorkerMirroredStrategy()
x = np.random.default_rng(0).normal(size=(7, 3, 1)).astype("float32")
batches = tf.data.Dataset.from_tensor_slices(((x, x, x), x)).batch(4)
with strategy.scope():
    network = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    learner = MAML(network, "mse", inner_lr=0.1)
    learner.compile("sgd", "mse")
try:
    learner.fit(batches, verbose=0)  # the last has 2 tasks here, 1 there
except ValueError as error:
    assert "tasks here and others elsewhere; batch with" in str(error), error
else:
    raise AssertionError
assert learner.optimizer.iterations == 1
before = network.get_weights()
learner.inner_lr = 0.0
learner.train_on_batch((x, x, x), x)  # on each replica all tasks
changes = [b - a for a, b in zip(before, network.get_weights())]
kernel, bias = before
residual = kernel[0] * x + bias - x
steps = [-0.02 * np.mean(residual * x), -0.02 * np.mean(residual)]
np.testing.assert_allclose([*map(np.sum, changes)], steps, rtol=1e-3)
"""


def test_hosts_have_equally_many_tasks():
    check_runs_on_hosts(HOSTS, 2)


def test_one_host_alone_has_what_it_likes():
    alone = HOSTS.partition("try:")[0] + "learner.fit(batches, verbose=0)"
    check_runs(alone, "")
