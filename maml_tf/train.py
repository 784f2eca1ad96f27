"""Runs one configuration: builds, trains, resumes and evaluates."""

import dataclasses
import math
import os

import keras
import numpy as np
import tensorflow as tf

from maml_tf import (
    alarms,
    callbacks,
    checkpoints,
    datasets,
    distribution,
    evaluation,
    files,
    legacy,
    losses,
    models,
    omniglot,
    records,
    run_folder,
    samplers,
    seeds,
    sinusoids,
    tasks,
)
from maml_tf import explain as explanations
from maml_tf.config import EVALUATION_TASKS, Config
from maml_tf.image_classes import check_enough
from maml_tf.maml import MAML, JointTraining
from maml_tf.run_folder import RunFolder

WINDOW = 100
SAVE_INTERVAL = 1000
ALARM_ROWS = 10
TRAINING_TASKS = 200_000
TEST_META_BATCH = 8
PHASES = {"pretrain": JointTraining, "meta": MAML}


def build_network(config: Config) -> keras.Model:
    """Returns the network with initial values drawn from the seed."""
    seeds.begin(config)
    with models.dtype_policy(config.dtype_policy):
        return _network(config)


def _network(config):
    norm = {"norm": config.norm, "norm_gradient": config.norm_gradient}
    filters = config.num_filters
    if config.datasource == "sinusoid":
        return models.sinusoid_mlp(3 if config.is_oracle else 1, **norm)
    if not config.conv:
        return models.omniglot_mlp(config.ways, **norm)
    norm["max_pool"] = config.max_pool
    if config.datasource == "omniglot":
        return models.omniglot_conv(config.ways, filters, **norm)
    shape = config.image_size, config.image_size, config.image_channels
    return models.mini_imagenet_conv(
        config.ways, filters, image_shape=shape, **norm
    )


def task_loss(config: Config) -> losses.TaskLoss:
    """Returns the loss of a task, inner and outer, in the original's scale."""
    if config.is_classification:
        return losses.CrossEntropy(config.shots)
    return losses.mean_squared_error


def task_metrics(config: Config) -> dict[str, losses.TaskLoss]:
    """Returns what is tracked; the last one is the published score."""
    metrics = {"loss": task_loss(config)}
    if config.is_classification:
        metrics["accuracy"] = losses.accuracy
    return metrics


def build_learner(
    config: Config, network: keras.Model, phase: str = "meta"
) -> MAML:
    """Returns the compiled meta-learner of a phase, "pretrain" or "meta"."""
    loss = task_loss(config)
    learner = PHASES[phase](
        network,
        loss,
        inner_lr=config.inner_lr,
        inner_steps=config.inner_steps,
        test_inner_steps=config.test_inner_steps,
        first_order=config.first_order,
        adapt=config.adapt,
        task_metrics=task_metrics(config),
        engine=config.engine,
        tasks_per_step=(
            None if config.tasks_per_step == -1 else config.tasks_per_step
        ),
        remat=config.remat,
        norm_statistics=config.norm_statistics,
    )
    # The original clips by value where it meta-trains on mini-ImageNet only.
    clips = config.datasource == "miniimagenet" and phase == "meta"
    clip = 10.0 if clips else None
    adam = keras.optimizers.Adam(config.meta_lr, epsilon=1e-8, clipvalue=clip)
    learner.compile(adam, loss, jit_compile=_jit_compile(config))
    adam.build(learner.trainable_variables)
    return learner


def _jit_compile(config):
    """Returns whether XLA compiles training, as Keras takes it.

    Fusing operations pays where they are small. Keras does not fuse them where
    bits are promised to be the same. XLA would merge steps that are computed
    again with the first ones.
    """
    if config.strategy != "none" or config.remat:
        return False
    if config.jit_compile != "auto":
        return config.jit_compile == "true"
    if config.is_classification or config.deterministic:
        return "auto"
    return True


def training_tasks(config: Config) -> samplers.Sampler:
    """Returns the function from t to meta-batch t of training tasks.

    Raises:
      cache.DataError: if images are missing or too few.
    """
    batch = {"meta_batch_size": config.meta_batch_size, "seed": config.seed}
    if config.is_classification:
        return _image_tasks(config, "train", TRAINING_TASKS, 5, **batch)
    return sinusoids.sinusoid_sampler(
        shots=config.shots, oracle=config.is_oracle, **batch
    )


