"""Figures of the report, drawn from records and from tables of training."""

import pathlib

import numpy as np
import published
from PIL import Image

from maml_tf import logs, plots
from maml_tf.rl import pictures
from maml_tf.rl.published import RETURNS

COMBINATIONS = {
    "reptile_g1": "g₁",
    "reptile_half_g1_g2": "½ (g₁ + g₂)",
    "reptile_g2": "g₂",
    "reptile_g1_g2": "g₁ + g₂",
    "reptile_third_g1_g2_g3": "⅓ (g₁ + g₂ + g₃)",
    "reptile_g3": "g₃",
    "reptile_g1_g2_g3": "g₁ + g₂ + g₃",
    "reptile_fourth_g1_g2_g3_g4": "¼ (g₁ + … + g₄)",
    "reptile_g4": "g₄",
    "reptile_g1_g2_g3_g4": "g₁ + … + g₄",
}
SINUSOIDS = {
    "sinusoid_maml": "MAML, α = 0.01",
    "sinusoid_maml_code_default_lr": "MAML, α = 0.001",
    "sinusoid_pretrained": "pretrained, α = 0.01",
    "sinusoid_pretrained_lr_002": "pretrained, α = 0.02",
    "sinusoid_pretrained_tuned": "pretrained, α = 0.002",
    "sinusoid_oracle": "oracle",
}
MULTITASK = {
    "sinusoid_multitask": "no penalty",
    "sinusoid_multitask_l2": "l2",
    "sinusoid_multitask_mean": "distance from the mean",
}
REPTILE = "reptile_omniglot_5way_1shot_transductive"
PANELS = ("sinusoid_maml_code_default_lr", "sinusoid_pretrained")
WINDOW, FEWER = 80, 50
LIMIT = 4.0
MULTITASK_LIMIT = 8.0


def draw(chosen: list[dict], results: pathlib.Path) -> list[tuple[str, str]]:
    """Draws what the records allow into results/figures.

    Args:
      chosen: the records of the report, see `pages.chosen`.
      results: the folder.

    Returns:
      File names and captions.

    Raises:
      ValueError: if a record's curve is missing, or another table.
    """
    folder = results / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, caption, figure in _figures(chosen, results):
        if figure(str(folder / name)):
            _shrink(folder / name)
            drawn.append((name, caption))
        else:
            (folder / name).unlink(missing_ok=True)
    return drawn


def _shrink(path):
    """Leaves 256 colours: the page that has all pictures in it is large."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize()
    small.save(path, optimize=True)


def _figures(chosen, results):
    """Yields file name, caption, and what draws it and tells whether it did."""
    yield from _of_sinusoids(chosen)
    yield from _of_omniglot(chosen, results)
    yield from _of_reptile(chosen, results)
    yield from _of_policies(chosen)


def _of_sinusoids(chosen):
    for shots in (5, 10, 20):
        yield (
            f"sinusoid_{shots}shot.png",
            f"Sinusoid, {shots}-shot test: mean squared error over gradient "
            "steps, mean of seeds, with the 95 % interval over 600 tasks"
            + (", and the paper's values (Table 2)" if shots == 5 else "")
            + ". Figures 3 and 6 of the MAML paper. Curves that diverge are "
            "cut where they leave the axes; the oracle is not fine-tuned.",
            lambda path, k=shots: _sinusoid_curves(
                chosen, SINUSOIDS, k, LIMIT, path
            ),
        )
    for shots in (5, 10):
        yield (
            f"sinusoid_fits_{shots}shot.png",
            f"Sinusoid, one task fitted to {shots} points. Figure 2 of the "
            "MAML paper.",
            lambda path, k=shots: _fits(chosen, k, path),
        )
    yield (
        "sinusoid_multitask.png",
        "Sinusoid, 5-shot test: the mean of 500 networks of a task each, "
        "fine-tuned, by the penalty in their training, and the MAML paper's "
        "values (Table 2).",
        lambda path: _sinusoid_curves(
            chosen, MULTITASK, 5, MULTITASK_LIMIT, path
        ),
    )


def _of_omniglot(chosen, results):
    yield (
        "omniglot_iterations.png",
        "Omniglot 5-way 1-shot: accuracy on one meta-batch of validation "
        "tasks after 1 step, mean of the last 5 scores.",
        lambda path: _training(chosen, results, path, "meta-iterations"),
    )
    yield (
        "omniglot_hours.png",
        "The same against wall time, where it was recorded, with pauses and "
        "what ran beside it; iterations are taken to last equally long.",
        lambda path: _training(chosen, results, path, "hours"),
    )


def _of_reptile(chosen, results):
    yield (
        "reptile_combinations.png",
        f"Reptile's inner gradients: test accuracy, mean of the last {WINDOW} "
        "scored tasks. Figure 3 of the Reptile paper, which trains for 40,000 "
        "meta-iterations." + _otherwise(_combined(chosen)),
        lambda path: _combinations(chosen, results, path),
    )
    yield (
        "reptile_omniglot.png",
        f"Reptile on Omniglot 5-way 1-shot, transductive, mean of the last "
        f"{FEWER} scored tasks.",
        lambda path: _reptile(chosen, results, path),
    )


def _of_policies(chosen):
    for env in RETURNS:
        yield (
            f"rl_{env}.png",
            f"Average return on {env} after policy-gradient steps, mean of "
            "seeds, with the 95 % interval over tasks, and the means of the "
            "authors' result files. Figures 4 and 5 of the MAML paper."
            + _short_of(_of(chosen, f"rl_{env}", algo="maml_trpo")),
            lambda path, e=env: _methods(chosen, e, path),
        )


def _short_of(found):
    """Returns a sentence on how far ours was trained, if not to the end."""
    done = {(r["iterations"], r["published_iterations"]) for r in found}
    told = "; ".join(f"{n:,} of {all_:,}" for n, all_ in done if n < all_)
    return f" Ours is trained for {told} iterations." * bool(told)


def _otherwise(found):
    """Returns a sentence on what was not as published, if anything."""
    changes = sorted({c for r in found for c in published.changes(r)})
    return f" Ours have {'; '.join(changes)}." * bool(changes)


def curve(found: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean over seeds and a half width, `[U + 1]` each.

    All seeds are tested on the same tasks. The deviation of a mean is at most
    the mean of deviations: so the mean of half widths bounds the true one.
    U is the steps that all seeds were tested after.
    """
    common = min(len(r["mean"]) for r in found)
    mean, half = (
        np.mean([np.array(r[key][:common], float) for r in found], 0)
        for key in ("mean", "ci95")
    )
    return mean, half


