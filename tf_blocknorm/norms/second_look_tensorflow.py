"""Bringing blocks into the range of safe squares, in TensorFlow's graphs: once traced, for all.

A condition takes long to trace for what it carries along: of the trace of a light rule, it was more
than half. This one is part of functions that know no shapes.
"""

import functools
import math

import tensorflow as tf

from tf_blocknorm.norms import fused_tensorflow as fused

# Tensors that a function takes at most. More would make the first trace longer, fewer the others.
_AT_ONCE = 8


def scaled_unless(usual, blocks, factors, norm, keep=True):
    """Blocks as they are if `usual`, else times factors; None if there is no fused way.

    Args:
        usual: scalar, bool.
        blocks, norm: see `fused_tensorflow.sizes`.
        factors: vector with one for each block.
        keep: whether to return blocks.

    Returns:
        The blocks (None unless `keep`), and a vector of their sizes, which means something only
        unless `usual`.
    """
    if not fused.measures(blocks, norm):
        return None
    tensors = [x for block in blocks for x in block.tensors]
    factors = tf.unstack(factors, len(blocks))
    each = [factor for block, factor in zip(blocks, factors) for _ in block.tensors]
    # Variables are read where it is needed: a weight that is read must not stay alive.
    places = not keep and all(isinstance(x, tf.Variable) for x in tensors)
    dtype, inputs = tensors[0].dtype, [x.handle for x in tensors] if places else tensors
    made, numbers, start = [], [], 0
    while start < len(tensors):
        count = min(_AT_ONCE, 2 ** int(math.log2(len(tensors) - start)))  # four functions at most
        part = slice(start, start + count)
        choose = _function(norm, dtype, count, keep, places)
        found, of_these = choose(usual, inputs[part], each[part])
        for x, before in zip(found, tensors[part]):
            x.set_shape(before.shape)
        made += found
        numbers.append(of_these)
        start += count
    rest = iter(made)
    made = [block.map(lambda _: next(rest)) for block in blocks] if keep else None
    return made, fused.of_blocks(blocks, norm, [tf.concat(vectors, 0) for vectors in zip(*numbers)])


@functools.cache
def _function(norm, dtype, count, keep, places):
    """A function of `usual`, and of so many tensors, or places of variables, and their factors.

    It returns a list of tensors (empty unless `keep`), and their `fused_tensorflow.numbers`.
    """
    one = tf.TensorSpec([], tf.resource) if places else tf.TensorSpec(None, dtype)
    signature = [tf.TensorSpec([], tf.bool), [one] * count, [tf.TensorSpec([], dtype)] * count]

    @tf.function(input_signature=signature, autograph=False)
    def choose(usual, tensors, factors):
        def scale():
            found = tensors
            if places:
                found = [tf.raw_ops.ReadVariableOp(resource=x, dtype=dtype) for x in tensors]
            scaled = [x * factor for x, factor in zip(found, factors)]
            return scaled if keep else [], fused.numbers(scaled, norm)

        def leave():
            return tensors if keep else [], [tf.zeros([count], dtype) for _ in fused.NUMBERS[norm]]

        return tf.cond(usual, leave, scale)

    return choose
