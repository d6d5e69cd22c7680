"""Options that are functions: registered with Keras, as nothing else can be saved by name."""

import keras


def is_registered(function):
    """Whether Keras finds this very function by its registered name."""
    if not callable(function):
        return False
    name = keras.saving.get_registered_name(function)
    return keras.saving.get_registered_object(name) is function


def serialize(option):
    """A word as it is, a function as its registered name."""
    return keras.saving.serialize_keras_object(option) if callable(option) else option
