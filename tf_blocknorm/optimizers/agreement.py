"""How well gradients agree with those before them, block by block."""

from keras import ops

from tf_blocknorm import norms


def compare(partition, indices, gradients, averages, decay, assign):
    """Compare gradients with the average direction of the past, and add them to it.

    Args:
        partition: `Partition` of all variables.
        indices: which of them have a gradient.
        gradients: their gradients.
        averages: for each variable of the partition a slot of its shape, at first zero (None for
            one that is in no block).
        decay: of the average: 0 compares with the last gradient alone.
        assign: function `(slot, value)`.

    Returns:
        Two vectors with one entry per label of the partition: the cosines, 0 where there is none;
        and whether there is one: neither side is zero or not a number.
    """
    members = partition.members(indices)
    groups = list(members.values())
    slots = [averages[index] for index in indices]
    past = partition.make(slots, groups)
    # In the range of safe squares, as products of raw gradients leave that of floats.
    scaled, inverses = norms.unmultiplied(partition.make(gradients, groups), "l2")

    lengths = norms.sizes(past, "l2")
    known = ops.logical_and(lengths > 0, inverses > 0)
    dots = norms.join([norms.dot(block, other) for block, other in zip(scaled, past)])
    cosines = ops.where(known, dots * inverses / ops.where(known, lengths, 1.0), 0.0)

    for group, block, inverse in zip(groups, scaled, norms.split(inverses, scaled)):
        for position, direction in zip(group, block.tensors):
            slot = slots[position]
            mixed = ops.multiply(direction, (1.0 - decay) * inverse)
            if decay:
                mixed = decay * ops.cast(slot, direction.dtype) + mixed
            assign(slot, ops.cast(mixed, slot.dtype))
    return partition.scatter(members, cosines), partition.scatter(members, known)


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
