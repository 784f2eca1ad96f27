"""By its rule a layer does what it does task by task, to second order."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maml_tf import functional, losses, norms, stacked
from maml_tf.adaptation import adapt, gradient_descent
from maml_tf.tied import tie

TASKS, EXAMPLES, OUTPUTS = 2, 3, 2
IMAGE, SERIES, VECTOR = (7, 5, 2), (6, 2), (3,)


def chain(shape, *kinds):
    """A network is a shape of inputs and a function of them."""

    def function(x):
        for kind in kinds:
            x = kind()(x)
        return x

    return shape, function


def conv(*arguments, **options):
    return chain(IMAGE, lambda: layers.Conv2D(*arguments, **options))


def after_conv(*kinds):
    return chain(IMAGE, lambda: layers.Conv2D(4, 3), *kinds)


def after_conv_1d(*kinds):
    return chain(SERIES, lambda: layers.Conv1D(4, 2), *kinds)


def after_dense(*kinds):
    return chain(VECTOR, lambda: layers.Dense(4), *kinds)


def skip(x):
    y = layers.Dense(3, "tanh")(x)
    return layers.Add()([x, layers.Dense(3)(y)])


def shared_layer(x):
    dense = layers.Dense(3, "tanh")
    return dense(dense(x))


def several_inputs(x):
    """Every merging layer, with axes counted from either end."""
    x, y, z = (layers.Conv1D(2, 1)(x) for _ in range(3))
    x = layers.Concatenate(axis=1)([x, layers.Multiply()([y, z])])
    y = layers.Concatenate(axis=-2)([layers.Subtract()([y, z]), z])
    x = layers.Maximum()([x, layers.Average()([x, y])])
    y = layers.Minimum()([x, y])
    return layers.Dot(axes=(1, -2), normalize=True)([x, y])


def models_in_a_model(x):
    inputs = keras.Input(VECTOR)
    inner = keras.Model(inputs, skip(inputs))
    return keras.Sequential([inner, layers.Dense(3, "tanh"), inner])(x)


def in_inference_mode(x):
    """Keras overrides it: the model is in training mode."""
    return layers.BatchNormalization()(layers.Dense(3)(x), training=False)


def frozen_batch_norm():
    return layers.BatchNormalization(trainable=False)


NETWORKS = {
    "dense": after_dense(),
    "dense_no_bias": chain(VECTOR, lambda: layers.Dense(4, use_bias=False)),
    "dense_on_image": chain(IMAGE, lambda: layers.Dense(4)),
    "dense_norms": after_dense(norms.BatchStatisticsNorm, norms.ExampleNorm),
    "same": conv(3, 3, 1, "same"),
    "same_2": conv(3, 3, 2, "same"),
    "valid_2": conv(3, 3, 2, "valid"),
    "two_strides": conv(3, 3, (1, 2), "same"),
    "dilated": conv(3, 2, 1, "same", dilation_rate=(2, 1)),
    "pixel": conv(3, 1, 1, "same"),
    "whole": conv(3, 5, 1, "valid"),
    "oblong": conv(3, (2, 3), 1, "same"),
    "no_bias": conv(3, 3, use_bias=False),
    "activation": conv(3, 3, activation="tanh"),
    "conv_conv": after_conv(lambda: layers.Conv2D(2, 3, 2, "same")),
    "conv_1d": after_conv_1d(
        lambda: layers.Conv1D(3, 3, 2, "same"),
        lambda: layers.Conv1D(3, 2, 1, "causal", dilation_rate=2),
    ),
    "conv_3d": chain((4, 3, 3, 1), lambda: layers.Conv3D(2, 2)),
    "depthwise": chain(
        IMAGE, lambda: layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=3)
    ),
    "depthwise_dilated": chain(
        IMAGE, lambda: layers.DepthwiseConv2D((2, 3), dilation_rate=(2, 1))
    ),
    "depthwise_1d": chain(SERIES, lambda: layers.DepthwiseConv1D(3)),
    "separable": chain(IMAGE, lambda: layers.SeparableConv2D(3, 3, 2, "same")),
    "separable_1d": chain(SERIES, lambda: layers.SeparableConv1D(3, 2)),
    "conv_norm_pooled": after_conv(
        lambda: norms.BatchStatisticsNorm(max_pool=True)
    ),
    "conv_norms": after_conv(norms.BatchStatisticsNorm, norms.ExampleNorm),
    "normalized_conv": chain(IMAGE, lambda: norms.NormalizedConv2D(3, 3, 2)),
    "normalized_conv_pooled": after_conv(
        lambda: norms.NormalizedConv2D(3, 3, max_pool=True)
    ),
    "normalized_conv_scaled": chain(
        IMAGE, lambda: norms.NormalizedConv2D(3, 3, scale=True)
    ),
    "batch_norm": after_conv(layers.BatchNormalization),
    "batch_norm_rows": after_conv(
        lambda: layers.BatchNormalization(1, epsilon=0.1, center=False)
    ),
    "batch_norm_dense": after_dense(
        lambda: layers.BatchNormalization(scale=False)
    ),
    "batch_norm_inference": (VECTOR, in_inference_mode),
    "batch_norm_frozen": after_conv(frozen_batch_norm),
    "layer_norm": after_conv(layers.LayerNormalization),
    "layer_norm_axes": after_conv(
        lambda: layers.LayerNormalization([1, 2], epsilon=0.1, center=False),
        lambda: layers.LayerNormalization([-1, -2], scale=False),
    ),
    "group_norm": after_conv(lambda: layers.GroupNormalization(2)),
    "group_norm_rows": after_conv(
        lambda: layers.GroupNormalization(-1, axis=1, epsilon=0.1)
    ),
    "group_norm_dense": after_dense(
        lambda: layers.GroupNormalization(2, scale=False)
    ),
    "activations": after_dense(
        lambda: layers.Activation("tanh"),
        layers.ELU,
        layers.LeakyReLU,
        layers.Identity,
        lambda: layers.Rescaling(2.0, 0.5),
        layers.UnitNormalization,
        layers.ReLU,
        layers.Softmax,
    ),
    "prelu": after_dense(layers.PReLU),
    "prelu_shared": after_conv(lambda: layers.PReLU(shared_axes=[1, 2])),
    "softmax_rows": after_conv(lambda: layers.Softmax(axis=1)),
    "shapes": after_conv(
        lambda: layers.Permute((2, 3, 1)),
        lambda: layers.ZeroPadding2D((1, 2)),
        lambda: layers.Cropping2D((0, 1)),
        lambda: layers.UpSampling2D(2),
        lambda: layers.Conv2D(2, 3, 3),
        lambda: layers.Reshape((-1, 2)),
        lambda: layers.ZeroPadding1D(1),
        lambda: layers.UpSampling1D(2),
        lambda: layers.Cropping1D(3),
        lambda: layers.Flatten(),
        lambda: layers.RepeatVector(2),
    ),
    "shapes_3d": chain(
        (2, 2, 2, 1),
        lambda: layers.ZeroPadding3D(1),
        lambda: layers.Conv3D(2, 3),
        lambda: layers.UpSampling3D(2),
        lambda: layers.Cropping3D(1),
    ),
    "max_pool": after_conv(
        lambda: layers.MaxPooling2D(2, 1), layers.GlobalMaxPooling2D
    ),
    "mean_pool": after_conv(
        lambda: layers.AveragePooling2D(2, 1, "same"),
        layers.GlobalAveragePooling2D,
    ),
    "pool_1d": after_conv_1d(
        lambda: layers.MaxPooling1D(2, 1), lambda: layers.AveragePooling1D(2)
    ),
    "global_max_1d": after_conv_1d(layers.GlobalMaxPooling1D),
    "global_mean_1d": after_conv_1d(layers.GlobalAveragePooling1D),
    "pool_3d": chain(  # The averaging one has no float64 on a CPU.
        (4, 3, 3, 1),
        lambda: layers.Conv3D(2, 1),
        lambda: layers.MaxPooling3D(2, 1),
    ),
    "global_max_3d": chain((2, 2, 2, 1), layers.GlobalMaxPooling3D),
    "global_mean_3d": chain((2, 2, 2, 1), layers.GlobalAveragePooling3D),
    "skip": (VECTOR, skip),
    "shared_layer": (VECTOR, shared_layer),
    "several_inputs": (SERIES, several_inputs),
    "models_in_a_model": (VECTOR, models_in_a_model),
    "rms_norm": after_conv(lambda: layers.RMSNormalization(epsilon=0.1)),
}


def build(name):
    shape, function = NETWORKS[name]
    inputs = keras.Input(shape)
    # The tanh gives every layer before it second derivatives.
    x = layers.Activation("tanh")(function(inputs))
    return keras.Model(inputs, layers.Dense(OUTPUTS)(layers.Flatten()(x)))


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
            update=gradient_descent(0.1),
            inner_steps=1,
        ).phi[-1]
        adapted = apply_fn(phi, query[0])
        second = tf.reduce_sum(losses.mean_squared_error(query[1], adapted))
    return {
        "output": [output],
        "first": tape.gradient(first, theta),
        "second": tape.gradient(second, theta),
        "shared": list(
            map(tf.convert_to_tensor, tape.gradient(second, shared))
        ),
    }


def copies(variables):
    return [tf.stack([v.value] * TASKS) for v in variables]


def assert_close(actual, expected):
    """Relative to the largest entry of all arrays.

    The gradient of a bias before a batch norm is zero but for rounding.
    """
    scale = max(np.abs(array).max() for array in expected)
    assert scale > 0
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-12 * scale)


# Which variables have a task axis: all, the kernels, those of the last layer.
CHOICES = {
    "all": lambda model: model.trainable_variables,
    "kernels": lambda model: [v for v in model.variables if v.name == "kernel"],
    "head": lambda model: model.layers[-1].variables,
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_stack_is_task_by_task(name, choice, float64):
    model = build(name)
    variables = CHOICES[choice](model)
    shared = [
        v.value
        for v in model.trainable_variables
        if not any(v is other for other in variables)
    ]
    rng = np.random.default_rng(0)
    for variable in model.variables:  # moving variances are positive
        value = draw(rng, *variable.shape)
        variable.assign(value if variable.trainable else tf.abs(value))
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


@pytest.mark.parametrize("name", NETWORKS)
def test_tied_parameters_are_copies(name, float64):
    model = build(name)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(draw(rng, *variable.shape))
    x = draw(rng, TASKS, EXAMPLES, *model.input_shape[1:])
    y = draw(rng, TASKS, EXAMPLES, OUTPUTS)
    values = [v.value for v in model.trainable_variables]

    def meta_gradient(start):
        apply_fn = stacked.many_tasks(model, model.trainable_variables)
        with tf.GradientTape() as tape:
            tape.watch(values)
            phi = adapt(
                apply_fn,
                losses.mean_squared_error,
                [start(v) for v in values],
                x,
                y,
                update=gradient_descent(0.1),
                inner_steps=1,
            ).phi[-1]
            loss = losses.mean_squared_error(y, apply_fn(phi, x))
        return [loss, *map(tf.convert_to_tensor, tape.gradient(loss, values))]

    expected = meta_gradient(lambda v: tf.stack([v] * TASKS))
    assert_close(meta_gradient(lambda v: tie(v, TASKS)), expected)


@pytest.mark.parametrize("adapted", [True, False])
def test_embedding_is_a_product_with_one_hot_vectors(adapted, float64):
    rng = np.random.default_rng(0)
    words = tf.constant(rng.integers(0, 5, (TASKS, EXAMPLES, 3)))
    y = draw(rng, TASKS, EXAMPLES, OUTPUTS)
    values = draw(rng, 5, 4), draw(rng, 12, OUTPUTS)

    def results_of(first, x):
        model = keras.Sequential(
            [
                keras.Input(x.shape[2:], dtype=x.dtype),
                first,
                layers.Activation("tanh"),
                layers.Flatten(),
                layers.Dense(OUTPUTS, use_bias=False),
            ]
        )
        variables = model.trainable_variables
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        fast = variables[0 if adapted else 1 :]
        shared = [] if adapted else [variables[0].value]
        theta = copies(fast)
        apply_fn = stacked.many_tasks(model, fast)
        return results(apply_fn, theta, shared, (x, y), (x, y))

    actual = results_of(layers.Embedding(5, 4), words)
    one_hot = tf.one_hot(words, 5, dtype=tf.float64)
    expected = results_of(layers.Dense(4, use_bias=False), one_hot)
    for key, arrays in expected.items():
        if arrays:
            assert_close(actual[key], arrays)


@pytest.mark.parametrize(
    "name", ["dense_on_image", "depthwise", "group_norm", "several_inputs"]
)
def test_tasks_and_examples_may_be_unknown(name):
    model = build(name)
    variables = model.trainable_variables
    apply_fn = stacked.many_tasks(model, variables)
    x = draw(np.random.default_rng(0), TASKS, EXAMPLES, *model.input_shape[1:])
    arguments = copies(variables), x
    unknown = (
        [tf.TensorSpec([None, *v.shape]) for v in variables],
        tf.TensorSpec([None, None, *x.shape[2:]], x.dtype),
    )
    in_graph = tf.function(apply_fn, input_signature=unknown)
    np.testing.assert_allclose(
        in_graph(*arguments), apply_fn(*arguments), rtol=1e-4, atol=1e-5
    )


RANDOM = {
    "dropout": lambda: layers.Dropout(0.5),
    "spatial": lambda: layers.SpatialDropout1D(0.5),
    "noise": lambda: layers.GaussianNoise(0.5),
    "gaussian": lambda: layers.GaussianDropout(0.2),
}


def random_model(kind):
    return keras.Sequential([keras.Input((20, 5)), RANDOM[kind]()])


def drawn(model, *seeds):
    """Returns f(1) for 50 tasks of one example, […, 50, 1, 20, 5]."""
    apply_fn = stacked.many_tasks(model, [])
    ones = tf.ones([50, 1, 20, 5])
    return np.stack([apply_fn([], ones, seed) for seed in seeds])


@pytest.mark.parametrize("kind", RANDOM)
def test_random_numbers_are_a_function_of_the_seed(kind):
    model = random_model(kind)
    first = drawn(model, (1, 2), (3, 4), (1, 4), (3, 2))
    np.testing.assert_array_equal(drawn(model, (1, 2), (3, 4)), first[:2])
    assert len(np.unique(first, axis=0)) == 4
    assert len(np.unique(first[0], axis=0)) > 1  # tasks draw apart


@pytest.mark.parametrize("kind", ["dropout", "spatial"])
def test_dropout_keeps_half_and_doubles_it(kind):
    y = drawn(random_model(kind), (1, 2))[0]
    np.testing.assert_array_equal(np.unique(y), [0, 2])
    # Of 5000 entries or of 250 channels: four standard errors of the mean.
    count = {"dropout": 5000, "spatial": 250}[kind]
    assert abs(y.mean() - 1) < 4 / np.sqrt(count)
    if kind == "spatial":
        np.testing.assert_array_equal(y, np.broadcast_to(y[:, :, :1], y.shape))


@pytest.mark.parametrize("kind", ["noise", "gaussian"])
def test_noise_has_its_spread(kind):
    # √(0.2 / 0.8) = 0.5 too. The standard error of σ is σ / √(2 · 5000).
    y = drawn(random_model(kind), (1, 2))
    assert abs(y.mean() - 1) < 0.03
    assert abs(y.std() - 0.5) < 0.02


def test_random_layers_draw_apart():
    # Each keeps half: were the masks the same, half of the ones were left.
    model = keras.Sequential(
        [keras.Input((20, 5)), layers.Dropout(0.5), layers.Dropout(0.5)]
    )
    assert abs((drawn(model, (1, 2)) > 0).mean() - 0.25) < 0.03


def test_layers_that_drop_nothing_need_no_seed():
    nothing = layers.Dropout(0.0), layers.GaussianDropout(0.0)
    model = keras.Sequential([keras.Input((2,)), *nothing])
    x = tf.ones([1, 1, 2])
    np.testing.assert_array_equal(stacked.many_tasks(model, [])([], x), x)
