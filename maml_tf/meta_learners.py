"""Meta-learners: Keras models of a support set together with query inputs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from maml_tf import functional, stacked
from maml_tf.adaptation import adapt
from maml_tf.losses import TaskLoss

ENGINES = ("auto", "stacked", "looped")


class Predictions(NamedTuple):
    """What a meta-learner predicts for a meta-batch of B tasks.

    Attributes:
      support: predictions for the support set before adaptation, at θ:
        `[B, S, outputs]`.
      query: predictions for the query set at φ₀ = θ, φ₁, …, φ_U: U + 1 tensors
        `[B, T, outputs]`.
    """

    support: tf.Tensor
    query: tuple[tf.Tensor, ...]


class MAML(keras.Model):
    """Model-agnostic meta-learning, second or first order.

        φᵢ = θ − α ∇_θ L_support(θ)        (inner_steps times)
        θ ← θ − β ∇_θ Σᵢ L_query(φᵢ) / B    (the compiled optimizer and loss)

    The inner loop is this model's `call`, so Keras's own training step is the
    outer loop: its gradient of the query loss passes through the adaptation.
    Train it on elements `((support_x, support_y, query_x), query_y)`, each
    with a leading task axis B.

    Source: Finn et al. 2017, Algorithm 1 (arXiv 1703.03400).

    Args:
      network: a built Keras model, f_θ. It is always run in training mode.
      inner_loss: maps (targets, predictions) `[B, S, …]` to task losses `[B]`,
        see `maml_tf.losses`. Losses of single examples are averaged.
      inner_lr: α.
      inner_steps: inner steps in training, U ≥ 0. With 0 it is ordinary
        training on the query sets.
      test_inner_steps: inner steps outside training; default `inner_steps`.
      first_order: whether inner gradients are constants (FOMAML).
      adapted: the network's variables that the inner loop adapts; default all
        trainable ones. `models.fast_weights(network)` is the originals'
        choice.
      task_metrics: by name, functions like `inner_loss` that are tracked
        before adaptation, on the support set (`pre_NAME`), and after each
        inner step, on the query set (`post_NAME_1`, …).
      engine: "stacked" runs all tasks at once, "looped" one after another;
        "auto" stacks if every layer of the network can be.

    Raises:
      ValueError: if an argument is out of range, or the network cannot run in
        the chosen engine.
    """

    def __init__(
        self,
        network: keras.Model,
        inner_loss: TaskLoss,
        *,
        inner_lr: float,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        first_order: bool = False,
        adapted: Sequence[keras.Variable] | None = None,
        task_metrics: Mapping[str, TaskLoss] | None = None,
        engine: str = "auto",
        name: str | None = None,
    ):
        super().__init__(name=name)
        _at_least_zero(inner_steps, test_inner_steps)
        self.network = network
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.test_inner_steps = (
            inner_steps if test_inner_steps is None else test_inner_steps
        )
        self.first_order = first_order
        self.adapted = list(
            network.trainable_variables if adapted is None else adapted
        )
        self.engine = _choose_engine(engine, network)
        in_engine = {
            "stacked": stacked.many_tasks,
            "looped": functional.one_task,
        }[self.engine]
        self.apply_fn = in_engine(network, self.adapted)
        # A single task, in the looped engine, has no task axis.
        self.inner_loss = _per_task(inner_loss, int(self.engine == "stacked"))
        self.task_metrics = dict(task_metrics or {})
        self.trackers = {
            name: keras.metrics.Mean(name=name)
            for name in self._tracker_names()
        }
        self.built = True

    def call(self, inputs, training=False):
        """Returns `Predictions` for `(support_x, support_y, query_x)`."""
        steps = self.inner_steps if training else self.test_inner_steps
        theta = [variable.value for variable in self.adapted]
        if self.engine == "looped":
            return tf.map_fn(
                lambda task: self.predict_tasks(theta, *task, steps),
                inputs,
                fn_output_signature=self._signature(inputs, steps),
            )
        theta = stacked.stack(theta, _tasks(inputs))
        return self.predict_tasks(theta, *inputs, steps)

    def predict_tasks(
        self, theta, support_x, support_y, query_x, steps
    ) -> Predictions:
        """Adapts θ to the support set, predicts the query along the way."""
        adaptation = adapt(
            self.apply_fn,
            self.inner_loss,
            theta,
            support_x,
            support_y,
            inner_lr=self.inner_lr,
            inner_steps=steps,
            first_order=self.first_order,
        )
        before = adaptation.support or (self.apply_fn(theta, support_x),)
        query = tuple(self.apply_fn(phi, query_x) for phi in adaptation.phi)
        return Predictions(before[0], query)

    def objective(self, x, y, predictions):
        """Returns the targets and predictions that meta-training compares."""
        del x
        return y, predictions.query[self.inner_steps]

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns the compiled loss of the objective."""
        y, y_pred = self.objective(x, y, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the task metrics and the compiled metrics."""
        for name, metric in self.task_metrics.items():
            before = metric(x[1], y_pred.support)
            self.trackers[f"pre_{name}"].update_state(before)
            for step in range(1, self.inner_steps + 1):
                after = metric(y, y_pred.query[step])
                self.trackers[f"post_{name}_{step}"].update_state(after)
        y, y_pred = self.objective(x, y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def predict_step(self, data):
        """Returns the query predictions after the last inner step."""
        return super().predict_step(data).query[-1]

    def _tracker_names(self):
        stages = [("pre", "")]
        stages += [("post", f"_{u + 1}") for u in range(self.inner_steps)]
        return [
            f"{stage}_{metric}{step}"
            for metric in self.task_metrics
            for stage, step in stages
        ]

    def _signature(self, inputs, steps):
        def like(x):
            task = x[0]
            prediction = self.network.compute_output_spec(task)
            return tf.TensorSpec(prediction.shape, prediction.dtype)

        support_x, _, query_x = inputs
        query = like(query_x)
        return Predictions(like(support_x), (query,) * (steps + 1))


class JointTraining(MAML):
    """Ordinary training on all tasks' support sets: the pretrained baseline.

        θ ← θ − β ∇_θ Σᵢ L_support(θ) / B

    It predicts as MAML does, so its metrics after the inner steps tell how
    well fine-tuning serves it.

    Source: Finn et al. 2017, section 5.1; `--pretrain_iterations` of
    cbfinn/maml.
    """

    def objective(self, x, y, predictions):
        """Returns the support set and its predictions at θ."""
        del y
        return x[1], predictions.support


def _tasks(inputs):
    support_x = inputs[0]
    return support_x.shape[0] or tf.shape(support_x)[0]


def _per_task(loss_fn, task_axes):
    """Averages losses of single examples, so that one is left for a task."""

    def task_loss(y, prediction):
        losses = loss_fn(y, prediction)
        axes = tuple(range(task_axes, len(losses.shape)))
        return tf.reduce_mean(losses, axis=axes)

    return task_loss


def _at_least_zero(inner_steps, test_inner_steps):
    for name, steps in (
        ("inner_steps", inner_steps),
        ("test_inner_steps", test_inner_steps),
    ):
        if steps is not None and steps < 0:
            raise ValueError(f"{name}: expected at least 0, got {steps}.")


def _choose_engine(engine, network):
    if engine not in ENGINES:
        raise ValueError(f"engine: expected one of {ENGINES}, got {engine!r}.")
    if engine == "auto":
        return "looped" if stacked.unsupported(network) else "stacked"
    return engine
