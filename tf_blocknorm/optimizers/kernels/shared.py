"""What the kernels of all backends share."""

from keras import ops

from tf_blocknorm.light import standard
from tf_blocknorm.optimizers.rows import any_sparse

_DTYPES = ("float32", "float64")


def rank(scalar):
    """The rank of a tensor; 0 for numbers and None."""
    return getattr(scalar, "ndim", 0)


def fits(dtypes, tensors, *scalars):
    """Whether one operation takes variables of these dtypes, a tensor for each, and the scalars.

    A scalar may be None. None takes a sparse gradient.
    """
    if any_sparse(tensors):
        return False
    pairs = {(dtype, tensor.dtype) for dtype, tensor in zip(dtypes, tensors)}
    if len(pairs) != 1:
        return False
    ((dtype, other),) = pairs
    return dtype in _DTYPES and dtype == standard(other) and not any(map(rank, scalars))


def parts(items, sizes, least):
    """The items in lists, in their order: a new one begins once that before has reached a size."""
    if sizes and sum(sizes) <= least:
        return [list(items)]
    made, filled = [], least
    for item, size in zip(items, sizes):
        if filled >= least:
            made.append([])
            filled = 0
        made[-1].append(item)
        filled += size
    return made


def adam_scalars(epsilon, correction_1, correction_2):
    """Epsilon and rate of an operation that knows no corrections, and is to add its direction."""
    root = ops.sqrt(correction_2)
    return epsilon * root, -root / correction_1
