"""Measuring and dividing without underflow or overflow, exact to the last bit."""

import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import keras
from keras import ops

from tf_blocknorm.norms.modes import (
    cond,
    fused_reductions,
    inside_xla,
    maxima_drop_nans,
    on_jax_at_once,
    once_known,
    total,
)
from tf_blocknorm.norms.sizes import DROP_NANS, count, get, nan_if_broken


@dataclasses.dataclass(frozen=True)
class _Limits:
    """Where the squares of a float type are safe, and the way back into that region.

    A size within `[low, high]` was computed without an underflow or overflow that matters. Below,
    `up` makes every normal number large enough to be squared; above, `down` makes every one small
    enough.
    """

    low: float
    high: float
    up: float
    down: float


_LIMITS = {
    "float32": _Limits(low=2.0**-40, high=2.0**45, up=2.0**64, down=2.0**-80),
    "float64": _Limits(low=2.0**-400, high=2.0**400, up=2.0**600, down=2.0**-600),
}


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


def _in_one_dtype(blocks):
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
        return ops.stack(values)
    return ops.concatenate([ops.reshape(value, (-1,)) for value in values])


def split(vector, blocks):
    """The way back: for each block a scalar, or a vector of its units."""
    if not any(block.per_unit for block in blocks):
        return ops.unstack(vector, len(blocks))
    ends = list(itertools.accumulate(math.prod(block.shape) for block in blocks))
    pieces = ops.split(vector, ends[:-1]) if len(ends) > 1 else [vector]
    return [ops.reshape(piece, block.shape) for piece, block in zip(pieces, blocks)]


def _measure(blocks, norm, keep=True, anew=None):
    """The blocks, each brought by a power of two into the range of safe squares, and their sizes.

    The power is 1 for a usual gradient.

    Args:
        blocks, norm, anew: see `unmultiplied`.
        keep: whether to return blocks.

    Returns:
        Blocks (None unless `keep`), a vector of their sizes, and the vector of the powers of two.
    """
    blocks, dtype = _in_one_dtype(blocks)
    limits = _LIMITS[dtype]

    fused = fused_reductions()

    def each(function, blocks):
        return join([function(block.tensors, block.axis, block.count) for block in blocks])

    def scaled(blocks, factors):
        return [
            block.map(lambda x, factor=factor: ops.multiply(x, factor))
            for block, factor in zip(blocks, split(factors, blocks))
        ]

    def sizes_of(blocks, factors=None):
        made = blocks if factors is None else scaled(blocks, factors)
        found = fused and fused.sizes(made, norm)
        if found is not None:
            return found
        if norm == "max" and factors is not None:
            # XLA's maximum is fast of what lies in memory only.
            found = ops.multiply(each(get(norm), blocks), factors)
        else:
            found = each(get(norm), made)
        if norm in DROP_NANS and maxima_drop_nans():
            broken = ops.isnan(each(nan_if_broken, made))
            found = ops.where(broken, ops.full_like(found, float("nan")), found)
        return found

    def factors_for(sizes):
        # Not `sizes > high`: a NaN may be the overflow of a finite gradient.
        factors = ops.where(sizes <= limits.high, ops.ones_like(sizes), limits.down)
        return ops.where(sizes < limits.low, ops.full_like(sizes, limits.up), factors)

    if inside_xla() and not on_jax_at_once():
        # Both looks by the same piece of code: XLA compiles two copies of a sum in two ways.
        def look(looks_left, factors, _):
            here = blocks
            if anew:
                here, _ = _in_one_dtype(anew(functools.partial(once_known, looks_left)))
            sizes = sizes_of(here, factors)
            first = ops.equal(looks_left, 2)
            factors = ops.where(first, factors_for(sizes), factors)
            again = ops.logical_and(first, ops.any(ops.not_equal(factors, 1.0)))
            return ops.cast(again, "int32"), factors, sizes

        entries = sum(math.prod(block.shape) for block in blocks)
        start = (ops.full((), 2, "int32"), ops.ones(entries, dtype), ops.zeros(entries, dtype))
        _, factors, sizes = ops.while_loop(lambda left, *_: ops.greater(left, 0), look, start)
        return scaled(blocks, factors), sizes, factors

    sizes = sizes_of(blocks)
    factors = factors_for(sizes)

    def look_again():
        again = scaled(blocks, factors)
        return kept(again), sizes_of(again)

    def kept(blocks):
        return [block.tensors for block in blocks] if keep else []

    # Not left to a multiplication by 1: it would cost a pass over the gradients, and TensorFlow
    # would merge it with the division into one factor, which is subnormal for entries beyond
    # 2**126.
    usual = ops.all(ops.equal(factors, 1.0))
    tensors, sizes = cond(usual, lambda: (kept(blocks), sizes), look_again)
    scaled_blocks = [block.of(x) for x, block in zip(tensors, blocks)]
    return scaled_blocks or None, sizes, factors


