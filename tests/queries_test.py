"""Whose statistics a query is predicted with."""

import concurrent.futures

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import MAML, losses, models, norms

TASKS, SUPPORT, QUERIES = 3, 4, 5


@pytest.fixture(params=["stacked", "looped"])
def engine(request):
    return request.param


def learner(way, engine, network=None, steps=0):
    keras.utils.set_random_seed(0)
    network = network or keras.Sequential(
        [keras.Input((2,)), norms.BatchStatisticsNorm()]
    )
    return MAML(
        network,
        losses.CrossEntropy(1),
        inner_lr=0.1,
        inner_steps=steps,
        norm_statistics=way,
        engine=engine,
    )


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, [TASKS, SUPPORT])
    x, query = (
        rng.normal(size=[TASKS, n, 2]).astype("float32")
        for n in (SUPPORT, QUERIES)
    )
    return x, labels, query


def normalised(x, company):
    scale = np.sqrt(company.var(0) + 1e-3)
    return (x - company.mean(0)) / scale


def test_by_definition(engine, inputs):
    support, _, query = inputs
    company = {
        "queries": lambda task, q: query[task],
        "support_and_query": lambda task, q: np.concatenate(
            [support[task], query[task, q : q + 1]]
        ),
        "support": lambda task, q: support[task],
    }
    for way, seen in company.items():
        found = learner(way, engine)(inputs).query[-1]
        for task in range(TASKS):
            for q in range(QUERIES):
                np.testing.assert_allclose(
                    found[task, q],
                    normalised(query[task, q], seen(task, q)),
                    atol=1e-5,
                )


def test_a_penalty_is_the_mean_of_those_of_each_query(inputs):
    support, _, query = inputs
    layer = keras.layers.Dense(
        2, kernel_initializer="identity", activity_regularizer="l2"
    )
    network = keras.Sequential([keras.Input((2,)), layer])
    made = learner("support_and_query", "looped", network)
    found = made(inputs).penalty[-1]
    for task, penalty in enumerate(found):
        of_each = []
        for one in query[task]:
            network(np.concatenate([support[task], one[None]]))
            of_each += network.losses
        np.testing.assert_allclose(penalty, np.mean(of_each), 1e-5)


def test_ways_agree_where_support_and_queries_are_the_same(engine):
    rng = np.random.default_rng(1)
    x = rng.random([2, 5, 28, 28, 1], "float32")
    y = np.tile(np.arange(5), (2, 1))
    found = [
        learner(way, engine, models.omniglot_conv(5, 4), 1)((x, y, x)).query[-1]
        for way in ("queries", "support")
    ]
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


def test_training_is_transductive_in_any_way(engine, inputs):
    found = []
    for way in ("queries", "support"):
        trained = learner(way, engine)
        trained.compile("sgd", losses.CrossEntropy(1))
        found.append(trained(inputs, training=True).query[-1])
    np.testing.assert_array_equal(*found)


def test_refuses_a_way_that_is_none():
    with pytest.raises(ValueError, match="norm_statistics: expected one of"):
        learner("mine", "looped")


def test_refuses_the_supports_statistics_for_layers_of_keras():
    network = keras.Sequential(
        [keras.Input((2,)), keras.layers.BatchNormalization()]
    )
    with pytest.raises(ValueError, match="layers of maml_tf.norms"):
        learner("support", "looped", network)


def test_the_measured_examples_are_forgotten_after_an_error():
    with pytest.raises(RuntimeError):
        with norms.statistics_of_first(1):
            raise RuntimeError
    x = tf.constant([[0.0], [2.0]])
    y = norms.BatchStatisticsNorm(epsilon=0.0)(x)
    np.testing.assert_allclose(y, [[-1.0], [1.0]])


def test_the_measured_examples_are_those_of_a_thread():
    x, layer = tf.constant([[0.0], [2.0]]), norms.BatchStatisticsNorm(epsilon=0)
    with (
        norms.statistics_of_first(1),
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        beside = pool.submit(layer, x).result()
    np.testing.assert_allclose(beside, [[-1.0], [1.0]])


def sets(support, queries, features, tasks=2):
    rng = np.random.default_rng(support)
    x, query = (
        rng.random([tasks, n, *features], "float32") for n in (support, queries)
    )
    return x, np.tile(np.arange(support) % 2, (tasks, 1)), query


def normalized_conv():
    return norms.NormalizedConv2D(2, 3)


@pytest.mark.parametrize(
    ("make", "features", "way"),
    [
        (normalized_conv, (6, 6, 1), "queries"),
        (normalized_conv, (6, 6, 1), "support_and_query"),
        pytest.param(
            *(normalized_conv, (6, 6, 1), "support"), marks=pytest.mark.slow
        ),
        (norms.BatchStatisticsNorm, (3,), "queries"),
        (norms.BatchStatisticsNorm, (3,), "support_and_query"),
        (norms.BatchStatisticsNorm, (3,), "support"),
    ],
)
def test_one_learner_takes_sets_of_several_sizes(way, make, features, engine):
    """From the second on Keras traces with sizes that are not known."""
    head = keras.layers.Flatten(), keras.layers.Dense(2)
    network = keras.Sequential([keras.Input(features), make(), *head])
    made = learner(way, engine, network, steps=1)
    made.compile("sgd", losses.CrossEntropy(1))
    for sizes in ((2, 3), (4, 5)):
        data = sets(*sizes, features)
        found = made.predict(data, verbose=0)
        expected = made.adapt_and_predict(*data)
        np.testing.assert_allclose(found, expected, 1e-3, 1e-4)
        labels = np.zeros(data[2].shape[:2], "int32")
        score = made.evaluate(data, labels, verbose=0, return_dict=True)
        mean = np.mean(losses.CrossEntropy(1)(labels, expected))
        np.testing.assert_allclose(score["loss"], mean, 1e-3)
