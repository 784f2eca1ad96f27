"""`maml-tf`: meta-trains and evaluates from cbfinn/maml's command line."""

import sys

import numpy as np
from absl import flags

from maml_tf import (
    command_line,
    comparison,
    cores,
    datasets,
    distribution,
    legacy,
    main_flags,
    plots,
    train,
)
from maml_tf.config import Config
from maml_tf.settings import ConfigError

COMPARED = ("data_dir", "cache_dir", "shots", *comparison.PROTOCOL)
"""Settings that a comparison may have otherwise than training."""

# Flags by group, and what they mean. Types and defaults are the settings'.
FLAGS = {
    "Tasks": {
        "datasource": "sinusoid, omniglot, miniimagenet or folder",
        "num_classes": "N, the number of classes of a task (N-way)",
        "update_batch_size": "K, support examples of a class (of a task, in "
        "regression)",
        "train_update_batch_size": "K in training, if it is evaluated with "
        "another; -1: the same",
        "num_queries": "Q, query examples of a class; -1: as many as K, but 15 "
        "when training on miniimagenet",
        "baseline": "oracle (sinusoid only: the task is an input), or None",
        **main_flags.DATA,
    },
    "Network": {
        "norm": "batch_norm, layer_norm or None",
        "num_filters": "filters of a convolution; published: omniglot 64, "
        "miniimagenet 32",
        "conv": "convolutional network, where there is a choice (omniglot)",
        "max_pool": "max-pooling instead of strided convolutions; a checkpoint "
        "to import tells it of miniimagenet alone",
        "norm_gradient": "exact, or legacy: second derivatives of TensorFlow "
        "1.3 and later, which hold the mean inside a norm's variance constant",
    },
    "Inner loop": {
        "update_lr": "α, the inner step size",
        "train_update_lr": "α in training, if it is evaluated with another; "
        "-1: the same",
        "num_updates": "inner steps in training",
        "stop_grad": "first-order MAML: no second derivatives, faster",
        "adapt": "what the inner loop adapts: fast_weights, kernels and "
        "biases, as the original; all, with the norms' β and γ; head, the last "
        "layer (ANIL)",
    },
    "Outer loop": {
        "pretrain_iterations": "iterations of joint training, without "
        "adaptation, that come first",
        "metatrain_iterations": "iterations of meta-training",
        "meta_batch_size": "number of tasks in a meta-update",
        "meta_lr": "β, Adam's step size in meta-updates",
    },
    "Evaluation": {
        "train": "train; False: evaluate a checkpoint",
        "test_iter": "iteration of the checkpoint to evaluate, -1 the latest",
        "select": "the checkpoint to evaluate: latest, or validation, of those "
        "kept the one with the best accuracy on 600 tasks of validation "
        "classes",
        "test_set": "evaluate on test classes; False: validation classes",
        "test_tasks": "tasks of an evaluation",
        "test_rotations": "turn held-out characters too (omniglot)",
        "norm_statistics": "whose statistics batch norm takes when a query is "
        "evaluated: queries, all of its task's; support_and_query, the support "
        "set's and its own; support",
        "label_permutations": "mean of an evaluation over so many cyclic "
        "permutations of a task's labels",
        "compare": "score two run folders on the same tasks: maml-tf --compare "
        "RUN_A RUN_B",
        "plot": "draw what is evaluated, as PNG",
    },
    "Program": {
        "logdir": "folder in which each run gets one of its own",
        "import_checkpoint": "prefix of a TensorFlow 1 checkpoint of "
        "cbfinn/maml, to evaluate, or to start from if the run has no "
        "checkpoint of its own",
        "export_checkpoint": "write the checkpoint to this prefix as "
        "cbfinn/maml does, and do no more",
        **main_flags.FOLDER,
        "seed": "of initial weights and of the training tasks' random draws",
        "engine": "stacked: all tasks at once, looped: one after another, or "
        "auto",
        "tasks_per_step": "tasks that run at once at most, on each core that "
        "works for itself, so that a large meta-batch fits a small memory; -1: "
        "as the engine takes them",
        "remat": "compute inner steps again for the meta-gradient: less "
        "memory, more time",
        "jit_compile": "let XLA compile training, true or false; auto: for "
        "sinusoids, where it pays on a processor, and for images on a GPU",
        **main_flags.DEVICES,
        **main_flags.PRECISION,
        **main_flags.RUN,
    },
}
PROGRAM = command_line.Program("maml-tf", __doc__, Config, FLAGS)


def config_from_flags(
    values: flags.FlagValues, kind: type[Config] = Config
) -> Config:
    """Returns the settings that parsed flags describe, `Config` or a kind of.

    Where flags are not given, an imported checkpoint tells the network.

    Raises:
      ConfigError: if they make no sense.
      checkpoints.CheckpointError: if there is no such checkpoint.
    """
    fields = command_line.fields(kind, values, _told(values))
    if fields["baseline"] == "None":
        fields["baseline"] = None
    return kind(**fields)


