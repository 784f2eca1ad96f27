"""`maml-rl-tf`: trains and evaluates policies as cbfinn/maml_rl does.

Defaults below are those of MAML on nav2d. Of another environment or method the
published values stand in for flags that are not given; --explain shows them.
"""

import sys

from absl import flags

from maml_tf import checkpoints, command_line, distribution, main_flags
from maml_tf.rl import train
from maml_tf.rl.config import ALL, RLConfig, original

# Flags by group, and what they mean. Types and defaults are the settings';
# other environments and methods have some of their own, see rl/config.py.
FLAGS = {
    "Task": {
        "env": "nav2d, cheetah_dir, cheetah_vel, ant_dir or ant_vel",
        "algo": "maml_trpo, pretrain, oracle, random, or all of them, each in "
        "a folder of its own, in one figure",
        "max_path_length": "horizon: steps of a trajectory",
        "reward": "nav2d: minus the distance, or squared",
        "done": "nav2d: a trajectory ends in a box or l2 circle",
        "mode": "locomotion: paper, or gym: control interval and observations "
        "of gymnasium's v5",
    },
    "Inner loop": {
        "fast_learning_rate": "α, the step size of MAML; tests of pretrained "
        "and random policies have --test_learning_rate",
        "fast_batch_size": "K, trajectories of a task",
        "num_grad_updates": "inner steps in training",
        "first_order": "MAML without second derivatives",
    },
    "Outer loop": {
        "meta_batch_size": "T, tasks in an iteration",
        "meta_step_size": "δ, the trust region of TRPO",
        "n_itr": "iterations",
        "pretrain_with": "optimizer of pretraining: adam or trpo",
        "learning_rate": "Adam's step size",
    },
    "Policy and advantages": {
        "hidden_size": "units in each of two hidden layers",
        "activation": "relu or tanh",
        "discount": "γ",
        "gae_lambda": "λ of generalised advantages",
    },
    "Evaluation": {
        "train": "train first, or evaluate a checkpoint alone",
        "test_goals": "tasks of the evaluation",
        "test_updates": "updates of each",
        "test_learning_rate": "step size of the first update, and for MAML of "
        "as many as training makes; -1: as in training",
        "test_learning_rate_later": "that of the other updates; -1: half of "
        "it, a hundredth on ant_dir",
        "test_trajectories": "trajectories of a task in each round",
        "test_transitions": "steps after which a round of a task ends, of up "
        "to four times as many trajectories; 0: no such number",
        "goal": "evaluate on this one: x,y, a direction, 1 or -1, or a "
        "velocity",
        "plot": "draw the curve of training, trajectories and a GIF",
    },
    "Program": {
        "logdir": "the run's folder",
        **main_flags.FOLDER,
        "seed": "of the initial weights and of all draws",
        **main_flags.DEVICES,
        **main_flags.RUN,
    },
}
PROGRAM = command_line.Program("maml-rl-tf", __doc__, RLConfig, FLAGS)


def config_from_flags(values: flags.FlagValues) -> RLConfig:
    """Returns the settings that parsed flags describe.

    Where flags are not given, the published run of the environment and the
    algorithm tells them.

    Raises:
      ConfigError: if they make no sense, or one is given that only another
        method heeds.
    """
    told = original(values["env"].value, values["algo"].value)
    config = RLConfig(**command_line.fields(RLConfig, values, told))
    for field, heeded in _heeded(config).items():
        given = values[config.flag_name(field)].present
        if given and not heeded and config.algo != ALL:
            config.refuse(field, f"none with --algo={config.algo}")
    return config


def _heeded(config):
    """Returns of fields that one method heeds whether this one does."""
    is_maml, pretrains = config.algo == "maml_trpo", config.algo == "pretrain"
    by_adam = pretrains and config.pretrain_with == "adam"
    adapts = not config.is_oracle
    return {
        "test_updates": adapts,
        "test_inner_lr": adapts,
        "test_inner_lr_later": adapts,
        "inner_steps": is_maml,
        "first_order": is_maml,
        "trust_region": config.algo != "random" and not by_adam,
        "meta_lr": by_adam,
        "pretrain_with": pretrains,
    }


def main(arguments: list[str] | None = None) -> int:
    """Explains, trains and evaluates, and returns the exit status."""
    return PROGRAM.run(_run, arguments)


def _run(arguments):
    values = PROGRAM.parse(arguments)
    config = config_from_flags(values)
    train.share_cores(config)
    runs = {config.algo: config}
    if config.algo == ALL:
        given = [
            field
            for field in RLConfig.defaults()
            if values[RLConfig.flag_name(field)].present
        ]
        runs = _without_missing(train.methods(config, given))
    if values.explain:
        print("\n\n".join(train.explain(run) for run in runs.values()))
        return
    curves = {algo: _train_and_evaluate(run) for algo, run in runs.items()}
    if config.algo == ALL:
        print(f"Written: {train.draw_methods(config, curves)}")


def _without_missing(runs):
    """Leaves out what nobody has trained nor will, unless that is all."""
    missing = {
        algo: run.folder
        for algo, run in runs.items()
        if not (run.trains or run.algo == "random")
        if not checkpoints.list_checkpoints(run.folder)
    }
    if len(missing) == len(runs) - 1:
        return runs  # Their evaluation says so.
    for algo, folder in missing.items():
        print(f"{algo}: {folder} has no checkpoint; it is left out.")
    return {algo: run for algo, run in runs.items() if algo not in missing}


def _train_and_evaluate(config):
    """Returns the curve of one algorithm, and prints it."""
    if config.trains:
        train.train(config)
    if not distribution.is_chief(config):
        return None
    found = train.evaluate(config)
    paper = train.published_returns(config).get(config.algo, ())
    goals = len(found.curve.values)
    columns = f"updates, average return over {goals} goals"
    print(f"{config.algo}: {columns}{', paper' if paper else ''}")
    rows = zip(found.curve.mean, found.curve.ci95, strict=True)
    for u, (mean, half) in enumerate(rows):
        beside = f"{paper[u]:8}" if u < len(paper) else ""
        interval = f"± {half:5.2f}" if goals > 1 else ""
        print(f"{u:4}  {mean:8.2f} {interval}  {beside}".rstrip())
    drawn = train.draw(config, found) if config.plot else []
    print(f"Written: {', '.join([train.result_stem(config) + '.csv', *drawn])}")
    return found.curve


if __name__ == "__main__":
    sys.exit(main())
