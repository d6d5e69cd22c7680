"""Norms by TensorFlow's own reductions: multi-threaded, in one pass, without temporary tensors.

For graphs and eager code outside XLA, whose reductions on CPUs run on one thread and which compiles
the plain formulas of `sizes.py` into as good a loop.
"""

import functools
import itertools
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
    if not measures(blocks, norm):
        return None
    tensors = [x for block in blocks for x in block.tensors]
    return of_blocks(blocks, norm, numbers(tensors, norm))


def measures(blocks, norm):
    """Whether there is a fused way."""
    return norm in NUMBERS and not any(block.per_unit for block in blocks)


def numbers(tensors, norm):
    """What a norm is made of: for each of its `NUMBERS` a vector of what the tensors have."""
    return [_reduced(tensors, reduce) for reduce in NUMBERS[norm]]


def of_blocks(blocks, norm, numbers):
    """The norms of blocks, made of the numbers of their tensors."""
    if any(len(block.tensors) > 1 for block in blocks):
        owners = np.repeat(np.arange(len(blocks)), [len(block.tensors) for block in blocks])
        numbers = [_JOIN[NUMBERS[norm]](vector, owners) for vector in numbers]
    if norm == "max":
        return tf.maximum(*numbers)
    if norm == "min_max":
        largest, negative = numbers
        return (tf.abs(largest) + tf.abs(negative)) * 0.5
    (lengths,) = numbers
    if norm == "l2":
        return lengths
    counts = np.array([block.count for block in blocks], lengths.dtype.as_numpy_dtype)
    return lengths / np.sqrt(counts)


def dots(pairs):
    """For each pair of tensors the sum of the products of their entries, by products of matrices.

    Such a product adds one number after another: of some million, it would err by 1e-4.
    """
    constant = _constants()

    def rows(x):
        """The entries in rows of one length, and one of the rest: none of them a copy."""
        size = math.prod(x.shape)
        step = max(_STRETCH, math.ceil(size / _STRETCHES / 16) * 16)  # places that need no copy
        count, rest = divmod(size, step)
        if not count:
            return [tf.reshape(x, constant((1, -1)))]
        made = []
        if rest:
            x = tf.reshape(x, constant((-1,)))
            end, length = constant((size - rest,)), constant((rest,))
            made = [
                tf.reshape(tf.raw_ops.Slice(input=x, begin=end, size=length), constant((1, -1)))
            ]
            x = tf.raw_ops.Slice(input=x, begin=constant((0,)), size=end)
        return tf.split(tf.reshape(x, constant((count, step))), count) + made

    def dot(x, y):
        made = [tf.raw_ops.MatMul(a=a, b=b, transpose_b=True) for a, b in zip(rows(x), rows(y))]
        return tf.reshape(tf.add_n(made) if len(made) > 1 else made[0], constant(()))

    return [dot(*pair) for pair in pairs]


def sum_of_squares(x, axes):
    """That of `x` over some axes, which stay with size 1: its squares are never written."""
    return tf.square(tf.raw_ops.EuclideanNorm(input=x, axis=axes, keep_dims=True))


def _reduced(tensors, reduce):
    """`reduce(tensor, axes)` of each tensor over all of its axes: a vector."""
    groups = {}
    for index, x in enumerate(tensors):
        small = x.shape.is_fully_defined() and math.prod(x.shape) <= _SMALL
        groups.setdefault(tuple(x.shape) if small else index, []).append(index)
    alone = [indices[0] for indices in groups.values() if len(indices) == 1]
    together = [indices for indices in groups.values() if len(indices) > 1]
    constant = _constants()
    vectors = []
    if alone:
        vectors.append(tf.stack([_reduced_alone(tensors[i], reduce, constant) for i in alone]))
    for indices in together:
        rows = tf.stack([tensors[i] for i in indices])
        vectors.append(reduce(tf.reshape(rows, [len(indices), -1]), [1]))
    joined = tf.concat(vectors, 0)
    places = np.argsort([*alone, *itertools.chain(*together)])
    return joined if list(places) == list(range(len(places))) else tf.gather(joined, places)


def _reduced_alone(x, reduce, constant):
    if x.shape.rank is None:
        x = tf.reshape(x, constant((-1,)))
    return reduce(x, constant(tuple(range(x.shape.rank))))


def _constants():
    """A function that makes integer constants, equal ones but once: each takes long to trace."""
    return functools.cache(lambda value: tf.constant(value, tf.int32))


def _length(x, axis):
    return tf.raw_ops.EuclideanNorm(input=x, axis=axis)


def _negative_of_smallest(x, axis):
    return -tf.reduce_min(x, axis)


def _add(numbers, owners):
    return tf.sqrt(tf.math.segment_sum(tf.square(numbers), owners))


# What is measured of every tensor; in graphs, a maximum keeps NaNs.
_LENGTHS, _EXTREMES = (_length,), (tf.reduce_max, _negative_of_smallest)
NUMBERS = {
    "l2": _LENGTHS,
    "rms": _LENGTHS,
    "avg_l2": _LENGTHS,
    "max": _EXTREMES,
    "min_max": _EXTREMES,
}
# How the numbers of a block's tensors become the block's, and then its norm.
_JOIN = {_LENGTHS: _add, _EXTREMES: tf.math.segment_max}