def _inside(mean, half, limit):
    """Returns a curve up to where it leaves the axes."""
    outside = np.maximum.accumulate(~(mean + half < limit))
    return np.where(outside, np.nan, mean), np.where(outside, np.nan, half)


def _of(chosen, name, **facts):
    return [
        r
        for r in chosen
        if r["experiment"] == name
        and all(r.get(key) == value for key, value in facts.items())
    ]


def _sinusoid_curves(chosen, names, shots, limit, path):
    curves, paper = {}, {}
    for name, label in names.items():
        if found := _of(chosen, name, shots=shots):
            mean, half = curve(found)
            if label == "oracle":  # It does not adapt: its line is flat.
                mean, half = (np.full_like(c, c[0]) for c in (mean, half))
            curves[label] = _inside(mean, half, limit)
            values = {
                int(u): float(v) for u, (v, _) in found[0]["paper"].items()
            }
            if values:
                paper[f"{label.split(',')[0]}, paper"] = values
    if curves:
        metric = f"mean squared error, K = {shots}"
        plots.plot_curves(curves, path, metric, points=paper, limits=(0, limit))
    return bool(curves)


def _fits(chosen, shots, path):
    panels = {
        f"{SINUSOIDS[name]}, K = {shots}": found[0]["panel"]
        for name in PANELS
        if (found := _of(chosen, name, shots=shots)) and "panel" in found[0]
    }
    if panels:
        plots.plot_sinusoids(panels, path)
    return bool(panels)


def _scores(record, results, column, window):
    """Returns iterations, and percentages that are means of the last scores."""
    path = results / record["curve"]
    rows = logs.read_rows(path)
    if not rows or column not in rows[0]:
        raise ValueError(
            f"{path}: expected the scores of {record['experiment']} during "
            f"training, with a column {column}, found none."
        )
    x, means = logs.smoothed(rows, column, window)
    return x, 100 * means


def _seeded(label, record):
    """Returns a curve's label: of the usual seed it does not tell it."""
    return label + f", seed {record['seed']}" * bool(record["seed"])


def _training(chosen, results, path, unit):
    curves = {}
    names = {
        "omniglot_5way_1shot": "MAML",
        "omniglot_5way_1shot_first_order": "first-order MAML",
    }
    for name, label in names.items():
        for record in _of(chosen, name):
            known = unit == "meta-iterations" or record["seconds"]
            if "curve" not in record or not known:
                continue
            x, scores = _scores(record, results, "accuracy_1", 5)
            if unit == "hours":
                x = x / record["iterations"] * record["seconds"] / 3600
            curves[_seeded(label, record)] = x, scores
    if curves:
        plots.plot_training(curves, path, "validation accuracy, %", unit)
    return bool(curves)


def _combined(chosen):
    """Returns the records of combinations that compare.

    The meta-step falls to 0 over a run: only equally long ones do.
    """
    found = [
        r for name in COMBINATIONS for r in _of(chosen, name) if "curve" in r
    ]

    def rank(record):
        return len(published.changes(record)), -record["iterations"]

    best = min(map(rank, found), default=None)
    return [record for record in found if rank(record) == best]


def _combinations(chosen, results, path):
    curves = {
        _seeded(COMBINATIONS[r["experiment"]], r): _scores(
            r, results, "test", WINDOW
        )
        for r in _combined(chosen)
    }
    if curves:
        plots.plot_training(curves, path, "test accuracy, %")
    return bool(curves)


def _reptile(chosen, results, path):
    curves = {}
    for record in _of(chosen, REPTILE):
        if "curve" in record:
            for part in ("train", "test"):
                scores = _scores(record, results, part, FEWER)
                curves[_seeded(f"{part} classes", record)] = scores
    if curves:
        plots.plot_training(curves, path, "accuracy, %")
    return bool(curves)


def _methods(chosen, env, path):
    curves = {
        algo: curve(found)
        for algo in pictures.METHODS
        if (found := _of(chosen, f"rl_{env}", algo=algo))
    }
    if curves:
        pictures.plot_methods(curves, RETURNS[env], path)
    return bool(curves)
