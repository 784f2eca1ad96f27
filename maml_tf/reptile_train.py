"""Runs one Reptile configuration: builds, trains, resumes and evaluates."""

import functools
import math
import os
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from maml_tf import (
    alarms,
    callbacks,
    checkpoints,
    datasets,
    distribution,
    files,
    inner_optimizers,
    legacy,
    logs,
    losses,
    models,
    omniglot,
    records,
    reptile,
    run_folder,
    samplers,
    seeds,
    sinusoids,
    tasks,
)
from maml_tf import reptile_explain as explanations
from maml_tf.evaluation import AdaptationCurve
from maml_tf.image_classes import PARTS, check_enough
from maml_tf.reptile_config import ReptileConfig
from maml_tf.run_folder import RunFolder

PHASE = "reptile"
WINDOW = 100
SAVE_INTERVAL = 1000
ALARM_ROWS = 100
EVALUATION_GROUP = 20
SMOOTHED = 50
RESAMPLE = Image.Resampling.NEAREST  # Pillow's default when it was written
SINUSOID_PHASES = (0.0, 2 * math.pi)
SINUSOID_QUERIES = 50


def build_network(config: ReptileConfig) -> keras.Model:
    """Returns the network with initial values drawn from the seed."""
    seeds.begin(config)
    with models.dtype_policy(config.dtype_policy):
        return _network(config)


def _network(config):
    if config.datasource == "sinusoid":
        return models.reptile_sinusoid_mlp()
    if config.datasource == "omniglot":
        return models.reptile_omniglot_conv(config.ways)
    shape = config.image_size, config.image_size, config.image_channels
    return models.reptile_mini_imagenet_conv(config.ways, shape)


def build_learner(config: ReptileConfig) -> reptile.Reptile:
    """Returns the compiled meta-learner: SGD whose rate is the meta-step."""
    optimizer = inner_optimizers.SGD if config.sgd else inner_optimizers.Adam
    kind, tail = reptile.Reptile, {}
    if config.foml:
        kind, tail = reptile.FOML, {"tail_shots": config.tail_shots}
    learner = kind(
        build_network(config),
        optimizer(config.inner_lr),
        inner_steps=config.inner_steps,
        inner_batch=config.inner_batch,
        inner_loss=task_loss(config),
        test_inner_steps=config.eval_steps,
        test_inner_batch=config.eval_batch,
        replacement=config.replacement,
        weight_decay=config.weight_decay,
        reset_inner_optimizer=config.reset_inner_optimizer,
        transductive=config.transductive,
        engine=config.engine,
        seed=config.seed,
        **tail,
    )
    meta_step = keras.optimizers.schedules.PolynomialDecay(
        config.meta_step, config.meta_iterations, config.meta_step_final
    )
    sgd = keras.optimizers.SGD(meta_step)
    # Loops of small operations run faster as they are than fused.
    learner.compile(sgd, jit_compile=False)
    sgd.build(learner.trainable_variables)
    return learner


def task_loss(config: ReptileConfig) -> losses.TaskLoss:
    """Returns the loss of a mini-batch, in the original's scale."""
    if config.is_classification:
        return losses.CrossEntropy(1)
    return losses.mean_squared_error


def metric(config: ReptileConfig) -> losses.TaskLoss:
    """Returns what is published: accuracy, or the mean squared error."""
    if config.is_classification:
        return losses.accuracy
    return losses.mean_squared_error


