"""MAML and its baseline: Keras models of a support set and query inputs."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import keras
import tensorflow as tf

from maml_tf import (
    compiled,
    cores,
    engines,
    functional,
    losses,
    queries,
    replicas,
    shapes,
    stacked,
    task_data,
)
from maml_tf.adaptation import adapt, gradient_descent
from maml_tf.checks import at_least, finite, integers
from maml_tf.learner import Learner
from maml_tf.losses import Loss, TaskLoss
from maml_tf.remat import require_noted
from maml_tf.saving import register
from maml_tf.seeds import fold
from maml_tf.selection import Selection, select
from maml_tf.tied import tie


class Predictions(NamedTuple):
    """What a meta-learner predicts for a meta-batch of B tasks.

    Attributes:
      support: predictions for the support set before adaptation, at θ:
        `[B, S, outputs]`.
      query: predictions for the query set, `[B, T, outputs]` each: at
        φ₀ = θ, φ₁, …, φ_U, or in training at φ_U alone.
      penalty: the network's own losses, its regularisers and `add_loss`, `[B]`
        each: with the support set at θ, then with the query set as `query`.

    A network with several outputs predicts a structure of tensors each time.
    """

    support: tf.Tensor
    query: tuple[tf.Tensor, ...]
    penalty: tuple[tf.Tensor, ...]


@register
class MAML(Learner):
    """Model-agnostic meta-learning, second or first order.

        φᵢ = θ − α ∇_θ L_support(θ)        (inner_steps times)
        θ ← θ − β ∇_θ Σᵢ L_query(φᵢ) / B    (the compiled optimizer and loss)

    The inner loop is this model's `call`, so Keras's own training step is the
    outer loop: its gradient of the query loss passes through the adaptation.
    Train it on elements `((support_x, support_y, query_x), query_y)`, each
    with a leading task axis B; inputs and targets may be structures of
    tensors, as the network takes and gives them. What the network itself adds
    to a loss, its regularisers and `add_loss`, is part of the inner loss and
    of the outer one, at the parameters of each. Compiled without a loss, it
    takes the inner one on the query set, too.

    Source: Finn et al. 2017, Algorithm 1 (arXiv 1703.03400).

    Args:
      network: a built Keras model, f_θ. It is always run in training mode,
        with dropout and batch statistics.
      inner_loss: a loss of Keras or its name, a function of `maml_tf.losses`,
        or your own: it maps (targets, predictions) `[B, S, …]` to task losses
        `[B]`, or to losses of single examples, which are averaged. For several
        outputs, a list or dictionary of them.
      inner_lr: α.
      inner_steps: inner steps in training, U ≥ 0. With 0 it is ordinary
        training on the query sets; moving averages, as those of Keras's batch
        normalisation, stay as they are.
      test_inner_steps: inner steps outside training; default `inner_steps` as
        given here, not as set later.
      first_order: whether inner gradients are constants (FOMAML).
      adapt: what the inner loop adapts: variables, layers, a function that
        tells it of a variable, or a name, see `maml_tf.selection.select`. The
        default is all trainable weights; "fast_weights" is the choice of
        cbfinn/maml.
      task_metrics: by name, functions like `inner_loss` that are tracked
        before adaptation, on the support set (`pre_NAME`), and after
        `inner_steps`, or `test_inner_steps` in evaluation if these are fewer,
        on the query set (`post_NAME`).
      engine: "stacked" runs all tasks at once, "looped" one after another,
        "auto" chooses, also groups of tasks, see `maml_tf.engines`. With the
        last two the compiled loss has to be a mean over tasks.
      norm_statistics: by whose statistics layers with batch statistics predict
        a query outside training: "queries", all of its task, as published;
        "support_and_query", the support set and that query; or "support", the
        support set alone, which only layers of `maml_tf.norms` can.
      block: meta-updates in one training step. Above 1 a training element is
        a block of meta-batches with one more leading axis, which saves time
        where an update takes about a millisecond.
      tasks_per_step: how many tasks run at once at most, so that a large
        meta-batch fits a small memory: gradients of equal groups add up to the
        same meta-gradient. Cores that work side by side have a group each.
      remat: whether inner steps are computed again when the meta-gradient
        needs them, so that memory holds one and not all, for more time. XLA
        merges both, so compile without it.
      seed: of random layers. What they draw is a function of the seed, the
        number of the update and the task; stacked, also of its group.

    Raises:
      ValueError: if an argument is out of range, or the network cannot run in
        the chosen engine.
    """

    inner_variables = ()  # gradient descent remembers nothing
    _is_building = False

    def __init__(
        self,
        network: keras.Model,
        inner_loss: Loss,
        *,
        inner_lr: float,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        first_order: bool = False,
        adapt: Selection = None,
        task_metrics: Mapping[str, TaskLoss] | None = None,
        engine: str = "auto",
        norm_statistics: str = "queries",
        block: int = 1,
        tasks_per_step: int | None = None,
        remat: bool = False,
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(name=name)
        at_least(0, inner_steps=inner_steps)
        at_least(0, optional=True, test_inner_steps=test_inner_steps)
        at_least(1, block=block)
        at_least(1, optional=True, tasks_per_step=tasks_per_step)
        integers(seed=seed)
        finite(inner_lr=inner_lr)
        if not isinstance(task_metrics or {}, Mapping):
            raise ValueError(
                "task_metrics: expected losses by name, in a dictionary, got "
                f"{task_metrics!r}."
            )
        for loss in (inner_loss, *(task_metrics or {}).values()):
            losses.per_task(loss, 1)  # Raises for what is none.
        self.network = network
        self.inner_loss = inner_loss
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.test_inner_steps = (
            inner_steps if test_inner_steps is None else test_inner_steps
        )
        self.first_order = first_order
        self.block = block
        self.tasks_per_step = tasks_per_step
        self.remat = remat
        self.seed = seed
        self.engine = engine
        self._engine = engines.choose(engine, network)
        queries.require(norm_statistics, network)
        self.norm_statistics = norm_statistics
        self._bytes: dict[tuple, float | None] = {}
        self.adapted = select(network, adapt)
        self.task_metrics = dict(task_metrics or {})
        self.trackers = {
            name: keras.metrics.Mean(name=name)
            for metric in self.task_metrics
            for name in (f"pre_{metric}", f"post_{metric}")
        }
        self.built = True

    # tf.map_fn would let AutoGraph rewrite all that it calls, for a second.
    @tf.autograph.experimental.do_not_convert
    def call(self, inputs, training=False):
        """Returns `Predictions` for `(support_x, support_y, query_x)`."""
        task_data.require_tasks(self.network, inputs)
        seeds = self._seeds(shapes.leading(inputs), training)
        predict, group = self._predictor(inputs)
        if group is None:
            return predict(inputs, seeds, training)
        predictions = tf.map_fn(
            lambda part: predict(*part, training),
            _in_groups((inputs, seeds), group),
            fn_output_signature=_map(
                lambda spec: tf.TensorSpec([group, *spec.shape], spec.dtype),
                self._signature(inputs, training),
            ),
            parallel_iterations=cores.side_by_side(),
        )
        return _map(shapes.merge, predictions)

    def train_step(self, data):
        """Makes a meta-update, or one for each meta-batch of a block."""
        data = _tensors(data)
        if self.block == 1:
            return self._update(data)
        replicas.require_none("block", self.block)
        updates = shapes.leading(data)

        def body(i):
            self._update(_map(lambda part: part[i], data))
            return (i + 1,)

        tf.while_loop(lambda i: i < updates, body, [0])
        return self.get_metrics_result()

    def _update(self, data):
        """Makes one meta-update and returns the metrics."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        (loss, gradients), predictions = self.meta_gradient(data)
        self._loss_tracker.update_state(
            loss * replicas.count(), sample_weight=shapes.leading(x)
        )
        self.apply_gradients(gradients)
        return self.compute_metrics(x, y, predictions, weight)

    def meta_gradient(self, data):
        """Returns loss and meta-gradient of a meta-batch, and `Predictions`.

        The learner must be compiled.

        Args:
          data: `(inputs, query_y)`, and a weight for each task if need be.

        Returns:
          `((loss, gradients), predictions)`, a gradient for each of the
          `trainable_variables`, of the loss as the optimizer scales it.
        """
        data = _tensors(data)
        x, *_ = keras.utils.unpack_x_y_sample_weight(data)
        task_data.require_tasks(self.network, x)
        if self.remat:
            adapted = {id(variable) for variable in self.adapted}
            others = self.network.trainable_variables
            require_noted(v for v in others if id(v) not in adapted)
        seeds = self._seeds(shapes.leading(x), training=True)
        predict, group = self._predictor(x)
        if group is None:
            return self._differentiate(data, predict, seeds)
        return self._by_groups(data, predict, seeds, group)

    def _differentiate(self, data, predict, seeds):
        """Returns the `meta_gradient` of tasks that are predicted together."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = [variable.value for variable in self.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(variables)  # also those that were made not trainable
            predictions = predict(x, seeds, training=True)
            loss = self.compute_loss(x, y, predictions, weight)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(
            scaled, variables, unconnected_gradients="zero"
        )
        return (loss, [tf.convert_to_tensor(g) for g in gradients]), predictions

    def _all_at_once(self, inputs, seeds, training) -> Predictions:
        """Returns predictions for tasks that are stacked."""
        apply_fn = stacked.with_penalty(self.network, self.adapted)
        tasks = shapes.leading(inputs)
        theta = [tie(value, tasks) for value in self._theta()]
        return self._predict(apply_fn, 1, theta, inputs, seeds[0], training)

    def _alone(self, inputs, seeds, training) -> Predictions:
        """Returns predictions for a single task."""
        apply_fn = functional.with_penalty(self.network, self.adapted)
        inputs, seed = _map(lambda part: part[0], (inputs, seeds))
        theta = self._theta()
        found = self._predict(apply_fn, 0, theta, inputs, seed, training)
        return _map(lambda p: shapes.predicted(lambda x: x[None], p), found)

    def _predict(self, apply_fn, task_axes, theta, inputs, seed, training):
        """Adapts θ to the support set, predicts the query along the way."""
        support_x, support_y, query_x = inputs
        adaptation = adapt(
            apply_fn,
            losses.with_penalty(self.inner_loss, task_axes),
            theta,
            support_x,
            support_y,
            update=self.inner_update,
            inner_steps=self._steps(training),
            first_order=self.first_order,
            remat=self.remat and training,
            seed=seed,
        )
        before, *_ = adaptation.support or (
            apply_fn(theta, support_x, fold(seed, 0)),
        )
        scored = self.scored(adaptation.phi, training)
        queries.require(self.norm_statistics, self.network)
        way = "queries" if training else self.norm_statistics
        dtypes = _map(lambda part: part.dtype, before)
        after = (
            queries.NORM_STATISTICS[way](
                functools.partial(apply_fn, seed=fold(seed, number)),
                phi,
                support_x,
                query_x,
                task_axes,
                dtypes,
            )
            for number, phi in enumerate(scored, len(adaptation.phi))
        )
        (support, *query), penalties = zip(before, *after, strict=True)
        return Predictions(support, tuple(query), penalties)

    def inner_update(self, phi, gradients, u):
        """Returns the parameters after inner step u: φ − α ∇_φ L.

        A subclass may make another step of it. For a stack of tasks all have a
        leading task axis.

        Args:
          phi: φᵤ, a tensor for each variable of `adapted`.
          gradients: ∇_φ L at φᵤ, likewise.
          u: the number of the step, from 0.
        """
        return gradient_descent(self.inner_lr)(phi, gradients, u)

    def scored(self, trajectory, training):
        """Returns those of φ₀, …, φ_U whose query predictions are made."""
        return trajectory[-1:] if training else trajectory

    def objective(self, x, y, predictions):
        """Returns the targets and predictions that meta-training compares."""
        del x
        return y, self._after(predictions.query)

    def penalty(self, predictions):
        """Returns the network's own losses that are part of meta-training."""
        return self._after(predictions.penalty[1:])

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns the compiled loss of the objective, and the penalty.

        Of R replicas each has 1 / R of it: Keras adds their gradients.
        """
        task_data.require_targets(x, y)
        penalty = tf.reduce_mean(self.penalty(y_pred))
        y, y_pred = self.objective(x, y, y_pred)
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + tf.cast(penalty, loss.dtype) / replicas.count()

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the task metrics and the compiled metrics."""
        for name, metric in self.task_metrics.items():
            metric = losses.per_task(metric, 1)
            before = metric(x[1], y_pred.support)
            after = metric(y, self._after(y_pred.query))
            self.trackers[f"pre_{name}"].update_state(before)
            self.trackers[f"post_{name}"].update_state(after)
        y, y_pred = self.objective(x, y, y_pred)
        found = super().compute_metrics(x, y, y_pred, sample_weight)
        # Keras makes them when it first sees what they compare.
        compiled.require_weighable(self._weighted_metrics(), sample_weight)
        return found

    def _weighted_metrics(self):
        found = self._compile_metrics
        for part in found._flat_weighted_metrics if found else ():
            yield from part.metrics if part else ()

    def predict_step(self, data):
        """Returns the query predictions after the last inner step."""
        return super().predict_step(data).query[-1]

    def _after(self, by_step):
        """Returns the query's at φ_U, with U as in training."""
        return by_step[: self.inner_steps + 1][-1]

    def _learned(self, x, y, steps):
        seed = self._seeds(1, training=False)[0]
        adaptation = adapt(
            functional.with_penalty(self.network, self.adapted),
            losses.with_penalty(self.inner_loss, 0),
            self._theta(),
            x,
            y,
            update=self.inner_update,
            inner_steps=self.test_inner_steps if steps is None else steps,
            first_order=True,
            seed=seed,
        )
        return adaptation.phi[-1], seed

    def _theta(self):
        """Returns the values of what adapts.

        Raises:
          ValueError: if the network has some of it no more, or frozen.
        """
        own = {id(v) for v in self.network.trainable_variables}
        for variable in self.adapted:
            if id(variable) not in own:
                raise ValueError(
                    f"The model {self.network.name!r}: {variable.path} was "
                    "frozen or taken out after the learner was made, which "
                    "adapts it. Make a new learner."
                )
        return [tf.convert_to_tensor(v.value) for v in self.adapted]

    def _steps(self, training):
        as_trained = training or self._is_building
        return self.inner_steps if as_trained else self.test_inner_steps

    def _by_groups(self, data, predict, seeds, group):
        """Returns what `_differentiate` returns, differentiating in a loop.

        The gradient of each group of tasks is taken inside the loop's body, so
        that memory holds one group's intermediate results.
        """
        groups = _in_groups((data, seeds), group)
        count = shapes.leading(groups)

        def body(i, sums, stored):
            data, seeds = _map(lambda part: part[i], groups)
            terms, predictions = self._differentiate(data, predict, seeds)
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            compared = self.objective(x, y, predictions)
            compiled.require_means(self.loss, *compared)
            sums = _map(tf.add, sums, terms)
            stored = _map(lambda s, p: s.write(i, p), stored, predictions)
            return i + 1, sums, stored

        zeros = [tf.zeros(v.shape, v.dtype) for v in self.trainable_variables]
        stored = _map(
            lambda spec: tf.TensorArray(
                spec.dtype, count, element_shape=[group, *spec.shape]
            ),
            self._signature(data[0], training=True),
        )
        _, sums, stored = tf.while_loop(
            lambda i, *_: i < count,
            body,
            (0, (tf.zeros((), keras.config.floatx()), zeros), stored),
            maximum_iterations=count,
            parallel_iterations=cores.side_by_side(),
        )
        means = _map(lambda total: total / tf.cast(count, total.dtype), sums)
        return means, _map(lambda s: shapes.merge(s.stack()), stored)

    def _signature(self, inputs, training):
        """Returns the specification of one task's `Predictions`."""
        support_x, _, query_x = inputs
        steps = range(self._steps(training) + 1)
        scored = len(self.scored(steps, training))
        penalty = tf.TensorSpec([], keras.config.floatx())
        return Predictions(
            functional.output_spec(self.network, support_x),
            (functional.output_spec(self.network, query_x),) * scored,
            (penalty,) * (1 + scored),
        )

    def _predictor(self, inputs):
        """Returns what predicts a group of tasks, and how many, if not all."""
        engine, _, group = self.engine_for(inputs)
        predict = self._all_at_once if engine == "stacked" else self._alone
        everything = group == tf.nest.flatten(inputs)[0].shape[0]
        return predict, None if everything else group

    def engine_for(self, inputs) -> engines.Choice:
        """Returns the engine for `(support_x, support_y, query_x)`."""
        tasks, most = _sizes(inputs)[0][0], self.tasks_per_step
        at_least(1, optional=True, tasks_per_step=most)
        if self._engine is not None:
            return engines.bounded(self._engine, tasks, most)
        # Of several sizes Keras makes one graph, in which none is known.
        known = [size for size in self._bytes.values() if size is not None]
        needed = self.task_bytes(inputs) or max(known, default=None)
        return engines.choose_by_size(tasks, needed, most)

    def task_bytes(self, inputs) -> float | None:
        """Returns about what a task of a meta-batch takes in training.

        It is not known of a network that cannot be stacked. See
        `engines.task_bytes`.

        Args:
          inputs: `(support_x, support_y, query_x)`.
        """
        sizes = _sizes(inputs)
        if sizes not in self._bytes:
            self._bytes[sizes] = self._estimate(inputs)
        return self._bytes[sizes]

    def _estimate(self, inputs):
        if stacked.unsupported(self.network):
            return None
        support_x, _, query_x = inputs
        return engines.task_bytes(
            self.network,
            self.adapted,
            support_x,
            query_x,
            inner_steps=self.inner_steps,
            keeps_one=self.first_order or self.remat,
        )

    def memory_estimate(self, inputs) -> float | None:
        """Returns about how many bytes a training step on a meta-batch takes.

        It is for what the tasks that are run at once compute. Parameters, the
        optimizer, the data and the libraries come on top.

        Args:
          inputs: `(support_x, support_y, query_x)`.
        """
        needed = self.task_bytes(inputs)
        tasks = _sizes(inputs)[0][0]
        if needed is None or tasks is None:
            return None
        return needed * engines.tasks_at_once(self.engine_for(inputs), tasks)

    def _symbolic_build(self, *args, **kwargs):
        """Lets Keras, with a strategy, trace as many steps as training has.

        What it builds depends on the shape of predictions alone.
        """
        self._is_building = True
        try:
            super()._symbolic_build(*args, **kwargs)
        finally:
            self._is_building = False

    def diagnose(self, x, y):
        """Yields what a training step computes, in order, with names."""
        (loss, gradients), predictions = self.meta_gradient((x, y))
        yield from _named("inputs", x[0])
        yield from _named(
            "support prediction before adaptation", predictions.support
        )
        after = f"after {self.inner_steps} inner steps"
        yield from _named(f"query prediction {after}", predictions.query[-1])
        yield "loss", loss
        pairs = zip(self.trainable_variables, gradients, strict=True)
        for variable, gradient in pairs:
            yield f"meta-gradient of {variable.path}", gradient


