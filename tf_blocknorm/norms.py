"""What "the size of a gradient" means.

A norm here is a pure function of tensors of any rank. It treats the tensors it is given as one long
vector (so that a kernel and its bias can be one block), or, with `axis`, measures along these axes.

| name               | size of `g` with `n` entries         | a unit gradient has …                  |
|--------------------|--------------------------------------|----------------------------------------|
| `"l1"`             | sum of `abs(g)`                      | entries that add up to 1               |
| `"l2"`             | square root of the sum of `g**2`     | length 1; entries about `1 / sqrt(n)`  |
| `"rms"`, `"avg_l2"`| square root of the mean of `g**2`    | entries about 1, whatever `n`          |
| `"avg_l1"`         | mean of `abs(g)`                     | entries about 1, whatever `n`          |
| `"max"`            | largest `abs(g)`                     | a largest entry of exactly 1           |
| `"min_max"`        | `(abs(max(g)) + abs(min(g))) / 2`    | extremes about 1                       |
| `"std"`            | root of the mean of `(g - mean)**2`  | entries that scatter by 1              |

**Exactness.** Dividing by a norm should undo any factor in front of the gradient. The usual way, `g / (norm + epsilon)`
in one pass, does so only between about 1e-19 and 1e19 in float32: outside, the squares underflow or
overflow. Here a power-of-two factor, which is free of rounding, brings a block back into the
range where squares are safe. Hence `g` and `g * 2**k` give the same unit gradient to the last bit for every `k` that keeps
the entries of `g` normal numbers (float32: 1.2e-38 … 3.4e38; float64: 2.3e-308 … 1.8e308), with no
epsilon. The second look costs nothing in a usual step: one check for all blocks decides whether it is needed.
Subnormal entries (below 1.2e-38 in float32) count as zero on processors and compilers that flush them, as TensorFlow
does on CPUs.

**Special values.** A zero block stays zero. A block with a NaN or an infinity becomes NaN as a whole:
a broken gradient never turns into a step that looks healthy. float16 and bfloat16 are
measured and divided in float32; float64 stays float64.
"""

import dataclasses
import functools
import itertools
import math

import keras
from keras import ops

# A spread below this fraction of the rms is rounding noise of a constant gradient, not a spread.
_FLAT = 1e-6


def _sum(function, tensors, axis):
    return functools.reduce(ops.add, [ops.sum(function(x), axis=axis) for x in tensors])


def _count(tensors, axis):
    """Entries behind one norm: a Python number, as shapes are static."""
    return sum(
        math.prod(n for i, n in enumerate(x.shape) if axis is None or i in axis) for x in tensors
    )


def _sum_of_squares(tensors, axis):
    return _sum(ops.square, tensors, axis)


def _nan_where_broken(size, tensors, axis):
    """`size`, or NaN where an entry is NaN: XLA's CPU maximum drops NaNs, its sum does not."""
    broken = ops.isnan(_sum(lambda x: x, tensors, axis))
    return ops.where(broken, ops.full_like(size, float("nan")), size)


def _maximum(tensors, axis):
    return functools.reduce(ops.maximum, [ops.max(x, axis=axis) for x in tensors])


def _minimum(tensors, axis):
    return functools.reduce(ops.minimum, [ops.min(x, axis=axis) for x in tensors])


def l1(tensors, axis=None):
    """Sum of the absolute values."""
    return _sum(ops.abs, tensors, axis)


def l2(tensors, axis=None):
    """Euclidean length."""
    return ops.sqrt(_sum_of_squares(tensors, axis))


def rms(tensors, axis=None):
    """Root mean square: `l2 / sqrt(n)`."""
    return ops.sqrt(ops.divide(_sum_of_squares(tensors, axis), _count(tensors, axis)))


def avg_l1(tensors, axis=None):
    """Mean absolute value: `l1 / n`."""
    return ops.divide(l1(tensors, axis), _count(tensors, axis))


def largest(tensors, axis=None):
    """Largest absolute value."""
    return _nan_where_broken(_maximum([ops.abs(x) for x in tensors], axis), tensors, axis)


def min_max(tensors, axis=None):
    """Mean of the absolute values of the largest and of the smallest entry."""
    extremes = ops.abs(_maximum(tensors, axis)), ops.abs(_minimum(tensors, axis))
    return _nan_where_broken(ops.multiply(ops.add(*extremes), 0.5), tensors, axis)


