"""An adapted network as a Keras model of its own."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras.src.saving.serialization_lib import SafeModeScope

from maml_tf import functional

LOOKUPS = (
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)


def adapted_copy(
    network: keras.Model,
    variables: Sequence[keras.Variable],
    values: Sequence[tf.Tensor],
    support_x: tf.Tensor,
    seed: tf.Tensor,
) -> keras.Model:
    """Returns a copy of a network in which some variables have other values.

    It shares nothing with the network. Batch normalisation of Keras, which in
    the inner loop takes the statistics of the batch at hand, has those of the
    support set in its moving averages: so the copy predicts each input by
    itself.

    Args:
      network: a built Keras model.
      variables: those of its weights that differ.
      values: what they are in the copy.
      support_x: `[S, *features]`.
      seed: of its random layers, `[2]`.

    Raises:
      ValueError: if Keras cannot copy the model.
    """
    copy = _clone(network, support_x)
    _freeze(copy, network)
    copy.set_weights(network.get_weights())
    _look_up_alike(copy, network)
    places = {id(weight): i for i, weight in enumerate(network.weights)}
    for variable, value in zip(variables, values, strict=True):
        copy.weights[places[id(variable)]].assign(value)
    settle(copy)
    _seed(copy, seed)
    _take_statistics(copy, support_x)
    return copy


def _clone(network, x):
    try:
        with SafeModeScope(safe_mode=False):  # Lambda layers are no strangers.
            copy = keras.models.clone_model(network)
        if not copy.built:
            copy(x)
        return copy
    # A model of one's own may raise anything here.
    except Exception as error:
        raise ValueError(
            f"The model {network.name!r} cannot be copied ({error}). A model "
            "of a class of its own needs `get_config` and `from_config`."
        ) from error


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


def _seed(model, seed):
    generators = functional.seed_generators(model)
    states = functional.states(seed, len(generators))
    for generator, state in zip(generators, states, strict=True):
        generator.assign(state)


def _take_statistics(model, x):
    """Sets the moving averages of batch normalisation to those of a batch."""
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        model(x, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