@register
class JointTraining(MAML):
    """Ordinary training on all tasks' support sets: the pretrained baseline.

        θ ← θ − β ∇_θ Σᵢ L_support(θ) / B

    It predicts as MAML does, so its metrics after the inner steps tell how
    well fine-tuning serves it. Moving averages stay as they are: of a network
    with Keras's batch normalisation use what `adapt` returns, also with 0
    steps, rather than the network itself.

    Source: Finn et al. 2017, section 5.1; `--pretrain_iterations` of
    cbfinn/maml.
    """

    def objective(self, x, y, predictions):
        """Returns the support set and its predictions at θ."""
        del y
        return x[1], predictions.support

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns what `MAML` does; weights of queries are none of support."""
        compiled.require_of_tasks(sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def penalty(self, predictions):
        """Returns the network's own losses at θ."""
        return predictions.penalty[0]


_map = tf.nest.map_structure


def _tensors(data):
    """Returns `(inputs, query_y)` as tensors, and weights if there are any."""
    return _map(task_data.tensor, tuple(p for p in data if p is not None))


def _sizes(inputs):
    """Returns the shapes of support and query inputs, the first with B."""
    support_x, _, query_x = inputs
    parts = tf.nest.flatten((support_x, query_x))
    return tuple(tuple(part.shape) for part in parts)


def _in_groups(tasks, group):
    """[B, …] → [B / group, group, …], of each tensor."""
    return _map(
        lambda part: tf.reshape(part, [-1, group, *shapes.sizes(part)[1:]]),
        tasks,
    )


def _named(name, values):
    """Yields a tensor with its name, or those of a structure."""
    for value in tf.nest.flatten(values):
        yield name, value
