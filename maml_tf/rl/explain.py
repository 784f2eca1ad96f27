"""Says in words what a reinforcement-learning configuration computes."""

import keras

from maml_tf.explain import devices, trainers
from maml_tf.rl.config import GOALS, RLConfig
from maml_tf.rl.evaluation import SURPLUS


def header(config: RLConfig, network: keras.Model) -> str:
    """Returns six lines that open a run."""
    return "\n".join(
        [
            f"data       {config.env}, {_batch(config)}",
            f"network    {network.name}, {network.count_params():,} parameters"
            f", {config.activation}",
            f"inner loop {_inner(config)}",
            f"outer loop {_outer(config)}",
            f"devices    {trainers(config)}",
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
            + ("." if config.has_tasks else " for every trajectory."),
            *_simulation(config),
            "Policy: Gaussian; actions in units of the environment's range, "
            "clipped by it alone; log-std adapts like all parameters.",
            f"Advantages: γ = {config.discount:g}, λ = {config.gae_lambda:g}, "
            "linear baseline fitted on the same trajectories, standardised "
            f"{'by task' if config.has_tasks else 'over all of them'}.",
            *devices(config),
            _evaluation(config),
        ]
    )


def _batch(config):
    tasks, each = config.meta_batch_size, config.trajectories
    if config.has_tasks:
        drawn = f"{tasks} tasks × {each} trajectories"
    else:
        drawn = f"{tasks * each} trajectories, each of its own task,"
    return f"{drawn} × {config.horizon} steps"


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
    if config.algo == "maml_trpo" or not config.has_tasks:
        return steps + f"TRPO, δ = {config.trust_region}"
    return steps + f"Adam {config.meta_lr}, all tasks in one policy"


def _simulation(config):
    if config.env == "nav2d":
        squared = "squared " * (config.reward == "squared")
        yield (
            f"Reward: minus the {squared}distance to the goal after the step; "
            f"a trajectory ends in a {config.done} of 0.01 around it."
        )
    else:
        yield f"Simulation: MuJoCo, --mode={config.mode}."


def _evaluation(config):
    count = f"{config.test_trajectories} trajectories"
    if config.test_transitions:
        count = (
            f"trajectories until they have {config.test_transitions} steps, "
            f"at most {SURPLUS * config.test_trajectories}"
        )
    rates = ", ".join(f"{rate:g}" for rate in config.test_rates) or "none"
    goals = f"{config.test_goals} goals"
    if config.goal is not None:
        goals = f"the goal {config.goal}"
    return f"Evaluation: {goals}, {count}, updates of step size {rates}."
