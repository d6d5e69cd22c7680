"""How large an input is: one number per sample, or one per sample and channel."""

from keras import ops

from tf_blocknorm import norms

NORMS = ("l2", "l1", "standardized_l2", "standardized_l1")

# Of the authors' code, which standardises.
STD_FLOOR = 0.01
DENSE_OFFSET = 0.1


def powers(x, geometry, norm):
    """The power of every sample, and of each of its channels, in float32 at least.

    Args:
        x: the input of a layer.
        geometry: a `Geometry` of that layer.
        norm: one of `NORMS`. `"standardized_…"` is that of the input less its mean, divided by the
            unbiased standard deviation, or by 0.01 where that is smaller.

    Returns:
        A tensor of the shape of `x`, but with 1 for the axes that are summed over.
    """
    x = ops.cast(x, at_least_float32(x.dtype))
    axes = geometry.axes(geometry.summed, len(x.shape))
    standardized = norm.startswith("standardized")
    if standardized:
        x = ops.subtract(x, ops.mean(x, axis=axes, keepdims=True))
    squares = None
    if standardized or norm == "l2":
        squares = norms.sum_of_squares(x, axes)
    power = ops.sum(ops.abs(x), axis=axes, keepdims=True) if norm.endswith("l1") else squares
    if standardized:
        # Of sums, and not of every entry, which gives the same and costs a pass over them.
        count = ops.cast(size(x, axes), x.dtype)
        deviation = ops.sqrt(ops.divide(squares, ops.maximum(count - 1.0, 1.0)))
        deviation = ops.maximum(deviation, STD_FLOOR)
        power = ops.divide(power, deviation if norm.endswith("l1") else ops.square(deviation))
    if standardized and geometry.offset:
        power = ops.add(power, DENSE_OFFSET)
    return power


def sums(x, geometry, norm):
    """The power of a batch: its sum over samples, one number per channel, then their number.

    Sums, and not their quotient, as both can be added over calls, micro-batches and replicas.

    Returns:
        A vector, one longer than the layer has channels (or 1 where these are not told apart).
    """
    kept_or_summed = geometry.axes((*geometry.kept, *geometry.summed), len(x.shape))
    averaged = tuple(axis for axis in range(len(x.shape)) if axis not in kept_or_summed)
    power = powers(x, geometry, norm)
    count = ops.cast(size(x, averaged), power.dtype)
    power = ops.reshape(ops.sum(power, axis=averaged), (-1,))
    return ops.concatenate([power, ops.reshape(count, (1,))])


def size(x, axes):
    """The product of the sizes of these axes, which may be known only in the step."""
    shape, product = ops.shape(x), 1
    for axis in axes:
        product = product * shape[axis]
    return product


def at_least_float32(dtype):
    """`"float64"` for itself, `"float32"` for all others."""
    return "float64" if "float64" in str(dtype) else "float32"
