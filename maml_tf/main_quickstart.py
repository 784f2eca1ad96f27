"""The quickstart: MAML beside the pretrained baseline, on sinusoids."""

import dataclasses
import os
import sys

from maml_tf import command_line, cores, plots, train
from maml_tf import main as program
from maml_tf.settings import ConfigError

PAPER = {
    "MAML": {1: 0.67, 5: 0.38, 10: 0.35},
    "pretrained": {1: 2.41, 5: 2.23, 10: 2.19},
}
TEST_SHOTS = (5, 10)
PROGRAM = dataclasses.replace(program.PROGRAM, title=__doc__)
REFUSED = (
    *command_line.ACTIONS,
    "train",
    "test_iter",
    "import_checkpoint",
    "baseline",
    "pretrain_iterations",
)


def configurations(config):
    """Returns the two runs: MAML, and joint training for as long."""
    pretrained = dataclasses.replace(
        config,
        pretrain_iterations=config.meta_iterations,
        meta_iterations=0,
        logdir=os.path.join(config.logdir, "pretrained"),
    )
    maml = dataclasses.replace(
        config, logdir=os.path.join(config.logdir, "maml")
    )
    return {"MAML": maml, "pretrained": pretrained}


def table(curves, paper) -> str:
    """Returns step, MSE ± 95 % interval and the paper's value, by method."""
    columns = [f"{label:>17}    paper" for label in curves]
    lines = ["step  " + "  ".join(columns)]
    steps = len(next(iter(curves.values())).mean)
    for u in range(steps):
        cells = []
        for label, curve in curves.items():
            value = paper.get(label, {}).get(u, "")
            interval = f"{curve.mean[u]:8.3f} ± {curve.ci95[u]:6.3f}"
            cells.append(f"{interval:>17}  {value:>7}")
        lines.append(f"{u:4}  " + "  ".join(cells))
    return "\n".join(lines)


def run_quickstart(config, values) -> None:
    """Trains both, prints a table for 5 and 10 shots, draws Figure 2.

    Args:
      config: the settings of MAML.
      values: the flags.

    Raises:
      settings.ConfigError: for other tasks, or something else to do.
    """
    if config.datasource != "sinusoid":
        config.refuse("datasource", "sinusoid in the quickstart")
    if config.strategy == "multi_worker":
        config.refuse("strategy", "none or mirrored in the quickstart")
    for name in REFUSED:
        if values[name].present:
            raise ConfigError(f"--{name}: expected none in the quickstart.")
    cores.share_unless_started(config.meta_batch_size)
    runs = configurations(config)
    for label, run in runs.items():
        print(f"\n{label}: {sum(run.phases)} iterations")
        train.train(run)
    for shots in TEST_SHOTS:
        _test(config, {k: _tested(run, shots) for k, run in runs.items()})


def _tested(run, shots):
    """Returns the settings of a test of a run, with so many shots."""
    return dataclasses.replace(
        run, train=False, test_set=True, shots=shots, train_shots=run.shots
    )


def _test(config, tests):
    """Prints the table of runs that are tested alike, and draws them."""
    shots = tests["MAML"].shots
    curves = {k: train.evaluate(test) for k, test in tests.items()}
    tasks = f"mean squared error over {config.test_tasks} tasks"
    print(f"\n{shots}-shot test, {tasks}")
    # The paper prints values for five-shot tests alone.
    print(table(curves, PAPER if shots == 5 else {}))
    stem = os.path.join(config.logdir, f"quickstart_{shots}shot")
    intervals = {k: (c.mean, c.ci95) for k, c in curves.items()}
    plots.plot_curves(intervals, f"{stem}_mse.png", "mean squared error")
    panels = {
        f"{label}, K = {shots}": train.sinusoid_panel(test)
        for label, test in tests.items()
    }
    plots.plot_sinusoids(panels, f"{stem}_fits.png")
    print(f"Pictures: {stem}_mse.png, {stem}_fits.png")


def main(arguments: list[str] | None = None) -> int:
    """Runs the quickstart and returns the exit status."""
    return PROGRAM.run(_run, arguments)


def _run(arguments):
    values = PROGRAM.parse(arguments)
    run_quickstart(program.config_from_flags(values), values)


if __name__ == "__main__":
    sys.exit(main())
