"""Measuring and dividing without underflow or overflow, exact to the last bit."""

import dataclasses
import functools
import math

from keras import ops

from tf_blocknorm.light import where
from tf_blocknorm.norms.block import Block, in_one_dtype, join, split
from tf_blocknorm.norms.modes import (
    cond,
    fused_reductions,
    in_graph_of_tensorflow,
    inside_xla,
    maxima_drop_nans,
    on_jax_at_once,
    once_known,
)
from tf_blocknorm.norms.sizes import DROP_NANS, get, nan_if_broken


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


def _measure(blocks, norm, keep=True, anew=None):
    """The blocks, each brought by a power of two into the range of safe squares, and their sizes.

    The power is 1 for a usual gradient.

    Args:
        blocks, norm, anew: see `unmultiplied`.
        keep: whether to return blocks.

    Returns:
        Blocks (None unless `keep`), a vector of their sizes, and the vector of the powers of two.
    """
    blocks, dtype = in_one_dtype(blocks)
    limits = _LIMITS[dtype]

    fused = fused_reductions()

    def each(function, blocks):
        return join([function(block.tensors, block.axis, block.count) for block in blocks])

    def scaled(blocks, factors):
        return [
            block.map(lambda x, factor=factor: x * factor)
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
            found = where(broken, float("nan"), found)
        return found

    def factors_for(sizes):
        # Not `sizes > high`: a NaN may be the overflow of a finite gradient.
        factors = where(sizes <= limits.high, ops.ones_like(sizes), limits.down)
        return where(sizes < limits.low, limits.up, factors)

    if inside_xla() and not on_jax_at_once():
        # Both looks by the same piece of code: XLA compiles two copies of a sum in two ways.
        def look(looks_left, factors, _):
            here = blocks
            if anew:
                here, _ = in_one_dtype(anew(functools.partial(once_known, looks_left)))
            sizes = sizes_of(here, factors)
            first = ops.equal(looks_left, 2)
            factors = where(first, factors_for(sizes), factors)
            again = ops.logical_and(first, ops.any(ops.not_equal(factors, 1.0)))
            return ops.cast(again, "int32"), factors, sizes

        entries = sum(math.prod(block.shape) for block in blocks)
        start = (ops.full((), 2, "int32"), ops.ones(entries, dtype), ops.zeros(entries, dtype))
        _, factors, sizes = ops.while_loop(lambda left, *_: ops.greater(left, 0), look, start)
        return scaled(blocks, factors), sizes, factors

    sizes = sizes_of(blocks)
    # False for a NaN, which may be the overflow of a finite gradient.
    usual = ops.all(ops.logical_and(sizes >= limits.low, sizes <= limits.high))

    def as_they_are():
        return kept(blocks), sizes, ops.ones_like(sizes)

    def look_again():
        factors = factors_for(sizes)
        again = scaled(blocks, factors)
        return kept(again), sizes_of(again), factors

    def kept(blocks):
        return [block.tensors for block in blocks] if keep else []

    if in_graph_of_tensorflow():
        from tf_blocknorm.norms.second_look_tensorflow import scaled_unless

        factors = factors_for(sizes)
        found = scaled_unless(usual, blocks, factors, norm, keep)
        if found is not None:
            blocks, again = found
            return blocks, where(usual, sizes, again), factors

    # Not left to a multiplication by 1: it would cost a pass over the gradients, and TensorFlow
    # would merge it with the division into one factor, which is subnormal for entries beyond
    # 2**126.
    tensors, sizes, factors = cond(usual, as_they_are, look_again)
    if not keep:
        return None, sizes, factors
    if tensors[0] is not blocks[0].tensors:  # where a condition takes them along
        blocks = [block.of(x) for block, x in zip(blocks, tensors)]
    return blocks, sizes, factors


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
    return sizes / factors


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
        lengths = lengths(sizes / factors)
    zero = sizes == 0
    divisors = sizes + factors * epsilon if epsilon else sizes
    lengths = 1.0 if lengths is None else ops.cast(lengths, sizes.dtype)
    inverses = lengths / where(zero, 1.0, divisors)
    # A zero block has no direction and stays zero; one with an infinity is no longer a number.
    inverses = where(zero, 0.0, inverses)
    inverses = where(ops.isfinite(sizes), inverses, float("nan"))
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
