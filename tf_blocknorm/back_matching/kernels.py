r"""The rules of layers that multiply by a kernel, and of pooling, which does so with a fixed one.

With the squared entries of a layer's Jacobians summed over what it has (their trace) and divided
by the number of columns (their average eigenvalue), a kernel $W$ that sees patches $u$ at $P$
positions has

$$m_W = \frac{1}{B \cdot \mathrm{rows}} \sum_{\text{samples, positions}} \lVert u \rVert^2, \qquad
m_b = P, \qquad m_z = \frac{1}{d} \sum_{\text{taps } t} n_t \lVert W_t \rVert^2$$

where a tap is one place of the window, $n_t$ the number of positions at which it lies within the
image, and $d$ the number of inputs or, with `rank="min"`, of outputs if those are fewer.
"""

import dataclasses
import math
import types

from keras import ops

from tf_blocknorm.back_matching.seen import Match, number, precise


def dense(seen):
    """A window of one tap that sees the last axis, at all positions of the others."""
    layer, positions = seen.layer, math.prod(seen.shape[:-1])
    slope = seen.slope(layer.activation)
    energy = number(ops.sum(seen.squares())) / (seen.batch * seen.shape[-1])
    variables = [(layer.kernel, slope * energy)]
    if layer.use_bias:
        variables.append((layer.bias, slope * positions))
    trace = positions * number(ops.sum(ops.square(precise(layer.kernel))))
    return Match(slope * seen.average(trace), variables)


def convolution(seen):
    """Also by depth, where a channel of the input has filters of its own."""
    layer = seen.layer
    taps = math.prod(layer.kernel_size)
    slope = seen.slope(layer.activation)
    squares = channels_last(layer, seen.squares())
    energy = number(ops.sum(windows(layer, squares))) / (seen.batch * taps * squares.shape[-1])
    image = ops.ones((1, *squares.shape[1:-1], 1), squares.dtype)
    each = ops.reshape(ops.eye(taps, dtype=squares.dtype), (*layer.kernel_size, 1, taps))
    seen_by = windows(layer, image, each)
    counts = ops.sum(ops.reshape(seen_by, (-1, taps)), axis=0)
    lengths = ops.sum(ops.square(precise(layer.kernel)), axis=(-2, -1))
    lengths = ops.cast(ops.reshape(lengths, (taps,)), counts.dtype)
    trace = number(ops.sum(lengths * counts))
    variables = [(layer.kernel, slope * energy)]
    if layer.use_bias:
        variables.append((layer.bias, slope * math.prod(seen_by.shape[1:-1])))
    return Match(slope * seen.average(trace), variables)


def separable(seen):
    """A convolution by depth, then one of single pixels."""
    layer, channel = seen.layer, -1 if seen.layer.data_format == "channels_last" else 0
    between = list(seen.output_shape)
    between[channel] = layer.pointwise_kernel.shape[-2]
    where = {name: getattr(layer, name) for name in ("strides", "padding", "dilation_rate")}
    first = types.SimpleNamespace(
        kernel=layer.depthwise_kernel,
        kernel_size=layer.kernel_size,
        data_format=layer.data_format,
        use_bias=False,
        activation=None,
        **where,
    )
    second = types.SimpleNamespace(
        kernel=layer.pointwise_kernel,
        kernel_size=(1,) * layer.rank,
        data_format=layer.data_format,
        use_bias=layer.use_bias,
        bias=layer.bias,
        activation=layer.activation,
        strides=1,
        padding="valid",
    )
    inputs = None
    if seen.inputs is not None:
        x, kernel = precise(seen.inputs[0]), precise(layer.depthwise_kernel)
        inputs = [ops.depthwise_conv(x, kernel, data_format=layer.data_format, **where)]
    shape = (tuple(between),)
    above = convolution(dataclasses.replace(seen, layer=second, shapes=shape, inputs=inputs))
    below = convolution(dataclasses.replace(seen, layer=first, output_shapes=shape))
    own = [(variable, m * above.inputs) for variable, m in below.variables]
    return Match(below.inputs * above.inputs, own + above.variables)


def embedding(seen):
    """The rows that occur share the tokens; nothing can be matched below."""
    layer, tokens = seen.layer, math.prod(seen.shape)
    rows = layer.input_dim
    if seen.inputs is not None:
        rows = len(set(ops.convert_to_numpy(seen.inputs[0]).ravel().tolist()))
    return Match(0.0, [(layer.embeddings, tokens / rows)])


def max_pooling(seen):
    """Every output is one of the inputs."""
    return Match(seen.average(math.prod(seen.output_shape)))


def average_pooling(seen):
    """Every output is the mean of what its window covers."""
    layer = seen.layer
    channels = seen.shape[-1 if layer.data_format == "channels_last" else 0]
    image = channels_last(layer, ops.ones((1, *seen.shape)))[..., :1]
    return Match(seen.average(channels * number(ops.sum(1.0 / windows(layer, image)))))


def global_average_pooling(seen):
    """Every output is the mean of a channel."""
    outputs = math.prod(seen.output_shape)
    return Match(seen.average(outputs**2 / math.prod(seen.shape)))


def channels_last(layer, x):
    """The tensor with its channels at the end."""
    return x if layer.data_format == "channels_last" else ops.moveaxis(x, 1, -1)


def windows(layer, x, kernel=None):
    """What the windows of a layer make of x, summed over its channels: by default their sums.

    Args:
        layer: with convolution or pooling.
        x: tensor of shape `(batch, *image, channels)`.
        kernel: of shape `(*window, 1, outputs)`.
    """
    size = getattr(layer, "kernel_size", None) or layer.pool_size
    dilation = getattr(layer, "dilation_rate", 1)
    x, padding = ops.sum(x, axis=-1, keepdims=True), layer.padding
    if padding == "causal":
        (length,), (spread,) = layer.kernel_size, layer.dilation_rate
        x, padding = ops.pad(x, ((0, 0), ((length - 1) * spread, 0), (0, 0))), "valid"
    if kernel is None:
        kernel = ops.ones((*size, 1, 1), x.dtype)
    strides = layer.strides if isinstance(layer.strides, int) else tuple(layer.strides)
    return ops.conv(x, kernel, strides, padding, "channels_last", dilation)
