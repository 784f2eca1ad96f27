"""The settings of one reinforcement-learning run, and the originals' values."""

import dataclasses
from typing import Annotated, Literal

from maml_tf.settings import (
    NOT_NEGATIVE,
    Count,
    Folder,
    NotNegative,
    Positive,
    Seed,
    Settings,
    Several,
    Values,
    Whole,
    one_of,
    or_unset,
)

ALGORITHMS = ("maml_trpo", "pretrain", "oracle", "random")
ALL = "all"

RateOrUnset = Annotated[float, or_unset(NOT_NEGATIVE)]
Share = Annotated[float, Values("a number from 0 to 1", lambda x: 0 <= x <= 1)]

GOALS = {
    "nav2d": "two numbers in [-0.5, 0.5]",
    "cheetah_dir": "-1 or 1",
    "cheetah_vel": "a number in [0, 2]",
    "ant_dir": "-1 or 1",
    "ant_vel": "a number in [0, 3]",
}

_LOCOMOTION = {
    "horizon": 200,
    "inner_lr": 0.1,
    "meta_batch_size": 40,
    "pretrain_with": "trpo",
    "test_trajectories": 20,
    "test_updates": 3,
}
_PLAIN = {
    "meta_batch_size": 5,
    "trajectories": 20,
    "trust_region": 0.01,
    "meta_iterations": 1000,
}
ORIGINAL = {
    "nav2d": {},
    "cheetah_dir": {
        **_LOCOMOTION,
        "trust_region": 0.02,
        "meta_iterations": 100,
    },
    "cheetah_vel": {**_LOCOMOTION, "meta_iterations": 475},
    "ant_dir": {
        **_LOCOMOTION,
        "trajectories": 40,
        "meta_iterations": 575,
        "test_trajectories": 40,
    },
    "ant_vel": {**_LOCOMOTION, "meta_iterations": 375},
}
"""What MAML's published run of an environment has otherwise than nav2d's.

Source: cbfinn/maml_rl, `maml_examples/`, and the result files; docs/rl.md says
which is followed where they disagree.
"""

TEST_RATES = {
    ("nav2d", "pretrain"): 0.5,
    ("nav2d", "random"): 0.5,
    ("cheetah_dir", "pretrain"): 0.2,
    ("cheetah_vel", "pretrain"): 0.02,
    ("ant_dir", "pretrain"): 0.2,
    ("ant_vel", "pretrain"): 0.2,
    ("cheetah_dir", "random"): 1.0,
    ("cheetah_vel", "random"): 0.1,
    ("ant_dir", "random"): 1.0,
    ("ant_vel", "random"): 1.0,
}
"""Step sizes of the first update in a test, where they are not α."""

LATER = {"ant_dir": 0.01}
"""What the first step size is multiplied with for others, where not by 0.5."""


def original(env: str, algo: str) -> dict:
    """Returns the published settings that differ from the defaults.

    They are empty for what is no environment or algorithm.
    """
    told = dict(ORIGINAL.get(env, {}))
    if rate := TEST_RATES.get((env, algo)):
        told["test_inner_lr"] = rate
    if env == "nav2d" and algo == "random":
        told["activation"] = "tanh"
    if env == "nav2d" and algo == "oracle":
        told["meta_batch_size"] = 1
    if env != "nav2d" and algo in ("pretrain", "oracle"):
        told |= _PLAIN
    return told


