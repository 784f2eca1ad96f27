"""`maml-tf`: meta-trains and evaluates from cbfinn/maml's command line."""

import os
import sys
from collections.abc import Callable

import numpy as np
from absl import app, flags

from maml_tf import (
    command_line,
    comparison,
    cores,
    datasets,
    legacy,
    main_flags,
    plots,
    records,
    train,
)
from maml_tf.config import Config
from maml_tf.settings import ConfigError

COMPARED = ("data_dir", "cache_dir", "shots", *comparison.PROTOCOL)
"""Settings that a comparison may have otherwise than training."""

flags.DEFINE_string(
    "datasource", "sinusoid", "sinusoid, omniglot, miniimagenet or folder"
)
flags.DEFINE_integer(
    "num_classes", 5, "N, the number of classes of a task (N-way)"
)
flags.DEFINE_string(
    "baseline", None, "oracle (sinusoid only: the task is an input), or None"
)
flags.DEFINE_integer(
    "pretrain_iterations",
    0,
    "iterations of joint training, without adaptation, that come first",
)
flags.DEFINE_integer(
    "metatrain_iterations", 15000, "iterations of meta-training"
)
flags.DEFINE_integer("meta_batch_size", 25, "number of tasks in a meta-update")
flags.DEFINE_float("meta_lr", 0.001, "β, Adam's step size in meta-updates")
flags.DEFINE_integer(
    "update_batch_size",
    5,
    "K, support examples of a class (of a task, in regression)",
)
flags.DEFINE_float("update_lr", 1e-3, "α, the inner step size")
flags.DEFINE_integer("num_updates", 1, "inner steps in training")
flags.DEFINE_string("norm", "batch_norm", "batch_norm, layer_norm or None")
flags.DEFINE_integer(
    "num_filters",
    64,
    "filters of a convolution; published: omniglot 64, miniimagenet 32",
)
flags.DEFINE_bool(
    "conv", True, "convolutional network, where there is a choice (omniglot)"
)
flags.DEFINE_bool(
    "max_pool", False, "max-pooling instead of strided convolutions"
)
flags.DEFINE_bool(
    "stop_grad", False, "first-order MAML: no second derivatives, faster"
)
flags.DEFINE_string(
    "adapt",
    "fast_weights",
    "what the inner loop adapts: fast_weights, kernels and biases, as the "
    "original; all, with the norms' β and γ; head, the last layer (ANIL)",
)
flags.DEFINE_bool("log", True, "write TensorBoard summaries")
flags.DEFINE_string("logdir", "/tmp/data", "folder of the experiments' folders")
flags.DEFINE_bool(
    "resume", True, "continue from the latest checkpoint; False: replace them"
)
flags.DEFINE_bool("train", True, "train; False: evaluate a checkpoint")
flags.DEFINE_integer(
    "test_iter", -1, "iteration of the checkpoint to evaluate, -1 the latest"
)
flags.DEFINE_string(
    "select",
    "latest",
    "the checkpoint to evaluate: latest, or validation, of those kept the one "
    "with the best accuracy on 600 tasks of validation classes",
)
flags.DEFINE_integer("test_tasks", 600, "tasks of an evaluation")
flags.DEFINE_bool(
    "test_rotations", True, "turn held-out characters too (omniglot)"
)
flags.DEFINE_string(
    "norm_statistics",
    "queries",
    "whose statistics batch norm takes when a query is evaluated: queries, all "
    "of its task's; support_and_query, the support set's and its own; support",
)
flags.DEFINE_integer(
    "label_permutations",
    1,
    "mean of an evaluation over so many cyclic permutations of a task's labels",
)
flags.DEFINE_bool(
    "compare",
    False,
    "score two run folders on the same tasks: maml-tf --compare RUN_A RUN_B",
)
flags.DEFINE_bool(
    "test_set", False, "evaluate on test classes; False: validation classes"
)
flags.DEFINE_integer(
    "train_update_batch_size",
    -1,
    "K in training, if it is evaluated with another; -1: the same",
)
flags.DEFINE_float(
    "train_update_lr",
    -1,
    "α in training, if it is evaluated with another; -1: the same",
)
flags.DEFINE_string(
    "data_dir",
    "data",
    "folder with omniglot/, omniglot_resized/ or miniImagenet/, or of "
    "--datasource=folder: train|val|test/<class>/<image>",
)
flags.DEFINE_string(
    "cache_dir", None, "folder of packed data; default ~/.cache/maml_tf"
)
flags.DEFINE_integer(
    "image_size", 84, "height and width to which --datasource=folder resizes"
)
flags.DEFINE_integer(
    "image_channels", 3, "of --datasource=folder: 3, colour, or 1, grey"
)
flags.DEFINE_integer(
    "num_queries",
    -1,
    "Q, query examples of a class; -1: as many as K, but 15 when training on "
    "miniimagenet",
)
flags.DEFINE_integer(
    "seed", 0, "of initial weights and of the training tasks' random draws"
)
flags.DEFINE_string(
    "norm_gradient",
    "exact",
    "exact, or legacy: second derivatives of TensorFlow 1.3 and later, which "
    "hold the mean inside a norm's variance constant",
)
flags.DEFINE_string(
    "engine",
    "auto",
    "stacked: all tasks at once, looped: one after another, or auto",
)
flags.DEFINE_integer(
    "tasks_per_step",
    -1,
    "tasks that run at once at most, on each core that works for itself, so "
    "that a large meta-batch fits a small memory; -1: as the engine takes them",
)
flags.DEFINE_bool(
    "remat",
    False,
    "compute inner steps again for the meta-gradient: less memory, more time",
)
flags.DEFINE_string(
    "jit_compile",
    "auto",
    "let XLA compile training, true or false; auto: for sinusoids, where it "
    "pays on a processor, and for images on a GPU",
)
flags.DEFINE_bool(
    "deterministic",
    False,
    "let the same command give the same bits, also on a GPU, at some cost",
)
flags.DEFINE_string(
    "on_save_error",
    "stop",
    "stop, or continue to train, when the logs or a checkpoint cannot be saved",
)
flags.DEFINE_string(
    "import_checkpoint",
    None,
    "prefix of a TensorFlow 1 checkpoint of cbfinn/maml, to evaluate, or to "
    "start from if the run has no checkpoint of its own",
)
flags.DEFINE_string(
    "export_checkpoint",
    None,
    "write the checkpoint to this prefix as cbfinn/maml does, and do no more",
)
for _define, _name, _meaning in main_flags.DEVICES + main_flags.PRECISION:
    _define(_name, Config.__dataclass_fields__[_name].default, _meaning)
