"""An adapted network as a Keras model of its own."""

import contextlib
import functools
import itertools
import weakref
from collections.abc import Sequence
from unittest import mock

import keras
import tensorflow as tf
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.saving.serialization_lib import SafeModeScope

from maml_tf import functional

LOOKUPS = (
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)

ROUNDING = 1e-3
"""What a copy may differ by, of the largest number that is predicted."""

_ALIKE: weakref.WeakSet = weakref.WeakSet()
"""Networks whose copies are known to predict as they do: looking takes time."""


def adapted_copy(
    network: keras.Model,
    variables: Sequence[keras.Variable],
    values: Sequence[tf.Tensor],
    support_x: tf.Tensor,
    seed: tf.Tensor,
) -> keras.Model:
    """Returns a copy of a network in which some variables have other values.

    It has weights and layers of its own, which are seen to compute what the
    network's do. It is not compiled. Batch normalisation of Keras, which in
    the inner loop takes the statistics of the batch at hand, has those of the
    support set in its moving averages: so the copy predicts each input by
    itself. They are the means over its calls, where a layer has several.

    Args:
      network: a built Keras model.
      variables: those of its weights that differ.
      values: what they are in the copy.
      support_x: `[S, *features]`.
      seed: of its random layers, `[2]`.

    Raises:
      ValueError: if Keras cannot copy the model, the copy is another function
        of its weights, or a layer of another kind keeps running statistics.
    """
    copy = _clone(network, support_x)
    _freeze(copy, network)
    copy.set_weights(network.get_weights())
    _look_up_alike(copy, network)
    settle(copy)
    if network not in _ALIKE:
        _require_alike(copy, network, support_x, seed)
        _ALIKE.add(network)
    places = {id(weight): i for i, weight in enumerate(network.weights)}
    for variable, value in zip(variables, values, strict=True):
        copy.weights[places[id(variable)]].assign(value)
    _seed(copy, seed)
    _take_statistics(copy, support_x)
    return copy


def _clone(network, x):
    try:
        with SafeModeScope(safe_mode=False):  # Lambda layers are no strangers.
            copy = _anew(network)
        if not copy.built:
            copy(x)
    # A model of one's own may raise anything here.
    except Exception as error:
        raise ValueError(
            f"The model {network.name!r} cannot be copied ({error}). A model "
            "of a class of its own needs `get_config` and `from_config`."
        ) from error
    _require_as_many(copy, network)
    return copy


def _anew(network):
    """Returns a model that is made as another was, of layers of its own.

    `keras.models.clone_model` passes over a call of one's own, and compiles.
    """
    if _is_graph(network):
        return _layers_anew()(network)
    config = keras.saving.serialize_keras_object(network)
    config.pop("compile_config", None)
    own = {type(network).__name__: type(network)}
    return keras.saving.deserialize_keras_object(config, own)


def _is_graph(layer):
    """Whether a layer is a model that is all said by its graph of layers."""
    if isinstance(layer, keras.Sequential):
        return _is_of_keras(layer.call)
    is_functional = isinstance(layer, Functional)
    return is_functional and all(
        map(_is_of_keras, (layer.call, layer.get_config))
    )


def _is_of_keras(method):
    return method.__module__.startswith("keras.")


def _layers_anew():
    """Returns what makes layers anew, a shared one once."""

    @functools.cache
    def anew(layer):
        if _is_graph(layer):
            return _graph_anew(layer, anew)
        if type(layer) is keras.layers.Lambda:
            return _lambda_anew(layer)
        return type(layer).from_config(layer.get_config())

    return anew


def _graph_anew(model, anew):
    if isinstance(model, keras.Sequential):
        return keras.Sequential([*map(anew, model._layers)], name=model.name)
    inputs = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
        model.input,
    )
    outputs = model._run_through_graph(inputs, anew)
    kind = type(model)
    kind = kind if functional_like_constructor(kind) else keras.Model
    return kind(inputs, outputs, name=model.name)


def _lambda_anew(layer):
    """Returns a `Lambda` of the same function: its code knows no globals."""
    return keras.layers.Lambda(
        layer.function,
        layer._output_shape,
        layer.mask,
        layer.arguments,
        name=layer.name,
        dtype=layer.dtype_policy,
    )


def _require_as_many(copy, network):
    """Refuses a copy that has other layers or weights than the network."""
    for kind, parts in (
        ("layers", keras.Model._flatten_layers),
        ("weights", lambda model: model.weights),
    ):
        expected, found = len(parts(network)), len(parts(copy))
        if found != expected:
            raise ValueError(
                f"The model {network.name!r} cannot be copied: expected a copy "
                f"of {expected} {kind}, got {found}. Layers that are made "
                "twice, or shared by models of a class of one's own, are not "
                "in their configurations."
            )


