"""A Keras model on a stack of tasks: adapted weights have a task axis.

Inputs are `[B, n, …]`: B tasks of n examples. An adapted weight is
`[B, *shape]`, one copy for each task; any other weight keeps its shape. The
model is a graph of layers, sequential or functional, and each layer acts by
the rule of its class. `rule` gives a layer of your own one too:

    @stacked.rule(Scale)
    def _scale(layer, weight, x):
        '''x: [B, n, C]; factor: [B, C], or [C] if it is not adapted.'''
        factor = tf.reshape(weight(layer.factor), [-1, 1, x.shape[-1]])
        return factor * x

A layer without weights that treats every example by itself needs no more than
`stacked.rule(Square)(stacked.example_by_example)`.
"""

import functools
import itertools
from collections.abc import Sequence

import keras
import tensorflow as tf

from maml_tf import exact, functional, shapes, task_data
from maml_tf.adaptation import ApplyFn
from maml_tf.rules import RULES, example_by_example, rule
from maml_tf.seeds import fold
from maml_tf.tied import Tied, untie

__all__ = [
    "example_by_example",
    "layers",
    "many_tasks",
    "rule",
    "unsupported",
    "with_penalty",
]


def unsupported(model: keras.Model) -> list[str]:
    """Returns why `model` cannot run stacked, a line for each reason.

    Raises:
      ValueError: if the model is not built.
    """
    functional.require_usable(model)
    graph = _graph(model)
    if graph is None:
        return [f"{_title(model)} is neither sequential nor functional"]
    reasons = [
        *_wrong_shapes(model.name, graph),
        *(why for _, reasons in layers(model) for why in reasons),
    ]
    return list(dict.fromkeys(reasons))


def layers(model: keras.Model) -> list[tuple[keras.Layer, list[str]]]:
    """Returns a model's layers, and for each why it cannot run stacked.

    They are in the order of their calls, a shared layer once. In a model that
    is no graph of layers none can.
    """
    graph = _graph(model)
    if graph is None:
        return [(layer, unsupported(model)) for layer in model.layers]
    found: dict[keras.Layer, list[str]] = {}
    for call in _calls(graph):
        reasons = found.setdefault(call[0], [])
        reasons += [why for why in _wrong_call(*call) if why not in reasons]
    return list(found.items())


def many_tasks(model: keras.Model, variables: Sequence) -> ApplyFn:
    """Returns `model` as a function of stacked values of some variables.

    The model runs in training mode, as in `functional.one_task`.

    Args:
      model: a sequential or functional model of layers with rules.
      variables: the variables whose stacked values `[B, *shape]`, or tied
        ones, are passed as parameters. The others keep their own values.

    Returns:
      A function of (parameters, inputs, seed=None). Random layers need the
      seed `[2]`: their numbers are a function of it and of the place in the
      model, and every task and example gets its own. Without it they raise
      `ValueError`.

    Raises:
      ValueError: if the model is not built, or a layer has no rule.
    """
    if reasons := unsupported(model):
        raise ValueError(f"Cannot stack tasks: {'; '.join(reasons)}.")

    def apply_fn(parameters, x, seed=None):
        if seed is None:
            _require_no_random_layers(model)
        values = dict(zip(map(id, variables), parameters, strict=True))
        weight = _Weights(values, seed)
        with (
            exact.operations(),
            keras.StatelessScope(collect_losses=True) as scope,
        ):
            prediction = _run(_graph(model), weight, x)
        _require_all_said(model, scope)
        return prediction

    return apply_fn


def with_penalty(model, variables):
    """Returns what `functional.with_penalty` does, for a stack of tasks.

    The penalties `[B]` are zero: models that have any do not run stacked.
    """
    apply_fn = many_tasks(model, variables)

    def with_zeros(parameters, x, seed=None):
        zeros = tf.zeros([shapes.leading(x)], keras.config.floatx())
        return apply_fn(parameters, x, seed), zeros

    return with_zeros


def _graph(layer):
    """Returns the graph that the call of a Keras model runs, or None."""
    if not type(layer).call.__module__.startswith("keras."):
        return None  # A subclass with a call of its own.
    graph = getattr(layer, "_functional", layer)
    return graph if isinstance(graph, keras.Function) else None


def _walk(graph, inputs, call):
    """Runs a graph with `call(layer, *args, **kwargs)` for each layer call.

    Keras has no public function for this.
    """
    return graph._run_through_graph(
        inputs, lambda layer: functools.partial(call, layer)
    )


