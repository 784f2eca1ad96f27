"""Few-shot sine waves: how sure can one be after five points?

A network is meta-trained on sine waves of any amplitude and phase. Then it is
adapted to one and the same wave from many different support sets; where the
adapted networks disagree, the support set decides and the network does not
know.

    python examples/sine_uncertainty.py
"""

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from matplotlib import pyplot as plt

from maml_tf import MAML, tasks

ITERATIONS = flags.DEFINE_integer("iterations", 8000, "meta-updates")
PICTURE = flags.DEFINE_string("picture", "sine_uncertainty.png", "the picture")

SHOTS, SETS = (3, 5, 20), 200


def waves(seed, t):
    """Draws 25 waves, with 10 support points and 10 queries of each."""
    seeds = tf.random.split(tf.stack([seed, t]), 3)
    uniform = tf.random.stateless_uniform
    amplitude = uniform([25, 1, 1], seeds[0], 0.1, 5.0)
    phase = uniform([25, 1, 1], seeds[1], 0.0, np.pi)
    x = uniform([25, 20, 1], seeds[2], -5.0, 5.0)
    y = amplitude * tf.sin(x - phase)
    return (x[:, :10], y[:, :10], x[:, 10:]), y[:, 10:]


def meta_trained():
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(40, "relu"),
            keras.layers.Dense(40, "relu"),
            keras.layers.Dense(1),
        ]
    )
    learner = MAML(
        network, "mse", inner_lr=0.01, inner_steps=1, test_inner_steps=10
    )
    learner.compile(keras.optimizers.Adam(1e-3), "mse")
    learner.fit(
        tasks.from_function(waves),
        steps_per_epoch=max(ITERATIONS.value // 10, 1),
        epochs=10,
        verbose=2,
        shuffle=False,
    )
    return learner


def disagreement(learner, shots, grid):
    """Returns predictions `[sets, points]` of one wave, by support set."""
    rng = np.random.default_rng(0)
    support_x = rng.uniform(-5, 5, [SETS, shots, 1]).astype("float32")
    support_y = wave(support_x)
    query_x = np.tile(grid[:, None], (SETS, 1, 1)).astype("float32")
    predicted = learner.adapt_and_predict(support_x, support_y, query_x)
    return predicted.numpy()[..., 0], (support_x[0], support_y[0])


def wave(x):
    return 3 * np.sin(x - 1)


def main(_):
    learner = meta_trained()
    grid = np.linspace(-5, 5, 200)
    figure, panels = plt.subplots(
        1, len(SHOTS), figsize=(12, 4), sharey=True, layout="constrained"
    )
    for shots, panel in zip(SHOTS, panels, strict=True):
        predicted, points = disagreement(learner, shots, grid)
        for share in (0.05, 0.25):
            low, high = np.quantile(predicted, [share, 1 - share], 0)
            panel.fill_between(grid, low, high, color="tab:green", alpha=0.25)
        panel.plot(grid, np.median(predicted, 0), "tab:green", label="median")
        panel.plot(grid, wave(grid), "r:", label="truth")
        panel.plot(*points, "k^", label="one of the support sets")
        spread = np.subtract(*np.quantile(predicted, [0.95, 0.05], 0)).mean()
        panel.set(title=f"{shots} points", xlabel="x")
        print(
            f"{shots} points: 90 % of networks within {spread:.2f} on average"
        )
    panels[0].set_ylabel(f"y, bands: 50 and 90 % of {SETS} support sets")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.savefig(PICTURE.value, dpi=120)
    print("Picture:", PICTURE.value)


if __name__ == "__main__":
    app.run(main)
