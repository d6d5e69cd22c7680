"""The rules in NumPy float64, written from the papers. Nothing of the package is imported here.

`run` takes lists of arrays and plain options and returns the weights after every step.
"""

import numpy as np

# ---------------------------------------------------------------------------------------- norms


def size(entries, norm):
    """Size of one block, given as a flat array."""
    a = np.abs(entries)
    if norm == "l1":
        return a.sum()
    if norm == "l2":
        return np.sqrt((a * a).sum())
    if norm in ("rms", "avg_l2"):
        return np.sqrt((a * a).sum() / a.size)
    if norm == "avg_l1":
        return a.sum() / a.size
    if norm == "max":
        return a.max()
    if norm == "min_max":
        return (abs(entries.max()) + abs(entries.min())) / 2
    if norm == "std":
        spread = np.sqrt(((entries - entries.sum() / a.size) ** 2).sum() / a.size)
        root = np.sqrt((a * a).sum() / a.size)
        return spread if spread > 1e-6 * root else root
    if norm == "l3":
        return (a**3).sum() ** (1 / 3)
    raise KeyError(norm)


def floor_size(count, norm, magnitude):
    return magnitude * {"l1": count, "l2": np.sqrt(count)}.get(norm, 1.0)


def pieces(groups, arrays, block):
    """Index sets (variable, selector) of every block: what is measured together."""
    if block == "unit":
        for (i,) in groups:
            if arrays[i].ndim < 2:
                yield [(i, ...)]
            else:
                for j in range(arrays[i].shape[-1]):
                    yield [(i, (..., j))]
    else:
        for group in groups:
            yield [(i, ...) for i in group]


def normalized(arrays, weights, groups, o, noise=None):
    """Every block at its length; `noise` is brought to that length and not normalised."""
    result = [None if a is None else np.array(a, float) for a in arrays]
    for piece in pieces(groups, weights, o["block"]):
        flat = np.concatenate([np.ravel(arrays[i][s]) for i, s in piece])
        length = 1.0
        if o["scale"] == "parameter":
            w = np.concatenate([np.ravel(weights[i][s]) for i, s in piece])
            length = max(size(w, o["norm"]), floor_size(w.size, o["norm"], o["scale_floor"]))
        n = size(flat, o["norm"]) + o["norm_epsilon"]
        for i, s in piece:
            if noise is not None:
                result[i][s] = arrays[i][s] * length
            else:
                result[i][s] = arrays[i][s] * length / n if n > 0 else 0.0
    return result


# ---------------------------------------------------------------------------------------- rules
# Each takes (gradient, state dict of this variable, step t = 1, 2, …, options) and returns what
# is subtracted from the variable at learning rate `lr`.


def sgd(g, s, t, lr, momentum=0.0, nesterov=False):
    if momentum == 0:
        return lr * g
    s["v"] = momentum * s.get("v", 0.0) - lr * g
    return lr * g - momentum * s["v"] if nesterov else -s["v"]


def adam(g, s, t, lr, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False):
    s["m"] = beta_1 * s.get("m", 0.0) + (1 - beta_1) * g
    s["v"] = beta_2 * s.get("v", 0.0) + (1 - beta_2) * g**2
    s["top"] = np.maximum(s.get("top", 0.0), s["v"])
    v = s["top"] if amsgrad else s["v"]
    # Keras's order: the correction of v multiplies, so that epsilon stands beside the raw root.
    return lr * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * s["m"] / (np.sqrt(v) + epsilon)


