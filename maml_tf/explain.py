"""Says in words what a configuration computes."""

import dataclasses
from collections.abc import Iterator

import keras

from maml_tf import distribution, selection
from maml_tf.config import Config
from maml_tf.engines import Choice
from maml_tf.settings import Settings, Supervised

ADAPTED = {
    "fast_weights": "kernels and biases",
    "all": "all weights",
    "head": "the last layer",
}
SHARED = " The β and γ of normalisation layers are shared by all tasks."


def header(config: Config, network: keras.Model, engine: Choice) -> str:
    """Returns six lines that open a run."""
    before, meta = config.phases
    order = "first order" if config.first_order else "second order"
    return "\n".join(
        [
            f"data       {_data(config)}",
            f"network    {network.name}, {network.count_params():,} parameters"
            f", normalisation {config.norm}",
            f"inner loop {config.inner_steps} step(s) of α = {config.inner_lr},"
            f" {order}, tasks {engine.engine} ({engine.reason})",
            f"outer loop {before} pretraining and {meta} meta-iterations of"
            f" {config.meta_batch_size} tasks, Adam {config.meta_lr}",
            f"devices    {trainers(config)}",
            f"folder     {config.folder}",
        ]
    )


def explain(
    config: Config, network: keras.Model, engine: Choice, memory: float
) -> str:
    """Returns what the flags mean, one fact a line.

    Args:
      config: the settings.
      network: what they build.
      engine: what runs its tasks.
      memory: see `MAML.memory_estimate`, in bytes.
    """
    chosen = selection.select(network, config.adapt)
    adapted = sum(v.shape.num_elements() for v in chosen)
    tested = dataclasses.replace(config, train=False)
    return "\n".join(
        [
            header(config, network, engine),
            "",
            *_scales(config),
            f"Adapted in the inner loop: {ADAPTED[config.adapt]}, {adapted:,} "
            f"of {network.count_params():,} parameters."
            + SHARED
            * (config.adapt == "fast_weights"),
            _normalisation(config),
            "Meta-gradient: " + _order(config),
            _clipping(config),
            *devices(config),
            *precision(config),
            f"Memory: about {memory / 1e6:,.0f} MB for tasks that run at once "
            "(--tasks_per_step bounds it); libraries and data come on top.",
            f"Evaluation: {config.test_tasks} tasks, steps 0 … "
            f"{tested.test_inner_steps}; step 0 is the unadapted network "
            f"on the support set; {tested.queries} queries"
            f"{' a class' * config.is_classification}; intervals are ±1.96 · "
            f"std / √{config.test_tasks}.",
        ]
    )


def task_words(config) -> str:
    """Returns what a task is, of any program's settings."""
    if not config.is_classification:
        return f"sinusoid, {config.shots}-shot regression"
    return f"{config.datasource}, {config.ways}-way {config.shots}-shot"


def trainers(config: Settings) -> str:
    """Returns which devices train.

    Raises:
      settings.ConfigError: see `distribution.count`.
    """
    count = distribution.count(config)
    device = "GPU" if distribution.gpus() else "processor"
    if config.logical_devices != -1:
        device = "part of the processor"
    return device if count == 1 else f"{count} replicas, each a {device}"


def _data(config):
    inputs = " with amplitude and phase as inputs" * config.is_oracle
    return task_words(config) + inputs


def _scales(config):
    if not config.is_classification:
        yield "Losses: mean squared error over the points of a task."
        return
    ways, shots = config.ways, config.shots
    query = ways * config.queries / shots
    yield (
        f"Inner loss: cross-entropy summed over the {ways * shots} support "
        f"images, divided by K = {shots}: {ways} × its mean. α = "
        f"{config.inner_lr:g} is {ways * config.inner_lr:g} on a mean loss."
    )
    yield (
        f"Meta-loss: summed over {ways * config.queries} query images, "
        f"divided by K = {shots}: {query:g} × its mean."
    )


def _normalisation(config):
    if config.norm == "batch_norm":
        at_test = {
            "queries": "at test too (transductive)",
            "support_and_query": "at test of the support set and one query",
            "support": "at test of the support set",
        }[config.norm_statistics]
        return (
            "Batch norm: statistics of the very batch that is passed, "
            f"{at_test}; no moving averages, no scale."
        )
    if config.norm == "layer_norm":
        return "Layer norm: each example by itself, over all its positions."
    return "No normalisation."


def _order(config):
    if config.first_order:
        return "first order, inner gradients are constants."
    if config.norm_gradient == "legacy" and config.norm != "None":
        return (
            "second order, but the mean inside a norm's variance is held "
            "constant, as TensorFlow does since 1.3."
        )
    return "second order, exact."


def devices(config: Settings) -> Iterator[str]:
    """Yields a sentence on who trains, if there are several."""
    if config.strategy != "none":
        yield (
            f"Devices: {config.strategy}; each has whole tasks, equally many, "
            "and all make the same update."
        )


def precision(config: Supervised) -> Iterator[str]:
    """Yields a sentence on what layers compute in, if it is not float32."""
    if config.dtype_policy != "float32":
        yield (
            f"Layers compute in {config.dtype_policy}; weights, statistics of "
            "norms and losses stay float32."
        )


def _clipping(config):
    if config.datasource == "miniimagenet":
        return "Meta-gradient clipped by value to ±10, not that of pretraining."
    return "Meta-gradient not clipped."
