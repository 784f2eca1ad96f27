"""Any built Keras model as a function of its parameters, one task at a time."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from maml_tf import exact
from maml_tf.adaptation import ApplyFn


def require_usable(model: keras.Model) -> None:
    """Raises `ValueError` unless a model is built and not stateful."""
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


def require_tasks(model: keras.Model, inputs) -> None:
    """Raises `ValueError` unless inputs are those of tasks for a model."""
    if not isinstance(inputs, (tuple, list)) or len(inputs) != 3:
        found = map(_shape, tf.nest.flatten(inputs))
        raise ValueError(
            "The data: expected `((support_x, support_y, query_x), query_y)`, "
            "each with a leading task axis, found inputs of shape "
            f"{', '.join(map(str, found))}. `maml_tf.tasks.from_arrays` makes "
            "tasks of labelled examples."
        )
    support_x, support_y, query_x = inputs
    require_inputs(model, support_x, "B, n")
    require_inputs(model, query_x, "B, n")
    require_same_examples(support_x, support_y, "B, n")
    require_same_examples(query_x, query_x, "B, n")
    require_same_examples(support_x, query_x, "B")


def require_targets(inputs, query_y) -> None:
    """Raises `ValueError` unless there is a target for each query."""
    if query_y is None:
        raise ValueError(
            "The data: expected `((support_x, support_y, query_x), query_y)`, "
            "found no query_y."
        )
    require_same_examples(inputs[2], query_y, "B, n")


def require_same_examples(x, y, axes: str) -> None:
    """Raises `ValueError` unless x and y are of the same examples, and of some.

    Args:
      x: inputs, nested.
      y: targets, nested, or other inputs.
      axes: which both have first: "n", "B", or "B, n".
    """
    count = len(axes.split(", "))
    first, *others = (
        tf.TensorShape(part.shape[:count]) for part in tf.nest.flatten((x, y))
    )
    if 0 in first or not all(first.is_compatible_with(o) for o in others):
        raise ValueError(
            f"The data: expected the same leading axes [{axes}] of all parts, "
            "none of them empty, found the shapes "
            f"{', '.join(map(str, map(_shape, tf.nest.flatten((x, y)))))}."
        )


def _shape(part):
    """Returns the shape of a tensor as a list, or what there is instead."""
    return list(part.shape) if hasattr(part, "shape") else type(part).__name__


def tensors(data):
    """Returns nested arrays as tensors; lists of numbers are arrays too."""
    if isinstance(data, dict):
        return {key: tensors(part) for key, part in data.items()}
    whole = all(np.isscalar(part) for part in tf.nest.flatten(data))
    if isinstance(data, (list, tuple)) and not whole:
        return type(data)(map(tensors, data))
    return tf.convert_to_tensor(data)


def in_order(model: keras.Model, x) -> list:
    """Returns inputs in the order of `model.inputs`: a dictionary's by name.

    Raises:
      ValueError: if the dictionary has other names.
    """
    taken = getattr(model, "input", None)
    if taken is None or not isinstance(x, dict):
        return tf.nest.flatten(x)
    by_key = isinstance(taken, dict)
    names = sorted(taken) if by_key else [like.name for like in model.inputs]
    if {*names} != {*x}:
        raise ValueError(
            f"The model {model.name!r} takes inputs named {', '.join(names)}; "
            f"found {', '.join(map(str, x)) or 'none'}."
        )
    return tf.nest.flatten([x[name] for name in names])


_MEANING = {
    "n": "where n is the number of examples",
    "B, n": "where B is the number of tasks and n that of examples",
}


def require_inputs(model: keras.Model, x, axes: str) -> None:
    """Raises `ValueError` unless x are inputs for a model.

    A model of a class of its own does not say what it takes.

    Args:
      model: a built Keras model.
      x: inputs, nested.
      axes: which come before those of an example: "n", or "B, n".
    """
    taken = [like.shape[1:] for like in getattr(model, "inputs", None) or []]
    found = [
        tf.TensorShape(getattr(p, "shape", ())) for p in in_order(model, x)
    ]
    before = [None] * len(axes.split(", "))
    fits = len(taken) == len(found) and all(
        shape.is_compatible_with([*before, *features])
        for shape, features in zip(found, taken, strict=True)
    )
    if taken and not fits:
        expected = [f"[{', '.join(map(str, [axes, *f]))}]" for f in taken]
        raise ValueError(
            f"The model {model.name!r} takes inputs of shape "
            f"{', '.join(expected)}, {_MEANING[axes]}; found "
            f"{', '.join(str(list(s)) for s in found)}."
        )


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
    # Keras's regularisers take what a scope does not know for missing.
    adapted = {id(v) for v in variables}
    regular = [
        v
        for v in model.trainable_variables
        if v.regularizer is not None and id(v) not in adapted
    ]
    unseeded = known - {id(v) for v in generators}

    def apply_fn(parameters, x, seed=None):
        mapping = list(zip(variables, parameters, strict=True))
        mapping += [(v, v.value) for v in regular]
        if seed is not None:
            drawn = states(seed, len(generators))
            mapping += zip(generators, drawn, strict=True)
        with (
            exact.operations(),
            keras.StatelessScope(mapping, collect_losses=True) as scope,
        ):
            prediction = model(x, training=True)
            penalty = _sum(model.losses)
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


def _require_no_memory(model, lost):
    if lost:
        raise ValueError(
            f"The model {model.name!r} draws random numbers or carries a "
            "state from call to call, which a function of its parameters "
            "cannot. For dropout and noise layers pass `seed`, and give "
            "layers of your own a `keras.random.SeedGenerator`."
        )
