"""Training by several devices: each replica has whole tasks of a meta-batch.

`tf.distribute` makes the replicas, splits meta-batches and adds gradients. A
model that is made in a strategy's scope trains so.
"""

import itertools
from collections.abc import Callable

import keras
import tensorflow as tf

_UNEVEN = (
    "The data: expected meta-batches that split evenly over the replicas, "
    "found {}; batch with `drop_remainder=True`."
)


class Replicated(keras.Model):
    """A model that Keras trains by replicas on one host or on several.

    Where they are on several, Keras can neither take the mean of what they
    return nor look at their data.
    """

    def _make_function(self, step_function):
        """Returns the function of an iterator that trains or tests a step."""
        if self._distribute_strategy is None:
            return super()._make_function(step_function)
        trains = step_function == self.train_step
        step_function = self._autoconvert_optionals(step_function)

        def step(data):
            with self.distribute_strategy.scope():
                self.on_replicas(step_function, data)
            return self.step_results(trains)

        if not self.run_eagerly:
            step = tf.function(step, autograph=False)
        require = _requirement(self, trains)

        def steps(iterator):
            first = next(iterator)  # Keras ends an epoch where there is none.
            others = itertools.islice(iterator, self.steps_per_execution - 1)
            for data in itertools.chain([first], others):
                if sizes := _sizes(data):
                    require(sizes)
                results = step(data)
            return results

        return steps

    def step_results(self, trains):
        """Returns the metrics by name that a step has measured."""
        del trains
        return self.get_metrics_result()

    def on_replicas(self, step, data):
        """Makes a step on each replica's part of the data."""
        each(step, data)

    def apply_gradients(self, gradients):
        """Lets the optimizer act on the sum of all replicas' gradients.

        Keras clips what a replica has, and then adds; and of a loss scale it
        asks the first replica alone whether it was too large. Here the sum is
        clipped and asked, of which each replica hands on an equal part.

        Raises:
          ValueError: if a replica's optimizer is to accumulate gradients.
        """
        optimizer = self.optimizer
        if steps := innermost(optimizer).gradient_accumulation_steps:
            require_none("gradient_accumulation_steps", steps)
        if count() > 1 and (_scales(optimizer) or _clips(optimizer)):
            context = tf.distribute.get_replica_context()
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            gradients = [part / count() for part in _clipped(optimizer, total)]
        optimizer.apply(gradients, self.trainable_variables)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Makes what training needs, of what the data are like."""
        if iterator is not None and self._distribute_strategy is not None:
            data = iterator.data_adapter.get_tf_dataset()
            iterator, data_batch = None, data.element_spec
        super()._maybe_symbolic_build(iterator, data_batch)


def _sizes(data):
    """Returns how many tasks of a meta-batch each replica of this host has.

    They are none where each has all of it, as by `train_on_batch`.
    """
    first = tf.nest.flatten(data)[0]
    return [len(part) for part in getattr(first, "values", ())]


def _requirement(model, trains):
    """Returns the function that refuses `_sizes` which a step cannot have."""
    strategy = model.distribute_strategy
    several = on_several_hosts(strategy) and strategy.num_replicas_in_sync > 1
    if trains and several:
        return _requirement_of_hosts(strategy, model.run_eagerly)
    return lambda sizes: _require_parts(sizes, trains)


def _require_parts(sizes, trains):
    """Refuses a meta-batch of which some replica would have fewer tasks.

    They all count the same in training. In evaluation none may be without.
    """
    if 0 in sizes or trains and len({*sizes}) > 1:
        parts = f"parts of {', '.join(map(str, sizes))} tasks"
        raise ValueError(_UNEVEN.format(parts))


def _requirement_of_hosts(strategy, run_eagerly):
    """Returns `_require_parts` of a training by replicas on several hosts.

    No host sees the data of another. So all add up the n tasks of replicas, and
    n²: R Σ n² = (Σ n)² if all have the same n, and only then; or all refuse.
    """

    def sums(numbers):
        with strategy.scope():
            return total(lambda: numbers)

    if not run_eagerly:  # TensorFlow confuses eager sums with others.
        sums = tf.function(sums, autograph=False)

    def require(sizes):
        here = [sum(sizes), sum(n**2 for n in sizes)]
        tasks, squares = sums(tf.constant(here, tf.float64)) / len(sizes)
        if strategy.num_replicas_in_sync * squares != tasks**2:
            parts = f"parts of {', '.join(map(str, sizes))} tasks here"
            raise ValueError(_UNEVEN.format(f"{parts} and others elsewhere"))

    return require


def innermost(optimizer: keras.optimizers.Optimizer):
    """Returns the optimizer that a loss scale is around, or itself."""
    return optimizer.inner_optimizer if _scales(optimizer) else optimizer


def _clips(optimizer):
    return (
        optimizer.clipvalue or optimizer.clipnorm or optimizer.global_clipnorm
    )


def _scales(optimizer):
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _clipped(optimizer, gradients):
    """Returns gradients as an optimizer clips them, at their loss scale."""
    scale = optimizer.scale_loss(1.0)
    unscaled = [gradient / scale for gradient in gradients]
    clipped = innermost(optimizer)._clip_gradients(unscaled)
    clipped = [part * scale for part in clipped]
    if not _scales(optimizer):
        return clipped
    # An infinite one that became finite would pass for no overflow.
    return [
        tf.where(tf.math.is_finite(gradient), part, gradient)
        for gradient, part in zip(gradients, clipped, strict=True)
    ]


def count() -> int:
    """Returns how many replicas there are, R."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def each(function: Callable, *arguments):
    """Returns what a function returns on each replica, of its own arguments.

    An argument is either for all, or what `each` has returned. On a replica,
    and without a strategy, it is only called.
    """
    if tf.distribute.in_cross_replica_context():
        return tf.distribute.get_strategy().run(function, arguments)
    return function(*arguments)


def total(function: Callable, *arguments):
    """Returns the sum of what `each` returns, of each tensor of a structure."""
    found = each(function, *arguments)
    if tf.distribute.in_cross_replica_context():
        reduce = tf.distribute.get_strategy().reduce
        return tf.nest.map_structure(
            lambda parts: reduce("SUM", parts, axis=None), found
        )
    return found


def own(values: tf.Tensor) -> tf.Tensor:
    """Returns this replica's equal part of what is for all, in their order.

    Args:
      values: `[R · B, …]`, the same for every replica.
    """
    if count() == 1:
        return values
    context = tf.distribute.get_replica_context()
    place = context.replica_id_in_sync_group if context else 0
    return tf.stack(tf.split(values, count()))[place]


def on_several_hosts(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether a strategy's replicas are in several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def require_none(name: str, value) -> None:
    """Raises `ValueError` for an argument that no strategy's replica can have.

    Even one has its gradients added up, which a loop or a branch cannot do.
    """
    if tf.distribute.has_strategy():
        raise ValueError(
            f"{name}: replicas of a strategy cannot train with {value!r}; see "
            "docs/scaling.md."
        )


def require_one(name: str, value) -> None:
    """Raises `ValueError` for an argument that several replicas cannot have."""
    if count() > 1:
        raise ValueError(
            f"{name}: several replicas cannot train with {value!r}; see "
            "docs/scaling.md."
        )
