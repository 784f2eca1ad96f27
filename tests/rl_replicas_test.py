"""Policies of one replica, two and four: the same steps, of the same tasks."""

import pytest
from own_process import check_runs

PROGRAM = """
import sys

import keras, numpy as np, tensorflow as tf
from maml_tf import replicas
from maml_tf.rl import learners, navigation, policies, trpo

keras.config.disable_traceback_filtering()
keras.config.set_floatx("float64")
[cpu] = tf.config.list_physical_devices("CPU")
parts = [tf.config.LogicalDeviceConfiguration()] * 4
tf.config.set_logical_device_configuration(cpu, parts)
rng = np.random.default_rng(0)
goals = np.repeat(rng.uniform(-0.5, 0.5, (3, 4, 1, 2)), 5, 2)
seeds = np.repeat(rng.integers(99, size=(3, 1, 2, 2)), 4, 1)
kind, count = getattr(learners, sys.argv[1]), int(sys.argv[2])
options = {"trust_region": 0.01} if kind is learners.MAMLTRPO else {}

def build():
    keras.utils.set_random_seed(0)
    network = policies.gaussian_mlp(2, 2, hidden_size=4, activation="tanh")
    learner = kind(
        network, navigation.Navigation(), horizon=10, inner_lr=0.5, **options
    )
    learner.compile(keras.optimizers.SGD(1.0))
    return learner

def problem(strategy, learner):
    elements = tf.data.Dataset.from_tensor_slices((goals, seeds)).take(1)
    [element] = strategy.experimental_distribute_dataset(elements)

    @tf.function(autograph=False)
    def found():
        theta = learner.theta()
        batches, _ = replicas.each(learner.met, theta, *element)
        of_each = replicas.each(
            lambda own: trpo.linearize(
                theta, learner.predict_fn(own), own[-1]
            ),
            batches,
        )
        whole = trpo.over_replicas(of_each, batches[-1])
        v = whole.gradient
        return whole.loss, v, whole.curvature(v), *whole.score(1.1 * theta)

    with strategy.scope():
        return found()

def train(strategy):
    with strategy.scope():
        learner = build()
    found = problem(strategy, learner) if options else []
    # Conjugate gradients magnify rounding a million times in every step.
    batches = tf.data.Dataset.from_tensor_slices((goals, seeds))
    batches = batches.take(1 if options else 3)
    history = learner.fit(batches, shuffle=False, verbose=0).history
    return found, [*history.values(), *learner.network.get_weights()]

found, end = train(tf.distribute.get_strategy())
cpus = [f"CPU:{i}" for i in range(count)]
same, other = train(tf.distribute.MirroredStrategy(cpus))
for one, two in zip(found, same, strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-15)
for one, two in zip(end, other, strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-7, atol=1e-7)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        "MAMLTRPO 2",
        "Pretraining 2",
        # Four wait for one another for a minute where cores are few.
        pytest.param("Pretraining 4", marks=pytest.mark.slow),
    ],
)
def test_replicas_train_as_one(arguments):
    check_runs(PROGRAM, arguments)
