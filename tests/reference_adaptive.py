"""The adaptive rule in NumPy float64, written from Kolasinski's "Algorithm 1" and its options."""

import numpy as np
from reference import OPTIONS, normalized, pieces


def run(
    weights,
    gradients,
    rates,
    groups,
    decayed=(),
    draws=None,
    options=None,
    initial_rate=0.01,
    min_rate=1e-6,
    max_rate=0.5,
    rate_update=0.05,
    momentum=0.0,
    momentum_update=0.0,
    average=0.0,
    target_correlation=0.0,
    adapt="block",
    relative_floor=0.0,
    adapt_steps=None,
    report=None,
):
    """Weights after every step; arguments as for `reference.run`. `report` gets the rates."""
    o = {**OPTIONS, **(options or {})}
    weights = [np.array(w, float) for w in weights]
    blocks = list(pieces(groups, weights, o["block"]))
    inside = {i for group in groups for i in group}
    lr_b = np.full(len(blocks), initial_rate)
    m_b = np.full(len(blocks), momentum)
    v = [np.zeros_like(w) for w in weights]
    past = [np.zeros_like(w) for w in weights]
    history = []

    def flat(arrays, block):
        return np.concatenate([np.ravel(arrays[i][where]) for i, where in block])

    for t, (g, eta) in enumerate(zip(gradients, rates)):
        g = [None if x is None else np.array(x, float) for x in g]
        here = {i for i, x in enumerate(g) if x is not None}
        for i in decayed:
            weights[i] *= 1 - eta * o["weight_decay"]
        present = [[i for i in group if i in here] for group in groups]
        present = [group for group in present if group]
        parts = [[(i, where) for i, where in block if i in here] for block in blocks]

        for m, part in zip(m_b, parts):
            for i, where in part:
                v[i][where] = m * v[i][where] + g[i][where]
        step = normalized(v, weights, present, o)
        if o["noise"] and (t + 1) % o["noise_every"] == 0:
            noise = [
                o["noise"] * draws(t, i) if i in inside else 0.0 * w for i, w in enumerate(weights)
            ]
            noise = normalized(noise, weights, present, o, noise=True)
            step = [s + n for s, n in zip(step, noise)]
        for lr, part in zip(lr_b, parts):
            for i, where in part:
                weights[i][where] -= eta * lr * step[i][where]
        for i in here - inside:
            weights[i] -= eta * initial_rate * g[i]

        c, known, counts = np.zeros(len(blocks)), np.zeros(len(blocks), bool), []
        for b, part in enumerate(parts):
            counts.append(flat(weights, blocks[b]).size)
            if part:
                now, before = flat(g, part), flat(past, part)
                lengths = np.sqrt((now**2).sum()) * np.sqrt((before**2).sum())
                known[b] = lengths > 0
                c[b] = (now * before).sum() / lengths if known[b] else 0.0
        if adapt == "model":
            n = np.array(counts) * known
            c[:] = (n * c).sum() / n.sum() if known.any() else 0.0
            known[:] = known.any()
        left = 1.0 if adapt_steps is None else max(0.0, (adapt_steps - t) / adapt_steps)
        beta, gamma = left * rate_update, left * momentum_update
        lr_b = np.where(known, lr_b * (1 + beta * (c - target_correlation)), lr_b)
        lr_b = np.clip(lr_b, min_rate, max_rate)
        lr_b = np.maximum(lr_b, relative_floor * np.prod(lr_b) ** (1 / len(lr_b)))
        if momentum_update:
            m_b = np.clip(m_b * (1 - gamma) - gamma * c, 0.0, 1.0)
        for part in parts:
            if part:
                length = np.sqrt((flat(g, part) ** 2).sum())
                for i, where in part:
                    unit = g[i][where] / length if length > 0 else 0.0
                    past[i][where] = average * past[i][where] + (1 - average) * unit
        history.append([w.copy() for w in weights])
        if report is not None:
            report.append(lr_b.copy())
    return history