def _run(graph, weight, inputs):
    """Returns the output of a graph whose layers act by their rules."""

    def act(layer, *args, **kwargs):
        del kwargs
        if inner := _graph(layer):
            return _run(inner, weight, *args)
        function, _, sums = RULES[type(layer)]
        dtype = layer.variable_dtype if sums else layer.compute_dtype
        if layer.autocast or sums:
            args = shapes.cast(args, dtype)
        return shapes.cast(
            function(layer, weight.cast(dtype), *args), layer.compute_dtype
        )

    inputs = [
        tf.cast(x, like.dtype)
        for x, like in zip(
            task_data.in_order(graph, inputs), graph.inputs, strict=True
        )
    ]
    output = _walk(graph, inputs, act)
    if isinstance(output, (list, tuple)):
        (output,) = output
    return output


def _calls(graph):
    """Returns the calls in a graph: a layer, its inputs and keywords."""
    calls = []

    def note(layer, *args, **kwargs):
        calls.append((layer, args, kwargs))
        return layer.output

    _walk(graph, graph.inputs, note)
    return calls


class _Weights:
    """The values of a layer's variables, and fresh seeds, as rules read them.

    A layer's `SeedGenerator` reads as a seed `[2]`, another one each time.
    """

    def __init__(self, values, seed, draws=None, dtype=None):
        self._values = values
        self._seed = seed
        self._draws = draws or itertools.count()
        self._dtype = dtype

    def cast(self, dtype):
        """Returns the same weights, as a layer computes with them."""
        return _Weights(self._values, self._seed, self._draws, dtype)

    def __call__(self, variable):
        if isinstance(variable, keras.random.SeedGenerator):
            return fold(self._seed, next(self._draws))
        return untie(self.tied(variable))

    def tied(self, variable):
        """Returns a value `[B, *shape]`, or a `Tied` one."""
        value = self._values.get(id(variable), Tied(variable.value))
        return shapes.cast(value, self._dtype)


def _require_all_said(model, scope):
    """Refuses a draw or loss that no rule splits into those of tasks."""
    generators = {id(v) for v in functional.seed_generators(model)}
    drawn = generators & scope.state_mapping.keys()
    if drawn or scope.losses:
        found = "adds a loss" if scope.losses else "draws random numbers"
        raise ValueError(
            f"Cannot stack tasks: in {model.name!r} a layer {found}, which "
            "its rule does not. Choose engine='looped'."
        )


def _require_no_random_layers(model):
    for layer, *_ in _calls(_graph(model)):
        if _graph(layer):
            _require_no_random_layers(layer)
        elif _is_random(layer):
            raise ValueError(
                f"{_title(layer)} draws random numbers, which takes a seed. "
                "Give one, or remove the layer."
            )


def _is_random(layer):
    generator = keras.random.SeedGenerator
    return any(isinstance(value, generator) for value in vars(layer).values())


def _wrong_shapes(name, graph):
    if len(graph.outputs) != 1:
        yield f"{name} has {len(graph.outputs)} outputs"
    for x in graph.inputs:
        if None in x.shape[1:]:
            yield f"{name} has an input of unknown size {x.shape}"


def _wrong_call(layer, args, kwargs):
    """Yields why a layer, called in some way, has no rule."""
    # Keras itself overrides `training` in a model that is in training mode.
    given = {k for k, v in kwargs.items() if v is not None} - {"training"}
    if given:
        yield f"{_title(layer)} is called with {', '.join(sorted(given))}"
    if len(args) > 1:
        yield f"{_title(layer)} is called with more than its input"
    if _graph(layer):
        yield from unsupported(layer)
    elif not isinstance(layer, keras.Layer):
        yield f"{_title(layer)} is an operation, not a layer"
    elif type(layer) not in RULES:
        yield f"{_title(layer)} has no stacked rule"
    else:
        yield from _wrong_options(layer)
        yield from _wrong_axis(layer, args)


def _wrong_axis(layer, args):
    """Yields that a layer which is to treat examples alone does not."""
    alone = RULES[type(layer)].act is example_by_example
    axes = getattr(layer, "axis", ()) if alone else ()
    rank = len(tf.nest.flatten(args)[0].shape)
    if any(axis % rank == 0 for axis in tf.nest.flatten(axes)):
        yield f"{_title(layer)} works along the axis of examples"


def _wrong_options(layer):
    for option, value in RULES[type(layer)].options.items():
        actual = getattr(layer, option, value)
        if actual != value:
            yield f"{_title(layer)} with {option}={actual!r} has no rule"
    activation = getattr(layer, "activation", None)
    if isinstance(activation, keras.Layer) and (
        activation.weights or not activation.built
    ):
        yield f"{_title(layer)} has an activation with weights"
    regularizers = [v.regularizer for v in layer.trainable_variables]
    if any([*regularizers, layer.activity_regularizer]):
        yield f"{_title(layer)} has a regulariser"
    floatx = keras.config.floatx()
    computes = layer.compute_dtype in (floatx, "bfloat16")
    if not computes or layer.variable_dtype != floatx:
        yield f"{_title(layer)} has the dtype {layer.dtype_policy.name}"


def _title(layer):
    return f"{layer.name} ({type(layer).__name__})"
