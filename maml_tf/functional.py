"""Any built Keras model as a function of its parameters, one task at a time."""

import warnings
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from maml_tf import exact
from maml_tf.adaptation import ApplyFn


def require_usable(model: keras.Model) -> None:
    """Raises `ValueError` unless a model is built and a function of weights."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"The network: expected a Keras model, got a "
            f"{type(model).__name__}. A layer becomes one in "
            "`keras.Sequential([keras.Input(…), layer])`."
        )
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} must be built before it is adapted. "
            "Call it once on an example, or give it an `Input`."
        )
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False):
            raise ValueError(
                f"The layer {layer.name!r} carries a state from call to call, "
                "which a function of parameters cannot. Make it with "
                "`stateful=False`."
            )
        if isinstance(layer, keras.layers.SpectralNormalization):
            raise ValueError(
                f"The layer {layer.name!r} (SpectralNormalization) improves an "
                "estimate from call to call, which a function of parameters "
                "cannot, and stops the gradient. Remove it."
            )


def require_unconstrained(variables: Sequence) -> None:
    """Raises `ValueError` for a variable that no inner step may move freely."""
    for variable in variables:
        if variable.constraint is not None:
            raise ValueError(
                f"{variable.path} has a constraint, which inner steps do not "
                "keep. Remove it, or adapt others (`adapt`)."
            )


class Reading(keras.StatelessScope):
    """A scope of Keras that notes which variables are read in it.

    Attributes:
      read: the `id` of each.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.read = set()

    def get_current_value(self, variable):
        """Returns the value that a variable has in this scope, or `None`."""
        self.read.add(id(variable))
        return super().get_current_value(variable)


def one_task(model: keras.Model, variables: Sequence) -> ApplyFn:
    """Returns `model` as a function of the values of some of its variables.

    The model runs in training mode: batch statistics are those of the batch
    at hand. Variables that are not listed keep their own values, so a gradient
    reaches them too. Nothing is assigned: updates of moving averages are
    dropped.

    Random layers, of dropout and noise, draw from a third argument of the
    function, a seed `[2]`: the same numbers for the same seed, and others for
    another. (XLA draws others than TensorFlow without it.)

    Args:
      model: a built Keras model.
      variables: the variables whose values are passed as parameters.

    Returns:
      A function of (parameters, inputs, seed=None). It raises `ValueError` if
      the model draws random numbers without a seed, or remembers anything else
      from call to call.

    Raises:
      ValueError: if the model is not built, or a layer is stateful.
    """
    apply_fn = with_penalty(model, variables)
    return lambda *args, **kwargs: apply_fn(*args, **kwargs)[0]


def with_penalty(
    model: keras.Model, variables: Sequence
) -> Callable[..., tuple]:
    """Returns what `one_task` does, with the model's own losses beside it.

    The function returns pairs of the prediction and the sum of what the model
    adds to any loss, at the parameters given: weight and activity regularisers
    and `add_loss`, in the type `keras.config.floatx()`. It is zero for a model
    without.
    """
    require_usable(model)
    generators = seed_generators(model)
    # A moving average's update may be lost. A generator's may not, without a
    # seed, nor that of a state which is not among the model's variables.
    known = {id(v) for v in model.variables}
    unseeded = known - {id(v) for v in generators}

    def apply_fn(parameters, x, seed=None):
        mapping = list(zip(variables, parameters, strict=True))
        if seed is not None:
            drawn = states(seed, len(generators))
            mapping += zip(generators, drawn, strict=True)
        with (
            exact.operations(),
            Reading(mapping, collect_losses=True) as scope,
        ):
            prediction = model(x, training=True)
            # `model.losses` knows them by an `id`, which a later one may have.
            penalty = _sum([*scope.losses, *_regularization(model)])
        _warn_of_unread(model, variables, scope.read)
        free = unseeded if seed is None else known
        _require_no_memory(model, scope.state_mapping.keys() - free)
        return prediction, penalty

    return apply_fn


def output_spec(model: keras.Model, x):
    """Returns the specification of what a model predicts for one task.

    Args:
      model: a built Keras model.
      x: inputs of several tasks, `[B, n, …]`.

    Raises:
      ValueError: if the prediction's shape depends on the inputs' values.
    """
    task = tf.nest.map_structure(
        lambda part: keras.KerasTensor(part.shape[1:], _taken(model, part)), x
    )
    known = all(
        part.shape[1:].is_fully_defined() for part in tf.nest.flatten(x)
    )

    def spec(prediction):
        if known and None in prediction.shape:
            raise ValueError(
                f"The model {model.name!r} predicts the shape "
                f"{prediction.shape} for inputs of known shape. Shapes must "
                "not depend on values: mask examples in place of leaving them "
                "out."
            )
        return tf.TensorSpec(prediction.shape, prediction.dtype)

    found = model.compute_output_spec(task)
    if known and any(None in part.shape for part in tf.nest.flatten(found)):
        found = _traced_spec(model, task)
    if isinstance(found, (list, tuple)) and len(found) == 1:
        (found,) = found  # as the call of a model returns it
    return tf.nest.map_structure(spec, found)


def _taken(model, part):
    """Returns the type in which a model takes an input."""
    dtype = tf.as_dtype(part.dtype)
    casts = model.autocast and dtype.is_floating
    return model.input_dtype if casts else dtype.name


def _traced_spec(model, task):
    """Returns what a model predicts, where its layers' own words do not tell.

    A layer may say `None` of the examples for the number that they are.
    """
    like = tf.nest.map_structure(
        lambda part: tf.TensorSpec(part.shape, part.dtype), task
    )
    call = tf.function(lambda x: model(x, training=False), autograph=False)
    return call.get_concrete_function(like).structured_outputs


def _regularization(model):
    for variable in model.trainable_variables:
        if variable.regularizer is not None:
            yield variable.regularizer(variable.value)


def _sum(losses):
    dtype = keras.config.floatx()
    return tf.add_n([tf.zeros([], dtype), *(tf.cast(x, dtype) for x in losses)])


def seed_generators(model: keras.Model) -> list[keras.Variable]:
    """Returns the states of a model's random layers."""
    return [v for v in model.variables if "seed_generator" in v.path]


def states(seed, generators):
    """Returns the states `[generators, 2]` of seed generators.

    They are drawn together, as a generator counts its own draws up from its
    state, which states one apart would make overlap.
    """
    return tf.unstack(
        tf.random.stateless_uniform(
            [generators, 2],
            seed,
            minval=0,
            maxval=tf.int32.max,
            dtype=tf.int32,
        )
    )


def _warn_of_unread(model, variables, read):
    """Warns of parameters whose values here a model did not ask for."""
    paths = [v.path for v in variables if id(v) not in read]
    if paths:
        warnings.warn(
            f"The model {model.name!r} does not read {', '.join(paths)}, or "
            "not through Keras, as a `TFSMLayer` does not: no prediction "
            "changes with it in an inner step. Freeze it, or adapt others.",
            stacklevel=2,
        )


def _require_no_memory(model, lost):
    if lost:
        raise ValueError(
            f"The model {model.name!r} draws random numbers or carries a "
            "state from call to call, which a function of its parameters "
            "cannot. For dropout and noise layers pass `seed`, and give "
            "layers of your own a `keras.random.SeedGenerator`."
        )
