"""What is measured together, and the numbers that stand for it."""

import itertools
import math
from typing import NamedTuple

import keras
from keras import ops

from tf_blocknorm.light import stack
from tf_blocknorm.norms.sizes import count


class Block(NamedTuple):
    """Tensors that are measured together.

    Attributes:
        tensors: list of tensors of any rank and float dtype, none of them empty.
        per_unit: measure every index of the last axis by itself, which takes a
            single tensor of rank 2 or more.
        entries: how many there are, if some that are zero may be missing from the tensors, which is
            for the norms `WITHOUT_ZEROS`.
    """

    tensors: list
    per_unit: bool = False
    entries: int | None = None

    @property
    def axis(self):
        return tuple(range(len(self.tensors[0].shape) - 1)) if self.per_unit else None

    @property
    def shape(self):
        """Shape of the block's norm."""
        return (self.tensors[0].shape[-1],) if self.per_unit else ()

    def map(self, function):
        return self.of([function(x) for x in self.tensors])

    def of(self, tensors):
        """A block like this of other tensors."""
        return Block(tensors, self.per_unit, self.entries)

    @property
    def count(self):
        """Entries behind one norm."""
        return self.entries or count(self.tensors, self.axis)


def in_one_dtype(blocks):
    """The blocks in the dtype they are measured in: float64 if any tensor has it, or float32."""
    found = {x.dtype for b in blocks for x in b.tensors}
    dtypes = set(map(keras.backend.standardize_dtype, found))
    dtype = "float64" if "float64" in dtypes else "float32"
    # Nowhere else are all of them tensors; and Keras's cast takes as long as measuring a small one.
    if keras.backend.backend() == "torch" and dtypes == {dtype}:
        return blocks, dtype
    return [block.map(lambda x: ops.cast(x, dtype)) for block in blocks], dtype


def join(values):
    """Scalars and vectors as one vector: what is done to all at once is one small operation."""
    if all(len(value.shape) == 0 for value in values):
        return stack(values)
    return ops.concatenate([ops.reshape(value, (-1,)) for value in values])


def split(vector, blocks):
    """The way back: for each block a scalar, or a vector of its units."""
    if not any(block.per_unit for block in blocks):
        return ops.unstack(vector, len(blocks))
    ends = list(itertools.accumulate(math.prod(block.shape) for block in blocks))
    pieces = ops.split(vector, ends[:-1]) if len(ends) > 1 else [vector]
    return [ops.reshape(piece, block.shape) for piece, block in zip(pieces, blocks)]


def of_ones(norm, block):
    """The norm of a block whose entries are all 1; a registered callable counts as an average."""
    return {"l1": float(block.count), "l2": math.sqrt(block.count)}.get(norm, 1.0)