def std(tensors, axis=None):
    """Standard deviation; the rms where there is no spread to speak of.

    A gradient of one entry or of equal entries has no standard deviation to divide by. Its rms takes
    over as soon as the spread is below one millionth of it, which float32 cannot tell from rounding.
    """
    count = _count(tensors, axis)
    mean = ops.divide(_sum(lambda x: x, tensors, axis), count)
    # A mean per unit broadcasts along the last axis, which is the one that `axis` leaves out.
    rest = [ops.subtract(x, mean) for x in tensors]
    # The float32 mean of a million numbers is off in the fifth digit: take out what it left.
    missed = ops.divide(_sum(lambda x: x, rest, axis), count)
    variance = ops.subtract(ops.divide(_sum_of_squares(rest, axis), count), ops.square(missed))
    spread = ops.sqrt(ops.maximum(variance, 0.0))
    size = rms(tensors, axis)
    return ops.where(spread > _FLAT * size, spread, size)


_NORMS = {
    "l1": l1,
    "l2": l2,
    "rms": rms,
    "avg_l2": rms,
    "avg_l1": avg_l1,
    "max": largest,
    "min_max": min_max,
    "std": std,
}


def names():
    """The names that `norm=` accepts."""
    return tuple(_NORMS)


def get(norm):
    """The function behind a name, or a registered callable made to look like one.

    Args:
        norm: one of `names()`, or a function registered with
            `keras.saving.register_keras_serializable` (anything else could not be saved) that maps one
            tensor of any rank to a non-negative scalar, with `f(c * g) = abs(c) * f(g)`. A block of several
            variables reaches it as one flat vector.

    Returns:
        A function of `(tensors, axis=None)`.
    """
    if isinstance(norm, str) and norm in _NORMS:
        return _NORMS[norm]
    if callable(norm) and keras.saving.get_registered_object(keras.saving.get_registered_name(norm)) is norm:
        return _from_callable(norm)
    raise ValueError(
        f"`norm` must be one of {', '.join(map(repr, _NORMS))} or a function registered with "
        f"`keras.saving.register_keras_serializable`. Received: norm={norm!r}"
    )


def of_ones(norm, block):
    """The norm of a block whose entries are all 1; a registered callable is taken for an average."""
    count = _count(block.tensors, block.axis)
    return {"l1": float(count), "l2": math.sqrt(count)}.get(norm, 1.0)


def _from_callable(function):
    def size(tensors, axis=None):
        if axis is not None:
            (x,) = tensors
            units = ops.transpose(ops.reshape(x, (-1, x.shape[-1])))
            return ops.stack([function(units[i]) for i in range(x.shape[-1])])
        if len(tensors) == 1:
            return function(tensors[0])
        return function(ops.concatenate([ops.reshape(x, (-1,)) for x in tensors]))

    return size


@dataclasses.dataclass(frozen=True)
class _Limits:
    """Where the squares of a float type are safe, and the way back into that region.

    A size within `[low, high]` was computed without an underflow or overflow that matters. Below, `up`
    makes every normal number large enough to be squared; above, `down` makes every one small enough.
    """

    low: float
    high: float
    up: float
    down: float


_LIMITS = {
    "float32": _Limits(low=2.0**-40, high=2.0**45, up=2.0**64, down=2.0**-80),
    "float64": _Limits(low=2.0**-400, high=2.0**400, up=2.0**600, down=2.0**-600),
}


@dataclasses.dataclass(frozen=True)
class Block:
    """Tensors that are measured together.

    Attributes:
        tensors: list of tensors of any rank and float dtype, none of them empty.
        per_unit: measure every index of the last axis by itself, which takes a
            single tensor of rank 2 or more.
    """

    tensors: list
    per_unit: bool = False

    @property
    def axis(self):
        return tuple(range(len(self.tensors[0].shape) - 1)) if self.per_unit else None

    @property
    def shape(self):
        """Shape of the block's norm."""
        return (self.tensors[0].shape[-1],) if self.per_unit else ()

    def map(self, function):
        return Block([function(x) for x in self.tensors], self.per_unit)


def _in_one_dtype(blocks):
    """The blocks in the dtype that they are measured in: float64 if any tensor has it, or float32."""
    dtypes = {keras.backend.standardize_dtype(x.dtype) for b in blocks for x in b.tensors}
    dtype = "float64" if "float64" in dtypes else "float32"
    return [block.map(lambda x: ops.cast(x, dtype)) for block in blocks], dtype


def _join(values):
    """Scalars and vectors as one vector: arithmetic on all norms at once is one small operation."""
    return ops.concatenate([ops.reshape(value, (-1,)) for value in values])


