"""Norms by TensorFlow's own reductions: multi-threaded, in one pass, without temporary tensors.

For graphs and eager code outside XLA, whose reductions on CPUs run on one thread and which compiles
the plain formulas of `sizes.py` into as good a loop.
"""

import math

import numpy as np
import tensorflow as tf

# Entries: up to here, tensors of one shape are stacked and measured by one operation.
_SMALL = 2**13
# How long the sums of a scalar product are, and into how many it is divided at most.
_STRETCH, _STRETCHES = 2**18, 64


def sizes(blocks, norm):
    """The norm of every block: a vector, or None if there is no fused way.

    Args:
        blocks: list of `Block` of one dtype, float32 or float64.
        norm: its name.
    """
    if norm not in _NORMS or any(block.per_unit for block in blocks):
        return None
    owners = np.concatenate([[i] * len(block.tensors) for i, block in enumerate(blocks)])
    tensors = [x for block in blocks for x in block.tensors]
    counts = np.array([block.count for block in blocks], tensors[0].dtype.as_numpy_dtype)
    return _NORMS[norm](tensors, _Joined(owners), counts)


def dot(x, y):
    """The sum of the products of the entries of two tensors, as products of matrices.

    Such a product adds one number after another: of some million, it would err by 1e-4.
    """
    x, y = tf.reshape(x, [-1]), tf.reshape(y, [-1])
    size = x.shape[0]
    step = max(_STRETCH, math.ceil(size / _STRETCHES / 16) * 16)  # slices that need no copy
    stretches = [slice(start, start + step) for start in range(0, size, step)]
    products = [tf.matmul(x[None, s], y[None, s], transpose_b=True) for s in stretches]
    return tf.reshape(tf.add_n(products), [])


def sum_of_squares(x, axes):
    """That of `x` over some axes, which stay with size 1: its squares are never written."""
    return tf.square(tf.raw_ops.EuclideanNorm(input=x, axis=axes, keep_dims=True))


class _Joined:
    """What to do with the numbers of the tensors to get those of the blocks."""

    def __init__(self, owners):
        self._owners = owners
        self._one_each = len(set(owners.tolist())) == len(owners)

    def add(self, numbers):
        return numbers if self._one_each else tf.math.segment_sum(numbers, self._owners)

    def maximum(self, numbers):
        return numbers if self._one_each else tf.math.segment_max(numbers, self._owners)


def _reduced(tensors, reduce):
    """`reduce(rows, axis)` of each tensor as one row: a vector."""
    groups = {}
    for index, x in enumerate(tensors):
        small = x.shape.is_fully_defined() and math.prod(x.shape) <= _SMALL
        groups.setdefault(tuple(x.shape) if small else index, []).append(index)
    order, numbers = [], []
    for indices in groups.values():
        order += indices
        members = [tensors[index] for index in indices]
        if len(members) == 1:
            numbers.append(reduce(tf.reshape(members[0], [1, -1]), [1]))
        else:
            numbers.append(reduce(tf.reshape(tf.stack(members), [len(members), -1]), [1]))
    joined = tf.concat(numbers, 0)
    places = np.argsort(order)
    return joined if list(places) == list(range(len(order))) else tf.gather(joined, places)


def _lengths(tensors):
    return _reduced(tensors, lambda x, axis: tf.raw_ops.EuclideanNorm(input=x, axis=axis))


def _l2(tensors, joined, counts):
    lengths = _lengths(tensors)
    if joined.add(lengths) is lengths:
        return lengths
    return tf.sqrt(joined.add(tf.square(lengths)))


def _rms(tensors, joined, counts):
    return _l2(tensors, joined, counts) / np.sqrt(counts)


def _extremes(tensors, joined):
    """The largest entries, and the negatives of the smallest; here, a maximum keeps NaNs."""
    largest = joined.maximum(_reduced(tensors, tf.reduce_max))
    return largest, joined.maximum(-_reduced(tensors, tf.reduce_min))


def _max(tensors, joined, counts):
    return tf.maximum(*_extremes(tensors, joined))


def _min_max(tensors, joined, counts):
    largest, smallest = _extremes(tensors, joined)
    return (tf.abs(largest) + tf.abs(smallest)) * 0.5


_NORMS = {"l2": _l2, "rms": _rms, "avg_l2": _rms, "max": _max, "min_max": _min_max}
