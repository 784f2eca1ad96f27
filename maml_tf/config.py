"""One run's settings: a frozen dataclass that validates itself.

Fields have the literature's names; `FLAGS` maps those that cbfinn/maml calls
otherwise.
"""

import dataclasses
import os
from typing import Annotated, Literal

from maml_tf.settings import (
    POSITIVE,
    Count,
    CountOrUnset,
    Datasource,
    Folder,
    Positive,
    Seed,
    Several,
    Supervised,
    Whole,
    at_least,
    at_most,
    or_unset,
)

EVALUATION_TASKS = 600


@dataclasses.dataclass(frozen=True)
class Config(Supervised):
    """The settings of one run; defaults and meanings are cbfinn/maml's.

    Raises:
      ConfigError: if a value, or a combination, makes no sense.
    """

    FLAGS = {
        "ways": "num_classes",
        "meta_iterations": "metatrain_iterations",
        "shots": "update_batch_size",
        "inner_lr": "update_lr",
        "inner_steps": "num_updates",
        "first_order": "stop_grad",
        "train_shots": "train_update_batch_size",
        "train_inner_lr": "train_update_lr",
        "folder": "logdir",  # which it is in
    }
    FREE = Supervised.FREE | {
        "label_permutations",
        "norm_statistics",
        "select",
        "test_iter",
        "test_rotations",
        "test_set",
        "test_tasks",
        "train",
        # In training they are those of the inner loop, or none.
        "train_inner_lr",
        "train_shots",
    }
    NOTED = frozenset({"meta_iterations", "meta_lr"})

    datasource: Datasource = "sinusoid"
    ways: Several = 5
    baseline: Literal[None, "oracle"] = None
    pretrain_iterations: Whole = 0
    meta_iterations: Whole = 15000
    meta_batch_size: Count = 25
    meta_lr: Positive = 1e-3
    shots: Count = 5
    inner_lr: Positive = 1e-3
    inner_steps: Count = 1
    norm: Literal["batch_norm", "layer_norm", "None"] = "batch_norm"
    num_filters: Count = 64
    conv: bool = True
    max_pool: bool = False
    first_order: bool = False
    adapt: Literal["fast_weights", "all", "head"] = "fast_weights"
    logdir: Folder = "/tmp/data"
    train: bool = True
    test_iter: Annotated[int, at_least(-1)] = -1
    test_set: bool = False
    train_shots: CountOrUnset = -1
    train_inner_lr: Annotated[float, or_unset(POSITIVE)] = -1.0
    num_queries: CountOrUnset = -1
    seed: Seed = 0
    norm_gradient: Literal["exact", "legacy"] = "exact"
    tasks_per_step: CountOrUnset = -1
    remat: bool = False
    jit_compile: Literal["auto", "true", "false"] = "auto"
    select: Literal["latest", "validation"] = "latest"
    test_tasks: Count = EVALUATION_TASKS
    test_rotations: bool = True
    norm_statistics: Literal["queries", "support_and_query", "support"] = (
        "queries"
    )
    label_permutations: Count = 1

    def __post_init__(self):
        super().__post_init__()
        self._check_tasks()
        self._check_run()

    @property
    def is_oracle(self) -> bool:
        """Whether the network sees amplitude and phase."""
        return self.baseline == "oracle"

    @property
    def phases(self) -> tuple[int, int]:
        """Iterations of pretraining and of meta-training.

        The oracle spends all of them in pretraining, as the original does.
        """
        if self.is_oracle:
            return self.pretrain_iterations + self.meta_iterations, 0
        return self.pretrain_iterations, self.meta_iterations

    @property
    def test_inner_steps(self) -> int:
        """How many inner steps are evaluated, at least `inner_steps`."""
        while_training = {"sinusoid": 5, "omniglot": 10}
        steps = while_training.get(self.datasource, 1) if self.train else 10
        return max(steps, self.inner_steps)

    @property
    def queries(self) -> int:
        """Query examples of a class (of a task, in regression)."""
        if self.num_queries != -1:
            return self.num_queries
        if self.datasource == "miniimagenet" and self.train:
            return 15
        return self.shots

    @property
    def folder(self) -> str:
        """The run's own folder, named as the original names it."""
        return os.path.join(self.logdir, self.exp_string)

    @property
    def exp_string(self) -> str:
        """The original's name of the experiment, from *training* settings."""
        shots = self.shots if self.train_shots == -1 else self.train_shots
        rate = (
            self.inner_lr if self.train_inner_lr == -1 else self.train_inner_lr
        )
        parts = [
            f"cls_{self.ways}.mbs_{self.meta_batch_size}.ubs_{shots}"
            f".numstep{self.inner_steps}.updatelr{rate}",
            f"hidden{self.num_filters}" if self.num_filters != 64 else "",
            "maxpool" if self.max_pool else "",
            "stopgrad" if self.first_order else "",
            f"adapt{self.adapt}" if self.adapt != "fast_weights" else "",
            self.baseline or "",
            {
                "batch_norm": "batchnorm",
                "layer_norm": "layernorm",
                "None": "nonorm",
            }[self.norm],
        ]
        return "".join(parts)

    def fixed_at(self, phase: str, done: int, before: dict) -> dict:
        """Returns them without the length of a pretraining that goes on."""
        if phase == "pretrain" and done <= self.phases[0]:
            return {**before, "pretrain_iterations": self.pretrain_iterations}
        return before

    def _check_tasks(self):
        """Refuses what only other tasks, or another network, heed."""
        where = f"with --datasource={self.datasource}"
        if self.datasource == "miniimagenet" and not self.max_pool:
            self.refuse("max_pool", f"True {where}")
        if self.datasource in ("miniimagenet", "folder"):
            self.check_default("conv", where)
        if self.is_classification:
            self.check_default("baseline", "unless --datasource=sinusoid")
        else:
            self.check_default("num_queries", where)
            self.check_default("select", where)
        if self.datasource != "omniglot":
            self.check_default("test_rotations", "unless --datasource=omniglot")
        if self.norm != "batch_norm":
            self.check_default("norm_statistics", "unless --norm=batch_norm")
        most = self.ways if self.is_classification else 1
        self.check("label_permutations", at_most(most))

    def _check_run(self):
        """Refuses choices of a training or a test that exclude each other."""
        for other, given in (
            ("--deterministic", self.deterministic),
            ("--strategy", self.strategy != "none"),
            ("--remat", self.remat),
        ):
            if self.jit_compile == "true" and given:
                self.refuse("jit_compile", f"auto or false with {other}")
        if self.select == "validation":
            self.check_default("test_iter", "with --select=validation")
            self.check_default("import_checkpoint", "with --select=validation")
        if self.import_checkpoint:
            self.check_default("test_iter", "with --import_checkpoint")
        if self.train:
            self._check_name("train_shots", "shots")
            self._check_name("train_inner_lr", "inner_lr")
            if sum(self.phases) == 0:
                self.refuse(
                    "meta_iterations",
                    "at least 1 iteration here or in --pretrain_iterations",
                )

    def _check_name(self, of_training, own):
        """Refuses a folder that says what it was not trained with."""
        value = getattr(self, own)
        if getattr(self, of_training) not in (-1, value):
            self.refuse(
                of_training,
                f"-1, or {value} as --{self.flag_name(own)} in training",
            )
