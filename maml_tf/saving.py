"""Learners as configurations, from which Keras makes them again."""

import inspect

import keras


def config_of(learner: keras.Model, *classes: type) -> dict:
    """Returns a learner's arguments, in the form in which Keras saves them.

    Every argument is an attribute of its name, but for `adapt`: that is the
    places of the variables in `network.weights`.

    Args:
      learner: a meta-learner.
      *classes: those whose constructors name the arguments.
    """
    names = {
        name
        for kind in classes
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    config = {name: getattr(learner, name) for name in names - {"adapt"}}
    if "adapt" in names:
        order = [id(weight) for weight in learner.network.weights]
        config["adapt"] = [order.index(id(v)) for v in learner.adapted]
    return keras.saving.serialize_keras_object(config)


def arguments(config: dict) -> dict:
    """Returns the arguments that `config_of` made a configuration of."""
    arguments = keras.saving.deserialize_keras_object(config)
    if "adapt" in arguments:
        weights = arguments["network"].weights
        arguments["adapt"] = [weights[place] for place in arguments["adapt"]]
    return arguments