def _require_alike(copy, network, x, seed):
    """Refuses a copy that predicts something else from the same weights."""
    expected, _ = _prediction(network, x, seed)
    found, read = _prediction(copy, x, seed)
    _require_apart(network, read)
    if _agree(expected, found):
        return
    # What draws numbers that no seed rules cannot be compared.
    if _agree(expected, _prediction(network, x, seed)[0]):
        raise ValueError(
            f"The model {network.name!r} cannot be copied: from the same "
            "weights its copy predicts something else. What a class of its "
            "own makes of its arguments belongs in `get_config`. "
            "`adapt_and_predict` needs no copy."
        )


def _require_apart(network, read):
    """Refuses a copy that reads weights of the network's."""
    for weight in network.weights:
        if id(weight) in read:
            raise ValueError(
                f"The model {network.name!r} cannot be copied: its copy reads "
                f"{weight.path} of the network itself. Where an operation, a "
                "`Lambda` or a closure reads a weight, as to tie it, put both "
                "into a layer or model of a class of your own. "
                "`adapt_and_predict` needs no copy."
            )


def _prediction(model, x, seed):
    """Returns what a model predicts, and which variables it reads for it."""
    # A mapping of weights would stay in each `tf.function` that is traced.
    with functional.Reading(_seeded(model, seed)) as scope:
        return tf.nest.flatten(model(x, training=False)), scope.read


def _agree(one, other):
    pairs = zip(one, other, strict=True)
    return all(_is_close(*pair) for pair in pairs)


def _is_close(a, b):
    a, b = (tf.cast(part, tf.float64) for part in (a, b))
    error, scale = (tf.reduce_max(abs(part)) for part in (a - b, a))
    return error <= ROUNDING * scale


def _freeze(copy, network):
    """Freezes what is frozen: a class of one's own forgets its layers."""
    layers = zip(copy._flatten_layers(), network._flatten_layers(), strict=True)
    weights = zip(copy.weights, network.weights, strict=True)
    # A model comes before its layers, which it sets, and they before weights.
    for own, like in (*layers, *weights):
        if own.trainable != like.trainable:
            own.trainable = like.trainable


def _look_up_alike(copy, network):
    """Hands on vocabularies, which are no weights, and not all in a config."""
    pairs = zip(copy._flatten_layers(), network._flatten_layers(), strict=True)
    for own, like in pairs:
        if isinstance(own, LOOKUPS):
            vocabulary = like.get_vocabulary()
            if own.get_vocabulary() != vocabulary:
                weights = _idf_weights(like, len(vocabulary))
                own.set_vocabulary(vocabulary, weights)


def _idf_weights(layer, length):
    """Returns what weighs the words of a vocabulary, where something does."""
    lookup = getattr(layer, "_lookup_layer", layer)
    if lookup.output_mode != "tf_idf":
        return None
    return lookup.idf_weights_const.numpy()[:length]


def settle(model: keras.Model) -> None:
    """Lets layers see weights that were set: `Normalization` keeps others."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _seeded(model, seed):
    """Returns the random layers' generators and what the seed makes of them."""
    generators = functional.seed_generators(model)
    states = functional.states(seed, len(generators))
    return list(zip(generators, states, strict=True))


def _seed(model, seed):
    for generator, state in _seeded(model, seed):
        generator.assign(state)


def _take_statistics(model, x):
    """Sets the moving averages of batch normalisation to those of a batch."""
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    known = {id(weight) for norm in norms for weight in norm.weights}
    others = [w for w in model.non_trainable_weights if id(w) not in known]
    if not norms and not others:
        return
    before = [tf.identity(weight.value) for weight in others]
    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.enter_context(_averaging(norm))
        model(x, training=True)
    _require_unchanged(model, others, before)


@contextlib.contextmanager
def _averaging(norm):
    """Lets a layer average over its calls: the n-th counts for 1 / n."""
    call, count = norm.call, itertools.count(1)

    def counted(*args, **kwargs):
        norm.momentum = 1 - 1 / next(count)
        return call(*args, **kwargs)

    with (
        mock.patch.object(norm, "momentum", norm.momentum),
        mock.patch.object(norm, "call", counted),
    ):
        yield


def _require_unchanged(model, weights, before):
    for weight, value in zip(weights, before, strict=True):
        if tf.reduce_any(weight.value != value):
            raise ValueError(
                f"The model {model.name!r} cannot be copied: a call in "
                f"training changes {weight.path}. Of running statistics only "
                "those of Keras's `BatchNormalization` can be a task's own. "
                "Take a layer of `maml_tf.norms`, or `adapt_and_predict`, "
                "which needs no copy."
            )
