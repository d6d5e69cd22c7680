r"""The table of rules: for each type of layer, how a change of its output is matched from below.

A rule is a function from `Seen`, the use of a layer, to its `Match`: the average eigenvalue $m$ of
$J^\top J$ for the Jacobian $J$ of the output by each input and by each variable, summed over the
positions of a sample and averaged over samples.
"""

import math

import keras
from keras import layers, ops

from tf_blocknorm.back_matching import kernels
from tf_blocknorm.back_matching.seen import Match, NoRule, number, precise


def identity(seen):
    """What goes in comes out, somewhere; of several inputs each with the factor 1."""
    return Match([1.0] * len(seen.shapes))


def average(seen):
    """The mean of several inputs."""
    count = len(seen.shapes)
    return Match([1.0 / count**2] * count)


def rescaling(seen):
    """A factor for all."""
    return Match(number(ops.mean(ops.square(precise(seen.layer.scale)))))


def activation(seen):
    """A function of every entry, as a layer of its own."""
    return Match(seen.slope(seen.layer.activation))


def rectifier(seen):
    """`ReLU`, which is one with slopes and limits of its own if it is told so."""
    layer = seen.layer
    plain = not layer.negative_slope and not layer.threshold and layer.max_value is None
    if not plain:
        return elementwise(seen)
    return Match(seen.slope(keras.activations.relu, seen.inputs and seen.inputs[0]))


def elementwise(seen):
    """A layer without variables that is a function of every entry."""
    return Match(seen.difference(seen.layer.call, seen.inputs and seen.inputs[0]))


def softmax(seen):
    """At the output, a part of the loss."""
    return Match(seen.slope(keras.activations.softmax))


def batch_normalization(seen):
    """The variance is taken as given: less of the gradient passes, by 2 samples of them all."""
    layer = seen.layer
    channels = seen.shape[_axis(layer.axis, seen)]
    variance = layer.moving_variance
    if seen.inputs is not None and layer.trainable:
        variance = batch_moments(layer, seen.inputs[0])[1]
    return _normalization(seen, 1.0 / (precise(variance) + layer.epsilon), channels)


def layer_normalization(seen):
    """The variance of every sample is taken as given."""
    layer = seen.layer
    if layer.rms_scaling:
        raise NoRule("`LayerNormalization` with `rms_scaling`")
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    scaled = [seen.shape[_axis(axis, seen)] for axis in axes]
    variance = ops.ones(())
    if seen.inputs is not None:
        variance = ops.moments(precise(seen.inputs[0]), axes=axes)[1]
    return _normalization(seen, ops.mean(1.0 / (variance + layer.epsilon)), math.prod(scaled))


def _normalization(seen, factors, scaled):
    """Of layers with a scale gamma and an offset beta, one each for so many entries."""
    layer, positions = seen.layer, math.prod(seen.shape) / scaled
    if layer.scale:
        factors = factors * ops.cast(ops.square(precise(layer.gamma)), factors.dtype)
    own = [layer.gamma if layer.scale else None, layer.beta if layer.center else None]
    return Match(number(ops.mean(factors)), [(v, positions) for v in own if v is not None])


def _axis(axis, seen):
    """An axis of the batch as one of a sample."""
    return axis if axis < 0 else axis - 1


def batch_moments(layer, x):
    """Mean and variance of each channel over the batch."""
    axes = [k for k in range(len(x.shape)) if k != layer.axis % len(x.shape)]
    return ops.moments(precise(x), axes=axes)


def batch_normalized(layer, x):
    """The output in training, but without a change of the moving averages."""
    mean, variance = batch_moments(layer, x)
    scale = precise(layer.gamma) if layer.scale else None
    offset = precise(layer.beta) if layer.center else None
    y = ops.batch_normalization(
        precise(x), mean, variance, layer.axis % len(x.shape), offset, scale, layer.epsilon
    )
    return ops.cast(y, layer.compute_dtype)


_SAME = """
    ActivityRegularization Add Concatenate Dropout Flatten GaussianDropout GaussianNoise Identity
    Permute Reshape SpatialDropout1D SpatialDropout2D SpatialDropout3D Subtract
    ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""

# A new type of layer is a row. The type has to be the very same: a subclass may do anything.
RULES = {
    layers.Activation: activation,
    layers.Average: average,
    layers.BatchNormalization: batch_normalization,
    layers.Dense: kernels.dense,
    layers.ELU: elementwise,
    layers.Embedding: kernels.embedding,
    layers.LayerNormalization: layer_normalization,
    layers.LeakyReLU: elementwise,
    layers.ReLU: rectifier,
    layers.Rescaling: rescaling,
    layers.Softmax: softmax,
    **{getattr(layers, name): identity for name in _SAME.split()},
    **{getattr(layers, f"Conv{n}D"): kernels.convolution for n in (1, 2, 3)},
    **{getattr(layers, f"DepthwiseConv{n}D"): kernels.convolution for n in (1, 2)},
    **{getattr(layers, f"SeparableConv{n}D"): kernels.separable for n in (1, 2)},
    **{getattr(layers, f"MaxPooling{n}D"): kernels.max_pooling for n in (1, 2, 3)},
    **{getattr(layers, f"AveragePooling{n}D"): kernels.average_pooling for n in (1, 2, 3)},
    **{getattr(layers, f"GlobalMaxPooling{n}D"): kernels.max_pooling for n in (1, 2, 3)},
    **{
        getattr(layers, f"GlobalAveragePooling{n}D"): kernels.global_average_pooling
        for n in (1, 2, 3)
    },
}
OPERATIONS = {"Add": identity, "Subtract": identity}  # `x + y` in a graph, by their class's name

# What a layer makes of its input in training, where that is more than what it makes else.
IN_TRAINING = {layers.BatchNormalization: batch_normalized}


def rule_of(layer):
    """The rule of a layer or operation, or None."""
    if isinstance(layer, keras.layers.Layer):
        return RULES.get(type(layer))
    return OPERATIONS.get(type(layer).__name__)


def register_rule(layer_class):
    """Return a decorator that makes a function the rule of a class of layers.

    Args:
        layer_class: A subclass of `keras.layers.Layer`, of whose own subclasses nothing is said.

    Example: a layer that doubles its input.

    >>> class Double(keras.layers.Layer):
    ...     def call(self, x):
    ...         return 2.0 * x
    >>> @tf_blocknorm.back_matching.register_rule(Double)
    ... def double(seen):
    ...     return tf_blocknorm.back_matching.Match(4.0)
    """

    def decorator(rule):
        RULES[layer_class] = rule
        return rule

    return decorator
