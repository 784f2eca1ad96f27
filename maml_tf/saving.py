"""Values as configurations, from which Keras makes them again."""

import dataclasses

import keras

register = keras.saving.register_keras_serializable("maml_tf")
"""Makes a class or function known to Keras's saving, by its name."""


class Value:
    """A dataclass that Keras saves by its fields."""

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)
