"""Tensors of tasks as a meta-learner is given them, checked."""

import keras
import numpy as np
import tensorflow as tf


def require_tasks(model: keras.Model, inputs) -> None:
    """Raises `ValueError` unless inputs are those of tasks for a model."""
    if not isinstance(inputs, (tuple, list)) or len(inputs) != 3:
        found = map(_shape, tf.nest.flatten(inputs))
        raise ValueError(
            "The data: expected `((support_x, support_y, query_x), query_y)`, "
            "each with a leading task axis, found inputs of shape "
            f"{', '.join(map(str, found))}. `maml_tf.tasks.from_arrays` makes "
            "tasks of labelled examples; without query_y a data set yields "
            "`((support_x, support_y, query_x),)`."
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
    count, parts = len(axes.split(", ")), tf.nest.flatten((x, y))
    for part in parts:
        _require_array(part)
        _require_rank(part)
    first, *others = (tf.TensorShape(part.shape[:count]) for part in parts)
    if 0 in first or not all(first.is_compatible_with(o) for o in others):
        raise ValueError(
            f"The data: expected the same leading axes [{axes}] of all parts, "
            "none of them empty, found the shapes "
            f"{', '.join(map(str, map(_shape, parts)))}."
        )


def _require_array(part):
    if part is None:
        raise ValueError(
            "The data: expected inputs and targets, found None in place of one."
        )
    if isinstance(part, tf.RaggedTensor):
        raise ValueError(
            "The data: expected tasks of as many examples in a meta-batch, "
            f"found a ragged tensor of shape {_shape(part)}. Pad it, with "
            "labels that the losses leave out (`ignore_class`), or batch tasks "
            "of one size."
        )


def _require_rank(part):
    if tf.TensorShape(part.shape).rank is None:
        raise ValueError(
            "The data: expected tensors of a known number of axes, found one "
            "of which it is not known. Give `from_generator` an "
            "`output_signature`, or call `set_shape`; where there were other "
            "numbers of them before, `compile` anew."
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
    return tensor(data)


def tensor(array) -> tf.Tensor:
    """Returns an array as a tensor.

    Raises:
      ValueError: if its parts are of several sizes.
    """
    _require_array(array)
    return tf.convert_to_tensor(array)


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