def _split(vector, blocks):
    """The way back: one scalar, or vector of units, per block."""
    ends = list(itertools.accumulate(math.prod(block.shape) for block in blocks))
    pieces = ops.split(vector, ends[:-1]) if len(ends) > 1 else [vector]
    return [ops.reshape(piece, block.shape) for piece, block in zip(pieces, blocks)]


def _inside_xla():
    """Whether what is computed now will be compiled by XLA."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        from tensorflow.python.ops import control_flow_util

        graph = tf.compat.v1.get_default_graph()
        return control_flow_util.GraphOrParentsInXlaContext(graph)
    return keras.backend.backend() == "jax"


def _measure(blocks, norm):
    """The blocks, each brought by a power of two into the range of safe squares, and their sizes.

    The power is 1 for a usual gradient.

    Returns:
        Blocks, a vector of their sizes, and the vector of the powers of two.
    """
    blocks, dtype = _in_one_dtype(blocks)
    limits = _LIMITS[dtype]

    def sizes_of(blocks):
        return _join([norm(block.tensors, block.axis) for block in blocks])

    def factors_for(sizes):
        # Not `sizes > high`: a NaN may be the overflow of a finite gradient.
        factors = ops.where(sizes <= limits.high, ops.ones_like(sizes), limits.down)
        return ops.where(sizes < limits.low, ops.full_like(sizes, limits.up), factors)

    def scaled(factors):
        return [
            block.map(lambda x, factor=factor: ops.multiply(x, factor))
            for block, factor in zip(blocks, _split(factors, blocks))
        ]

    if _inside_xla():
        # Both looks by the same piece of code: XLA compiles two copies of a sum in two ways.
        def look(looks_left, factors, _):
            sizes = sizes_of(scaled(factors))
            first = ops.equal(looks_left, 2)
            factors = ops.where(first, factors_for(sizes), factors)
            again = ops.logical_and(first, ops.any(ops.not_equal(factors, 1.0)))
            return ops.cast(again, "int32"), factors, sizes

        entries = sum(math.prod(block.shape) for block in blocks)
        start = (ops.full((), 2, "int32"), ops.ones(entries, dtype), ops.zeros(entries, dtype))
        _, factors, sizes = ops.while_loop(lambda left, *_: ops.greater(left, 0), look, start)
        return scaled(factors), sizes, factors

    sizes = sizes_of(blocks)
    factors = factors_for(sizes)

    def look_again():
        again = scaled(factors)
        return [block.tensors for block in again], sizes_of(again)

    # Not left to a multiplication by 1: it would cost a pass over the gradients, and TensorFlow would merge
    # it with the division into one factor, which is subnormal for entries beyond 2**126.
    tensors, sizes = ops.cond(
        ops.all(ops.equal(factors, 1.0)),
        lambda: ([block.tensors for block in blocks], sizes),
        look_again,
    )
    return [Block(x, block.per_unit) for x, block in zip(tensors, blocks)], sizes, factors


def sizes(blocks, norm):
    """The norm of every block.

    Args:
        blocks: list of `Block`.
        norm: see `get`.

    Returns:
        A list of scalars, or of vectors with one entry per unit, in float32 at least.
    """
    scaled, sizes, factors = _measure(blocks, get(norm))
    return _split(ops.divide(sizes, factors), scaled)


def normalize(blocks, norm, epsilon=0.0, lengths=None):
    """Every block divided by its norm.

    Args:
        blocks: list of `Block`.
        norm: see `get`.
        epsilon: added to the norm, as some papers do; it turns gradients of about its size or below into
            shorter steps. The default 0 keeps every step at full length.
        lengths: the norm that each block is to have: a list of scalars, or of
            vectors with one entry per unit. Defaults to 1 for all.

    Returns:
        The tensors of each block in float32 at least: a list of lists.
    """
    scaled, sizes, factors = _measure(blocks, get(norm))
    zero = ops.equal(sizes, 0)
    divisors = ops.add(sizes, ops.multiply(factors, epsilon)) if epsilon else sizes
    lengths = 1.0 if lengths is None else ops.cast(_join(lengths), sizes.dtype)
    inverses = ops.divide(lengths, ops.where(zero, ops.ones_like(divisors), divisors))
    # A zero block has no direction and stays zero; one with an infinity is no longer a number.
    inverses = ops.where(zero, ops.zeros_like(inverses), inverses)
    inverses = ops.where(ops.isfinite(sizes), inverses, float("nan"))
    return [
        block.map(lambda x, inverse=inverse: ops.multiply(x, inverse)).tensors
        for block, inverse in zip(scaled, _split(inverses, scaled))
    ]


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