def validation_tasks(config: Config) -> samplers.Sampler | None:
    """Returns held-out tasks as `training_tasks`; none for the sinusoid."""
    if not config.is_classification:
        return None
    batch = {"meta_batch_size": config.meta_batch_size, "seed": config.seed}
    return _held_out_tasks(config, **batch)


def test_tasks(config: Config) -> tf.data.Dataset:
    """Returns held-out tasks in meta-batches, `test_tasks` or a few more."""
    batch = {"meta_batch_size": TEST_META_BATCH, "seed": 1}
    if config.is_classification:
        batches = tasks.meta_batches(_held_out_tasks(config, **batch))
        return batches.take(math.ceil(config.test_tasks / TEST_META_BATCH))
    drawn = sinusoids.sinusoid_test_tasks(config.test_tasks, config.shots)
    whole = sinusoids.split_regression(drawn, config.shots, config.is_oracle)
    data = tf.data.Dataset.from_tensor_slices(whole)
    return tasks.untuned(data.batch(TEST_META_BATCH))


def _held_out_tasks(config, **batch):
    part = "test" if config.test_set else "validation"
    # The first 600 are the same in a longer list.
    length = EVALUATION_TASKS
    if not config.train:
        length = max(length, config.test_tasks)
    return _image_tasks(config, part, length, 6, **batch)


def _image_tasks(config, part, length, list_seed, **batch):
    """Returns the sampler of one part of a data set's classes."""
    data, classes = image_classes(config, part)
    needed = config.shots + config.queries
    check_enough(
        np.take(data.names, classes),
        data.sizes[classes],
        ways=config.ways,
        needed=needed,
        flags=("--num_classes", "--update_batch_size or --num_queries"),
    )
    task_list = samplers.cached_task_list(
        config.cache_dir,
        data.starts[classes].tolist(),
        data.sizes[classes].tolist(),
        length,
        config.ways,
        needed,
        list_seed,
    )
    drawings = config.datasource == "omniglot"
    return samplers.image_sampler(
        data.images,
        task_list,
        shots=config.shots,
        rotate=drawings and (part == "train" or config.test_rotations),
        white=1 if drawings else datasets.WHITE,
        **batch,
    )


def image_classes(config, part):
    """Returns images in classes, and the indices of a part's classes."""
    if config.datasource == "omniglot":
        data = omniglot.load_omniglot(config.data_dir, config.cache_dir)
        return data, getattr(omniglot.split_omniglot(data.names), part)
    data = datasets.load_photos(config, part).data
    return data, np.arange(len(data.names))


def train(config: Config) -> None:
    """Trains, or continues to train, in the log folder.

    Pretraining comes first, then meta-training, each with its own Adam.

    Raises:
      cache.DataError: see `training_tasks`.
      checkpoints.CheckpointError: if the latest checkpoint cannot be used.
      files.BusyError: if another process trains in the folder.
      settings.ConfigError: if a setting is not what the checkpoint needs.
      alarms.NonFiniteError: if the loss is not finite any more.
      KeyboardInterrupt: after SIGINT or SIGTERM; everything is saved.
    """
    run = RunFolder(config, distribution.is_chief(config))
    if run.need_not_meet(sum(config.phases)):
        return
    strategy = distribution.strategy(config)
    # Too small a validation part is found before the long list is drawn.
    held_out = validation_tasks(config)
    data = training_tasks(config), held_out
    with strategy.scope():
        learner = build_learner(config, build_network(config))
    imported = None
    if run.imports():
        imported = legacy.restore(config.import_checkpoint, learner)
    with run.entered():
        if imported is not None:
            run.start_from_import(learner, "imported", imported)
        with distribution.together(strategy, config):
            _train(run, data, learner)


