"""The settings of one Reptile run, with supervised-reptile's defaults."""

import dataclasses

from maml_tf.settings import (
    Count,
    Datasource,
    Folder,
    NotNegative,
    Positive,
    Seed,
    Several,
    Supervised,
    Whole,
)


@dataclasses.dataclass(frozen=True)
class ReptileConfig(Supervised):
    """The settings of one run; defaults and meanings are supervised-reptile's.

    Raises:
      ConfigError: if a value, or a combination, makes no sense.
    """

    FLAGS = {
        "ways": "classes",
        "inner_steps": "inner_iters",
        "inner_lr": "learning_rate",
        "meta_batch_size": "meta_batch",
        "meta_iterations": "meta_iters",
        "eval_steps": "eval_iters",
        "eval_tasks": "eval_samples",
        "tail_shots": "foml_tail",
        "folder": "checkpoint",
    }
    FREE = Supervised.FREE | {
        "eval_batch",
        "eval_interval",
        "eval_steps",
        "eval_tasks",
        "pretrained",
        "transductive",
    }
    NOTED = frozenset({"meta_iterations", "meta_step", "meta_step_final"})

    datasource: Datasource = "omniglot"
    ways: Several = 5
    shots: Count = 5
    train_shots: Whole = 0
    inner_batch: Count = 5
    inner_steps: Count = 20
    replacement: bool = False
    inner_lr: Positive = 1e-3
    weight_decay: Positive = 1.0
    sgd: bool = False
    reset_inner_optimizer: bool = False
    foml: bool = False
    tail_shots: int | None = None
    meta_step: Positive = 0.1
    meta_step_final: NotNegative = 0.1
    meta_batch_size: Count = 1
    meta_iterations: Count = 400_000
    pretrained: bool = False
    eval_batch: Count = 5
    eval_steps: Count = 50
    eval_tasks: Count = 10_000
    eval_interval: Count = 10
    transductive: bool = False
    folder: Folder = "model_checkpoint"
    seed: Seed = 0

    def __post_init__(self):
        super().__post_init__()
        self._check_combinations()

    @property
    def train(self) -> bool:
        """Whether it is a training, in the word of `maml-tf`."""
        return not self.pretrained

    @property
    def training_shots(self) -> int:
        """Examples of a class in the support sets of training."""
        return self.train_shots or self.shots

    @property
    def norm_statistics(self) -> str:
        """Whose statistics batch norm takes in a test, a word of `maml-tf`."""
        return "queries" if self.transductive else "support_and_query"

    def support_size(self, shots: int) -> int:
        """Returns how many examples a support set has."""
        return shots * (self.ways if self.is_classification else 1)

    def _check_combinations(self):
        if self.strategy != "none" and not (
            self.sgd or self.reset_inner_optimizer
        ):
            self.refuse(
                "strategy",
                "none unless tasks share no moments: --reset-inner-optimizer "
                "or --sgd",
            )
        if self.tail_shots is not None and self.train:
            self._check_tail()
        if self.replacement:
            self._check_batch("eval_batch", self.shots)
            if self.train:
                left = self.training_shots - (self.tail_shots or 0)
                self._check_batch("inner_batch", left)

    def _check_batch(self, batch, shots):
        most = self.support_size(shots)
        if getattr(self, batch) > most:
            tail = batch == "inner_batch" and self.tail_shots is not None
            left = " that are not its tail" if tail else ""
            expected = f"at most the {most} examples of a task{left}"
            self.refuse(batch, f"{expected} with --replacement")

    def _check_tail(self):
        if not self.foml or not self.is_classification:
            self.refuse("tail_shots", "it with --foml and classes only")
        if not 1 <= self.tail_shots < self.training_shots:
            self.refuse(
                "tail_shots",
                f"1 … {self.training_shots - 1}, fewer than the shots of "
                "training",
            )
        if self.inner_steps == 1:
            self.refuse("inner_steps", "at least 2 with --foml-tail")
