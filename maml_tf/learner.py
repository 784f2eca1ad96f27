"""What all meta-learners share: losses, seeds, and how Keras saves them."""

import functools
import inspect

import keras
import tensorflow as tf

from maml_tf import compiled, engines, losses, replicas, task_data
from maml_tf.checks import at_least
from maml_tf.copies import adapted_copy
from maml_tf.replicas import Replicated

_REST = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def _repeatable(method):
    """Returns a method of Keras that can be called again after an error.

    A graph that breaks off while it is made would refuse its variables the
    next time, as not of its first call.
    """
    method = compiled.naming_labels(method)

    @functools.wraps(method)
    def repeatable(learner, *args, **options):
        try:
            return method(learner, *args, **options)
        except Exception:
            learner._trace_anew()
            raise

    return repeatable


class Learner(Replicated):
    """A model that Keras saves by the arguments that it was made with.

    It computes in full precision whatever Keras's policy is: what layers of
    the network compute in is their own matter.
    """

    block = 1
    fixed: tuple[str, ...] = (
        "adapt",
        "adapted",
        "engine",
        "inner_optimizer",
        "network",
        "task_metrics",
    )
    """Attributes that cannot be set again once the learner is made."""

    evaluate = _repeatable(Replicated.evaluate)
    predict = _repeatable(Replicated.predict)

    def __init__(self, name: str | None = None):
        super().__init__(name=name, dtype=keras.config.floatx())

    def __setattr__(self, name, value):
        """Sets an attribute; what was traced with another argument goes."""
        is_new = getattr(self, name, None) is not value
        is_built = getattr(self, "built", False)
        if is_built and is_new and name in self.fixed:
            raise AttributeError(
                f"{name}: cannot be another one than the learner was made "
                "with. Make a new learner."
            )
        super().__setattr__(name, value)
        if is_built and is_new and name in _argument_names(type(self)):
            self._trace_anew()

    def _trace_anew(self):
        getattr(self, "_bytes", {}).clear()
        for kind in ("train", "test", "predict"):
            if getattr(self, f"{kind}_function") is not None:
                getattr(self, f"make_{kind}_function")(force=True)

    def adapt(self, support_x, support_y, steps: int | None = None):
        """Returns a network of its own, adapted to one task.

        It is an ordinary Keras model that is not compiled, to predict, save
        or train further with, see `copies.adapted_copy`. Keras's batch
        normalisation has the support set's statistics in it;
        `norms.BatchStatisticsNorm` goes on to take those of each batch.

        Args:
          support_x: inputs of one task, `[S, …]`, without a task axis.
          support_y: targets, `[S, …]`.
          steps: inner steps; default `test_inner_steps`.

        Raises:
          ValueError: if the shapes are not those of one task, or the network
            cannot be copied faithfully.
        """
        x, y = map(task_data.tensors, (support_x, support_y))
        task_data.require_inputs(self.network, x, "n")
        task_data.require_same_examples(x, y, "n")
        at_least(0, optional=True, steps=steps)
        phi, seed = self._learned(x, y, steps)
        return adapted_copy(self.network, self.adapted, phi, x, seed)

    def _learned(self, x, y, steps):
        """Returns φ after inner steps on one task, and the seed they had."""
        raise NotImplementedError

    @_repeatable
    def fit(self, *args, **options):
        """Trains as Keras does; tasks have no class that could weigh more."""
        return _without_class_weight(super().fit, args, options)

    @_repeatable
    def train_on_batch(self, *args, **options):
        """Trains as Keras does, see `fit`."""
        return _without_class_weight(super().train_on_batch, args, options)

    def add_loss(self, loss):
        """Raises `ValueError`: a loss is of a task, and so the network's."""
        raise ValueError(
            "add_loss: expected a layer of the network to call its own, got "
            f"{loss!r} for the learner. Or give its class a `compute_loss`."
        )

    @property
    def losses(self):
        """Nothing: the network's own losses are part of each task's."""
        return []

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns the compiled loss, or without one the mean inner loss."""
        if self.loss is None:
            return compiled.uncompiled(
                self.inner_loss, y, y_pred, sample_weight
            )
        y = compiled.shaped(self.loss, y, y_pred)
        if replicas.count() > 1:
            compiled.require_means(self.loss, y, y_pred, compiled.ON_REPLICAS)
        weight = compiled.of_tasks(sample_weight, self.loss, y, y_pred)
        return super().compute_loss(x, y, y_pred, weight, training)

    def adapt_and_predict(self, support_x, support_y, query_x):
        """Returns predictions for the queries of many tasks, each adapted.

        Args:
          support_x: `[B, S, …]`.
          support_y: `[B, S, …]`.
          query_x: `[B, T, …]`.

        Returns:
          `[B, T, …]`, after `test_inner_steps`.
        """
        inputs = map(task_data.tensors, (support_x, support_y, query_x))
        return self.predict_step((tuple(inputs),))

    def execution_plan(self) -> engines.Plan:
        """Returns which layers run stacked, and why others do not."""
        return engines.plan(self._engine, self.network)

    def _seed(self, training, draw=0):
        """Returns a seed `[2]`, another for each meta-update or draw."""
        trains = training and self.optimizer is not None
        update = _updates(self.optimizer) if trains else -1 - draw
        return tf.stack(
            [tf.cast(part, tf.int64) for part in (self.seed, update)]
        )

    def _seeds(self, tasks, training, draw=0):
        """Returns a seed for each of this replica's tasks, `[B, 2]`."""
        seed = self._seed(training, draw)
        return replicas.own(tf.random.split(seed, tasks * replicas.count()))

    def get_config(self):
        """Returns all arguments, in the form in which Keras saves them."""
        return keras.saving.serialize_keras_object(arguments_of(self))

    @classmethod
    def from_config(cls, config):
        return make(cls, keras.saving.deserialize_keras_object(config))

    def export(self, *args, **options):
        """Raises `ValueError`: what is served is a function of a learner."""
        del args, options
        raise ValueError(
            "export: a learner is served by its `adapt_and_predict`, in a "
            "`keras.export.ExportArchive` (docs/own_model.md). Models of Keras "
            "are its `network` and what `adapt` returns, each with an `export`."
        )

    def save(self, filepath, *args, **options):
        """Saves all of it; a file that is there is left if that cannot be.

        Raises:
          ValueError: if it would be HDF5, a layer has LoRA, or Keras does not
            save all arguments of a loss.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "save: expected a file name that ends in .keras, or with "
                f"`save_weights` in .weights.h5, got {str(filepath)!r}."
            )
        _require_no_low_rank(self.network)
        metrics = getattr(self, "task_metrics", {})
        losses.require_saved([self.inner_loss, self.loss, *metrics.values()])
        super().save(filepath, *args, **options)

    def save_weights(self, *args, **options):
        """Saves the weights, see `save`."""
        _require_no_low_rank(self.network)
        super().save_weights(*args, **options)

    def save_own_variables(self, store):
        """Saves what is not the network's, which Keras saves by itself.

        Raises:
          ValueError: if a layer has LoRA, which Keras does not keep apart.
        """
        _require_no_low_rank(self.network)
        for i, variable in enumerate(self._apart()):
            store[str(i)] = variable

    def load_own_variables(self, store):
        """Loads that; an older file has the adapted weights, too."""
        own = self._apart()
        if len(store.keys()) > len(own):
            super().load_own_variables(store)
            return
        for i, variable in enumerate(own):
            variable.assign(store[str(i)])

    def _apart(self):
        networks = {id(weight) for weight in self.network.weights}
        return [v for v in self.weights if id(v) not in networks]


def _require_no_low_rank(network):
    """Refuses layers that could neither train nor adapt when they are loaded.

    Both of LoRA's factors are zero then, and so are both gradients.
    """
    for layer in network._flatten_layers():
        if getattr(layer, "lora_enabled", False) and layer.trainable_variables:
            raise ValueError(
                f"The layer {layer.name!r} has LoRA, whose factors Keras "
                "merges into the kernel on saving: a learner that is loaded "
                "would not train or adapt. Keep `learner.get_weights()` in a "
                "file of your own, or save `learner.network` alone, merged."
            )


def _updates(optimizer):
    """Returns how many gradients one of Keras's optimizers has taken.

    Its own count is of steps, of which each may take several.
    """
    return replicas.innermost(optimizer)._iterations


def arguments_of(learner: Learner) -> dict:
    """Returns what a learner was made with.

    Every argument is an attribute of its name, but for `adapt`: that is the
    places of the variables in `network.weights`. A class that passes
    `**options` on has those of the class above it too.
    """
    names = set(_argument_names(type(learner)))
    arguments = {name: getattr(learner, name) for name in names - {"adapt"}}
    if "adapt" in names:
        order = [id(weight) for weight in learner.network.weights]
        arguments["adapt"] = [order.index(id(v)) for v in learner.adapted]
    return arguments


def make(kind: type, arguments: dict) -> Learner:
    """Returns a learner with arguments as `arguments_of` returns them."""
    if "adapt" in arguments:
        weights = arguments["network"].weights
        adapt = [weights[place] for place in arguments["adapt"]]
        arguments = {**arguments, "adapt": adapt}
    return kind(**arguments)


def _without_class_weight(method, args, options):
    given = inspect.signature(method).bind(*args, **options).arguments
    if given.get("class_weight") is not None:
        raise ValueError(
            "class_weight: expected None, as labels are others in every task, "
            f"got {given['class_weight']!r}."
        )
    return method(*args, **options)


def _argument_names(kind):
    for part in kind.__mro__:
        if "__init__" not in vars(part):
            continue
        parameters = inspect.signature(part.__init__).parameters.values()
        kinds = {p.name: p.kind for p in parameters if p.name != "self"}
        yield from (n for n, kind in kinds.items() if kind not in _REST)
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            break
