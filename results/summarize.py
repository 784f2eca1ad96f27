"""Prints the tables of results/README.md and draws its figures.

    python results/summarize.py

reads nothing but the CSV files beside it.
"""

import csv
import pathlib

import numpy as np

from maml_tf import plots

HERE = pathlib.Path(__file__).parent
STEPS = (1, 5, 10)
SINUSOIDS = {
    "sinusoid_maml": ("MAML, α = 0.01", {1: 0.67, 5: 0.38, 10: 0.35}),
    "sinusoid_maml_code_default_lr": ("MAML, α = 0.001", {}),
    "sinusoid_pretrained": ("pretrained", {1: 2.41, 5: 2.23, 10: 2.19}),
    "sinusoid_oracle": ("oracle", {}),
}

EARLY = {
    "maml": "MAML",
    "legacy_maml": "MAML, `--norm_gradient=legacy`",
    "fomaml": "first order",
}


def read_curve(path):
    """Returns means and half widths of an evaluation's CSV."""
    with open(path, newline="") as file:
        _, mean, _, ci95 = list(csv.reader(file))
    return np.array(mean, float), np.array(ci95, float)


def print_table(header, rows):
    """Prints a Markdown table."""
    for row in [header, ["---"] * len(header), *rows]:
        print("|", " | ".join(row), "|")


def sinusoid_table(shots):
    """Prints and draws the mean squared errors of a K-shot test."""
    rows, curves = [], {}
    for name, (label, paper) in SINUSOIDS.items():
        path = HERE / "sinusoid" / f"{name}_{shots}shot.csv"
        mean, ci95 = curves[label] = read_curve(path)
        cells = [f"{mean[u]:.2f} ± {ci95[u]:.2f}" for u in (0, *STEPS)]
        published = ", ".join(str(paper[u]) for u in paper)
        rows.append([label, *cells, published if shots == 5 else ""])
    print(f"\nSinusoid, {shots}-shot test, mean squared error\n")
    steps = [f"step {u}" for u in (0, *STEPS)]
    print_table(["method", *steps, "paper, steps 1, 5, 10"], rows)
    path = HERE / "sinusoid" / f"{shots}shot.png"
    # A curve whose inner loop diverged would hide the others.
    curves = {k: c for k, c in curves.items() if np.nanmax(c[0]) < 100}
    plots.plot_curves(curves, path, f"mean squared error, K = {shots}")


def omniglot_table():
    """Prints and draws the long runs on the 423 test characters."""
    rows, curves = [], {}
    for path in sorted((HERE / "omniglot").glob("*_hours.csv")):
        mean, ci95 = (100 * a for a in read_curve(path))
        curves[path.stem] = mean, ci95
        cells = [f"{mean[u]:.1f} ± {ci95[u]:.1f}" for u in (0, 1, 3, 10)]
        rows.append([path.stem, *cells])
    print("\nOmniglot 5-way 1-shot, accuracy in %\n")
    steps = [f"step {u}" for u in (0, 1, 3, 10)]
    print_table(["run", *steps], rows)
    path = HERE / "omniglot" / "test.png"
    plots.plot_curves(curves, path, "accuracy on test characters, %")


def early_table():
    """Prints accuracies after 2,000 iterations, by method, over seeds."""
    rows = []
    for method, label in EARLY.items():
        paths = sorted((HERE / "omniglot").glob(f"{method}_seed?_2000.csv"))
        runs = [read_curve(path) for path in paths]
        for u in (1, 10):
            each = [f"{100 * m[u]:.1f} ± {100 * c[u]:.1f}" for m, c in runs]
            means = np.array([100 * mean[u] for mean, _ in runs])
            spread = f"{means.mean():.1f}, {means.std(ddof=1):.1f}"
            rows.append([label, str(u), ", ".join(each), spread])
    print("\nOmniglot 5-way 1-shot after 2,000 iterations, accuracy in %\n")
    print_table(["method", "step", "seeds 0, 1, …", "mean, deviation"], rows)


def validation_figure():
    """Draws accuracy on validation meta-batches over training."""
    curves = {}
    for path in sorted((HERE / "omniglot").glob("*_validation.csv")):
        rows = np.genfromtxt(path, delimiter=",", names=True)
        label = path.stem.removesuffix("_validation")
        curves[label] = rows["iteration"], 100 * rows["accuracy_1"]
    path = HERE / "omniglot" / "validation.png"
    plots.plot_training(curves, path, "validation accuracy after 1 step, %")


REPTILE = {
    "omniglot_5way_1shot": ("Omniglot 5-way 1-shot, accuracy in %", "95.39"),
    "omniglot_5way_1shot_transductive": (
        "the same, transductive",
        "97.68",
    ),
    "sinusoid": ("sinusoid, 10 points, mean squared error", ""),
}


def reptile_table():
    """Prints Reptile's evaluations, on training and test classes."""
    rows = []
    for name, (label, paper) in REPTILE.items():
        parts = _parts(HERE / "reptile" / f"{name}.csv")
        scale = 1 if name == "sinusoid" else 100
        cells = [
            _interval(parts.get(part), scale) for part in ("train", "test")
        ]
        rows.append([label, parts["test"]["tasks"], *cells, paper])
    print("\nReptile\n")
    print_table(["run", "tasks", "training classes", "test", "paper"], rows)


COMBINATIONS = {
    "g1": "g₁",
    "half_g1_g2": "½ (g₁ + g₂)",
    "g2": "g₂",
    "g1_g2": "g₁ + g₂",
    "g1_g2_g3": "g₁ + g₂ + g₃",
    "fourth_g1_g2_g3_g4": "¼ (g₁ + … + g₄)",
    "g4": "g₄",
    "g1_g2_g3_g4": "g₁ + … + g₄",
}
WINDOW = 80


def combinations():
    """Prints and draws how combinations of inner gradients do."""
    rows, curves = [], {}
    for name, label in COMBINATIONS.items():
        stem = HERE / "reptile" / "combinations" / name
        parts = _parts(f"{stem}.csv")
        cells = [_interval(parts[part], 100) for part in ("train", "test")]
        rows.append([label, *cells])
        scores = np.genfromtxt(f"{stem}_curve.csv", delimiter=",", names=True)
        weights = np.ones(WINDOW) / WINDOW
        curves[label] = (
            scores["iteration"][WINDOW - 1 :],
            100 * np.convolve(scores["test"], weights, "valid"),
        )
    print("\nReptile's inner gradients, Omniglot 5-way 5-shot, accuracy in %\n")
    print_table(["update", "training classes", "test"], rows)
    path = HERE / "reptile" / "combinations.png"
    metric = f"test accuracy, %, mean of {WINDOW} scored tasks"
    plots.plot_training(curves, path, metric)


def _parts(path):
    """Returns the rows of a Reptile evaluation by part of the classes."""
    with open(path, newline="") as file:
        return {row["classes"]: row for row in csv.DictReader(file)}


def _interval(row, scale):
    if row is None:
        return ""
    return " ± ".join(f"{scale * float(row[k]):.2f}" for k in ("mean", "ci95"))


if __name__ == "__main__":
    sinusoid_table(5)
    sinusoid_table(10)
    omniglot_table()
    early_table()
    validation_figure()
    reptile_table()
    combinations()
