"""How large an input is: one number per sample, or one per sample and channel."""

from keras import ops

NORMS = ("l2", "l1", "standardized_l2", "standardized_l1")

# Of the authors' code, which standardises.
STD_FLOOR = 0.01
DENSE_OFFSET = 0.1


def values(x, geometry, norm):
    """What is summed up: the squares or magnitudes of the input, in float32 at least.

    Args:
        x: the input of a layer.
        geometry: a `Geometry` of that layer.
        norm: one of `NORMS`. `"standardized_…"` first subtracts the mean and divides by the
            unbiased standard deviation, or by 0.01 where that is smaller.

    Returns:
        A tensor of the shape of `x`.
    """
    x = ops.cast(x, at_least_float32(x.dtype))
    if norm.startswith("standardized"):
        axes = geometry.axes(geometry.summed, len(x.shape))
        count = ops.cast(size(x, axes), x.dtype)
        x = ops.subtract(x, ops.mean(x, axis=axes, keepdims=True))
        variance = ops.sum(ops.square(x), axis=axes, keepdims=True) / ops.maximum(count - 1.0, 1.0)
        x = ops.divide(x, ops.maximum(ops.sqrt(variance), STD_FLOOR))
    return ops.abs(x) if norm.endswith("l1") else ops.square(x)


def sums(x, geometry, norm):
    """The power of a batch: its sum over samples, one number per channel, then their number.

    Sums, and not their quotient, as both can be added over calls, micro-batches and replicas.

    Returns:
        A vector, one longer than the layer has channels (or 1 where these are not told apart).
    """
    rank = len(x.shape)
    kept = geometry.axes(geometry.kept, rank)
    summed = geometry.axes(geometry.summed, rank)
    averaged = [axis for axis in range(rank) if axis not in (*kept, *summed)]
    power = values(x, geometry, norm)
    power = ops.sum(power, axis=tuple(sorted((*averaged, *summed))))
    count = ops.cast(size(x, averaged), power.dtype)
    if norm.startswith("standardized") and geometry.offset:
        power = ops.add(power, DENSE_OFFSET * count)
    return ops.concatenate([ops.reshape(power, (-1,)), ops.reshape(count, (1,))])


def size(x, axes):
    """The product of the sizes of these axes, which may be known only in the step."""
    shape, product = ops.shape(x), 1
    for axis in axes:
        product = product * shape[axis]
    return product


def at_least_float32(dtype):
    """`"float64"` for itself, `"float32"` for all others."""
    return "float64" if "float64" in str(dtype) else "float32"
