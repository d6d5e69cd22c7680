"""How well gradients agree with those before them, block by block."""

from typing import Any, NamedTuple

from keras import ops

from tf_blocknorm import norms
from tf_blocknorm.light import cast, where
from tf_blocknorm.optimizers.rows import times


class Past(NamedTuple):
    """The average direction of past gradients.

    Attributes:
        averages: For each variable of a partition a slot of its shape, at first zero (None for one
            that is in no block).
        lengths: A variable with one number per label of the partition, at first zero: the length
            of the average, which follows from that before, and saves a pass over the slots.
    """

    averages: list
    lengths: Any

    @classmethod
    def create(cls, partition, variables, add):
        """The state of a tap: `add(name, shape, like=variable)` makes a variable of zeros."""
        pairs = enumerate(zip(partition.names, variables))
        averages = [name and add(f"average_{index}", like=v) for index, (name, v) in pairs]
        return cls(averages, add("average_length", (len(partition.labels),)))


def compare(partition, indices, gradients, past, decay, assign, add=None):
    """Compare gradients with the average direction of the past, and add them to it.

    Args:
        partition: `Partition` of all variables.
        indices: which of them have a gradient.
        gradients: their gradients.
        past: `Past`.
        decay: of the average: 0 compares with the last gradient alone.
        assign: function `(slot, value)`.
        add: function `(indices, slots, directions, factors, decay)` that does for the variables of
            these indices what `blend` does. Defaults to `blend`.

    Returns:
        Two vectors with one entry per label of the partition: the cosines, 0 where there is none;
        and whether there is one: neither side is zero or not a number.
    """
    add = add or (lambda _, *columns: blend(assign, *columns))
    members = partition.members(indices)
    groups = list(members.values())
    slots = [past.averages[index] for index in indices]
    averages = partition.make(slots, groups)
    # In the range of safe squares, as products of raw gradients leave that of floats.
    scaled, inverses = norms.unmultiplied(partition.make(gradients, groups), "l2")

    all_lengths = ops.convert_to_tensor(past.lengths)
    lengths = ops.cast(partition.gather(members, all_lengths), inverses.dtype)
    known = ops.logical_and(lengths > 0, inverses > 0)
    # With the gradient's direction, which has length 1.
    products = inverses * norms.dots(scaled, averages)
    cosines = where(known, products / where(known, lengths, 1.0), 0.0)

    own = where(inverses == 0, 0.0, inverses / inverses)  # 1; 0 of a zero, NaN of no number
    if decay:
        mixed = (decay * lengths) ** 2 + (1.0 - decay) * (2.0 * decay * products + (1.0 - decay))
        own = where(inverses == 0, decay * lengths, own * ops.sqrt(ops.maximum(mixed, 0.0)))
    own = partition.scatter(members, ops.cast(own, all_lengths.dtype))
    assign(past.lengths, partition.where(members, own, all_lengths))

    # No length is negative; but so the averages change after the products, which XLA on JAX would
    # copy them for.
    factors = (1.0 - decay) * where(lengths < 0, products, inverses)
    rows = [
        (indices[position], slots[position], direction, factor)
        for group, block, factor in zip(groups, scaled, norms.split(factors, scaled))
        for position, direction in zip(group, block.tensors)
    ]
    if rows:
        add(*map(list, zip(*rows)), decay)
    return partition.scatter(members, cosines), partition.scatter(members, known)


def blend(assign, slots, directions, factors, decay):
    """Slots = decay * slots + factors * directions, by `assign(slot, value)`."""
    for slot, direction, factor in zip(slots, directions, factors):
        mixed = times(direction, factor)
        if decay:
            mixed = decay * cast(ops.convert_to_tensor(slot), mixed.dtype) + mixed
        assign(slot, cast(mixed, slot.dtype))


def mean(partition, cosines, known):
    """One cosine for all blocks.

    The cosine of n random numbers has variance 1/n: weighted by its number of weights, every block
    counts as much as it knows.

    Args:
        partition: `Partition`.
        cosines, known: what `compare` returned.

    Returns:
        Two scalars: the mean over the known ones, and whether there is one.
    """
    weights = ops.where(known, ops.convert_to_tensor(partition.counts), 0.0)
    total = ops.sum(weights)
    return ops.sum(weights * cosines) / ops.maximum(total, 1.0), total > 0
