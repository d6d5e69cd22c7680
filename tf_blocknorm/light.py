"""What steps ask for so often that Keras's own checks take longer than the work itself."""

import functools

import keras
from keras import ops

if keras.backend.backend() == "torch":
    from torch import stack, where  # of tensors; `where` takes numbers for values, too
else:
    from keras.ops import stack, where

__all__ = ["cast", "stack", "standard", "where"]

standard = functools.cache(keras.backend.standardize_dtype)


def cast(tensor, dtype):
    """`keras.ops.cast`, unless there is nothing to do."""
    return tensor if standard(tensor.dtype) == standard(dtype) else ops.cast(tensor, dtype)
