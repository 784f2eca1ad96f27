"""The MAML paper's multi-task baseline on sinusoids: networks are averaged.

One network after another learns a task of its own from many points. Their mean
is what a test fine-tunes. Without --train=False this trains, and goes on where
it was interrupted; the other flags are those of maml-tf.
"""

import dataclasses
import sys
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from maml_tf import (
    callbacks,
    checkpoints,
    command_line,
    files,
    main,
    sinusoids,
    tasks,
    train,
)
from maml_tf.config import Config
from maml_tf.run_folder import RunFolder
from maml_tf.settings import Count, NotNegative

LEARNING_RATE = 0.01
BATCH = 100
HELD_OUT = 1000
INTERVAL = 10


@dataclasses.dataclass(frozen=True)
class MultitaskConfig(Config):
    """The settings of one run; an iteration is one network.

    There are no inner steps but in tests: α may change.

    Raises:
      ConfigError: if a value, or a combination, makes no sense.
    """

    FREE = Config.FREE | {"inner_lr"}
    NOTED = Config.NOTED | {"models"}

    datasource: Literal["sinusoid"] = "sinusoid"
    strategy: Literal["none"] = "none"
    models: Count = 500
    model_steps: Count = 8000
    pull_strength: NotNegative = 0.0
    pull: Literal["origin", "mean"] = "origin"

    def __post_init__(self):
        super().__post_init__()
        self.check_default("baseline", "in the multi-task baseline")

    @property
    def phases(self) -> tuple[int, int]:
        """All networks, and no meta-training."""
        return self.models, 0

    @property
    def exp_string(self) -> str:
        """The run folder's name."""
        return "multitask"


FLAGS = {
    **main.FLAGS,
    "Networks that are averaged": {
        "models": "networks, each of a task of its own",
        "model_steps": "Adam's steps for each network",
        "pull_strength": "λ of the penalty on weights",
        "pull": "what the penalty measures distance from: origin, or mean, "
        "that of the networks so far",
    },
}
PROGRAM = command_line.Program("multitask", __doc__, MultitaskConfig, FLAGS)


class Regressor:
    """A network that learns one sinusoid after another, each from scratch.

    With w̄ the mean, or 0, it minimises mean((y − f(x; w))²) + λ ‖w − w̄‖².

    Source: Finn et al. 2017, appendix C.

    Args:
      config: the settings.
      mean: the network of mean weights, which may change between tasks.
    """

    def __init__(self, config: MultitaskConfig, mean: keras.Model):
        self.config = config
        self.network = train.build_network(config)
        if config.pull_strength:
            self._pull(mean)
        decay = keras.optimizers.schedules.CosineDecay(
            LEARNING_RATE, config.model_steps
        )
        adam = keras.optimizers.Adam(decay)
        # Keras's own loop over steps costs more than these steps.
        self.network.compile(
            adam,
            "mse",
            metrics=["mse"],
            steps_per_execution=config.model_steps,
        )
        adam.build(self.network.trainable_variables)
        self._adam = adam, [np.asarray(v) for v in adam.variables]

    def learn(self, task: int) -> float:
        """Learns a task, and returns its mean squared error on other points.

        Args:
          task: its number; with the seed it tells sinusoid and initial values.
        """
        rng = np.random.RandomState([self.config.seed, task])
        points = BATCH * self.config.model_steps + HELD_OUT
        drawn = sinusoids.draw_sinusoids(rng, 1, points)
        pairs = [part[0].astype(np.float32) for part in (drawn.x, drawn.y)]
        batches = [part[HELD_OUT:].reshape(-1, BATCH, 1) for part in pairs]
        self._start_anew(rng.randint(2**31))
        data = tf.data.Dataset.from_tensor_slices(tuple(batches))
        self.network.fit(tasks.untuned(data), shuffle=False, verbose=0)
        held_out = [part[:HELD_OUT] for part in pairs]
        return self.network.evaluate(
            *held_out, HELD_OUT, verbose=0, return_dict=True
        )["mse"]

    def _pull(self, mean):
        """Adds the penalty as Keras's regularizer of each weight."""
        pairs = zip(
            self.network.trainable_variables,
            mean.trainable_variables,
            strict=True,
        )
        for weight, centre in pairs:
            weight.regularizer = Pull(
                self.config.pull_strength,
                centre if self.config.pull == "mean" else 0.0,
            )

    def _start_anew(self, seed):
        adam, initial = self._adam
        for variable, value in zip(adam.variables, initial, strict=True):
            variable.assign(value)
        fresh = train.build_network(dataclasses.replace(self.config, seed=seed))
        self.network.set_weights(fresh.get_weights())