def _train(run, data, learner):
    config, network = run.config, learner.network
    strategy = learner.distribute_strategy
    done = run.latest()
    distribution.require_same(strategy, done.iteration if done else -1)
    if done is not None:
        checkpoints.restore(done, learner, phase=None)
    engine = learner.engine_for(_inputs_spec(config, learner))
    files.say(explanations.header(config, network, engine))
    if run.is_over(done, sum(config.phases)):
        return
    run.describe(_explanation(config, learner))
    end = 0
    for phase, iterations in zip(PHASES, config.phases, strict=True):
        end += iterations
        if iterations and (done is None or done.iteration < end):
            with strategy.scope():
                learner = build_learner(config, network, phase)
            start = end - iterations
            if done is not None:
                checkpoints.restore(done, learner, phase)
                learner.optimizer.learning_rate = config.meta_lr
                start = done.iteration
            _fit(run, learner, *data, phase, start, end)
            done = None  # The network is what this phase has left.


def explain(config: Config) -> str:
    """Returns what a configuration means, see `maml_tf.explain`.

    It does not wait for other hosts.

    Raises:
      settings.ConfigError: see `distribution.count`.
    """
    learner = build_learner(config, build_network(config))
    return _explanation(config, learner)


def _explanation(config, learner):
    inputs = _inputs_spec(config, learner)
    return explanations.explain(
        config,
        learner.network,
        learner.engine_for(inputs),
        learner.memory_estimate(inputs),
    )


def _inputs_spec(config, learner):
    """Returns what `(support_x, support_y, query_x)` are on each replica."""
    ways = config.ways if config.is_classification else 1
    replicas = distribution.count(config)

    def spec(examples):
        shape = config.meta_batch_size // replicas, ways * examples
        return tf.TensorSpec([*shape, *learner.network.input_shape[1:]])

    return spec(config.shots), None, spec(config.queries)


def _fit(run, learner, training, validation, phase, start, end):
    """Trains one phase from iteration `start` to `end`."""
    alone = run.config.strategy == "none"
    if alone and not run.config.is_classification:
        learner.block = math.gcd(WINDOW, start, end)
    data = tasks.meta_batches(training, start).take(end - start)
    if learner.block > 1:
        data = data.batch(learner.block).prefetch(tf.data.AUTOTUNE)
    save_interval = callbacks.thinned(SAVE_INTERVAL, sum(run.config.phases))
    others = [
        alarms.NonFiniteGuard(start, training, "--update_lr or --meta_lr"),
        *_logging(run, learner, training, validation, phase, start),
        *callbacks.keepers(run, learner, phase, start, save_interval),
    ]
    callbacks.fit(learner, data, start, end, others)


def _faults(config):
    """Returns what an alarm looks for in the table of training."""
    faults = [alarms.worsens("pre_loss", "post_loss")]
    if config.is_classification:
        faults.append(alarms.at_chance("post_accuracy", config.ways))
    return faults


def _logging(run, learner, training, validation, phase, start):
    """Yields the callbacks that write tables, each a curve in TensorBoard."""
    config, scalars = run.config, run.scalars()
    names = [metric.name for metric in learner.metrics]
    table = run.table("training.csv", start, scalars.write, names)
    yield callbacks.TrainingLog(
        start,
        table,
        _original_line(config, phase),
        window=_thinned(config, WINDOW, WINDOW),
        print_interval=_thinned(config, 100, 1000),
    )
    if phase == "meta":
        yield alarms.Alarm(start, table, ALARM_ROWS, _faults(config))
    yield from _curves(run, scalars, learner, training, validation, start)