@dataclasses.dataclass(frozen=True)
class RLConfig(Settings):
    """The settings of one run; defaults are those of MAML on nav2d.

    Raises:
      ConfigError: if a value, or a combination, makes no sense.
    """

    FLAGS = {
        "inner_lr": "fast_learning_rate",
        "trajectories": "fast_batch_size",
        "inner_steps": "num_grad_updates",
        "horizon": "max_path_length",
        "trust_region": "meta_step_size",
        "meta_iterations": "n_itr",
        "meta_lr": "learning_rate",
        "test_inner_lr": "test_learning_rate",
        "test_inner_lr_later": "test_learning_rate_later",
        "folder": "logdir",
    }
    FREE = Settings.FREE | {
        "goal",
        "test_goals",
        "test_inner_lr",
        "test_inner_lr_later",
        "test_trajectories",
        "test_transitions",
        "test_updates",
        "train",
    }
    NOTED = frozenset({"meta_iterations", "meta_lr", "trust_region"})

    algo: Annotated[str, one_of(*ALGORITHMS, ALL)] = "maml_trpo"
    env: Annotated[str, one_of(*GOALS)] = "nav2d"
    inner_lr: NotNegative = 0.5
    meta_batch_size: Count = 20
    trajectories: Count = 20
    inner_steps: Count = 1
    horizon: Several = 100
    trust_region: Positive = 0.01
    meta_iterations: Count = 100
    first_order: bool = False
    pretrain_with: Literal["adam", "trpo"] = "adam"
    meta_lr: Positive = 1e-3
    discount: Share = 0.99
    gae_lambda: Share = 1.0
    hidden_size: Count = 100
    activation: Literal["relu", "tanh"] = "relu"
    reward: Literal["distance", "squared"] = "distance"
    done: Literal["box", "l2"] = "box"
    mode: Literal["paper", "gym"] = "paper"
    train: bool = True
    test_updates: Whole = 4
    test_inner_lr: RateOrUnset = -1.0
    test_inner_lr_later: RateOrUnset = -1.0
    test_goals: Count = 40
    test_trajectories: Count = 40
    test_transitions: Whole = 0
    goal: str | None = None
    seed: Seed = 1
    folder: Folder = "logs/rl"

    def __post_init__(self):
        super().__post_init__()
        self._check_goal()
        self._check_environment()
        apart = self.has_tasks and self.algo not in ("random", ALL)
        if self.strategy != "none" and not apart:
            self.refuse(
                "strategy",
                "none unless a meta-batch has tasks: --algo=maml_trpo, or "
                "pretrain with --pretrain_with=adam",
            )

    @property
    def test_rates(self) -> list[float]:
        """Step sizes in a test: α as often as in training, then half of it.

        The oracle has none, as it does not adapt.
        """
        first, later = self.test_inner_lr, self.test_inner_lr_later
        first = self.inner_lr if first == -1 else first
        later = LATER.get(self.env, 0.5) * first if later == -1 else later
        trained = self.inner_steps if self.algo == "maml_trpo" else 1
        rates = [first] * trained + [later] * self.test_updates
        return [] if self.is_oracle else rates[: self.test_updates]

    @property
    def is_oracle(self) -> bool:
        """Whether the policy sees its task."""
        return self.algo == "oracle"

    @property
    def has_tasks(self) -> bool:
        """Whether a task has several trajectories; else each has its own."""
        by_trpo = self.algo == "pretrain" and self.pretrain_with == "trpo"
        return not (self.is_oracle or by_trpo)

    @property
    def trains(self) -> bool:
        """Whether there is something to train."""
        return self.train and self.algo != "random"

    @property
    def goal_numbers(self) -> list[float] | None:
        """The goal to evaluate alone, or `None`."""
        if self.goal is None:
            return None
        return [float(number) for number in self.goal.split(",")]

    def _check_environment(self):
        """Refuses what only another environment heeds."""
        if self.env == "nav2d":
            self.check_default("mode", "unless --env is a robot's")
        else:
            self.check_default("reward", "unless --env=nav2d")
            self.check_default("done", "unless --env=nav2d")

    def _check_goal(self):
        try:
            numbers = self.goal_numbers
        except ValueError:
            numbers = [float("nan")]
        if numbers is not None and not in_range(self.env, numbers):
            self.refuse("goal", f"{GOALS[self.env]} for --env={self.env}")


def in_range(env: str, goal: list[float]) -> bool:
    """Returns whether an environment has such a goal."""
    if env == "nav2d":
        return len(goal) == 2 and all(abs(x) <= 0.5 for x in goal)
    if len(goal) != 1:
        return False
    if env.endswith("_dir"):
        return abs(goal[0]) == 1
    return 0 <= goal[0] <= {"cheetah_vel": 2, "ant_vel": 3}[env]
