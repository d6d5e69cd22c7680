"""Sums of products and of squares, by the fused reductions where there are some."""

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

    def dot(block, other):
        pairs = [(x, cast(y, x.dtype)) for x, y in zip(block.tensors, other.tensors)]
        if fused and not block.per_unit:
            products = [fused.dot(*pair) for pair in pairs]
        else:
            products = [total(x * y, block.axis) for x, y in pairs]
        return sum(products[1:], products[0])

    return join(list(map(dot, blocks, others)))


def sum_of_squares(x, axes):
    """The sum of a tensor's squares over some axes, which stay with size 1."""
    fused = fused_reductions()
    return fused.sum_of_squares(x, axes) if fused else ops.sum(ops.square(x), axes, keepdims=True)
