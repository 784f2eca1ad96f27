"""Keywords in one-dimensional signals: learn three new ones from two examples.

A keyword is a sequence of four tones; a speaker says it faster or slower,
higher or lower, louder or softer, and in noise. A convolutional network is
meta-trained on a hundred keywords and tested on others.

    python examples/keyword_signals.py
"""

import keras
import numpy as np
from absl import app, flags
from keras import layers
from matplotlib import pyplot as plt

from maml_tf import MAML, evaluation, losses, tasks

ITERATIONS = flags.DEFINE_integer("iterations", 1500, "meta-updates")
PICTURE = flags.DEFINE_string("picture", "keywords.png", "the picture")

KEYWORDS, SPEAKERS, LENGTH = 140, 20, 128


def spoken(tones, rng):
    """Returns a keyword `[128, 1]` as a speaker says it."""
    duration = LENGTH * rng.uniform(0.7, 0.95)
    pitch, loudness = rng.uniform(0.95, 1.05), rng.uniform(0.5, 1.5)
    time = np.arange(LENGTH) - rng.uniform(0, LENGTH - duration)
    place = np.clip(time / duration * len(tones), 0, len(tones) - 1e-6)
    frequency = pitch * tones[place.astype(int)]
    silent = (time < 0) | (time > duration)
    signal = loudness * np.sin(np.cumsum(frequency)) * ~silent
    noise = 0.2 * rng.normal(size=LENGTH)
    return (signal + noise)[:, None].astype("float32")


def recordings():
    rng = np.random.default_rng(0)
    keywords = rng.uniform(0.1, 1.5, [KEYWORDS, 4])
    y = np.repeat(np.arange(KEYWORDS), SPEAKERS)
    return np.stack([spoken(keywords[k], rng) for k in y]), y


def network():
    def block(filters):
        return [
            layers.Conv1D(filters, 9, strides=2, padding="same"),
            layers.GroupNormalization(4),
            layers.Activation("relu"),
        ]

    blocks = [*block(16), *block(32), *block(32)]
    head = [layers.GlobalMaxPooling1D(), layers.Dense(3)]
    return keras.Sequential([keras.Input((LENGTH, 1)), *blocks, *head])


def draw(x, y, curve):
    """Shows three speakers of two keywords, and accuracy over inner steps."""
    figure, axes = plt.subplots(
        1, 3, figsize=(13, 4), layout="constrained", width_ratios=(1, 1, 0.8)
    )
    for keyword, panel in zip((0, 1), axes[:2], strict=True):
        for i, signal in enumerate(x[y == keyword][:3]):
            panel.plot(signal[:, 0] + 4 * i, linewidth=0.8)
        panel.set(title=f"keyword {keyword}, three speakers", yticks=[])
        panel.set_xlabel("sample")
    steps = np.arange(1, len(curve.mean))
    axes[2].errorbar(
        steps, 100 * curve.mean[1:], 100 * curve.ci95[1:], marker="o"
    )
    axes[2].axhline(100 / 3, color="gray", linestyle=":", label="chance")
    axes[2].set(title="keywords never heard in training", ylim=(0, 100))
    axes[2].set(xlabel="number of gradient steps", ylabel="accuracy, %")
    axes[2].legend()
    figure.savefig(PICTURE.value, dpi=120)
    print("Picture:", PICTURE.value)


def main(_):
    keras.utils.set_random_seed(0)
    x, y = recordings()
    known = y < 100
    sizes = dict(ways=3, shots=2, queries=4, meta_batch_size=8)
    training = tasks.from_arrays(x[known], y[known], **sizes)
    held_out = tasks.from_arrays(x[~known], y[~known], **sizes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner = MAML(
        network(), loss, inner_lr=0.3, inner_steps=2, test_inner_steps=5
    )
    learner.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    learner.fit(
        training,
        steps_per_epoch=max(ITERATIONS.value // 6, 1),
        epochs=6,
        verbose=2,
        shuffle=False,
    )
    curve = evaluation.adaptation_curve(
        learner, held_out.take(50), losses.accuracy
    )
    # Row 0 is the support set's, as in the original program.
    rows = zip(curve.mean[1:], curve.ci95[1:], strict=True)
    for u, (mean, half) in enumerate(rows, 1):
        print(f"{u} steps: {100 * mean:.1f} ± {100 * half:.1f} %")
    draw(x, y, curve)


if __name__ == "__main__":
    app.run(main)