flags.DEFINE_bool("plot", False, "draw what is evaluated, as PNG")
flags.DEFINE_bool("explain", False, "say what the flags mean, and do nothing")
flags.DEFINE_bool(
    "check_data",
    False,
    "say what is found in --data_dir, pack it into --cache_dir, and do no more",
)


def config_from_flags(
    values: flags.FlagValues, kind: type[Config] = Config
) -> Config:
    """Returns the settings that parsed flags describe, `Config` or a kind of.

    Where flags are not given, an imported checkpoint tells the network.

    Raises:
      ConfigError: if they make no sense.
      checkpoints.CheckpointError: if there is no such checkpoint.
    """
    told = {}
    if prefix := values["import_checkpoint"].value:
        told = legacy.settings(os.path.expanduser(prefix))
    fields = command_line.fields(kind, values, told)
    if fields["baseline"] == "None":
        fields["baseline"] = None
    return kind(**fields)


def parse(argv: list[str]) -> list[str]:
    """Parses a command line into the flags, and returns what is no flag.

    What is wrong with it ends the program, as in `command_line.guarded`, and
    so does a call for help: absl's own lists the flags of a main program alone,
    which the installed command is not.
    """
    if main_flags.asks_for_help(argv[1:]):
        print(f"{__doc__}\n{flags.FLAGS.module_help(_module())}")
        sys.exit(0)
    rest = []
    if status := command_line.guarded(
        "maml-tf", lambda: rest.extend(_parsed(argv))
    ):
        sys.exit(status)
    return rest


