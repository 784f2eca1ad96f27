"""Says in words what a reinforcement-learning configuration computes."""

import keras

from maml_tf.explain import devices
from maml_tf.rl.config import GOALS, RLConfig


def header(config: RLConfig, network: keras.Model) -> str:
    """Returns five lines that open a run."""
    return "\n".join(
        [
            f"data       {config.env}, {config.meta_batch_size} tasks × "
            f"{config.trajectories} trajectories × {config.horizon} steps",
            f"network    {network.name}, {network.count_params():,} parameters"
            f", {config.activation}",
            f"inner loop {_inner(config)}",
            f"outer loop {_outer(config)}",
            f"folder     {config.folder}",
        ]
    )


def explain(config: RLConfig, network: keras.Model) -> str:
    """Returns what the flags mean, one fact a line."""
    return "\n".join(
        [
            header(config, network),
            "",
            f"Task: {GOALS[config.env]}, drawn anew in every iteration"
            + (" for every trajectory." if config.is_oracle else "."),
            *_simulation(config),
            "Policy: Gaussian; actions in units of the environment's range, "
            "clipped by it alone; log-std adapts like all parameters.",
            f"Advantages: γ = {config.discount:g}, λ = {config.gae_lambda:g}, "
            "linear baseline fitted on the same trajectories, standardised by "
            "task.",
            *devices(config),
            _evaluation(config),
        ]
    )


def _inner(config):
    if config.algo != "maml_trpo":
        return "none in training"
    order = "first order" if config.first_order else "second order"
    return (
        f"{config.inner_steps} policy-gradient step(s) of α = "
        f"{config.inner_lr}, {order}"
    )


def _outer(config):
    if config.algo == "random":
        return "none: random weights"
    steps = f"{config.meta_iterations} iterations of "
    if config.algo == "pretrain" and config.pretrain_with == "adam":
        return steps + f"Adam {config.meta_lr}, all tasks in one policy"
    return steps + f"TRPO, δ = {config.trust_region}"


def _simulation(config):
    if config.env == "nav2d":
        yield (
            f"Reward: minus the {config.reward.replace('squared', 'squared ')}"
            f"{'distance' * (config.reward == 'squared')} to the goal after "
            f"the step; a trajectory ends in a {config.done} of 0.01 around "
            "it."
        )
    else:
        yield f"Simulation: MuJoCo, --mode={config.mode}."


def _evaluation(config):
    budget = f" of at least {config.test_transitions} steps in all"
    rates = ", ".join(f"{rate:g}" for rate in config.test_rates) or "none"
    goals = f"{config.test_goals} goals"
    if config.goal is not None:
        goals = f"the goal {config.goal}"
    return (
        f"Evaluation: {goals}, {config.test_trajectories} "
        f"trajectories{budget * bool(config.test_transitions)}, updates of "
        f"step size {'none' if config.is_oracle else rates}."
    )
