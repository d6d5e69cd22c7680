"""What the rules cost on JAX and torch as bare formulas: how far down their updates can come.

    python -m benchmarks.floors [small | large] [--rounds 15] [--out FILE.md]

Written for one network: no blocks, exclusions or options, no Keras, and no look at whether squares
leave the range of floats. Beside each stands the fastest optimizer of the same rule from optax, or
from torch and its packages; plain SGD, momentum and Adam, which compute no norm.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import torch
from jax import numpy as jnp

from benchmarks import jax_, single_table, torch_
from benchmarks.contenders import RATE
from benchmarks.measure import quartiles, ratio, spread, turns
from benchmarks.models import PROBLEMS, gradients
from tf_blocknorm.norms import Block, fused_torch
from tf_blocknorm.optimizers.kernels.shared import parts

EPSILON = 1e-7


def _length(x):
    return jnp.sqrt(jnp.sum(x * x))


def _jax_momentum(w, m, g):
    m = 0.9 * m - RATE / _length(g) * g
    return w + m, m


def _jax_lars(w, m, g):
    m = 0.9 * m - 1e-3 * RATE * _length(w) / _length(g) * g
    return w + m, m


def _jax_adaptive(w, a, rate, g):
    inverse = 1.0 / _length(g)
    # Ordered, as XLA would copy the slot to be able to change it before it is read.
    inverse, product = jax.lax.optimization_barrier((inverse, jnp.sum(g * a)))
    rate, step = rate * (1.0 + 0.05 * inverse * product), rate / jnp.max(jnp.abs(g)) * g
    return w - step, inverse * g, rate


def _jax_adam(w, m, v, g):
    u = g / _length(g)
    m, v = 0.9 * m + 0.1 * u, 0.999 * v + 0.001 * u * u
    return w - RATE * m / (jnp.sqrt(v) + EPSILON), m, v


def _jax_novograd(w, m, g):
    m = 0.95 * m + g / _length(g)
    return w - RATE * m, m


def _jax_lamb(w, m, v, g):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    step = m / (jnp.sqrt(v) + EPSILON) + 0.01 * w
    return w - RATE * _length(w) / _length(step) * step, m, v


def _lengths(tensors, norm="l2"):
    return fused_torch.sizes([Block([x]) for x in tensors], norm)


def _step(ws, directions, rates):
    torch._foreach_addcmul_(ws, directions, rates.unbind(), value=-1)


def _adam(ws, gs, ms, vs, rate):
    """Weights minus the rate times Adam's step, whose averages nothing corrects (any more)."""
    torch._fused_adam_(
        ws,
        gs,
        ms,
        vs,
        [],
        [torch.tensor(1e9)] * len(ws),
        lr=rate,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.0,
        eps=EPSILON,
        amsgrad=False,
        maximize=False,
    )


def _torch_momentum(ws, ms, gs, factors=1.0):
    torch._foreach_mul_(ms, 0.9)
    _step(ms, gs, RATE * factors / _lengths(gs))
    torch._foreach_add_(ws, ms)


def _torch_adaptive(ws, directions, rates, gs):
    inverses = 1.0 / _lengths(gs)
    products = torch.stack([torch.dot(g.view(-1), a.view(-1)) for g, a in zip(gs, directions)])
    _step(ws, gs, rates / _lengths(gs, "max"))
    torch._foreach_copy_(directions, torch._foreach_mul(gs, inverses.unbind()))
    rates.mul_(1.0 + 0.05 * products * inverses)


def _torch_adam(ws, ms, vs, gs):
    units = torch._foreach_mul(gs, (1.0 / _lengths(gs)).unbind())
    _adam(ws, units, ms, vs, RATE)


def _torch_novograd(ws, ms, gs):
    torch._foreach_mul_(ms, 0.95)
    torch._foreach_addcmul_(ms, gs, (1.0 / _lengths(gs)).unbind())
    torch._foreach_add_(ws, ms, alpha=-RATE)


def _torch_lamb(ws, ms, vs, gs):
    steps = torch._foreach_mul(ws, 0.01)
    _adam(steps, gs, ms, vs, -1.0)
    _step(ws, steps, RATE * _lengths(ws) / _lengths(steps))


class Rule(NamedTuple):
    """One step, written for each backend.

    Attributes:
        peer: The rule of others that it is measured against.
        tensors, numbers: How many of its slots are tensors like the variable, and numbers.
        jax: Maps a variable, its slots and its gradient to new ones.
        torch: Changes lists of variables and of their slots in place.
    """

    peer: str
    tensors: int
    numbers: int
    jax: Callable
    torch: Callable


