"""`reptile-tf`: meta-trains and evaluates as supervised-reptile does."""

import sys

from absl import flags

from maml_tf import (
    command_line,
    cores,
    datasets,
    distribution,
    legacy,
    main_flags,
    plots,
    reptile_train,
)
from maml_tf.reptile_config import ReptileConfig

# Flags by group, and what they mean. Types and defaults are the settings'.
FLAGS = {
    "Tasks": {
        "datasource": "omniglot, miniimagenet, folder or sinusoid",
        "classes": "N, the number of classes of a task",
        "shots": "K, examples of a class that a task is learned from",
        "train_shots": "K in training; 0: as --shots",
        **main_flags.DATA,
    },
    "Inner loop": {
        "inner_batch": "examples in a mini-batch",
        "inner_iters": "inner steps in training",
        "replacement": "draw each mini-batch anew from the whole task",
        "learning_rate": "step size of the inner optimizer",
        "weight_decay": "factor of all weights before an inner step",
        "sgd": "plain gradient descent, not Adam with β₁ = 0",
        "reset_inner_optimizer": "let Adam forget before each task; the "
        "original's remembers",
    },
    "Outer loop": {
        "meta_step": "ε, how far θ goes towards the tasks' ends",
        "meta_step_final": "ε at the end; it changes linearly",
        "meta_batch": "tasks in a meta-iteration",
        "meta_iters": "meta-iterations",
        "foml": "FOML: go by each task's last mini-batch alone",
        "foml_tail": "examples of each class set apart for FOML's last "
        "mini-batch",
    },
    "Evaluation": {
        "pretrained": "evaluate a checkpoint, do not train",
        "eval_batch": "examples in a mini-batch of evaluation",
        "eval_iters": "inner steps in evaluation",
        "eval_samples": "tasks of the evaluation after training",
        "eval_interval": "meta-iterations from score to score",
        "transductive": "predict all queries of a task in one batch",
        "plot": "draw the curves, and sinusoids, as PNG",
    },
    "Program": {
        "checkpoint": "the run's folder",
        "import_checkpoint": "prefix of a TensorFlow 1 checkpoint of "
        "supervised-reptile, to evaluate, or to start from if the run has none "
        "of its own",
        "export_checkpoint": "write the checkpoint to this prefix as "
        "supervised-reptile does, and do no more",
        **main_flags.FOLDER,
        "seed": "of the split, the initial weights and all draws",
        "engine": "stacked or looped tasks, or auto",
        **main_flags.DEVICES,
        **main_flags.PRECISION,
        **main_flags.RUN,
    },
}
PROGRAM = command_line.Program(
    "reptile-tf", __doc__, ReptileConfig, FLAGS, joint="-"
)


def config_from_flags(values: flags.FlagValues) -> ReptileConfig:
    """Returns the settings that parsed flags describe.

    Where flags are not given, an imported checkpoint tells the network.

    Raises:
      ConfigError: if they make no sense.
      checkpoints.CheckpointError: if there is no such checkpoint.
    """
    told = {}
    if prefix := values["import_checkpoint"].value:
        told = legacy.settings(prefix)
    return ReptileConfig(**command_line.fields(ReptileConfig, values, told))


def main(arguments: list[str] | None = None) -> int:
    """Explains, trains or evaluates, and returns the exit status."""
    return PROGRAM.run(_run, arguments)


def _run(arguments):
    values = PROGRAM.parse(arguments)
    config = config_from_flags(values)
    # A step is many small operations, of which two can run at a time.
    cores.share_unless_started(2)
    if values.explain:
        print(reptile_train.explain(config))
    elif values.check_data:
        for line in datasets.check(config, reptile_train.RESAMPLE):
            print(line)
    elif (prefix := values.export_checkpoint) is not None:
        legacy.save(prefix, reptile_train.load_learner(config))
        print(f"Written: {prefix}.index, {prefix}.data-00000-of-00001")
    else:
        if config.train:
            reptile_train.train(config)
        if distribution.is_chief(config):
            _report(config, reptile_train.evaluate(config))


def _report(config, scores):
    """Prints the original's lines, and intervals beside them."""
    for part, score in scores.items():
        print(f"{part.capitalize()} {config.metric}: {score.mean:.6g}")
    way = "transductive" if config.transductive else "each query alone"
    for part, score in scores.items():
        print(
            f"{part}: {score.mean:.4%} ± {score.ci95:.2%}"
            if config.is_classification
            else f"{part}: {score.mean:.4g} ± {score.ci95:.2g}",
            f"({len(score.values)} tasks, {way})",
        )
    stem = reptile_train.result_stem(config)
    print(f"Written: {stem}.csv")
    if config.plot:
        if curves := reptile_train.smooth_curves(config):
            plots.plot_training(curves, f"{stem}_curve.png", config.metric)
        else:
            print(f"No curve of training: {config.folder} has no scores of it.")
        if not config.is_classification:
            panels = dict(reptile_train.sinusoid_panels(config))
            plots.plot_sinusoids(panels, f"{stem}_fits.png")


if __name__ == "__main__":
    sys.exit(main())
