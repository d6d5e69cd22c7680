"""What a rule is shown of the use of a layer, and what it answers."""

import contextlib
import dataclasses
import math
import statistics

import keras
from keras import activations, ops

# Functions that act on every entry by itself.
ELEMENTWISE = {
    activations.celu,
    activations.elu,
    activations.exponential,
    activations.gelu,
    activations.hard_shrink,
    activations.hard_sigmoid,
    activations.hard_silu,
    activations.hard_tanh,
    activations.leaky_relu,
    activations.linear,
    activations.log_sigmoid,
    activations.mish,
    activations.relu,
    activations.relu6,
    activations.selu,
    activations.sigmoid,
    activations.silu,
    activations.soft_shrink,
    activations.softplus,
    activations.softsign,
    activations.squareplus,
    activations.tanh,
    activations.tanh_shrink,
}
# At the output, with the loss that belongs to them, a part of the loss.
LINKS = {activations.linear, activations.sigmoid, activations.softmax}


class NoRule(ValueError):
    """Says that there is no rule, and for what."""


@dataclasses.dataclass(frozen=True)
class Match:
    """The scalars of one use of a layer.

    Attributes:
        inputs: m of the input, a float, or a list with that of every input.
        variables: list of pairs of a variable and its m.
    """

    inputs: object
    variables: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Seen:
    """The use of a layer, as its rule sees it.

    Attributes:
        layer: the layer or operation.
        shapes, output_shapes: those of the inputs and outputs, without the batch's axis.
        options: `Options`, of which rules read `rank` and `relu`.
        is_output: whether nothing but the loss comes after it.
        inputs: the input tensors, or None if nothing is measured.
        activated: what the layer's own activation was applied to, or None.
    """

    layer: object
    shapes: tuple
    output_shapes: tuple
    options: object
    is_output: bool
    inputs: list | None = None
    activated: object = None

    @property
    def shape(self):
        """That of the only input."""
        return self.shapes[0]

    @property
    def output_shape(self):
        """That of the only output."""
        return self.output_shapes[0]

    @property
    def batch(self):
        """Number of samples; 1 if nothing is measured."""
        return 1 if self.inputs is None else self.inputs[0].shape[0]

    def squares(self):
        """The input, squared; ones if nothing is measured."""
        if self.inputs is None:
            return ops.ones((1, *self.shape))
        return ops.square(precise(self.inputs[0]))

    def average(self, trace, inputs=None, outputs=None):
        """The average eigenvalue of a Jacobian's square: of all of them, or of those not 0.

        Args:
            trace: their sum, which is that of the Jacobian's squared entries.
            inputs, outputs: number of columns and rows, by default those of the layer.
        """
        inputs = math.prod(self.shape) if inputs is None else inputs
        outputs = math.prod(self.output_shape) if outputs is None else outputs
        return trace / (min(inputs, outputs) if self.options.rank == "min" else inputs)

    def slope(self, activation, z=None):
        """Mean of the squared slope of an activation.

        Args:
            activation: function that acts on every entry.
            z: what it is applied to, by default what the layer's own activation was. If nothing is
                measured, the quantiles of the normal distribution.
        """
        if activation is None or (self.is_output and activation in LINKS):
            return 1.0
        if activation not in ELEMENTWISE:
            name = getattr(activation, "__name__", repr(activation))
            raise NoRule(f"the activation {name!r}")
        if activation is activations.linear:
            return 1.0
        if activation is activations.relu and self.options.relu == "unit":
            return 1.0
        return self.difference(activation, self.activated if z is None else z)

    def difference(self, function, z):
        """Mean of the squared slope by a difference over less than a hundredth of z."""
        z = precise(_QUANTILES if z is None else z)
        if function is activations.relu:
            return number(ops.mean(ops.cast(z > 0, z.dtype)))
        step = ops.maximum(ops.abs(z), 1.0) * 2.0**-8
        low, high = z - step, z + step
        slopes = (precise(function(high)) - precise(function(low))) / (high - low)
        return number(ops.mean(ops.square(slopes)))


_QUANTILES = [statistics.NormalDist().inv_cdf((k + 0.5) / 1024) for k in range(1024)]


def precise(tensor):
    """The tensor in at least single precision."""
    tensor = ops.convert_to_tensor(tensor)
    double = keras.backend.standardize_dtype(tensor.dtype) == "float64"
    return ops.cast(tensor, "float64" if double else "float32")


def number(tensor):
    """The only entry of a tensor as a float."""
    return float(ops.convert_to_numpy(tensor))


@contextlib.contextmanager
def recorded_activation(layer):
    """Within it, a list that gets what the layer's own activation is applied to."""
    activation, arguments = getattr(layer, "activation", None), []
    if activation not in ELEMENTWISE - {activations.linear}:
        yield arguments
        return

    def record(z):
        arguments.append(z)
        return activation(z)

    layer.activation = record
    try:
        yield arguments
    finally:
        layer.activation = activation
