"""Which weights of a network the inner loop adapts."""

import itertools
from collections.abc import Callable, Iterable

import keras

from maml_tf import functional, models

Selection = (
    None
    | str
    | Callable[[keras.Variable], bool]
    | Iterable[keras.Variable | keras.Layer]
)

NAMES = {
    "all": lambda network: network.trainable_variables,
    "fast_weights": models.fast_weights,
    "head": lambda network: _head(network).trainable_variables,
}
"""The selections that have a name; see `select`."""


def select(network: keras.Model, adapt: Selection) -> list[keras.Variable]:
    """Returns those trainable variables of a network that are selected.

    Args:
      network: a built Keras model.
      adapt: `None` or "all" for all of them; "fast_weights" for what
        cbfinn/maml adapts, see `models.fast_weights`; "head" for those of the
        last layer that has any, as ANIL adapts, of a graph with one output;
        variables, layers or both; or a function that tells of a variable
        whether it adapts.

    Raises:
      ValueError: if there is no such name, nothing is selected, no layer is
        known to be the last, or a variable is not a trainable one of the
        network, or has a constraint.
    """
    if adapt is None or isinstance(adapt, str):
        chosen = _named(network, adapt or "all")
    elif callable(adapt) and not isinstance(adapt, keras.Layer):
        chosen = list(filter(adapt, network.trainable_variables))
    else:
        chosen = [v for part in _listed(adapt) for v in _variables(part)]
    _require_trainable(network, chosen)
    return list({id(variable): variable for variable in chosen}.values())


def _named(network, name):
    if name not in NAMES:
        raise _no_selection(name)
    return NAMES[name](network)


def _head(network):
    """Returns the last layer with trainable weights, none inside another.

    Where one model is all that learns, it is the last layer of that.

    Raises:
      ValueError: if layers have no order, or none comes after all others.
    """
    layers = [part for part in network.layers if part.trainable_variables]
    if len(layers) == 1 and isinstance(layers[0], keras.Model):
        return _head(layers[0])
    if len(layers) > 1:
        _require_one_end(network, layers)
    return layers[-1] if layers else network


def _require_one_end(network, layers):
    if isinstance(network, keras.Sequential):
        return
    if not isinstance(network, keras.Function):
        why = "no graph"
    elif len(network.outputs) > 1:
        why = f"{len(network.outputs)} outputs"
    elif beside := _beside_last(network, layers):
        why = f"{beside[0].name!r} beside {layers[-1].name!r}"
    else:
        return
    raise ValueError(
        "adapt: expected the layers or variables of the head, as in "
        f"`adapt=[network.layers[-1]]`, as {network.name!r} has {why} to tell "
        "it by, got 'head'."
    )


def _beside_last(network, layers):
    """Returns those of a graph's layers that do not come before the last."""
    calls = itertools.chain(*network._nodes_by_depth.values())
    last = [call for call in calls if call.operation is layers[-1]]
    inputs = [x for call in last for x in call.input_tensors]
    before = keras.Function(network.inputs, inputs).operations
    return [layer for layer in layers[:-1] if layer not in before]


def _listed(adapt):
    if isinstance(adapt, (keras.Layer, keras.Variable)):
        return [adapt]
    if not isinstance(adapt, Iterable):
        raise _no_selection(adapt)
    return adapt


def _no_selection(found):
    return ValueError(
        f"adapt: expected one of {tuple(NAMES)}, layers, variables or a "
        f"function of a variable, got {found!r}."
    )


def _variables(part):
    return part.trainable_variables if isinstance(part, keras.Layer) else [part]


def _require_trainable(network, chosen):
    own = {id(variable) for variable in network.trainable_variables}
    for variable in chosen:
        if id(variable) not in own:
            name = getattr(variable, "path", variable)
            raise ValueError(
                f"adapt: {name} is not a trainable variable of the model "
                f"{network.name!r}."
            )
    functional.require_unconstrained(chosen)
    if not chosen:
        raise ValueError(
            f"adapt: selects no trainable variable of {network.name!r}."
        )
