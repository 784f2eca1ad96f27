"""Trained weights of results/weights: MAML on sinusoids, adapted at once.

python examples/pretrained_sinusoid.py
"""

import pathlib

import keras
import numpy as np
from absl import app, flags

import maml_tf
from maml_tf import plots, sinusoids

ITERATIONS = flags.DEFINE_integer("iterations", 600, "tasks to score")
PICTURE = flags.DEFINE_string("picture", "pretrained.png", "the picture")

WEIGHTS = pathlib.Path(__file__).parents[1] / "results" / "weights"
SHOTS = 10


def main(_):
    learner = keras.saving.load_model(WEIGHTS / "sinusoid_maml.keras")
    assert isinstance(learner, maml_tf.MAML)
    drawn = sinusoids.sinusoid_test_tasks(ITERATIONS.value, SHOTS)
    (x, y, query_x), query_y = sinusoids.split_regression(drawn, SHOTS, False)
    predicted = learner.adapt_and_predict(x, y, query_x)
    errors = np.mean((predicted - query_y) ** 2, (1, 2))
    half = 1.96 * errors.std() / len(errors) ** 0.5
    print(f"{SHOTS}-shot MSE after 10 steps: {errors.mean():.3f} ± {half:.3f}")

    grid = np.linspace(*sinusoids.INPUTS, 200, dtype=np.float32)[:, None]
    panels = {}
    for task in range(3):
        adapted = learner.adapt(x[task], y[task])  # an ordinary Keras model
        wave = drawn.amplitude[task] * np.sin(grid - drawn.phase[task])
        panels[f"task {task}"] = {
            "x": grid[:, 0],
            "truth": wave[:, 0],
            "points": (x[task, :, 0], y[task, :, 0]),
            "fits": {
                "as trained": learner.network(grid).numpy()[:, 0],
                "adapted": adapted(grid).numpy()[:, 0],
            },
        }
    plots.plot_sinusoids(panels, PICTURE.value)
    print("Picture:", PICTURE.value)


if __name__ == "__main__":
    app.run(main)