def training_tasks(
    config: ReptileConfig,
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns the function from t to the t-th support sets of training.

    Raises:
      cache.DataError: if images are missing or too few.
    """
    if not config.is_classification:
        return lambda t: _sinusoids(config, t)
    return _class_tasks(
        config, "train", config.training_shots, config.meta_batch_size, 0
    )


def evaluation_tasks(
    config: ReptileConfig, part: str, group: int, stream: int
) -> samplers.Sampler:
    """Returns the function from t to the t-th group of tasks with queries.

    Args:
      config: the run's settings.
      part: one of `parts`.
      group: tasks in a group.
      stream: tasks of different streams are drawn apart.

    Raises:
      cache.DataError: if images are missing or too few.
    """
    if not config.is_classification:
        return sinusoids.sinusoid_sampler(
            meta_batch_size=group,
            shots=config.shots,
            queries=SINUSOID_QUERIES,
            phases=SINUSOID_PHASES,
            seed=_stream(config, stream),
        )
    sampler = _class_tasks(config, part, config.shots + 1, group, stream)
    return lambda t: samplers.split_queries(*sampler(t), config.ways)


def _class_tasks(config, part, shots, group, stream):
    data, classes = image_classes(config, part)
    check_enough(
        np.take(data.names, classes),
        data.sizes[classes],
        ways=config.ways,
        needed=shots,
        flags=("--classes", "--shots and --train-shots"),
    )
    drawings = config.datasource == "omniglot"
    return samplers.class_sampler(
        data.images,
        data.starts[classes],
        data.sizes[classes],
        ways=config.ways,
        shots=shots,
        meta_batch_size=group,
        seed=_stream(config, stream),
        rotate=drawings and part == "train",
        white=1 if drawings else datasets.WHITE,
    )


@functools.lru_cache(maxsize=len(PARTS))
def image_classes(config, part):
    """Returns images in classes, and the indices of a part's classes.

    Training, its curve and the evaluation share them.

    Drawings are not inverted here: paper is 1 and ink 0.
    """
    if config.datasource == "omniglot":
        data = omniglot.load_omniglot(config.data_dir, config.cache_dir)
        split = omniglot.split_omniglot_reptile(data.names, config.seed)
        classes = dict(zip(parts(config), split, strict=True))
        return data._replace(images=1 - data.images), classes[part]
    data = datasets.load_photos(config, part, RESAMPLE).data
    return data, np.arange(len(data.names))


def _sinusoids(config, t):
    """Returns the t-th support sets of training."""
    drawn = sinusoids.sinusoids_at(
        config.seed,
        t,
        config.meta_batch_size,
        config.training_shots,
        SINUSOID_PHASES,
    )
    return drawn.x, drawn.y


def _stream(config, stream):
    """Returns a seed for one of several independent streams of tasks."""
    return config.seed + (stream << 32)


def parts(config: ReptileConfig) -> tuple[str, ...]:
    """Returns which parts are evaluated; sinusoids are all alike."""
    if config.datasource == "omniglot":
        return ("train", "test")
    return PARTS if config.is_classification else ("test",)


def curve_parts(config: ReptileConfig) -> tuple[str, ...]:
    """Returns which parts are scored during training."""
    return tuple(part for part in parts(config) if part != "validation")


def explain(config: ReptileConfig) -> str:
    """Returns what a configuration means, see `maml_tf.reptile_explain`."""
    return explanations.explain(config, build_network(config))


def train(config: ReptileConfig) -> None:
    """Trains, or continues to train.

    Raises:
      cache.DataError: see `training_tasks`.
      checkpoints.CheckpointError: if the latest checkpoint cannot be used.
      files.BusyError: if another process trains in the folder.
      settings.ConfigError: if a setting is not what the checkpoint needs.
      alarms.NonFiniteError: if the loss is not finite any more.
      KeyboardInterrupt: after SIGINT or SIGTERM; everything is saved.
    """
    run = RunFolder(config, distribution.is_chief(config))
    if run.need_not_meet(config.meta_iterations):
        return
    strategy = distribution.strategy(config)
    data = training_tasks(config)
    curves = {
        part: evaluation_tasks(config, part, 1, 1)
        for part in curve_parts(config)
    }
    for part in parts(config):  # What the test will miss is found before.
        evaluation_tasks(config, part, 1, 2)
    with strategy.scope():
        learner = build_learner(config)
    imported = None
    if run.imports():
        imported = _import(config, learner)
    with run.entered():
        if imported is not None:
            run.start_from_import(learner, PHASE, imported)
        with distribution.together(strategy, config):
            _train(run, data, curves, learner)


def _train(run, data, curves, learner):
    config, start = run.config, 0
    done = run.latest()
    if done is not None:
        checkpoints.restore(done, learner, PHASE)
        start = done.iteration
    distribution.require_same(learner.distribute_strategy, start)
    files.say(explanations.header(config, learner.network))
    if not run.is_over(done, config.meta_iterations):
        run.describe(explanations.explain(config, learner.network))
        _fit(run, learner, data, curves, start)


def _fit(run, learner, data, curves, start):
    end = run.config.meta_iterations
    save_interval = callbacks.thinned(SAVE_INTERVAL, end)
    batches = tasks.meta_batches(data, start).take(end - start)
    others = [
        alarms.NonFiniteGuard(start, data, "--learning-rate or --meta-step"),
        *_logging(run, learner, curves, start),
        *callbacks.keepers(run, learner, PHASE, start, save_interval),
    ]
    callbacks.fit(learner, batches, start, end, others)


def _logging(run, learner, curves, start):
    """Yields the callbacks that write tables, each a curve in TensorBoard."""
    config = run.config
    scalars = {part: run.scalars(part) for part in curves}

    def show(iteration, values):
        for part, value in values.items():
            scalars[part].write(iteration - 1, {config.metric: value})

    yield callbacks.TrainingLog(
        start,
        run.table("training.csv", start, run.scalars().write, ["loss"]),
        None,
        window=callbacks.thinned(WINDOW, config.meta_iterations),
    )
    curve = run.table("curve.csv", start, show, curves)
    scorer = _scorer(config, learner)
    scores = {part: _scores_at(scorer, s) for part, s in curves.items()}
    yield callbacks.Scores(
        start,
        curve,
        lambda i: {k: float(np.mean(at(i - 1))) for k, at in scores.items()},
        config.eval_interval,
        _original_line,
        first=1,
    )
    if config.is_classification:
        faults = [alarms.at_chance("train", config.ways)]
        yield alarms.Alarm(start, curve, ALARM_ROWS, faults)


def _original_line(iteration, row):
    """Returns supervised-reptile's, which counts the updates before."""
    values = " ".join(f"{part}={value:f}" for part, value in row.items())
    return f"batch {iteration - 1}: {values}"


def _scorer(config, learner):
    """Returns the compiled function from tasks and a draw to their scores."""
    score = metric(config)
    return tf.function(
        lambda x, y, t: score(y, learner(x, training=False, draw=t)),
        autograph=False,
    )


def _scores_at(scorer, sampler):
    """Returns the function from t to the scores of a sampler's tasks."""
    draw = tf.function(sampler, autograph=False)

    def scores(t):
        t = tf.constant(t, tf.int64)
        return scorer(*draw(t), t)

    return scores


def evaluate(config: ReptileConfig) -> dict[str, AdaptationCurve]:
    """Scores the latest checkpoint, and writes `evaluation*.csv`.

    Returns:
      By part of the classes, "train", "validation" or "test", the accuracy or
      mean squared error of each task after adaptation, `[tasks]`.

    Raises:
      checkpoints.CheckpointError: if there is none, or it is of another
        architecture.
      cache.DataError: see `training_tasks`.
      settings.ConfigError: if it was trained on other images, or another seed
        had divided the classes.
    """
    learner = build_learner(config)
    checkpoint = _restore(config, learner)
    run_folder.make_writable(config)
    facts = run_folder.facts_of(config, checkpoint)
    scorer = _scorer(config, learner)
    scores = {part: _score(config, scorer, part) for part in parts(config)}
    header = "classes", "tasks", "mean", "ci95"
    rows = [(p, len(s.values), s.mean, s.ci95) for p, s in scores.items()]
    files.replace_table(result_stem(config) + ".csv", [header, *rows])
    record = evaluation_facts(config, scores) | facts
    records.write(result_stem(config) + ".json", record)
    return scores


def evaluation_facts(
    config: ReptileConfig, scores: dict[str, AdaptationCurve]
) -> dict:
    """Returns what was measured and how, for `records.write`."""
    *_, test = scores.values()
    images = config.is_classification
    return {
        "metric": config.metric,
        "mean": [test.mean],
        "ci95": [test.ci95],
        "steps": [config.eval_steps],
        "parts": {part: [s.mean, s.ci95] for part, s in scores.items()},
        "tasks": len(test.values),
        "shots": config.shots,
        "queries": 1 if images else SINUSOID_QUERIES,
        "classes": "test" if images else None,
        "norm_statistics": config.norm_statistics if images else None,
        "test_rotations": False if config.datasource == "omniglot" else None,
        "selected": "imported" if run_folder.tests_import(config) else "latest",
    }


def load_learner(config: ReptileConfig) -> reptile.Reptile:
    """Returns the meta-learner of the latest checkpoint.

    Raises:
      checkpoints.CheckpointError: see `evaluate`.
    """
    learner = build_learner(config)
    _restore(config, learner)
    return learner


def _restore(config, learner):
    """Restores the latest checkpoint and returns it, if it is one of ours."""
    if run_folder.tests_import(config):
        _import(config, learner)
        return None
    checkpoint = checkpoints.find(config.folder)
    _require_same(config, checkpoint)
    checkpoints.restore(checkpoint, learner, PHASE)
    print(f"Checkpoint: {checkpoint.path}")
    return checkpoint


def _require_same(config, checkpoint):
    """Refuses settings of other data or another network than training's."""
    names = []
    if config.datasource == "omniglot":
        names.append("seed")  # Another one divides the classes otherwise.
    if not config.sgd:
        names.append("sgd")  # Adam's moments are in no checkpoint of SGD.
    run_folder.require_same(config, checkpoint, names)


def _import(config, learner):
    """Sets a learner to the checkpoint to import, and returns its iteration."""
    iteration = legacy.restore(config.import_checkpoint, learner)
    learner.optimizer.iterations.assign(iteration)
    return iteration


def _score(config, scorer, part):
    print(f"Evaluating: {config.eval_tasks:,} tasks, {part}", flush=True)
    groups = math.ceil(config.eval_tasks / EVALUATION_GROUP)
    sampler = evaluation_tasks(config, part, EVALUATION_GROUP, 2)
    scores = _scores_at(scorer, sampler)
    show = callbacks.bar(groups, f"{part} group")
    values = []
    for t in range(groups):
        values.append(scores(t).numpy())
        show(t + 1)
    return AdaptationCurve(np.concatenate(values)[: config.eval_tasks])


def result_stem(config: ReptileConfig) -> str:
    """Returns the path of the evaluation's files, without ending."""
    way = "_transductive" if config.transductive else ""
    return os.path.join(config.folder, f"evaluation{way}")


def smooth_curves(config: ReptileConfig) -> dict:
    """Returns the curves of training for `plots.plot_training`, by part.

    Single tasks are noisy: each value is the mean of up to 50 scores. There
    are none of an imported checkpoint, or where the folder has no scores.

    Raises:
      ValueError: if the folder's `curve.csv` is not of these parts.
    """
    if run_folder.tests_import(config):
        return {}
    path, names = os.path.join(config.folder, "curve.csv"), curve_parts(config)
    rows = logs.read_rows(path, columns=names)
    return {name: logs.smoothed(rows, name, SMOOTHED) for name in names if rows}


def sinusoid_panels(config: ReptileConfig) -> Iterator[tuple[str, dict]]:
    """Yields titles and panels for `plots.plot_sinusoids`.

    The first is the network as initialised, the second the checkpoint, each
    before and after adaptation to the same ten points.
    """
    learner = build_learner(config)
    yield "random initialisation", _panel(config, learner)
    checkpoints.restore(checkpoints.find(config.folder), learner, PHASE)
    yield "after Reptile", _panel(config, learner)


def _panel(config, learner):
    drawn = sinusoids.sinusoids_at(
        _stream(config, 3), 0, 1, config.shots, SINUSOID_PHASES
    )
    x = np.linspace(*sinusoids.INPUTS, 200, dtype=np.float32)[None, :, None]
    after = learner((drawn.x, drawn.y, x))[0, :, 0]
    before = learner.network(x[0])[:, 0]
    truth = drawn.amplitude[:, None] * np.sin(x[..., 0] - drawn.phase[:, None])
    return {
        "x": x[0, :, 0],
        "truth": np.array(truth)[0],
        "points": (drawn.x[0, :, 0].numpy(), drawn.y[0, :, 0].numpy()),
        "fits": {
            "before": np.array(before),
            f"after {config.eval_steps} steps": np.array(after),
        },
    }
