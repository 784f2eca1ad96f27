"""Values and learners as configurations, from which Keras makes them again."""

import dataclasses
import inspect

import keras

_REST = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


class Value:
    """A dataclass that Keras saves by its fields."""

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def arguments_of(learner: keras.Model) -> dict:
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


def config_of(learner: keras.Model) -> dict:
    """Returns a learner's arguments, in the form in which Keras saves them."""
    return keras.saving.serialize_keras_object(arguments_of(learner))


def make(kind: type, arguments: dict) -> keras.Model:
    """Returns a learner with arguments as `arguments_of` returns them."""
    if "adapt" in arguments:
        weights = arguments["network"].weights
        adapt = [weights[place] for place in arguments["adapt"]]
        arguments = {**arguments, "adapt": adapt}
    return kind(**arguments)


def from_config(kind: type, config: dict) -> keras.Model:
    """Returns a learner with the arguments of a `config_of` another."""
    return make(kind, keras.saving.deserialize_keras_object(config))


def _argument_names(kind):
    for part in kind.__mro__:
        if "__init__" not in vars(part):
            continue
        parameters = inspect.signature(part.__init__).parameters.values()
        kinds = {p.name: p.kind for p in parameters if p.name != "self"}
        yield from (n for n, kind in kinds.items() if kind not in _REST)
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            break
