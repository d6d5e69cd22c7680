"""Dtypes, asked for so often in a step that Keras's own ways of telling them count."""

import functools

import keras
from keras import ops

standard = functools.cache(keras.backend.standardize_dtype)


def cast(tensor, dtype):
    """`keras.ops.cast`, unless there is nothing to do: then it takes longer than an update."""
    return tensor if standard(tensor.dtype) == standard(dtype) else ops.cast(tensor, dtype)
