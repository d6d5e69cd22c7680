"""For each kind of layer: which axes of its input make up the power, and where that divides.

The input axes of a layer with a kernel are of three kinds. Some are contracted with the kernel, or
slid over: the power is the sum over them. Some stay apart (channels of a convolution): one power
for each. Over all others (samples, and the positions of a sequence) the power is averaged.

| layer                    | sum over           | one power for each       | divides the kernel's |
|--------------------------|--------------------|--------------------------|----------------------|
| `Dense`, recurrent cells | features           |                          | all                  |
| `EinsumDense`, attention | contracted letters | letter in input, kernel  | same letter          |
|                          |                    | and output               |                      |
| `Conv1D` … `Conv3D`      | pixels             | channel                  | axis -2              |
| … with groups            | pixels             | channel                  | axis -2, and the     |
|                          |                    |                          | outputs of its group |
| `DepthwiseConv…`         | pixels             | channel                  | axis -2              |
| `Conv…Transpose`         | pixels             | channel                  | axis -1              |

`SeparableConv…` has two kernels: one of `DepthwiseConv…`, and above it one of `Conv…`.

What the paper's code does for `Dense` and `Conv2D` without groups; the rest is derived from it.
"""

import dataclasses
import math
from collections.abc import Callable

from keras import layers, ops

PLAIN = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
CONVOLUTIONS = (*PLAIN, *DEPTHWISE, *TRANSPOSED)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """See above.

    Attributes:
        summed, kept: axes of the input, negative ones counted from the end.
        channels: the number of powers.
        offset: whether the authors' code adds 0.1 to a standardised power: not to a convolution's.
        spread: function from a vector with one number per channel to a tensor that broadcasts
            against the kernel.
    """

    summed: tuple
    kept: tuple
    channels: int
    offset: bool
    spread: Callable

    @staticmethod
    def axes(axes, rank):
        """These axes of an input of this rank, none of them negative."""
        return tuple(sorted(axis % rank for axis in axes))


def _whole(values):
    return ops.reshape(values, ())


DENSE = Geometry(summed=(-1,), kept=(), channels=1, offset=True, spread=_whole)


def of(layer, input_shape):
    """The geometry of a layer.

    Args:
        layer: one of those in the table that have one kernel.
        input_shape: the shape that it is built for.

    Returns:
        A `Geometry`, or None for a layer that is not in the table.
    """
    if isinstance(layer, layers.EinsumDense):
        return einsum(layer.equation, len(input_shape), tuple(layer.kernel.shape), layer.name)
    if isinstance(layer, layers.Dense):
        return DENSE
    if isinstance(layer, CONVOLUTIONS):
        return _convolution(layer, input_shape)
    return None


def kernels(layer, input_shape):
    """For every kernel of a layer in the table: the variable, its geometry, the shape it sees."""
    if not isinstance(layer, SEPARABLE):
        where = of(layer, input_shape)
        return [(layer.kernel, where, input_shape)] if where else []
    between = list(layer.compute_output_shape(input_shape))
    between[1 if layer.data_format == "channels_first" else -1] = layer.pointwise_kernel.shape[-2]
    return [
        (kernel, _convolution(layer, shape), tuple(shape))
        for kernel, shape in (
            (layer.depthwise_kernel, input_shape),
            (layer.pointwise_kernel, between),
        )
    ]


def _convolution(layer, input_shape):
    first = layer.data_format == "channels_first"
    rank = layer.rank
    channel = -1 - rank if first else -1
    channels = input_shape[channel]
    if isinstance(layer, TRANSPOSED):
        shape = (1,) * (rank + 1) + (channels,)
    else:
        shape = (1,) * rank + (channels, 1)
    groups = getattr(layer, "groups", 1) if isinstance(layer, PLAIN) else 1

    def spread(values):
        if groups == 1:
            return ops.reshape(values, shape)
        # Input channel i of group g is row i of the kernel, in the columns of the group.
        by_group = ops.transpose(ops.reshape(values, (groups, channels // groups)))
        columns = ops.repeat(by_group, layer.filters // groups, axis=1)
        return ops.reshape(columns, (1,) * rank + (channels // groups, layer.filters))

    return Geometry(
        summed=tuple(range(-rank, 0)) if first else tuple(range(-1 - rank, -1)),
        kept=(channel,),
        channels=channels,
        offset=False,
        spread=spread,
    )


def einsum(equation, rank, kernel_shape, name):
    """The geometry of an equation like `"abc,cd->abd"`, for an input of this rank."""
    terms, output = equation.replace(" ", "").split("->")
    inputs, kernel = terms.split(",")
    letters = list(inputs)
    if "..." in inputs:
        before, after = inputs.split("...")
        missing = rank - len(before) - len(after)
        letters = [*before, *[None] * missing, *after]
    summed, kept = [], []
    for axis, letter in enumerate(letters):
        if letter is None:
            continue
        if letter in kernel:
            (kept if letter in output else summed).append(axis)
        elif letter not in output:
            raise ValueError(
                "The input of an `EinsumDense` with statistics must not be summed over letters "
                "that its kernel does not have; exclude the layer. "
                f"Received: equation={equation!r} in layer {name!r}"
            )
    shared = [letters[axis] for axis in kept]
    sizes = [kernel_shape[kernel.index(letter)] for letter in shared]
    # As the input has them, in the order in which the kernel has them.
    order = sorted(range(len(shared)), key=lambda i: kernel.index(shared[i]))
    view = [n if letter in shared else 1 for letter, n in zip(kernel, kernel_shape)]

    def spread(values):
        return ops.reshape(ops.transpose(ops.reshape(values, sizes), order), view)

    channels = math.prod(sizes)
    return Geometry(tuple(summed), tuple(kept), channels, True, spread if shared else _whole)


def count(axes, shape):
    """How many numbers these axes hold; None if that is not known before the step."""
    sizes = [shape[axis % len(shape)] for axis in axes]
    return None if None in sizes else math.prod(sizes)


def demand_spread(layer, geometry, input_shape, norm):
    """Raise an error where a standardised input would always be zero: a map of one pixel."""
    if norm.startswith("standardized") and count(geometry.summed, input_shape) == 1:
        raise ValueError(
            "A standardised norm must have more than one number to standardise over: exclude the "
            f"layer, or measure another norm. Received: norm={norm!r} for layer {layer.name!r} "
            f"with input_shape={tuple(input_shape)}"
        )
