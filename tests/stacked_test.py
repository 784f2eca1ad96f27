"""A stack of tasks is every task by itself, to second order."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maml_tf import functional, losses, models, stacked
from maml_tf.adaptation import adapt

TASKS, EXAMPLES, OUTPUTS = 3, 4, 2
IMAGE, VECTOR = (7, 5, 2), (3,)


def conv(*arguments, **options):
    return IMAGE, lambda: [layers.Conv2D(*arguments, **options)]


def after_conv(*kinds):
    return IMAGE, lambda: [layers.Conv2D(3, 3), *(kind() for kind in kinds)]


def after_dense(*kinds):
    return VECTOR, lambda: [layers.Dense(4), *(kind() for kind in kinds)]


NETWORKS = {
    "dense": after_dense(),
    "dense_relu": after_dense(layers.ReLU),
    "dense_activation": (VECTOR, lambda: [layers.Dense(4, "tanh")]),
    "dense_no_bias": (VECTOR, lambda: [layers.Dense(4, use_bias=False)]),
    "dense_batch_norm": after_dense(models.BatchStatisticsNorm),
    "dense_layer_norm": after_dense(models.ExampleNorm),
    "same_1": conv(3, 3, 1, "same"),
    "same_2": conv(3, 3, 2, "same"),
    "valid_1": conv(3, 3, 1, "valid"),
    "valid_2": conv(3, 3, 2, "valid"),
    "two_strides": conv(3, 3, (1, 2), "same"),
    "pixel": conv(3, 1, 1, "same"),
    "pixel_2": conv(3, 1, 2, "same"),
    "large": conv(3, 5, 1, "same"),
    "large_2": conv(3, 5, 2, "same"),
    "whole": conv(3, 5, 1, "valid"),
    "oblong": conv(3, (2, 3), 1, "same"),
    "no_bias": conv(3, 3, use_bias=False),
    "activation": conv(3, 3, activation="tanh"),
    "conv_conv": after_conv(lambda: layers.Conv2D(2, 3, 2, "same")),
    "batch_norm": after_conv(models.BatchStatisticsNorm),
    "layer_norm": after_conv(models.ExampleNorm),
    "relu": after_conv(layers.ReLU),
    "max_pool": after_conv(models.MaxPool2x2),
    "mean": after_conv(lambda: layers.GlobalAveragePooling2D()),
}


def build(name):
    shape, kinds = NETWORKS[name]
    # The tanh gives every layer before it second derivatives.
    return keras.Sequential(
        [
            keras.Input(shape),
            *kinds(),
            layers.Activation("tanh"),
            layers.Flatten(),
            layers.Dense(OUTPUTS),
        ]
    )


def draw(rng, *shape):
    return tf.constant(rng.normal(size=shape))


def results(apply_fn, theta, shared, support, query):
    """Returns by name what must not depend on stacking."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(theta)
        output = apply_fn(theta, query[0])
        first = tf.reduce_sum(losses.mean_squared_error(query[1], output))
        phi = adapt(
            apply_fn,
            losses.mean_squared_error,
            theta,
            *support,
            inner_lr=0.1,
            inner_steps=2,
        ).phi[-1]
        adapted = apply_fn(phi, query[0])
        second = tf.reduce_sum(losses.mean_squared_error(query[1], adapted))
    return {
        "output": [output],
        "first": tape.gradient(first, theta),
        "second": tape.gradient(second, theta),
        "shared": tape.gradient(second, shared),
    }


def assert_close(actual, expected):
    """Relative to the largest entry of all arrays.

    The gradient of a bias before a batch norm is zero but for rounding.
    """
    scale = max(np.abs(array).max() for array in expected)
    assert scale > 0
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("choice", ["all", "fast"])
@pytest.mark.parametrize("name", NETWORKS)
def test_stack_is_task_by_task(name, choice, float64):
    model = build(name)
    variables = model.trainable_variables
    if choice == "fast":  # kernels only: the others have no task axis
        variables = [v for v in variables if v.name == "kernel"]
    shared = [
        v.value
        for v in model.trainable_variables
        if not any(v is other for other in variables)
    ]
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(draw(rng, *variable.shape))
    theta = [draw(rng, TASKS, *v.shape) for v in variables]
    support, query = (
        (
            draw(rng, TASKS, EXAMPLES, *model.input_shape[1:]),
            draw(rng, TASKS, EXAMPLES, OUTPUTS),
        )
        for _ in range(2)
    )

    together = results(
        stacked.many_tasks(model, variables), theta, shared, support, query
    )
    apart = [
        results(
            functional.one_task(model, variables),
            [t[i] for t in theta],
            shared,
            [x[i] for x in support],
            [x[i] for x in query],
        )
        for i in range(TASKS)
    ]

    for key in ("output", "first", "second"):
        tasks = zip(*(task[key] for task in apart), strict=True)
        assert_close(together[key], [np.stack(each) for each in tasks])
    if shared:  # one gradient, summed over the tasks
        tasks = zip(*(task["shared"] for task in apart), strict=True)
        assert_close(together["shared"], [sum(each) for each in tasks])


def test_unadapted_layer_has_no_task_axis(float64):
    model = keras.Sequential(
        [keras.Input(IMAGE), layers.Conv2D(3, 3), layers.Flatten()]
        + [layers.Dense(OUTPUTS)]
    )
    head = model.layers[-1].trainable_variables
    rng = np.random.default_rng(0)
    theta = [draw(rng, TASKS, *v.shape) for v in head]
    x = draw(rng, TASKS, EXAMPLES, *IMAGE)
    actual = stacked.many_tasks(model, head)(theta, x)
    one_task = functional.one_task(model, head)
    expected = [one_task([t[i] for t in theta], x[i]) for i in range(TASKS)]
    assert_close([actual], [np.stack(expected)])


def test_stack_repeats_values():
    actual = stacked.stack([tf.constant([1.0, 2.0])], 3)
    np.testing.assert_array_equal(actual[0], [[1.0, 2.0]] * 3)


@pytest.mark.parametrize(
    "layer, kind",
    [
        (lambda name: layers.LayerNormalization(name=name), "LayerNorm"),
        (lambda name: layers.Conv2D(2, 3, groups=2, name=name), "Conv2D"),
        (lambda name: layers.Conv2D(2, 3, dilation_rate=2, name=name), "Conv"),
    ],
)
def test_layer_without_rule_is_named(layer, kind):
    model = keras.Sequential([keras.Input(IMAGE), layer("strange")])
    (reason,) = stacked.unsupported(model)
    assert f"strange ({kind}" in reason
    with pytest.raises(ValueError, match="strange"):
        stacked.many_tasks(model, model.trainable_variables)


def test_only_sequential_models_are_stacked():
    inputs = keras.Input(VECTOR)
    model = keras.Model(inputs, layers.Dense(2)(inputs), name="graph")
    with pytest.raises(ValueError, match="graph is not a keras.Sequential"):
        stacked.many_tasks(model, model.trainable_variables)


def test_supported_model_has_no_reasons():
    assert stacked.unsupported(models.omniglot_conv(5, max_pool=True)) == []