def nadam(g, s, t, lr, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    def mu(k):
        return beta_1 * (1 - 0.5 * 0.96**k)

    product = np.prod([mu(k) for k in range(1, t + 1)])
    s["m"] = beta_1 * s.get("m", 0.0) + (1 - beta_1) * g
    s["v"] = beta_2 * s.get("v", 0.0) + (1 - beta_2) * g**2
    m = mu(t + 1) * s["m"] / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
    return lr * m / (np.sqrt(s["v"] / (1 - beta_2**t)) + epsilon)


def adagrad(g, s, t, lr, initial_accumulator_value=0.1, epsilon=1e-7):
    s["a"] = s.get("a", initial_accumulator_value) + g**2
    return lr * g / np.sqrt(s["a"] + epsilon)


def rmsprop(g, s, t, lr, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False):
    s["v"] = rho * s.get("v", 0.0) + (1 - rho) * g**2
    s["mean"] = rho * s.get("mean", 0.0) + (1 - rho) * g
    variance = s["v"] - s["mean"] ** 2 if centered else s["v"]
    step = lr * g / np.sqrt(variance + epsilon)
    if momentum > 0:
        step = s["step"] = momentum * s.get("step", 0.0) + step
    return step


def lion(g, s, t, lr, beta_1=0.9, beta_2=0.99):
    m = s.get("m", 0.0)
    s["m"] = beta_2 * m + (1 - beta_2) * g
    return lr * np.sign(beta_1 * m + (1 - beta_1) * g)


def adamax(g, s, t, lr, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    s["m"] = beta_1 * s.get("m", 0.0) + (1 - beta_1) * g
    s["u"] = np.maximum(beta_2 * s.get("u", 0.0), np.abs(g))
    return lr / (1 - beta_1**t) * s["m"] / (s["u"] + epsilon)


def muon(
    g,
    s,
    t,
    lr,
    momentum=0.95,
    nesterov=True,
    ns_steps=5,
    rms_rate=0.2,
    adam_lr_ratio=1.0,
    adam_beta_1=0.9,
    adam_beta_2=0.999,
    epsilon=1e-7,
    flatten=False,
):
    shape = np.shape(g)
    if flatten and len(shape) > 2:
        g = np.stack([g[..., i].ravel() for i in range(shape[-1])], axis=1)
    if np.ndim(g) != 2:
        return adam(g, s, t, lr * adam_lr_ratio, adam_beta_1, adam_beta_2, epsilon)
    s["m"] = momentum * s.get("m", 0.0) + g
    left, values, right = np.linalg.svd(g + momentum * s["m"] if nesterov else s["m"])
    values = values / np.sqrt((values**2).sum())
    for _ in range(ns_steps):  # which leaves the singular vectors alone
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    k = len(values)
    scale = 1.0 if rms_rate is None else rms_rate * np.sqrt(max(g.shape))
    step = lr * scale * (left[:, :k] * values) @ right[:k]
    return np.stack([step[:, i].reshape(shape[:-1]) for i in range(shape[-1])], axis=-1)


RULES = {
    "sgd": sgd,
    "adam": adam,
    "nadam": nadam,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "lion": lion,
    "adamax": adamax,
    "muon": muon,
}

# ---------------------------------------------------------------------------------------- a run

OPTIONS = {
    "norm": "l2",
    "block": "variable",
    "norm_epsilon": 0.0,
    "scale": None,
    "scale_floor": 1e-3,
    "normalize": "gradient",
    "noise": 0.0,
    "noise_every": 1,
    "weight_decay": 0.0,
    "clipvalue": None,
    "clipnorm": None,
    "ema_momentum": None,
}


def run(
    rule, weights, gradients, rates, groups, decayed=(), draws=None, options=None, **rule_options
):
    """Weights after every step.

    Args:
        rule: key of `RULES`.
        weights: list of arrays.
        gradients: one list of arrays (None where there is no gradient) per step.
        rates: one learning rate per step.
        groups: lists of indices of the variables that are normalised together; the rest is not.
        decayed: indices of the variables that decay.
        draws: for noise, `draws(step, i)` is the noise of variable i in a step counted from 0.
        options: see `OPTIONS`.
        rule_options: arguments of the rule.

    Returns:
        A list of lists of arrays, one per step. Last, for an average of the weights, that average.
    """
    o = {**OPTIONS, **(options or {})}
    weights = [np.array(w, float) for w in weights]
    states = [{} for _ in weights]
    inside = [i for group in groups for i in group]
    history, average = [], None
    for t, (g, lr) in enumerate(zip(gradients, rates), start=1):
        g = [None if x is None else np.array(x, float) for x in g]
        here = [i for i, x in enumerate(g) if x is not None]
        present = [[i for i in group if i in here] for group in groups]
        present = [group for group in present if group]
        for i in here:
            if o["clipvalue"]:
                g[i] = np.clip(g[i], -o["clipvalue"], o["clipvalue"])
            if o["clipnorm"]:
                g[i] = g[i] * min(1.0, o["clipnorm"] / max(np.sqrt((g[i] ** 2).sum()), 1e-300))
        for i in decayed:
            if i in here:
                weights[i] = weights[i] * (1 - lr * o["weight_decay"])
        rule_here = RULES[rule]
        if o["normalize"] == "gradient":
            g = normalized(g, weights, present, o)
            steps = [
                None if x is None else rule_here(x, s, t, lr, **rule_options)
                for x, s in zip(g, states)
            ]
        else:
            steps = [
                None
                if x is None
                else rule_here(x, s, t, 1.0 if i in inside else lr, **rule_options)
                for i, (x, s) in enumerate(zip(g, states))
            ]
            units = normalized(steps, weights, present, o)
            steps = [
                lr * u if i in inside and u is not None else s
                for i, (u, s) in enumerate(zip(units, steps))
            ]
        if o["noise"] and t % o["noise_every"] == 0:
            # In gradient mode Keras's rule has already moved the variable when the noise comes.
            base = weights
            if o["normalize"] == "gradient":
                base = [w if s is None else w - s for w, s in zip(weights, steps)]
            noise = [o["noise"] * draws(t - 1, i) for i in range(len(weights))]
            noise = normalized(noise, base, present, o, noise=True)
            steps = [
                s + lr * noise[i] if i in inside and i in here else s for i, s in enumerate(steps)
            ]
        weights = [w if s is None else w - s for w, s in zip(weights, steps)]
        if o["ema_momentum"] is not None:
            m = o["ema_momentum"] if t > 1 else 0.0
            average = [
                w if average is None else m * a + (1 - m) * w
                for w, a in zip(weights, average or weights)
            ]
        history.append([w.copy() for w in weights])
    if average is not None:
        history.append(average)
    return history
