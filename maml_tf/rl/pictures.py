"""Pictures of policies: returns over updates, and the ways of points."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import animation

from maml_tf.plots import plt, save

METHODS = {
    "maml_trpo": ("MAML", "tab:green"),
    "pretrain": ("pretrained", "tab:blue"),
    "random": ("random", "tab:gray"),
    "oracle": ("oracle", "tab:red"),
}
"""Their names and colours in a picture."""
STAGES = ("tab:gray", "tab:orange", "tab:green")
SHOWN = 5
"""Trajectories of a task in a picture."""
EVERY = 3
"""Steps from frame to frame of a GIF."""


def plot_methods(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    published: Mapping[str, Sequence[float]],
    path: str,
) -> None:
    """Draws average returns over updates, ours and any published ones.

    The oracle does not adapt: its line is flat.

    Args:
      curves: by algorithm, means `[U + 1]` and what a band is wide to each
        side.
      published: means by algorithm, in the same order of updates.
      path: of the PNG.
    """
    titles = ("ours", "paper") if published else ("ours",)
    figure, [panels] = plt.subplots(
        1,
        len(titles),
        figsize=(9, 4),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    updates = max(len(mean) for mean, _ in curves.values())
    for algo, (mean, error) in curves.items():
        _method(panels[0], algo, mean, updates, error)
    for algo, mean in published.items():
        _method(panels[1], algo, np.array(mean), updates)
    for panel, title in zip(panels, titles, strict=True):
        panel.set(title=title, xlabel="number of gradient steps")
        panel.set_xticks(range(updates))
        panel.grid(alpha=0.3)
    means = *published.values(), *(mean for mean, _ in curves.values())
    scale = ""
    if all(max(mean) < 0 for mean in means):
        panels[0].set_yscale("symlog", linthresh=2)
        panels[0].set_ylim(top=0)
        scale = ", logarithmic below -2"
    panels[0].set_ylabel(f"average return{scale}")
    panels[-1].legend()
    save(figure, path)


def _method(axes, algo, mean, updates, error=None):
    if algo == "oracle":
        mean = np.repeat(mean[:1], updates)
        error = error if error is None else np.repeat(error[:1], updates)
    mean = mean[:updates]
    steps = np.arange(len(mean))
    style = "--" if algo == "oracle" else "-o"
    label, color = METHODS[algo]
    axes.plot(steps, mean, style, color=color, label=label, ms=4)
    if error is not None:
        band = mean - error, mean + error
        axes.fill_between(steps, *band, color=color, alpha=0.2)


def plot_paths(goals: np.ndarray, rounds: Sequence, path: str) -> None:
    """Draws where points went before and after each update.

    Args:
      goals: `[G, 2]`, a panel each.
      rounds: positions `[G, K, H, 2]` and mask `[G, K, H]` of each update.
      path: of the PNG.
    """
    figure, panels = _panels(goals)
    for g, axes in enumerate(panels):
        for u, (positions, mask) in enumerate(rounds):
            for k in range(min(SHOWN, mask.shape[1])):
                x, y = _way(positions, mask, g, k)
                label = _stage(u) if g == k == 0 else None
                axes.plot(x, y, color=STAGES[u], lw=0.8, label=label)
    figure.legend(loc="outside lower center", ncols=len(rounds) + 1)
    save(figure, path)


def animate_paths(goals: np.ndarray, rounds: Sequence, path: str) -> None:
    """Draws points on their way to goals as a GIF, before and after updates.

    Args:
      goals: see `plot_paths`.
      rounds: see there.
      path: of the GIF.
    """
    figure, panels = _panels(goals)
    drawn = []
    for g, axes in enumerate(panels):
        for u, (positions, mask) in enumerate(rounds):
            label = _stage(u) if g == 0 else None
            (line,) = axes.plot(
                [],
                [],
                color=STAGES[u],
                lw=1,
                label=label,
                marker="o",
                ms=5,
                markevery=[-1],
            )
            drawn.append((line, *_way(positions, mask, g, 0)))
    figure.legend(loc="outside lower center", ncols=len(rounds) + 1)

    def frame(t):
        for line, x, y in drawn:
            line.set_data(x[: t + 1], y[: t + 1])

    longest = max(len(x) for _, x, _ in drawn)
    shown = animation.FuncAnimation(
        figure, frame, range(0, longest + EVERY, EVERY), cache_frame_data=False
    )
    shown.save(path, animation.PillowWriter(fps=12), dpi=70)
    plt.close(figure)


def _panels(goals):
    """Returns a figure with a panel and a star for each goal."""
    columns = min(3, len(goals))
    rows = -(-len(goals) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(3 * columns, 3 * rows + 0.4),
        squeeze=False,
        layout="constrained",
    )
    panels = list(grid.flat)
    for unused in panels[len(goals) :]:
        unused.remove()
    for goal, axes in zip(goals, panels, strict=False):
        label = "goal" if axes is panels[0] else None
        axes.plot(*goal, "r*", ms=10, zorder=3, label=label, ls="")
        axes.set(xlim=(-0.75, 0.75), ylim=(-0.75, 0.75), aspect="equal")
        axes.set(xlabel="x", ylabel="y")
        axes.grid(alpha=0.3)
    return figure, panels[: len(goals)]


def _way(positions, mask, g, k):
    """Returns the positions of a trajectory, `[2, steps]`, until it ended."""
    steps = int(np.sum(mask[g, k]))
    return np.asarray(positions[g, k, :steps]).T


def _stage(u):
    return ("before", "after 1 update", f"after {u} updates")[min(u, 2)]