def _told(values):
    """Returns the settings that a checkpoint to import tells."""
    prefix = values["import_checkpoint"].value
    if not prefix:
        return {}
    told = legacy.settings(prefix)
    if values["datasource"].value == "folder":
        # Pooling has no tensors: it is told by the data set's one network.
        told.pop("max_pool", None)
    return told


def _say_what_is_not_told(config, values):
    """Prints that an import is taken without max-pooling, if nobody said so."""
    is_open = config.conv and config.datasource in ("omniglot", "folder")
    if config.import_checkpoint and is_open and not values["max_pool"].present:
        print(
            f"{config.import_checkpoint} tells nothing of max-pooling: taken "
            "without; --max_pool=True takes it with."
        )


def main(arguments: list[str] | None = None) -> int:
    """Explains, trains, evaluates or compares; returns the exit status."""
    return PROGRAM.run(_run, arguments)


def _run(arguments):
    values, rest = PROGRAM.split(arguments)
    if values.compare:
        _compare(values, rest)
    else:
        command_line.check_rest(values, rest, arguments)
        config = config_from_flags(values)
        _say_what_is_not_told(config, values)
        perform(config, values)


def perform(config: Config, values: flags.FlagValues) -> None:
    """Explains, checks data, exports, trains or evaluates, as flags say."""
    cores.share_unless_started(
        config.meta_batch_size if config.train else train.TEST_META_BATCH
    )
    if values.explain:
        print(train.explain(config))
    elif values.check_data:
        for line in datasets.check(config):
            print(line)
    elif (prefix := values.export_checkpoint) is not None:
        legacy.save(prefix, train.load_learner(config))
        print(f"Written: {prefix}.index, {prefix}.data-00000-of-00001")
    elif config.train:
        train.train(config)
    elif distribution.is_chief(config):
        _report(config, train.evaluate(config))


def _report(config, curve):
    """Prints the original's lines, and the same as a table."""
    print("Mean validation accuracy/loss, stddev, and confidence intervals")
    print((curve.mean, curve.std, curve.ci95))
    classes = "test" if config.test_set else "validation"
    metric, scale, unit = "mean squared error", 1, ""
    if config.is_classification:
        metric, scale, unit = f"accuracy on {classes} classes", 100, " %"
    print(f"step  {metric}, 95 % interval")
    for u, (mean, half) in enumerate(zip(curve.mean, curve.ci95, strict=True)):
        print(f"{u:4}  {scale * mean:.4g} ± {scale * half:.2g}{unit}")
    print(f"measured on {_protocol(config)}")
    if diverged := (~np.isfinite(curve.values)).any(1).sum():
        print(f"{diverged} tasks diverged in the inner loop (--update_lr).")
    stem = train.result_stem(config)
    print(f"Written: {stem}.csv, {stem}.pkl, {stem}.json")
    if config.plot:
        interval = scale * curve.mean, scale * curve.ci95
        plots.plot_curves(
            {f"K = {config.shots}": interval}, f"{stem}.png", metric + unit
        )
        if not config.is_classification:
            panels = {f"K = {config.shots}": train.sinusoid_panel(config)}
            plots.plot_sinusoids(panels, f"{stem}_fits.png")


def _compare(values, folders):
    """Prints how two runs do on the same tasks, and the paired difference."""
    if len(folders) != 2:
        raise ConfigError(
            f"--compare: expected two run folders, got {len(folders)}."
        )
    present = {k: values[k].value for k in values if values[k].present}
    fields = {Config.flag_name(field): field for field in COMPARED}
    for name in present:
        if name not in (*fields, "compare", "test_tasks"):
            raise ConfigError(f"--{name}: expected none with --compare.")
    given = {fields[k]: v for k, v in present.items() if k in fields}
    runs = [comparison.load(folder, given) for folder in folders]
    for name, run in zip("AB", runs, strict=True):
        print(f"{name}  {run.checkpoint.path}", flush=True)
    found = comparison.compare(*runs, values.test_tasks)
    print(f"{found.metric}: {found.tasks}")
    print(comparison.table(found))


def _protocol(config):
    """Returns the choices that change a published number, in words."""
    images = config.is_classification
    statistics = {
        "queries": "all queries of a task (transductive)",
        "support_and_query": "the support set and one query",
        "support": "the support set",
    }[config.norm_statistics]
    parts = [
        f"{config.test_tasks} tasks",
        f"queries of a class: {config.queries}"
        if images
        else f"{config.queries} queries each",
        f"statistics of {statistics}" * (config.norm == "batch_norm"),
        f"turned characters: {'yes' if config.test_rotations else 'no'}"
        if config.datasource == "omniglot"
        else "",
        f"orders of labels: {config.label_permutations}" * images,
        f"checkpoint: {train.selected(config)}",
    ]
    return ", ".join(part for part in parts if part)


if __name__ == "__main__":
    sys.exit(main())
