"""Sparse gradients: on TensorFlow, those of tables of which a batch has looked up some rows.

Such a gradient (`tf.IndexedSlices`) may hold a row several times; its norm is that of their sums.
A rule that leaves alone what has no gradient moves the rows that were looked up, and no others, so
that its time does not grow with the table. To all other rules the gradient is a dense tensor.
"""

import math

import keras
from keras import ops

from tf_blocknorm import light

# Asked for every gradient, several times in a step.
POSSIBLE = keras.backend.backend() == "tensorflow"  # whether there are sparse gradients
_ON_TORCH = keras.backend.backend() == "torch"

# Entries of a variable; below, a dense gradient is made as fast as rows are told apart.
LARGE = 2**20


def is_sparse(gradient):
    """Whether a gradient consists of rows."""
    if not POSSIBLE:
        return False
    import tensorflow as tf

    return isinstance(gradient, tf.IndexedSlices)


def any_sparse(gradients):
    """Whether one of them consists of rows."""
    return POSSIBLE and any(map(is_sparse, gradients))


def is_large(variable):
    """Whether moving some rows of a variable is worth the trouble."""
    return len(variable.shape) > 1 and math.prod(variable.shape) >= LARGE


def each_once(gradient, variable, compiled):
    """A sparse gradient that holds no row twice.

    Args:
        gradient: `tf.IndexedSlices`.
        variable: The variable that it belongs to.
        compiled: Whether XLA will see its shape, which must not depend on the numbers then. It
            holds as many rows as before, of which those that are left over are zero.
    """
    import tensorflow as tf

    values, indices = gradient.values, gradient.indices
    if compiled:
        order = tf.argsort(indices)
        indices, values = tf.gather(indices, order), tf.gather(values, order)
        begins = tf.cast(indices[1:] != indices[:-1], tf.int32)
        places = tf.concat([tf.zeros_like(indices[:1], tf.int32), tf.cumsum(begins)], 0)
        number = tf.size(places)
        # What is left over has the smallest integer: any row will do for zeros.
        rows = tf.maximum(tf.math.unsorted_segment_max(indices, places, number), 0)
    else:
        rows, places = tf.unique(indices)
        number = tf.size(rows)
    values = tf.math.unsorted_segment_sum(values, places, number)
    return of_shape_of(variable, tf.IndexedSlices(values, rows))


def of_shape_of(variable, gradient):
    """A gradient that knows its shape if it is sparse, as one that entered a function does not."""
    if not is_sparse(gradient):
        return gradient
    import tensorflow as tf

    shape = tuple(variable.shape)
    values = tf.ensure_shape(gradient.values, [None, *shape[1:]])
    return tf.IndexedSlices(values, gradient.indices, tf.constant(shape))


def values(gradient):
    """The entries of a gradient that may be sparse, as a tensor."""
    if _ON_TORCH:  # where a conversion takes as long as the norm of a small tensor
        return light.value(gradient) if isinstance(gradient, keras.Variable) else gradient
    if is_sparse(gradient):
        return gradient.values
    return ops.convert_to_tensor(gradient)


def with_values(gradient, changed):
    """A gradient, sparse if it was, with other entries."""
    if not is_sparse(gradient):
        return changed
    return type(gradient)(changed, gradient.indices, gradient.dense_shape)


def times(tensor, factor):
    """A tensor, or the rows of a sparse gradient, times a factor, which may be None."""
    if factor is None:
        return tensor
    if is_sparse(tensor):
        return with_values(tensor, ops.multiply(tensor.values, factor))
    # Keras's operation does the same, but takes longer on torch than the multiplication does.
    if isinstance(factor, float) or getattr(factor, "dtype", None) == tensor.dtype:
        return tensor * factor
    return ops.multiply(tensor, factor)
