"""What the tensors of a step are to be multiplied by, block by block."""

import functools

from keras import ops

from tf_blocknorm import norms
from tf_blocknorm.optimizers.kernels.shared import rank
from tf_blocknorm.optimizers.rows import times


class Factors:
    """For each tensor of a list the factor of its block.

    They stay the vector that they were computed as until they are asked for, so that what is done
    to all of them is one operation.

    Args:
        count: how many tensors there are.
        groups: for each block the positions of its tensors. The others have no factor.
        made: the blocks, as `norms.Block`.
        vector: what they have, for `norms.split` to divide.
    """

    def __init__(self, count, groups=(), made=(), vector=None):
        self._count, self._groups, self._made, self._vector = count, groups, made, vector

    @functools.cached_property
    def each(self):
        """A list with one entry per tensor: a scalar, a vector of units, or None."""
        return self._divided(self._vector)

    def on(self, tensors):
        """The tensors times their factors."""
        return list(map(times, tensors, self.each))

    def with_rate(self, rate):
        """Two lists: for each tensor the rate times its factor, and what is left of the latter.

        What is left is a vector of units, beside the rate itself; else None.
        """
        rates, rest = [rate] * self._count, [None] * self._count
        if self._groups:
            products = self._vector * ops.cast(rate, self._vector.dtype)
            for position, product in enumerate(self._divided(products)):
                if rank(product):
                    rest[position] = self.each[position]
                elif product is not None:
                    rates[position] = product
        return rates, rest

    def _divided(self, vector):
        found = [None] * self._count
        if self._groups:
            for group, value in zip(self._groups, norms.split(vector, self._made)):
                for position in group:
                    found[position] = value
        return found
