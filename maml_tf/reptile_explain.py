"""Says in words what a Reptile configuration computes."""

import keras

from maml_tf.explain import devices, precision, task_words, trainers
from maml_tf.reptile_config import ReptileConfig


def header(config: ReptileConfig, network: keras.Model) -> str:
    """Returns six lines that open a run."""
    name = "FOML" if config.foml else "Reptile"
    optimizer = "SGD" if config.sgd else "Adam with β₁ = 0,"
    return "\n".join(
        [
            f"data       {task_words(config)}",
            f"network    {network.name}, {network.count_params():,} parameters",
            f"inner loop {config.inner_steps} step(s) of {optimizer} "
            f"{config.inner_lr} on mini-batches of {config.inner_batch}",
            f"outer loop {name}, {config.meta_iterations} meta-iterations of "
            f"{config.meta_batch_size} tasks, meta-step {config.meta_step} → "
            f"{config.meta_step_final}",
            f"devices    {trainers(config)}",
            f"folder     {config.folder}",
        ]
    )


def explain(config: ReptileConfig, network: keras.Model) -> str:
    """Returns what the flags mean, one fact a line."""
    queries = "all in one batch (transductive)"
    if not config.transductive:
        queries = "each alone, with the support set in its batch"
    return "\n".join(
        [
            header(config, network),
            "",
            _training_sets(config),
            _mini_batches(config),
            _memory(config),
            f"Weight decay: parameters × {config.weight_decay:g} before each "
            "inner step.",
            _update(config),
            *_batch_norm(config),
            *devices(config),
            *precision(config),
            f"Evaluation: {config.eval_tasks} tasks, {config.eval_steps} steps "
            f"on mini-batches of {config.eval_batch}; queries {queries}; "
            "intervals are ±1.96 · std / √tasks.",
        ]
    )


def _batch_norm(config):
    if config.is_classification:
        yield (
            "Batch norm: statistics of the very batch that is passed; γ and β "
            "adapt like all parameters."
        )


def _training_sets(config):
    size = config.support_size(config.training_shots)
    if not config.is_classification:
        return f"Training: {size} points of a task, mean squared error."
    return (
        f"Training: {size} images of a task; the inner loss is the sum of "
        "cross-entropies over a mini-batch."
    )


def _mini_batches(config):
    if config.replacement:
        return "Mini-batches: each a sample of its own, without repeats in it."
    return (
        "Mini-batches: dealt out of a shuffled task; one that runs over its "
        "end goes on in a new shuffle."
    )


def _memory(config):
    if config.sgd:
        return "Inner optimizer: gradient descent, which remembers nothing."
    if config.reset_inner_optimizer:
        return "Inner optimizer: Adam, which forgets before each task."
    return (
        "Inner optimizer: Adam, whose moments pass from task to task in "
        "training, and are restored after each evaluation."
    )


def _update(config):
    if not config.foml:
        return "Meta-update: towards the mean of where tasks end."
    if config.tail_shots is None:
        return "Meta-update: the step of each task's last mini-batch alone."
    return (
        "Meta-update: the step of each task's last mini-batch alone, which is "
        f"{config.tail_shots} examples of each class, set apart for it."
    )