def _module():
    """Returns absl's name of the module that has defined these flags."""
    return flags.FLAGS.find_module_defining_flag("datasource")


def _parsed(argv):
    command_line.check_flagfiles(argv[1:])
    try:
        return flags.FLAGS(argv)
    except (flags.Error, ValueError) as error:
        raise ConfigError(f"{error}") from error


def main(argv: list[str]) -> int:
    """Explains, trains, evaluates or compares; returns the exit status."""
    if flags.FLAGS.compare:
        return command_line.guarded("maml-tf", lambda: _compare(argv[1:]))
    return guarded(argv, perform)


def guarded(
    argv: list[str],
    action: Callable[[Config], None],
    kind: type[Config] = Config,
) -> int:
    """Calls `action` with the settings of the flags, see `command_line`."""

    def with_settings():
        command_line.check_rest(argv[1:])
        action(config_from_flags(flags.FLAGS, kind))

    return command_line.guarded("maml-tf", with_settings)


def perform(config: Config) -> None:
    """Explains, checks data, exports, trains or evaluates, as flags say."""
    cores.share_unless_started(
        config.meta_batch_size if config.train else train.TEST_META_BATCH
    )
    if flags.FLAGS.explain:
        print(train.explain(config))
    elif flags.FLAGS.check_data:
        for line in datasets.check(config):
            print(line)
    elif (prefix := flags.FLAGS.export_checkpoint) is not None:
        prefix = os.path.expanduser(prefix)
        train.export(config, prefix)
        print(f"Written: {prefix}.index, {prefix}.data-00000-of-00001")
    elif config.train:
        train.train(config)
    else:
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
            panel = records.read(f"{stem}.json")["panel"]
            panels = {f"K = {config.shots}": panel}
            plots.plot_sinusoids(panels, f"{stem}_fits.png")


def _compare(folders):
    """Prints how two runs do on the same tasks, and the paired difference."""
    if len(folders) != 2:
        raise ConfigError(
            f"--compare: expected two run folders, got {len(folders)}."
        )
    present = {
        flag.name: flag.value
        for flag in flags.FLAGS.get_flags_for_module(_module())
        if flag.present
    }
    fields = {Config.flag_name(field): field for field in COMPARED}
    for name in present:
        if name not in (*fields, "compare", "test_tasks"):
            raise ConfigError(f"--{name}: expected none with --compare.")
    given = {fields[k]: v for k, v in present.items() if k in fields}
    runs = [comparison.load(folder, given) for folder in folders]
    for name, run in zip("AB", runs, strict=True):
        print(f"{name}  {run.checkpoint.path}", flush=True)
    found = comparison.compare(*runs, flags.FLAGS.test_tasks)
    print(f"{found.metric}: {found.tasks}")
    print(comparison.table(found))


def _protocol(config):
    """Returns the choices that change a published number, in words."""
    if not config.is_classification:
        return f"{config.test_tasks} tasks, {config.queries} queries each"
    statistics = {
        "queries": "all queries of a task (transductive)",
        "support_and_query": "the support set and one query",
        "support": "the support set",
    }[config.norm_statistics]
    parts = [
        f"{config.test_tasks} tasks",
        f"{config.queries} queries a class",
        f"statistics of {statistics}" * (config.norm == "batch_norm"),
        f"turned characters: {'yes' if config.test_rotations else 'no'}"
        if config.datasource == "omniglot"
        else "",
        f"{config.label_permutations} order(s) of labels",
        f"checkpoint: {train.selected(config)}",
    ]
    return ", ".join(part for part in parts if part)


def run() -> None:
    """Entry point of the `maml-tf` command."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    run()
