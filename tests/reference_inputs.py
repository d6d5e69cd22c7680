"""Input-normalised SGD in NumPy float64, written from its description and not from our code."""

import itertools

import numpy as np

# ------------------------------------------------------------------------- what linear layers do
# For one sample: from an input and a kernel to an output, without a bias.


def dense(x, w):
    return x @ w


def convolution(x, w, groups=1):
    """Pixels on any number of axes, stride 1, only where the kernel fits."""
    size, (inside, outside) = w.shape[:-2], w.shape[-2:]
    result = np.zeros((*(n - k + 1 for n, k in zip(x.shape, size)), outside))
    for at in itertools.product(*map(range, result.shape[:-1])):
        window = x[tuple(slice(a, a + k) for a, k in zip(at, size))]
        for o in range(outside):
            first = (o // (outside // groups)) * inside
            result[(*at, o)] = (window[..., first : first + inside] * w[..., o]).sum()
    return result


def depthwise(x, w):
    channels, multiplier = w.shape[-2:]
    each = [
        convolution(x[..., c : c + 1], w[..., c : c + 1, m : m + 1])
        for c in range(channels)
        for m in range(multiplier)
    ]
    return np.concatenate(each, axis=-1)


def transposed(x, w):
    length, outside = w.shape[:2]
    result = np.zeros((len(x) + length - 1, outside))
    for t, k in itertools.product(range(len(x)), range(length)):
        result[t + k] += w[k] @ x[t]
    return result


def by_position(x, w):
    """A kernel of its own for each row of the input."""
    return np.stack([row @ kernel for row, kernel in zip(x, w)])


def gradient(layer, x, w_shape, upstream):
    """Of the sum of outputs times `upstream` by the kernel: the layer is linear in it."""
    result = np.zeros(w_shape)
    for at in np.ndindex(*w_shape):
        unit = np.zeros(w_shape)
        unit[at] = 1.0
        result[at] = (layer(x, unit) * upstream).sum()
    return result


# ------------------------------------------------------------------------------------------ powers


def standardized(values):
    """Of one map or vector."""
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return (values - values.mean()) / max(deviation, 0.01)


def power(values, norm):
    """Of what one sample has in one channel, or of all its features."""
    if norm.startswith("standardized"):
        values = standardized(values)
    return (np.abs(values) if norm.endswith("l1") else values**2).sum()


def per_channel(x, norm):
    """Of one sample, for each channel (the last axis) over all pixels."""
    return np.array([power(x[..., c].ravel(), norm) for c in range(x.shape[-1])])


def whole(x, norm):
    return power(np.ravel(x), norm) + (0.1 if norm.startswith("standardized") else 0.0)


def per_position(x, norm):
    return np.array([whole(row, norm) for row in x])


# ----------------------------------------------------------------------------------------- the rule


def divisor(p, log=True, floor=1.0, epsilon=1e-6):
    return np.maximum(np.log(np.maximum(p, 1e-300)), floor) if log else p + epsilon


def insgd(
    weights,
    gradients,
    powers,
    rates,
    decayed=(),
    momentum=0.9,
    nesterov=False,
    weight_decay=None,
    input_momentum=0.9,
    log=True,
    floor=1.0,
    epsilon=1e-6,
    gain=1.0,
    normalize="update",
    clipnorm=None,
    ema_momentum=None,
):
    """Weights after every step.

    Args:
        weights: list of arrays.
        gradients: for every step a list of arrays.
        powers: for every step a list of arrays that broadcast against the weights, or None.
        rates: learning rate of every step.
        decayed: indices of the variables with weight decay.
    """
    if gain == "code":
        gain = np.sqrt(1 + 1e-6) / (np.sqrt(1 - momentum) + 1e-6)
    w = [np.array(x, float) for x in weights]
    m, average, history, ema = [0.0] * len(w), [None] * len(w), [], None
    for t, (gs, ss, lr) in enumerate(zip(gradients, powers, rates)):
        for i, (g, s) in enumerate(zip(gs, ss)):
            if clipnorm:
                g = g * min(1.0, clipnorm / max(np.sqrt((g**2).sum()), 1e-300))
            factor = 1.0
            if s is not None:
                old = s if average[i] is None else average[i]
                average[i] = input_momentum * old + (1 - input_momentum) * s
                factor = gain / divisor(average[i], log, floor, epsilon)
            if normalize == "gradient":
                g = factor * g
            d = g + ((weight_decay or 0.0) if i in decayed else 0.0) * w[i]
            m[i] = momentum * m[i] + d
            d = momentum * m[i] + d if nesterov else m[i]
            w[i] = w[i] - lr * (factor * d if normalize == "update" else d)
        if ema_momentum is not None:
            keep = ema_momentum if t else 0.0
            ema = [keep * a + (1 - keep) * x for a, x in zip(ema or w, w)]
        history.append([np.array(x) for x in w])
    if ema is not None:
        history.append(ema)
    return history
