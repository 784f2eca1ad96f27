"""Pictures of what was evaluated, as PNG files."""

from collections.abc import Mapping

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402  (after the backend)

MANY = 4
"""More curves than this have their names beside them, not over them."""


def plot_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str,
    metric: str,
    points: Mapping[str, Mapping[int, float]] | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draws means with their 95 % intervals over inner steps.

    Args:
      curves: by label, (mean, half width of the interval), each `[U + 1]`.
      path: of the PNG.
      metric: the label of the vertical axis, with its unit.
      points: values to compare with, by label and inner step.
      limits: of the vertical axis.
    """
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for label, (mean, half_width) in curves.items():
        steps = np.arange(len(mean))
        axes.plot(steps, mean, marker="o", markersize=4, label=label)
        axes.fill_between(
            steps, mean - half_width, mean + half_width, alpha=0.2
        )
    for label, values in (points or {}).items():
        marker = "x+1s"[len(axes.get_lines()) % 4]
        style = {"marker": marker, "linestyle": "", "color": "black"}
        axes.plot(list(values), list(values.values()), label=label, **style)
    axes.set(xlabel="number of gradient steps", ylabel=metric, ylim=limits)
    axes.set_xticks(steps)
    axes.grid(alpha=0.3)
    _name_curves(figure, axes)
    save(figure, path)


def plot_training(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str,
    metric: str,
    axis: str = "meta-iterations",
) -> None:
    """Draws a metric over meta-iterations, or over something else.

    Args:
      curves: by label, (iterations, values), each `[n]`.
      path: of the PNG.
      metric: the label of the vertical axis, with its unit.
      axis: the label of the horizontal one.
    """
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for label, (iterations, values) in curves.items():
        axes.plot(iterations, values, linewidth=1, label=label)
    axes.set(xlabel=axis, ylabel=metric)
    axes.grid(alpha=0.3)
    _name_curves(figure, axes)
    save(figure, path)


def plot_sinusoids(panels: Mapping[str, dict], path: str) -> None:
    """Draws adapted sinusoids as Figure 2 of Finn et al. 2017 does.

    Args:
      panels: by title, a dictionary each: `x` `[n]`, `truth` `[n]`, `points`
        (x, y), and `fits`, by label up to three curves `[n]`.
      path: of the PNG.
    """
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(5 * len(panels), 4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    styles = (
        {"linestyle": ":", "color": "lightgreen"},
        {"linestyle": "--", "color": "limegreen"},
        {"linestyle": "-", "color": "darkgreen"},
    )
    for (title, panel), ax in zip(panels.items(), axes[0], strict=True):
        ax.plot(panel["x"], panel["truth"], "r", label="ground truth")
        ax.plot(*panel["points"], "^", color="purple", label="used for grad")
        fits = panel["fits"]
        for label, style in zip(fits, styles[-len(fits) :], strict=True):
            ax.plot(panel["x"], fits[label], **style, label=label)
        ax.set(title=title, xlabel="x")
    axes[0][0].set_ylabel("y")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    save(figure, path)


def _name_curves(figure, axes):
    """Draws the legend."""
    if len(axes.get_lines()) > MANY:
        figure.legend(loc="outside right upper")
    else:
        axes.legend()


def save(figure, path: str) -> None:
    """Writes a figure as PNG and closes it."""
    figure.savefig(path, dpi=120)
    plt.close(figure)
