"""From the power of an input to what the step of a kernel is multiplied by."""

from keras import ops


def quotient(power, gain, floor, epsilon):
    """The gain over the logarithm of the power; of any shape.

    Args:
        power: a tensor; where it is not finite, the result is not a number.
        gain: a number.
        floor: the least logarithm; None for the power itself in place of its logarithm.
        epsilon: what is added to the power, where there is no logarithm.

    Returns:
        A tensor as `power`, 0 where the divisor is.
    """
    divisor = power + epsilon if floor is None else ops.maximum(ops.log(power), floor)
    zero = ops.equal(divisor, 0)
    result = gain / ops.where(zero, ops.ones_like(divisor), divisor)
    result = ops.where(zero, ops.zeros_like(result), result)
    # A comparison with NaN may choose either; and a finite gradient over infinity is 0.
    return ops.where(ops.isfinite(power), result, float("nan"))
