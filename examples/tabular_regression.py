"""Tabular few-shot regression: a new shop's sales from a few days.

All shops depend on weather, weekday, price and advertising in the same few
ways, in another mixture each. A network that is meta-trained on many shops
learns a new one from a handful of rows; the same network trained on all shops
together, and ridge regression on the rows alone, are the alternatives.

    python examples/tabular_regression.py
"""

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from matplotlib import pyplot as plt

from maml_tf import MAML, JointTraining, tasks

ITERATIONS = flags.DEFINE_integer("iterations", 6000, "meta-updates")
PICTURE = flags.DEFINE_string("picture", "tabular.png", "the picture")

FEATURES, SHOTS, SHOPS = 6, (5, 10, 20, 40), 300


def shops(count, rows, seeds):
    """Draws shops: rows of features, and the sales, about 1 in size."""
    normal = tf.random.stateless_normal
    x = normal([count, rows, FEATURES], seeds[0])
    habits = tf.stack(
        [
            tf.sin(2 * x[..., 0]),  # the weather
            tf.tanh(3 * x[..., 1]) * x[..., 2],  # the price, by weekday
            tf.abs(x[..., 3]),  # advertising
            tf.cos(x[..., 4] + x[..., 5]),
        ],
        -1,
    )
    mixture = normal([count, 1, 4], seeds[1])
    noise = 0.1 * normal([count, rows], seeds[2])
    return x, (tf.reduce_sum(mixture * habits, -1) + noise)[..., None]


def meta_batch(seed, t):
    """Draws 16 shops, with 10 support rows and 20 queries of each."""
    x, y = shops(16, 30, tf.random.split(tf.stack([seed, t]), 3))
    return (x[:, :10], y[:, :10], x[:, 10:]), y[:, 10:]


def trained(kind):
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(64, "tanh"),
            keras.layers.Dense(64, "tanh"),
            keras.layers.Dense(1),
        ]
    )
    learner = kind(
        network, "mse", inner_lr=0.05, inner_steps=3, test_inner_steps=10
    )
    learner.compile(keras.optimizers.Adam(1e-3), "mse")
    learner.fit(
        tasks.from_function(meta_batch),
        steps_per_epoch=max(ITERATIONS.value // 6, 1),
        epochs=6,
        verbose=2,
        shuffle=False,
    )
    return learner


def ridge(support_x, support_y, query_x):
    """Returns ridge regression on each shop's rows alone."""

    def with_constant(x):
        return tf.concat([x, tf.ones_like(x[..., :1])], -1)

    w = tf.linalg.lstsq(with_constant(support_x), support_y, l2_regularizer=1.0)
    return with_constant(query_x) @ w


def main(_):
    methods = {
        "MAML": trained(MAML).adapt_and_predict,
        "fine-tuning": trained(JointTraining).adapt_and_predict,
        "ridge": ridge,
    }
    x, y = shops(SHOPS, 140, tf.random.split([1, 2], 3))
    errors = {name: [] for name in methods}
    for shots in SHOTS:
        for name, method in methods.items():
            predicted = method(x[:, :shots], y[:, :shots], x[:, 40:])
            each = np.mean((predicted - y[:, 40:]) ** 2, (1, 2))
            errors[name].append(
                (each.mean(), 1.96 * each.std() / len(each) ** 0.5)
            )
            print(
                f"{shots:3} rows, {name:11} MSE %.3f ± %.3f" % errors[name][-1]
            )
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, values in errors.items():
        mean, half = np.transpose(values)
        axes.errorbar(SHOTS, mean, half, marker="o", capsize=3, label=name)
    axes.axhline(np.var(y), color="gray", linestyle=":", label="variance")
    axes.set(xlabel="rows of a new shop", ylabel="mean squared error")
    axes.set(xscale="log", title=f"{SHOPS} new shops, 95 % intervals")
    axes.set_xticks(SHOTS, SHOTS)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(PICTURE.value, dpi=120)
    print("Picture:", PICTURE.value)


if __name__ == "__main__":
    app.run(main)
