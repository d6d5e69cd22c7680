"""Sums of products and of squares, by the fused reductions where there are some."""

import functools
import operator

from keras import ops

from tf_blocknorm.light import cast
from tf_blocknorm.norms.block import join
from tf_blocknorm.norms.modes import fused_reductions, total


def dots(blocks, others):
    """For each pair of blocks, the sum of the products of their entries.

    Args:
        blocks: list of `Block` of one dtype.
        others: list of `Block` of the same shapes, of any dtypes.

    Returns:
        A vector with one entry per pair, or per unit of those that are measured so; `split` divides
        it.
    """
    fused = fused_reductions()
    pairs = [
        (x, cast(y, x.dtype))
        for block, other in zip(blocks, others)
        for x, y in zip(block.tensors, other.tensors)
    ]
    if fused and not any(block.per_unit for block in blocks):
        products = iter(fused.dots(pairs))
    else:
        axes = [block.axis for block in blocks for _ in block.tensors]
        products = (total(x * y, axis) for (x, y), axis in zip(pairs, axes))
    return join(
        [functools.reduce(operator.add, [next(products) for _ in b.tensors]) for b in blocks]
    )


def sum_of_squares(x, axes):
    """The sum of a tensor's squares over some axes, which stay with size 1."""
    fused = fused_reductions()
    return fused.sum_of_squares(x, axes) if fused else ops.sum(ops.square(x), axes, keepdims=True)