def _curves(run, scalars, learner, training, validation, start):
    """Yields what scores meta-batches of training, and held-out ones."""
    config, metrics = run.config, task_metrics(run.config)
    score = evaluation.scorer(learner, metrics)
    steps = range(learner.test_inner_steps + 1)
    columns = [f"{name}_{u}" for name in metrics for u in steps]
    interval = _thinned(config, 500, 1000)

    def scores(name, prefix, sampler, every, line=None):
        def show(iteration, row):
            named = {f"{prefix}_{k}": value for k, value in row.items()}
            scalars.write(iteration, named)

        def row(i):
            return _curve_row(
                score(*sampler(tf.constant(i // every, tf.int64)))
            )

        table = run.table(name, start, show, columns)
        return callbacks.Scores(start, table, row, interval, line)

    yield scores("training_curve.csv", "training", training, 1)
    if validation is not None:
        line = _validation_line(config)
        yield scores("validation.csv", "validation", validation, interval, line)


def _thinned(config, images, points):
    """Returns an interval for images or for sinusoids, thinned if need be."""
    interval = images if config.is_classification else points
    return callbacks.thinned(interval, sum(config.phases))


def _curve_row(scores):
    """Returns means over tasks, by metric and step, of what a scorer gives."""
    return {
        f"{name}_{u}": float(mean)
        for name, values in scores.items()
        for u, mean in enumerate(
            evaluation.AdaptationCurve(values.numpy()).mean
        )
    }


def _validation_line(config):
    *_, metric = task_metrics(config)
    before, after = f"{metric}_0", f"{metric}_{config.inner_steps}"
    return lambda i, row: f"Validation results: {row[before]}, {row[after]}"


def _original_line(config, phase):
    *_, metric = task_metrics(config)
    before, after = f"pre_{metric}", f"post_{metric}"
    pretrained = config.phases[0]

    def line(iteration, means):
        numbers = f"{means[before]}, {means[after]}"
        if phase == "pretrain":
            return f"Pretrain Iteration {iteration}: {numbers}"
        return f"Iteration {iteration - pretrained}: {numbers}"

    return line


def evaluate(config: Config) -> evaluation.AdaptationCurve:
    """Scores a checkpoint on held-out tasks and writes the results.

    They are the original's CSV file and pickle, and a record of how they were
    measured.

    Returns:
      Accuracy, or mean squared error, of each task after 0 … 10 inner steps.

    Raises:
      checkpoints.CheckpointError: if there is no such checkpoint, or it is of
        another architecture.
      cache.DataError: see `training_tasks`.
      settings.ConfigError: if it would write over an original's results, or
        the checkpoint is of other images.
    """
    _spare_the_originals(config)
    learner = build_learner(config, build_network(config))
    score = _scorer(config, learner)
    checkpoint = _restore(config, learner, score)
    run_folder.make_writable(config)
    facts = run_folder.facts_of(config, checkpoint)
    curve = _curve(config, score)
    evaluation.write_curve(curve, result_stem(config))
    record = evaluation_facts(config, curve) | facts
    if not config.is_classification:
        record["panel"] = _panel(config, learner)
    records.write(f"{result_stem(config)}.json", record)
    return curve


def _spare_the_originals(config):
    """Refuses to test an import where its own program has tested it."""
    table, record = (f"{result_stem(config)}.{end}" for end in ("csv", "json"))
    # Its results have our names, but no record beside them.
    theirs = os.path.exists(table) and not os.path.exists(record)
    if run_folder.tests_import(config) and theirs:
        words = f"another folder than that of the original's {table}"
        config.refuse("logdir", words)


def evaluation_facts(config: Config, curve: evaluation.AdaptationCurve) -> dict:
    """Returns what was measured and how, for `records.write`."""
    classes = "test" if config.test_set else "validation"
    images = config.is_classification
    return {
        "metric": config.metric,
        "mean": curve.mean.tolist(),
        "ci95": curve.ci95.tolist(),
        "diverged": int((~np.isfinite(curve.values)).any(1).sum()),
        "tasks": len(curve.values),
        "shots": config.shots,
        "queries": config.queries,
        "classes": classes if images else None,
        "norm_statistics": (
            config.norm_statistics if config.norm == "batch_norm" else None
        ),
        "test_rotations": (
            config.test_rotations if config.datasource == "omniglot" else None
        ),
        "label_permutations": config.label_permutations if images else None,
        "selected": selected(config),
    }


def score(config: Config, learner: MAML) -> evaluation.AdaptationCurve:
    """Scores a learner on the held-out tasks, and writes nothing.

    It is the mean over cyclic permutations of each task's labels.
    """
    return _curve(config, _scorer(config, learner))


def _scorer(config, learner):
    """Returns the compiled function that scores tasks by the last metric."""
    name, metric = list(task_metrics(config).items())[-1]
    return evaluation.scorer(learner, {name: metric})


def _curve(config, score):
    data = test_tasks(config)
    curves = [
        evaluation.scored(score, data.map(_relabelled(shift, config.ways)))
        for shift in range(config.label_permutations)
    ]
    values = np.mean([curve.values for curve in curves], 0)
    return evaluation.AdaptationCurve(values[: config.test_tasks])


def _relabelled(shift, ways):
    """Returns the function of tasks that moves label n to n + shift."""

    def move(x, y):
        support_x, support_y, query_x = x
        moved = (support_y + shift) % ways, (y + shift) % ways
        return (support_x, moved[0], query_x), moved[1]

    return move if shift else lambda x, y: (x, y)


def load_learner(config: Config) -> MAML:
    """Returns the meta-learner of the configuration's checkpoint.

    Raises:
      checkpoints.CheckpointError: see `evaluate`.
    """
    learner = build_learner(config, build_network(config))
    _restore(config, learner, _scorer(config, learner))
    return learner


def _restore(config, learner, score):
    """Restores the chosen checkpoint and returns it, if it is one of ours."""
    if run_folder.tests_import(config):
        legacy.restore(config.import_checkpoint, learner)
        return None
    if config.select == "validation":
        return _restore_best(config, learner, score)
    checkpoint = checkpoints.find(config.folder, config.test_iter)
    _require_same(config, checkpoint)
    checkpoints.restore(checkpoint, learner, phase=None)
    print(f"Checkpoint: {checkpoint.path}")
    return checkpoint


def _require_same(config, checkpoint):
    """Refuses settings of another network that no name of a folder tells."""
    network = ["conv"] * (config.datasource == "omniglot")
    run_folder.require_same(config, checkpoint, network)


def selected(config: Config) -> str:
    """Returns which checkpoint is tested, in words."""
    if run_folder.tests_import(config):
        return "imported"
    return config.select if config.test_iter == -1 else "iteration"


def _restore_best(config, learner, score):
    """Restores the checkpoint that does best on validation classes."""
    config = dataclasses.replace(
        config, test_set=False, test_tasks=EVALUATION_TASKS
    )
    scores = {}
    newest = checkpoints.find(config.folder)
    _require_same(config, newest)
    for checkpoint in checkpoints.whole(config.folder):
        checkpoints.restore(checkpoint, learner, phase=None)
        scores[checkpoint] = _curve(config, score).mean[-1]
        print(
            f"{checkpoint.path.name}: {scores[checkpoint]:.2%} on "
            f"{EVALUATION_TASKS} tasks of validation classes"
        )
    best = max(scores, key=scores.get)
    checkpoints.restore(best, learner, phase=None)
    print(f"Checkpoint: {best.path}, the best of {len(scores)} there")
    return best


def sinusoid_panel(config: Config) -> dict:
    """Returns an evaluation's panel for `plots.plot_sinusoids`, as recorded."""
    return records.read(f"{result_stem(config)}.json")["panel"]


def _panel(config, learner):
    """Returns the panel of the first test task, in short numbers."""
    drawn = sinusoids.sinusoid_test_tasks(1, config.shots)
    x = np.linspace(*sinusoids.INPUTS, 200, dtype=np.float32)[None, :, None]
    with_grid = drawn._replace(
        x=np.concatenate([drawn.x[:, : config.shots], x], 1),
        y=np.concatenate([drawn.y[:, : config.shots], x], 1),
    )
    (support_x, support_y, query_x), _ = sinusoids.split_regression(
        with_grid, config.shots, config.is_oracle
    )
    query = learner((support_x, support_y, query_x)).query
    names = {"pre-update": 0, "1 grad step": 1, "10 grad steps": 10}
    panel = {
        "x": x[0, :, 0],
        "truth": (drawn.amplitude * np.sin(x - drawn.phase))[0, :, 0],
        "points": (drawn.x[0, : config.shots, 0], support_y[0, :, 0]),
        "fits": {k: query[u].numpy()[0, :, 0] for k, u in names.items()},
    }
    return tf.nest.map_structure(
        lambda part: np.round(part.astype(float), 2).tolist(), panel
    )


def result_stem(config: Config) -> str:
    """Returns the path of the evaluation's files, named as the original's."""
    name = f"test_ubs{config.shots}_stepsize{config.inner_lr}"
    return os.path.join(config.folder, name)
