"""Back-matching in NumPy float64, as its specification derives it: nothing of ours is imported.

A network is a list `[W1, b1, W2, b2, …]` of dense layers with ReLUs between them; the loss is the
mean over the samples of half the squared distance.
"""

import numpy as np


def forward(weights, x):
    """Inputs and pre-activations of each layer."""
    inputs, outputs = [], []
    for layer in range(0, len(weights), 2):
        inputs.append(x)
        outputs.append(x @ weights[layer] + weights[layer + 1])
        x = np.maximum(outputs[-1], 0.0)
    return inputs, outputs


def gradients(weights, x, y):
    inputs, outputs = forward(weights, x)
    delta = (outputs[-1] - y) / len(x)
    result = []
    for layer in reversed(range(len(inputs))):
        result = [inputs[layer].T @ delta, delta.sum(axis=0), *result]
        if layer:
            delta = delta @ weights[2 * layer].T * (outputs[layer - 1] > 0)
    return result


def curvatures(weights, x=None, rank="in", relu="active"):
    """m times M of every variable, from the output down; static without x."""
    layers = len(weights) // 2
    if x is None:
        squares, active = [1.0] * layers, [0.5] * layers
    else:
        inputs, outputs = forward(weights, x)
        squares = [np.mean(z * z) for z in inputs]
        active = [np.mean(z > 0) for z in outputs]
    result, above = [], 1.0
    for layer in reversed(range(layers)):
        if layer < layers - 1 and relu == "active":
            above *= active[layer]
        result = [squares[layer] * above, above, *result]
        W = weights[2 * layer]
        above *= (W * W).sum() / (min(W.shape) if rank == "min" else W.shape[0])
    return result


def multipliers(weights, curvatures, normalize="mean", bounds=(1e-3, 1e3)):
    scale = 1.0
    if normalize == "mean":
        every = np.concatenate([np.full(w.size, np.log(c)) for w, c in zip(weights, curvatures)])
        scale = np.exp(every.mean())
    rates = np.array([scale / c for c in curvatures])
    return rates if bounds is None else np.clip(rates, *bounds)


def train(
    weights,
    batches,
    learning_rate,
    inputs=None,
    update_freq=100,
    rank="in",
    relu="active",
    normalize="mean",
    bounds=(1e-3, 1e3),
    momentum=0.0,
    nesterov=False,
    weight_decay=0.0,
    clipnorm=None,
    epoch=None,
):
    """Weights after all batches, and the last multipliers; `epoch` is the batches of one."""
    w = [np.array(x, float) for x in weights]
    v = [np.zeros_like(x) for x in w]
    for step, (x, y) in enumerate(batches):
        every = epoch if update_freq == "epoch" else update_freq or len(batches)
        if step % every == 0:
            r = multipliers(w, curvatures(w, inputs, rank, relu), normalize, bounds)
        g = gradients(w, x, y)
        for i in range(len(w)):
            if clipnorm:
                g[i] = g[i] * min(1.0, clipnorm / np.linalg.norm(g[i]))
            w[i] = w[i] * (1 - learning_rate * weight_decay)
            step_ = learning_rate * r[i] * g[i]
            v[i] = momentum * v[i] - step_
            w[i] = w[i] + (momentum * v[i] - step_ if nesterov else v[i])
    return w, r


# ------------------------------------------------------------------------------------ convolutions


def patches(x, k, stride, padding):
    """What each window of k by k sees: shape (samples, positions, k, k, channels)."""
    height, width = x.shape[1:3]
    if padding == "same":  # as TensorFlow pads: the odd one at the end
        pads = []
        for size in (height, width):
            total = max((-(-size // stride) - 1) * stride + k - size, 0)
            pads.append((total // 2, total - total // 2))
        x = np.pad(x, ((0, 0), *pads, (0, 0)))
    rows = range(0, x.shape[1] - k + 1, stride)
    columns = range(0, x.shape[2] - k + 1, stride)
    return np.stack([x[:, i : i + k, j : j + k] for i in rows for j in columns], axis=1)


def convolution(x, kernel, stride, padding, rank):
    """The scalars of kernel, bias and input."""
    k, channels, filters = kernel.shape[0], kernel.shape[2], kernel.shape[3]
    u = patches(x, k, stride, padding)
    image = np.ones((1, *x.shape[1:3], 1))
    counts = patches(image, k, stride, padding)[0, ..., 0].sum(axis=0)
    positions, pixels = u.shape[1], x[0].size
    d = min(pixels, positions * filters) if rank == "min" else pixels
    of_kernel = (u**2).sum() / (len(x) * k * k * channels)
    return of_kernel, positions, (kernel**2 * counts[:, :, None, None]).sum() / d


def jacobian(function, shape):
    """Of a function that is linear up to a constant, by what it makes of every unit vector."""
    size = int(np.prod(shape))
    units = np.eye(size).reshape(size, *shape)
    zero = np.asarray(function(np.zeros((1, *shape))), float)
    return (np.asarray(function(units), float) - zero).reshape(size, -1).T


def average_eigenvalue(jacobian, rank):
    outputs, inputs = jacobian.shape
    return (jacobian**2).sum() / (min(inputs, outputs) if rank == "min" else inputs)
