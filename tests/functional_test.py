"""Keras models as functions of their parameters."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from central_differences import MODES
from keras import layers

from maml_tf import functional
from maml_tf.seeds import fold


def test_nothing_is_assigned():
    stack = [layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *stack])
    before = [v.numpy() for v in model.variables]
    variables = model.trainable_variables
    zeros = [tf.zeros(v.shape) for v in variables]
    x = np.ones((2, 3), "float32")
    y = functional.one_task(model, variables)(zeros, x, seed=[0, 0])
    np.testing.assert_array_equal(y, [[0.0], [0.0]])
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.fixture
def masks():
    """Returns a function of a seed: six masks `[6, 40]`, three a call.

    In a call, one dropout layer draws twice and another one once.
    """
    inputs = keras.Input((40,))
    first, second = layers.Dropout(0.5), layers.Dropout(0.5)
    draws = [first(inputs), first(inputs), second(inputs)]
    model = keras.Model(inputs, layers.Concatenate(axis=0)(draws))

    def draw(seed):
        apply_fn = functional.one_task(model, [])
        folded = [fold(seed, call) for call in range(2)]
        calls = [apply_fn([], tf.ones([1, 40]), seed) for seed in folded]
        return tf.concat(calls, axis=0)

    return draw


@pytest.mark.parametrize("mode", MODES)
def test_every_draw_is_another(mode, masks):
    draw = MODES[mode](masks)
    seeds = (tf.constant(seed) for seed in ([0, 0], [0, 1], [1, 0]))
    drawn = np.concatenate([draw(seed) for seed in seeds])
    assert set(drawn.flat) == {0.0, 2.0}
    assert len({mask.tobytes() for mask in drawn}) == 18


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_determines_the_draws(mode, masks):
    seed = tf.constant([3, 4])
    once, again = (MODES[mode](masks)(seed) for _ in range(2))
    np.testing.assert_array_equal(once, again)


@tf.function
def in_a_loop(function, tasks):
    signature = tf.TensorSpec([6, 40])
    return tf.map_fn(function, tasks, fn_output_signature=signature)


# In a loop over tasks each draws by its own seed, as it does alone.
def test_a_task_draws_by_its_seed(masks):
    seeds = tf.constant([[0, 0], [0, 1], [1, 0]])
    for actual, seed in zip(in_a_loop(masks, seeds), seeds, strict=True):
        np.testing.assert_array_equal(actual, masks(seed))


def with_layer(layer, **kwargs):
    return keras.Sequential([keras.Input((2, 3), **kwargs), layer])


def test_idle_generator_needs_no_seed():
    model = with_layer(layers.GRU(2))
    assert functional.one_task(model, [])([], np.ones((1, 2, 3))).shape == (
        1,
        2,
    )


def test_unbuilt_model_is_an_error():
    model = keras.Sequential([layers.Dense(1)])
    with pytest.raises(ValueError, match="must be built"):
        functional.one_task(model, model.trainable_variables)


def global_noise(x):
    return x + keras.random.normal((3,))


@pytest.mark.parametrize(
    "layer, seed, message",
    [
        (lambda: layers.Dropout(0.5), None, "pass `seed`"),
        (lambda: layers.GRU(2, dropout=0.5), None, "pass `seed`"),
        (lambda: layers.Lambda(global_noise), [0, 0], "SeedGenerator"),
    ],
    ids=["dropout", "recurrent dropout", "global generator"],
)
def test_state_that_would_be_lost_is_an_error(layer, seed, message):
    model = with_layer(layer(), batch_size=4)
    apply_fn = functional.one_task(model, [])
    with pytest.raises(ValueError, match=message):
        apply_fn([], np.ones((4, 2, 3)), seed)