RULES = {
    "BlockNormSGD": Rule(
        "sgd",
        0,
        0,
        lambda w, g: (w - RATE / _length(g) * g,),
        lambda ws, gs: _step(ws, gs, RATE / _lengths(gs)),
    ),
    "BlockNormSGD, momentum": Rule("momentum", 1, 0, _jax_momentum, _torch_momentum),
    "LARS": Rule(
        "lars",
        1,
        0,
        _jax_lars,
        lambda ws, ms, gs: _torch_momentum(ws, ms, gs, 1e-3 * _lengths(ws)),
    ),
    "AdaptiveBlockNormSGD": Rule("momentum", 1, 1, _jax_adaptive, _torch_adaptive),
    "BlockNormAdam": Rule("adam", 2, 0, _jax_adam, _torch_adam),
    "NovoGrad": Rule("novograd", 1, 0, _jax_novograd, _torch_novograd),
    "LAMB": Rule("lamb", 2, 0, _jax_lamb, _torch_lamb),
}


class Jax:
    """One compiled step for all variables."""

    def __init__(self, arrays):
        self.gradients = [jnp.asarray(array) for array in arrays]

    def floor(self, name):
        """Return a function that makes one update, and returns the weights."""
        rule = RULES[name]
        slots = [
            [*[jnp.zeros_like(g)] * rule.tensors, *[jnp.float32(RATE)] * rule.numbers]
            for g in self.gradients
        ]

        def step(weights, slots, gradients):
            found = [rule.jax(w, *s, g) for w, s, g in zip(weights, slots, gradients)]
            return [w for w, *_ in found], [s for _, *s in found]

        return self._run(step, slots)

    def peers(self, rule):
        """Return functions that make one update, and None for what comes before."""
        return [(self._peer(make()), None) for _, other, make in jax_.PEERS if other == rule]

    def _peer(self, optimizer):
        return self._run(jax_.step_of(optimizer), optimizer.init(self.gradients))

    def _run(self, step, state):
        # Copies, as what is donated is gone, and some of it is there several times.
        held = list(jax.tree.map(jnp.copy, (self.gradients, state)))
        step = jax.jit(step, donate_argnums=(0, 1))

        def run():
            held[:] = step(*held, self.gradients)
            return jax.block_until_ready(held)[0]

        return run


class Torch:
    """Lists of all variables, or of as many as fit a cache."""

    def __init__(self, arrays):
        self.gradients = [torch.from_numpy(array) for array in arrays]

    def floor(self, name):
        """Return a function that makes one update, and returns the weights."""
        rule = RULES[name]
        weights = [g.clone() for g in self.gradients]
        slots = [[torch.zeros_like(g) for g in self.gradients] for _ in range(rule.tensors)]
        lists = [weights, *slots, self.gradients]
        sizes = [g.numel() for g in self.gradients]
        bundles = [list(map(list, zip(*part))) for part in parts(zip(*lists), sizes, 2**21)]
        rates = [torch.full((len(bundle[0]),), RATE) for bundle in bundles]

        def run():
            for bundle, rate in zip(bundles, rates):
                rule.torch(*bundle[:-1], *[rate] * rule.numbers, bundle[-1])
            return weights

        return run

    def peers(self, rule):
        """Return functions that make one update, and others for what comes before."""
        found = (*torch_.PEERS, *torch_.others())
        return [self._peer(make) for _, other, make in found if other == rule]

    def _peer(self, make):
        weights = [torch.nn.Parameter(g.clone()) for g in self.gradients]
        optimizer, before = torch_.over(make, weights, self.gradients)
        return optimizer.step, before


def cells(backend, name, rounds):
    """Return what a row says of one backend: milliseconds, and the ratio with its quartiles."""
    runs, before = {name: backend.floor(name)}, {}
    for index, (run, prepare) in enumerate(backend.peers(RULES[name].peer)):
        runs[index], before[index] = run, prepare
    times = turns(runs, rounds, seconds=60, before=before)
    own = times.pop(name)
    fastest = min(times.values(), key=lambda found: spread(found)["median"])
    found = ratio(own, fastest)
    return [
        f"{1e3 * spread(own)['median']:.3g}",
        f"{found['median']:.2f} {quartiles(found)}",
    ]


def main():
    """Measure and print."""
    arguments = single_table.parsed(__doc__, 15)
    shapes = [tuple(v.shape) for v in PROBLEMS[arguments.network].build().trainable_variables]
    arrays = list(gradients(shapes, np.random.default_rng(0)))
    header, rows = ["bare rule"], [[name] for name in RULES]
    for title, others, backend in (
        ("JAX", "optax", Jax(arrays)),
        ("torch", "fastest", Torch(arrays)),
    ):
        header += [f"{title}, ms", f"/ {others}"]
        with torch.no_grad():
            for row, name in zip(rows, RULES):
                row += cells(backend, name, arguments.rounds)
    single_table.show(header, rows, arguments.out)


if __name__ == "__main__":
    main()
