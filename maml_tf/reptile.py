"""Reptile and FOML: first-order meta-learners that follow where tasks lead."""

import functools

import keras
import tensorflow as tf

from maml_tf import (
    descent,
    engines,
    functional,
    losses,
    queries,
    replicas,
    stacked,
    task_data,
)
from maml_tf.checks import at_least, finite, integers
from maml_tf.inner_optimizers import InnerOptimizer, State
from maml_tf.learner import Learner
from maml_tf.saving import register
from maml_tf.seeds import fold
from maml_tf.shapes import leading

SUM_OF_CROSS_ENTROPIES = losses.CrossEntropy(1)
AUTO = engines.Choice("looped", "as fast as stacked", 1)
"""The engine that "auto" chooses here."""


@register
class Reptile(Learner):
    """Reptile: moves θ towards the parameters φ that tasks end at.

        φᵢ = U steps of the inner optimizer on mini-batches of task i, from θ
        θ ← θ + ε (Σᵢ φᵢ / B − θ)

    θ − Σᵢ φᵢ / B is given to the compiled optimizer as a gradient, so that ε
    is the learning rate of `keras.optimizers.SGD`, a number or a schedule.
    Train it on elements `(support_x, support_y)` with a leading task axis B.
    Called on `(support_x, support_y, query_x)` it predicts the queries after
    adaptation, `[B, T, outputs]`. `evaluate` takes the compiled loss of them,
    or without one the inner loss, and adds none of the network's own.

    While the inner optimizer remembers, as Adam does, tasks of training follow
    one another, each with what the optimizer remembers of the ones before.
    Called, a model leaves everything as it was.

    Source: Nichol et al. 2018, Algorithm 2 (arXiv 1803.02999); behaviour of
    supervised-reptile.

    Args:
      network: a built Keras model, f_θ. It always runs in training mode, with
        dropout and batch statistics. All its trainable variables adapt.
      inner_optimizer: see `maml_tf.inner_optimizers`.
      inner_steps: U ≥ 1.
      inner_batch: b, the size of mini-batches; default the support set.
      inner_loss: of a mini-batch, see `MAML`. The default is the sum of
        cross-entropies, of logits.
      test_inner_steps: U outside training; default `inner_steps` as given here,
        not as set later.
      test_inner_batch: b outside training; default `inner_batch` likewise.
      replacement: whether each mini-batch is a sample of its own, see
        `descent.draw_batches`.
      weight_decay: multiplies all parameters before each inner step.
      reset_inner_optimizer: whether it forgets before each task.
      transductive: whether queries are predicted in one batch, with its
        statistics; else each alone with the support set.
      engine: "stacked" runs tasks at once where the inner optimizer need not
        remember, "looped" one by one. "auto" is "looped", which is as fast.
      seed: of mini-batches and random layers.

    Raises:
      ValueError: if an argument is out of range, or the network cannot run in
        the chosen engine.
    """

    def __init__(
        self,
        network: keras.Model,
        inner_optimizer: InnerOptimizer,
        *,
        inner_steps: int,
        inner_batch: int | None = None,
        inner_loss: losses.Loss = SUM_OF_CROSS_ENTROPIES,
        test_inner_steps: int | None = None,
        test_inner_batch: int | None = None,
        replacement: bool = False,
        weight_decay: float = 1.0,
        reset_inner_optimizer: bool = False,
        transductive: bool = False,
        engine: str = "auto",
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(name=name)
        at_least(1, inner_steps=inner_steps)
        integers(seed=seed)
        at_least(
            1,
            optional=True,
            inner_batch=inner_batch,
            test_inner_steps=test_inner_steps,
            test_inner_batch=test_inner_batch,
        )
        finite(weight_decay=weight_decay)
        _require_optimizer(inner_optimizer)
        losses.per_task(inner_loss, 1)  # Raises for what is none.
        chosen = "looped" if engine == "auto" else engine
        self._engine = engines.choose(chosen, network)
        if engine == "auto":
            self._engine = AUTO
        _require_one_type(network)
        self.engine = engine
        self.network = network
        self.inner_optimizer = inner_optimizer
        self.inner_steps = inner_steps
        self.inner_batch = inner_batch
        self.inner_loss = inner_loss
        self.test_inner_steps = test_inner_steps or inner_steps
        self.test_inner_batch = test_inner_batch or inner_batch
        self.replacement = replacement
        self.weight_decay = weight_decay
        self.reset_inner_optimizer = reset_inner_optimizer
        self.transductive = transductive
        self.seed = seed
        self._stacks = chosen == "stacked"
        self._shapes = [v.shape for v in network.trainable_variables]
        self.inner_state = tf.nest.map_structure(
            self._remember, inner_optimizer.init(self._theta())
        )
        self.built = True

    @property
    def adapted(self) -> list[keras.Variable]:
        """What inner steps move: all that the network trains."""
        return self.network.trainable_variables

    @property
    def inner_variables(self) -> list[keras.Variable]:
        """What the inner optimizer remembers."""
        return tf.nest.flatten(self.inner_state)

    @property
    def carries(self) -> bool:
        """Whether the inner optimizer remembers from task to task."""
        return bool(self.inner_variables) and not self.reset_inner_optimizer

    def train_step(self, data):
        """Makes one meta-update; the metric is the mean inner loss."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        if weight is not None:
            raise ValueError("sample_weight: expected none, all tasks count.")
        x, y = _map(task_data.tensor, (x, y))
        _require_no_queries(self.network, x)
        task_data.require_inputs(self.network, x, "B, n")
        task_data.require_same_examples(x, y, "B, n")
        change, state, loss = self.changes(x, y, self.draw(y))
        if self.carries:
            replicas.require_one("reset_inner_optimizer", False)
            for variable, value in zip(
                self.inner_variables, tf.nest.flatten(state), strict=True
            ):
                variable.assign(value)
        mean = change / replicas.count()  # Keras adds those of all replicas.
        mean = self.optimizer.scale_loss(mean)  # which it divides by again
        self.apply_gradients(descent.unravel(-mean, self._shapes))
        self._loss_tracker.update_state(loss, sample_weight=leading(x))
        return self.step_results(trains=True)

    def changes(self, x, y, batches):
        """Returns the mean change of θ over tasks, and what else it gives.

        Args:
          x: support inputs `[B, S, …]`.
          y: targets `[B, S, …]`.
          batches: groups of mini-batches, in order: indices `[B, U, b]` each.

        Returns:
          The change `[P]`, the inner optimizer's state, and the mean loss of
          a mini-batch.
        """
        if self._stacks and not self.carries:
            change, state, total = self._together(x, y, batches)
        else:
            change, state, total = self._in_turn(x, y, batches)
        tasks = leading(x)
        steps = sum(group.shape[1] for group in batches)
        at_least(1, inner_steps=steps)
        count = tf.cast(tasks * steps, total.dtype)
        return change / tf.cast(tasks, change.dtype), state, total / count

    def _together(self, x, y, batches):
        start = self._stacked_start(leading(x))
        seed = self._seeds(leading(x), True)[0]
        ends, _, loss = self._descend(start, x, y, batches, seed)
        change = self.change(start[0], ends)
        change = descent.unravel(change, self._shapes_of(batches[0]))
        change = descent.ravel([tf.reduce_sum(part, 0) for part in change])
        return change, self._initial(), loss

    def _in_turn(self, x, y, batches):
        tasks, theta = leading(x), self._theta()
        seeds = self._seeds(tasks, True)

        def body(i, total, state, loss):
            if not self.carries:
                state = self._initial()
            own = _map(lambda part: part[i], (x, y, batches, seeds))
            ends, state, more = self._descend((theta, state), *own)
            total += self.change(theta, ends)
            return i + 1, total, state, loss + more

        zero, zeros = tf.zeros([], theta.dtype), tf.zeros_like(theta)
        start = 0, zeros, self._initial(), zero
        # Two: a task's first gradient, which does not need the state, is taken
        # beside the last steps of the task before.
        _, *sums = tf.while_loop(
            lambda i, *_: i < tasks, body, start, parallel_iterations=2
        )
        return sums

    def change(self, start, ends):
        """Returns a task's change, by its start and the end of each group."""
        return ends[-1] - start

    def _descend(self, start, x, y, batches, seed):
        """Descends one group of mini-batches after another.

        Returns:
          The parameters after each group, the state, and the sum of losses.
        """
        ends, total = [], 0.0
        for number, group in enumerate(batches):
            end = descent.descend(
                self._apply_fn(group),
                losses.with_penalty(self.inner_loss, len(group.shape) - 2),
                self.inner_optimizer,
                start,
                self._shapes_of(group),
                (x, y),
                group,
                self.weight_decay,
                fold(seed, number),
            )
            start = end.phi, end.state
            ends.append(end.phi)
            total += end.loss
        return ends, start[1], total

    def _apply_fn(self, batches):
        """Returns the network as a function, for a stack of tasks or one."""
        is_stack = len(batches.shape) == 3
        engine = stacked if is_stack else functional
        return engine.with_penalty(self.network, self.adapted)

    def draw(self, y):
        """Draws groups of mini-batches for a training step, `[B, U, b]` each.

        Args:
          y: targets `[B, S, …]`.
        """
        return [
            self._draw(self._seed(True), y, self.inner_steps, self.inner_batch)
        ]

    def draw_test(self, y, seed, steps: int | None = None):
        """Draws the mini-batches of an evaluation, `[B, U, b]`."""
        steps = self.test_inner_steps if steps is None else steps
        at_least(0, steps=steps)
        return self._draw(seed, y, steps, self.test_inner_batch)

    def _draw(self, seed, y, steps, batch):
        """Returns mini-batches for tasks with targets y: `[B, U, b]`."""
        examples = leading(y, 1)
        batches = descent.draw_batches(
            seed,
            leading(y) * replicas.count(),
            examples,
            batch or examples,
            steps,
            replacement=self.replacement,
        )
        return replicas.own(batches)

    # tf.map_fn would let AutoGraph rewrite all that it calls, for a second.
    @tf.autograph.experimental.do_not_convert
    def call(self, inputs, training=False, draw=0):
        """Returns query predictions for `(support_x, support_y, query_x)`.

        Args:
          inputs: as of `adapt_and_predict`.
          training: whether mini-batches are those of the next meta-update.
          draw: else they are of this number, another for each meta-batch of a
            test whose tasks are to be independent.
        """
        task_data.require_tasks(self.network, inputs)
        _, y, query_x = inputs
        batches = self.draw_test(y, self._seed(training, draw))
        tasks = leading(y)
        seeds = self._seeds(tasks, training, draw)
        spec = functional.output_spec(self.network, query_x)
        if self._stacks:
            start = self._stacked_start(tasks)
            return self._predict(spec, start, *inputs, batches, seeds[0])
        start = self._theta(), self._initial()
        return tf.map_fn(
            lambda task: self._predict(spec, start, *task),
            (*inputs, batches, seeds),
            fn_output_signature=spec,
        )

    def _predict(self, spec, start, x, y, query_x, batches, seed):
        """Returns the predictions of one task, or of a stack."""
        ends, *_ = self._descend(start, x, y, [batches], seed)
        phi = descent.unravel(ends[-1], self._shapes_of(batches))
        apply_fn = self._apply_fn(batches)
        apply_fn = functools.partial(apply_fn, seed=fold(seed, -1))
        predict = queries.together if self.transductive else queries.alone
        dtypes = _map(lambda part: part.dtype, spec), keras.config.floatx()
        axis = len(batches.shape) - 2
        return predict(apply_fn, phi, x, query_x, axis, dtypes)[0]

    def _learned(self, x, y, steps):
        seed = self._seed(False)
        one = _map(lambda part: part[None], y)
        (batches,) = self.draw_test(one, seed, steps)
        start = self._theta(), self._initial()
        ends, *_ = self._descend(start, x, y, [batches], seed)
        return descent.unravel(ends[-1], self._shapes), seed

    def _theta(self):
        values = [v.value for v in self.adapted]
        if [value.shape for value in values] != self._shapes:
            raise ValueError(
                f"The model {self.network.name!r}: expected the "
                f"{len(self._shapes)} trainable variables that the learner was "
                f"made with, found {len(values)}."
            )
        return descent.ravel(values)

    def _initial(self):
        """Returns the state in which a task of evaluation begins."""
        if self.reset_inner_optimizer:
            return self.inner_optimizer.init(self._theta())
        return tf.nest.map_structure(lambda v: v.value, self.inner_state)

    def _stacked_start(self, tasks):
        scalars, slots = self._initial()
        vectors = [self._theta(), *slots]
        theta, *slots = (self._repeat(v, tasks) for v in vectors)
        return theta, State(scalars, tuple(slots))

    def _repeat(self, vector, tasks):
        """Returns a vector `[P]` for a stack of tasks: `[B·P]`."""
        parts = descent.unravel(vector, self._shapes)
        return descent.ravel(
            [tf.repeat(part[None], tasks, axis=0) for part in parts]
        )

    def _shapes_of(self, batches):
        """Returns the shapes of parameters, of a stack of tasks or of one."""
        tasks = [leading(batches)] * (len(batches.shape) - 2)
        return [[*tasks, *shape] for shape in self._shapes]

    def _remember(self, value):
        variable = self.add_weight(
            value.shape, dtype=value.dtype, trainable=False
        )
        variable.assign(value)
        return variable

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns the compiled loss of queries, or without one the inner."""
        task_data.require_targets(x, y)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def get_metrics_result(self):
        """Returns the loss, after an evaluation with the compiled metrics."""
        if all(getattr(metric, "built", True) for metric in self.metrics):
            return super().get_metrics_result()
        return {"loss": self._loss_tracker.result()}

    def step_results(self, trains):
        """Returns the loss, and what an evaluation measured besides."""
        if trains:
            return {"loss": self._loss_tracker.result()}
        return self.get_metrics_result()

    def _symbolic_build(self, iterator=None, data_batch=None):
        """Makes the optimizer's variables, and metrics if there are queries."""
        x, *_ = keras.utils.unpack_x_y_sample_weight(data_batch)
        if _has_queries(self.network, x):
            super()._symbolic_build(iterator, data_batch)
        elif not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def diagnose(self, x, y):
        """Yields what a training step computes, in order, with names."""
        yield "inputs", x
        change, _, loss = self.changes(x, y, self.draw(y))
        yield "inner loss", loss
        changes = descent.unravel(change, self._shapes)
        for variable, part in zip(
            self.trainable_variables, changes, strict=True
        ):
            yield f"change of {variable.path}", part


@register
class FOML(Reptile):
    """First-order meta-learning: follows each task's last mini-batch alone.

        θ ← θ + ε Σᵢ (φᵢ − φᵢ′) / B

    where φᵢ′ are the parameters before the last of the U inner steps.

    Source: `FOML` of supervised-reptile; Nichol et al. 2018, section 6.2.

    Args:
      network: see `Reptile`, as for all other arguments.
      inner_optimizer: see `Reptile`.
      tail_shots: examples of each class that are set apart for the last
        mini-batch; by default it is drawn like the others. It takes integer
        labels and a network with an output for each class.
    """

    def __init__(
        self,
        network: keras.Model,
        inner_optimizer: InnerOptimizer,
        *,
        tail_shots: int | None = None,
        **options,
    ):
        super().__init__(network, inner_optimizer, **options)
        at_least(1, optional=True, tail_shots=tail_shots)
        self.tail_shots = tail_shots
        if tail_shots is not None:
            _ways(network)  # Raises where it does not tell.

    def change(self, start, ends):
        """Returns the change by the last group: one mini-batch."""
        before = ends[-2] if len(ends) > 1 else start
        return ends[-1] - before

    def draw(self, y):
        """Draws all mini-batches but the last, and the last."""
        if self.tail_shots is None:
            (batches,) = super().draw(y)
            groups = [batches[:, :-1], batches[:, -1:]]
        else:
            groups = self._draw_tailed(y)
        return groups if self.inner_steps > 1 else groups[1:]

    def _draw_tailed(self, y):
        ways = _ways(self.network)
        others, tails = tf.map_fn(
            lambda labels: descent.split_tail(labels, ways, self.tail_shots),
            y,
            fn_output_signature=(tf.int32, tf.int32),
        )
        batches = self._draw(
            self._seed(True), others, self.inner_steps - 1, self.inner_batch
        )
        return [tf.gather(others, batches, batch_dims=1), tails[:, None]]


def _ways(network):
    """Returns how many classes a network tells apart, which takes a graph."""
    outputs = getattr(network, "outputs", None) or ()
    if len(outputs) != 1:
        raise ValueError(
            "tail_shots: expected None unless the network is sequential or "
            f"functional, with one output; {network.name!r} is none of them."
        )
    return outputs[0].shape[-1]


def _has_queries(network, x):
    """Whether x is `(support_x, support_y, query_x)`, not of support alone."""
    inputs = len(getattr(network, "inputs", None) or [x])
    is_triple = isinstance(x, (list, tuple)) and len(x) == 3
    return is_triple and len(tf.nest.flatten(x)) > inputs


def _require_no_queries(network, x):
    # A model of a class of its own, which does not say, may take three inputs.
    if getattr(network, "inputs", None) and _has_queries(network, x):
        raise ValueError(
            "The data: expected `(support_x, support_y)` in training, found "
            "queries, too; `data.map(lambda x, y: (x[0], x[1]))` has none."
        )


def _require_one_type(network):
    """Refuses what is not one vector, see `descent`: nothing, or two types."""
    functional.require_unconstrained(network.trainable_variables)
    types = {variable.dtype for variable in network.trainable_variables}
    if len(types) != 1:
        raise ValueError(
            f"The model {network.name!r}: expected trainable variables, all of "
            f"one type, found {', '.join(sorted(types)) or 'none'}."
        )


def _require_optimizer(given):
    has_both = all(hasattr(given, name) for name in ("init", "update"))
    if isinstance(given, type) or not has_both:
        raise ValueError(
            "inner_optimizer: expected one of `maml_tf.inner_optimizers`, or "
            f"another with `init` and `update`, got {given!r}."
        )


_map = tf.nest.map_structure