class Pull(keras.regularizers.Regularizer):
    """λ times the squared distance of a weight from a centre."""

    def __init__(self, strength, centre):
        self.strength = strength
        self.centre = centre

    def __call__(self, weight):
        return self.strength * keras.ops.sum((weight - self.centre) ** 2)


def train_mean(config: MultitaskConfig) -> None:
    """Trains the networks, or those that are missing, and keeps their mean.

    Raises:
      ArithmeticError: if a network's error is not finite.
      checkpoints.CheckpointError: if the latest checkpoint cannot be used.
      files.BusyError: if another process trains in the folder.
      settings.ConfigError: if a setting is not what the checkpoint needs, or
        one is to be imported.
    """
    if config.import_checkpoint:
        config.refuse("import_checkpoint", "none unless --train=False")
    mean = train.build_network(config)
    mean.set_weights([np.zeros_like(w) for w in mean.get_weights()])
    learner = train.build_learner(config, mean, "pretrain")
    run = RunFolder(config)
    with run.entered():
        done = run.latest()
        if done is not None:
            checkpoints.restore(done, learner, phase=None)
        files.say(f"folder     {config.folder}")
        if run.is_over(done, config.models):
            return
        run.describe(__doc__)
        _train(run, learner, done.iteration if done else 0)


def _train(run, learner, start):
    mean, regressor = learner.network, Regressor(run.config, learner.network)
    errors = run.table("training.csv", start, columns=["mse"])
    keepers = callbacks.keepers(run, learner, "pretrain", start, INTERVAL)
    for task in range(start, run.config.models):
        error, done = regressor.learn(task), task + 1
        if not np.isfinite(error):
            raise ArithmeticError(
                f"Network {done}: its error is not finite. Lower "
                f"--pull_strength={run.config.pull_strength}."
            )
        pairs = zip(mean.weights, regressor.network.weights, strict=True)
        for average, weight in pairs:
            average.assign_add((weight - average) / done)
        errors.append(done, {"mse": error})
        for keeper in keepers:
            keeper.on_iteration(done)
        if done % INTERVAL == 0:
            _report(errors)
    for keeper in keepers:
        keeper.on_train_end()


def _report(errors):
    own = np.array([row["mse"] for row in errors.last(len(errors))])
    files.say(
        f"Network {len(own)}: mean squared errors on own tasks: mean "
        f"{own.mean():.4f}, median {np.median(own):.4f}, largest "
        f"{own.max():.4f}; {(own > 0.1).sum()} above 0.1, {(own > 1).sum()} "
        "above 1"
    )


def config_from_flags(values: flags.FlagValues) -> MultitaskConfig:
    """Returns the settings that parsed flags describe, see `main`."""
    return main.config_from_flags(values, MultitaskConfig)


def _run(arguments):
    values = PROGRAM.parse(arguments)
    config = config_from_flags(values)
    does_no_more = values.check_data or values.export_checkpoint is not None
    if values.explain:
        print(__doc__.strip())
    elif config.train and not does_no_more:
        train_mean(config)
    else:
        main.perform(config, values)


if __name__ == "__main__":
    sys.exit(PROGRAM.run(_run, sys.argv[1:]))