def of_ones(norm, block):
    """The norm of a block whose entries are all 1; a registered callable counts as an average."""
    return {"l1": float(block.count), "l2": math.sqrt(block.count)}.get(norm, 1.0)


def sizes(blocks, norm):
    """The norm of every block.

    Args:
        blocks: list of `Block`.
        norm: see `get`.

    Returns:
        A vector with one entry per block, or per unit of those that are measured so, in float32 at
        least; `split` divides it.
    """
    # A weight that is read must not stay alive: its update would be made in a copy.
    _, sizes, factors = _measure(blocks, norm, keep=False)
    return ops.divide(sizes, factors)


def normalize(blocks, norm, epsilon=0.0, lengths=None):
    """Every block divided by its norm.

    Args:
        blocks: list of `Block`.
        norm: see `get`.
        epsilon: added to the norm, as some papers do; it turns gradients of about its size or below
            into shorter steps. The default 0 keeps every step at full length.
        lengths: the norms that the blocks are to have: a vector as `sizes` returns it, or a
            function from the vector of those that they have. Defaults to 1 for all.

    Returns:
        The tensors of each block in float32 at least: a list of lists.
    """
    scaled, inverses = unmultiplied(blocks, norm, epsilon, lengths)
    return [
        block.map(lambda x, inverse=inverse: ops.multiply(x, inverse)).tensors
        for block, inverse in zip(scaled, split(inverses, scaled))
    ]


def _like(x, y):
    """The second tensor in the dtype of the first."""
    # On torch, Keras's cast takes as long as the product of two small tensors.
    return y if y.dtype == x.dtype else ops.cast(y, x.dtype)


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
        pairs = [(x, _like(x, y)) for x, y in zip(block.tensors, other.tensors)]
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


def unmultiplied(blocks, norm, epsilon=0.0, lengths=None, anew=None):
    """`normalize` but for its last multiplication, which an update may do on the way.

    Args:
        blocks, norm, epsilon, lengths: see `normalize`.
        anew: function that computes the blocks from what a function, its argument, made of the
            tensors that it needs: a list of the same tensors. With it, XLA computes the blocks
            twice, for their norms and for that multiplication, and keeps none in between. Defaults
            to `None`.

    Returns:
        The blocks in float32 at least, each brought by a power of two into the range of safe
        squares; and the vector of what they are to be multiplied by, which `split` divides.
    """
    scaled, sizes, factors = _measure(blocks, norm, anew=anew)
    if callable(lengths):
        lengths = lengths(ops.divide(sizes, factors))
    zero = ops.equal(sizes, 0)
    divisors = ops.add(sizes, ops.multiply(factors, epsilon)) if epsilon else sizes
    lengths = 1.0 if lengths is None else ops.cast(lengths, sizes.dtype)
    inverses = ops.divide(lengths, ops.where(zero, ops.ones_like(divisors), divisors))
    # A zero block has no direction and stays zero; one with an infinity is no longer a number.
    inverses = ops.where(zero, ops.zeros_like(inverses), inverses)
    inverses = ops.where(ops.isfinite(sizes), inverses, float("nan"))
    return scaled, inverses


def norm(x, norm="l2"):
    """The size of one tensor.

    Args:
        x: tensor of any rank and float dtype.
        norm: see `get`. Defaults to `"l2"`.

    Returns:
        A scalar, float32 or float64; 0 for a tensor without entries.

    Example:

    >>> float(tf_blocknorm.norms.norm([30.0, -40.0]))
    50.0
    """
    x = ops.convert_to_tensor(x)
    return ops.sum(x) if 0 in x.shape else sizes([Block([x])], norm)[0]


def unit(x, norm="l2", epsilon=0.0):
    """A tensor divided by its norm, exact over the whole float range.

    Args:
        x: tensor of any rank and float dtype.
        norm: see `get`. Defaults to `"l2"`.
        epsilon: see `normalize`. Defaults to 0.

    Returns:
        A tensor like `x`, in float32 at least.

    Example:

    >>> keras.ops.convert_to_numpy(tf_blocknorm.norms.unit([30.0, -40.0], norm="max"))
    array([ 0.75, -1.  ], dtype=float32)
    """
    x = ops.convert_to_tensor(x)
    return x if 0 in x.shape else normalize([Block([x])], norm, epsilon)[0][0]
