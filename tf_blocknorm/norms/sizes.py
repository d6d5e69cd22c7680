"""The norms: functions of a list of tensors, taken as one long vector, or along `axis` of one.

`entries` says how many numbers each is of: some that are zero may be missing (`WITHOUT_ZEROS`).
"""

import functools
import math

from keras import ops

from tf_blocknorm.norms.modes import greatest, total
from tf_blocknorm.saving import is_registered

# A spread below this fraction of the rms is rounding noise of a constant gradient, not a spread.
_FLAT = 1e-6


def _sum(function, tensors, axis):
    return functools.reduce(ops.add, [total(function(x), axis) for x in tensors])


def count(tensors, axis):
    """Entries behind one norm: a Python number, as shapes are static."""
    return sum(
        math.prod(n for i, n in enumerate(x.shape) if axis is None or i in axis) for x in tensors
    )


def _sum_of_squares(tensors, axis):
    return _sum(ops.square, tensors, axis)


def _maximum(tensors, axis):
    return functools.reduce(ops.maximum, [greatest(x, axis) for x in tensors])


def _minimum(tensors, axis):
    return ops.negative(_maximum([ops.negative(x) for x in tensors], axis))


def nan_if_broken(tensors, axis, entries):
    """NaN if an entry is, or something else: the sum, which no backend computes without them."""
    return _sum(lambda x: x, tensors, axis)


def l1(tensors, axis, entries):
    """Sum of the absolute values."""
    return _sum(ops.abs, tensors, axis)


def l2(tensors, axis, entries):
    """Euclidean length."""
    return ops.sqrt(_sum_of_squares(tensors, axis))


def rms(tensors, axis, entries):
    """Root mean square: `l2 / sqrt(n)`."""
    return ops.sqrt(ops.divide(_sum_of_squares(tensors, axis), entries))


def avg_l1(tensors, axis, entries):
    """Mean absolute value: `l1 / n`."""
    return ops.divide(l1(tensors, axis, entries), entries)


def largest(tensors, axis, entries):
    """Largest absolute value."""
    return _maximum([ops.abs(x) for x in tensors], axis)


def min_max(tensors, axis, entries):
    """Mean of the absolute values of the largest and of the smallest entry."""
    extremes = ops.abs(_maximum(tensors, axis)), ops.abs(_minimum(tensors, axis))
    return ops.multiply(ops.add(*extremes), 0.5)


def std(tensors, axis, entries):
    """Standard deviation; the rms where there is no spread to speak of.

    A gradient of one entry or of equal entries has no standard deviation to divide by. Its rms
    takes over as soon as the spread is below one millionth of it, which float32 cannot tell from
    rounding.
    """
    mean = ops.divide(_sum(lambda x: x, tensors, axis), entries)
    # A mean per unit broadcasts along the last axis, which is the one that `axis` leaves out.
    rest = [ops.subtract(x, mean) for x in tensors]
    # The float32 mean of a million numbers is off in the fifth digit: take out what it left.
    missed = ops.divide(_sum(lambda x: x, rest, axis), entries)
    variance = ops.subtract(ops.divide(_sum_of_squares(rest, axis), entries), ops.square(missed))
    spread = ops.sqrt(ops.maximum(variance, 0.0))
    size = rms(tensors, axis, entries)
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


# Those that are the same if entries which are zero are left out, but counted.
WITHOUT_ZEROS = ("l1", "l2", "rms", "avg_l2", "avg_l1", "max")

# Those by maxima, of which some drop entries that are not numbers.
DROP_NANS = ("max", "min_max")


def names():
    """The names that `norm=` accepts."""
    return tuple(_NORMS)


def get(norm):
    """The function behind a name, or a registered callable made to look like one.

    Args:
        norm: one of `names()`, or a function registered with
            `keras.saving.register_keras_serializable` (anything else could not be saved) that maps
            one tensor of any rank to a non-negative scalar, with `f(c * g) = abs(c) * f(g)`. A
            block of several variables reaches it as one flat vector.

    Returns:
        A function of `(tensors, axis, entries)`, the last one being `Block.count`.
    """
    if isinstance(norm, str) and norm in _NORMS:
        return _NORMS[norm]
    if is_registered(norm):
        return _from_callable(norm)
    raise ValueError(
        f"`norm` must be one of {', '.join(map(repr, _NORMS))} or a function registered with "
        f"`keras.saving.register_keras_serializable`. Received: norm={norm!r}"
    )


def _from_callable(function):
    def size(tensors, axis, entries):
        if axis is not None:
            (x,) = tensors
            units = ops.transpose(ops.reshape(x, (-1, x.shape[-1])))
            return ops.stack([function(units[i]) for i in range(x.shape[-1])])
        if len(tensors) == 1:
            return function(tensors[0])
        return function(ops.concatenate([ops.reshape(x, (-1,)) for x in tensors]))

    return size
