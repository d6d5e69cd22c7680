"""What steps ask for so often that Keras's own checks take longer than the work itself."""

import functools

import keras
from keras import ops
from keras.src.backend.common.stateless_scope import in_stateless_scope

if keras.backend.backend() == "torch":
    from torch import stack, where  # of tensors; `where` takes numbers for values, too
else:
    from keras.ops import stack, where

__all__ = ["cast", "in_stateless_scope", "stack", "standard", "value", "where"]

standard = functools.cache(keras.backend.standardize_dtype)


def cast(tensor, dtype):
    """`keras.ops.cast`, unless there is nothing to do."""
    return tensor if standard(tensor.dtype) == standard(dtype) else ops.cast(tensor, dtype)


def value(variable):
    """`variable.value`, which on torch looks for scopes longer than a small update takes."""
    return variable.value if in_stateless_scope() else variable._value
