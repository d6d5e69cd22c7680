"""NovoGrad, LARS and LAMB in NumPy float64, written from their papers."""

import numpy as np
from reference import OPTIONS, pieces, size


def _run(step, weights, gradients, rates, groups, decayed, options):
    """Weights after every step; arguments as for `reference.run`.

    `step(t, here, g, w, blocks, decay, lr, measure)` changes the list `w` in place; `blocks` are
    lists of (variable, selector) with what has a gradient.
    """
    o = {**OPTIONS, **(options or {})}
    w = [np.array(x, float) for x in weights]
    all_blocks = list(pieces(groups, w, o["block"]))
    decay = [(o["weight_decay"] or 0.0) if i in decayed else 0.0 for i in range(len(w))]
    history, average = [], None
    for t, (g, lr) in enumerate(zip(gradients, rates), start=1):
        g = [None if x is None else np.array(x, float) for x in g]
        here = [i for i, x in enumerate(g) if x is not None]
        if o["clipnorm"]:
            for i in here:
                g[i] = g[i] * min(1.0, o["clipnorm"] / max(np.sqrt((g[i] ** 2).sum()), 1e-300))
        blocks = {}
        for b, block in enumerate(all_blocks):
            part = [(i, where) for i, where in block if i in here]
            if part:
                blocks[b] = part

        def measure(arrays, part):
            return size(np.concatenate([np.ravel(arrays[i][at]) for i, at in part]), o["norm"])

        step(t, here, g, w, blocks, decay, lr, measure)
        if o["ema_momentum"] is not None:
            m = o["ema_momentum"] if t > 1 else 0.0
            average = [
                x if average is None else m * a + (1 - m) * x for x, a in zip(w, average or w)
            ]
        history.append([np.array(x) for x in w])
    if average is not None:
        history.append(average)
    return history


def novograd(
    weights,
    gradients,
    rates,
    groups,
    decayed=(),
    draws=None,
    options=None,
    beta_1=0.95,
    beta_2=0.98,
    epsilon=1e-8,
    grad_averaging=False,
    amsgrad=False,
    epsilon_inside=False,
    learning_rate_inside=False,
):
    """Ginsburg et al. 2019; v is the second moment, as in the paper."""
    v, top, m = {}, {}, [0.0 for _ in weights]

    def step(t, here, g, w, blocks, decay, lr, measure):
        u = [None if x is None else np.array(x) for x in g]
        for b, part in blocks.items():
            s = measure(g, part) ** 2
            v[b] = s if v.get(b, 0.0) == 0.0 else beta_2 * v[b] + (1 - beta_2) * s
            top[b] = max(top.get(b, 0.0), v[b])
            second = top[b] if amsgrad else v[b]
            below = np.sqrt(second + epsilon) if epsilon_inside else np.sqrt(second) + epsilon
            for i, at in part:
                u[i][at] = g[i][at] / below if s > 0 else 0.0
        for i in here:
            x = u[i] + decay[i] * w[i]
            if grad_averaging is True or (grad_averaging and t > 1):
                x = (1 - beta_1) * x
            if learning_rate_inside:
                m[i] = beta_1 * m[i] + lr * x
                w[i] = w[i] - m[i]
            else:
                m[i] = beta_1 * m[i] + x
                w[i] = w[i] - lr * m[i]

    return _run(step, weights, gradients, rates, groups, decayed, options)


def lars(
    weights,
    gradients,
    rates,
    groups,
    decayed=(),
    draws=None,
    options=None,
    momentum=0.9,
    nesterov=False,
    trust_coefficient=1e-3,
    epsilon=0.0,
    larc=False,
    joint_norm=False,
    learning_rate_inside=True,
    classic_momentum=True,
):
    """You, Gitman, Ginsburg 2017; `classic_momentum=False` is that of tf-models."""
    m = [0.0 for _ in weights]

    def ratio(arrays, w, part, lam, lr, measure):
        a, b = measure(w, part), measure(arrays, part)
        if a == 0 or b == 0:
            return 1.0
        local = trust_coefficient * a / (b + lam * a + epsilon)
        return min(local / lr, 1.0) if larc else local

    def step(t, here, g, w, blocks, decay, lr, measure):
        d = [None if x is None else np.array(x + decay[i] * w[i]) for i, x in enumerate(g)]
        if classic_momentum:
            scaled = [None if x is None else np.array(x) for x in d]
            for part in blocks.values():
                lam = 0.0 if joint_norm else max(decay[i] for i, _ in part)
                r = ratio(d if joint_norm else g, w, part, lam, lr, measure)
                for i, at in part:
                    scaled[i][at] = r * d[i][at]
            d = scaled
        inside = lr if learning_rate_inside and classic_momentum else 1.0
        steps = [None for _ in w]
        for i in here:
            x = inside * d[i]
            m[i] = momentum * m[i] + x
            steps[i] = np.array(momentum * m[i] + x if nesterov else m[i])
        if not classic_momentum:
            plain = [None if x is None else np.array(x) for x in steps]
            for part in blocks.values():
                r = ratio(plain, w, part, 0.0, lr, measure)
                for i, at in part:
                    steps[i][at] = r * plain[i][at]
        for i in here:
            w[i] = w[i] - (lr / inside) * steps[i]

    return _run(step, weights, gradients, rates, groups, decayed, options)


def lamb(
    weights,
    gradients,
    rates,
    groups,
    decayed=(),
    draws=None,
    options=None,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-6,
    trust_clip=None,
    phi_bounds=None,
    bias_correction=True,
):
    """You et al. 2019, algorithm 2; `trust_clip` as in Fong, Chen, Chen 2020."""
    m, v = [0.0 for _ in weights], [0.0 for _ in weights]

    def step(t, here, g, w, blocks, decay, lr, measure):
        u = [None for _ in w]
        for i in here:
            m[i] = beta_1 * m[i] + (1 - beta_1) * g[i]
            v[i] = beta_2 * v[i] + (1 - beta_2) * g[i] ** 2
            c1, c2 = (1 - beta_1**t, 1 - beta_2**t) if bias_correction else (1.0, 1.0)
            u[i] = m[i] / c1 / (np.sqrt(v[i] / c2) + epsilon) + decay[i] * w[i]
        trusted = [None if x is None else np.array(x) for x in u]
        for part in blocks.values():
            a, b = measure(w, part), measure(u, part)
            r = 1.0
            if a > 0 and b > 0:
                low, high = phi_bounds or (0.0, np.inf)
                r = min(max(a, low), high) / b
                low, high = trust_clip or (0.0, np.inf)
                r = min(max(r, low), high)
            for i, at in part:
                trusted[i][at] = r * u[i][at]
        for i in here:
            w[i] = w[i] - lr * trusted[i]

    return _run(step, weights, gradients, rates, groups, decayed, options)
