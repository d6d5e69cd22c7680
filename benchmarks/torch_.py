"""How optimizers are run on torch: Keras's forms, torch's own fused ones, and others' packages."""

import contextlib
import functools
import gc
import importlib

import keras
import numpy as np
import torch

from benchmarks.contenders import RATE
from benchmarks.measure import timed
from benchmarks.models import gradients
from benchmarks.prepared import Prepared

LONG = 0.05  # seconds
# A label, a rule, and the function that makes it from parameters.
PEERS = (
    ("torch foreach", "sgd", lambda p: torch.optim.SGD(p, RATE, foreach=True)),
    ("torch fused", "sgd", lambda p: torch.optim.SGD(p, RATE, fused=True)),
    ("torch foreach", "momentum", lambda p: torch.optim.SGD(p, RATE, 0.9, foreach=True)),
    ("torch fused", "momentum", lambda p: torch.optim.SGD(p, RATE, 0.9, fused=True)),
    ("torch foreach", "adam", lambda p: torch.optim.Adam(p, RATE, foreach=True)),
    ("torch fused", "adam", lambda p: torch.optim.Adam(p, RATE, fused=True)),
    ("torch foreach", "adamw", lambda p: torch.optim.AdamW(p, RATE, foreach=True)),
    ("torch fused", "adamw", lambda p: torch.optim.AdamW(p, RATE, fused=True)),
)
# Those of these that are installed; they call the classes alike.
PACKAGES = ("pytorch_optimizer", "torch_optimizer")
CLASSES = (("novograd", "NovoGrad", {}), ("lars", "LARS", {"momentum": 0.9}), ("lamb", "Lamb", {}))


def others():
    """Return name, rule and a function of the weights that makes it, of all that others have."""
    found = []
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            package = importlib.import_module(name)
            found += [
                (name, rule, functools.partial(getattr(package, cls), lr=RATE, **options))
                for rule, cls, options in CLASSES
            ]
    return found


def over(make, weights, gradients):
    """Return the optimizer that `make` makes of these weights, and what comes before its steps.

    That gives the weights copies of these gradients, anew each time: some of the packages write
    into gradients, which in a row of steps end as zeros, or too small for a processor to be fast.
    """
    own = [torch.empty_like(gradient) for gradient in gradients]

    def before():
        torch._foreach_copy_(own, gradients)
        for weight, gradient in zip(weights, own):
            weight.grad = gradient

    return make(weights), before


class Runner:
    """One network, its weights shared by all who move them, without a graph."""

    def __init__(self, problem, jit_compile):
        if jit_compile:
            raise ValueError("On torch nothing is compiled. Received: jit_compile=True")
        keras.utils.set_random_seed(0)
        self.variables = problem.build().trainable_variables
        self.shapes = [tuple(v.shape) for v in self.variables]
        rng = np.random.default_rng(0)
        self._gradients = [torch.from_numpy(g) for g in gradients(self.shapes, rng)]

    def update(self, make, steps):
        """Prepare `steps` updates by an optimizer of Keras."""
        optimizer = make()
        optimizer.build(self.variables)

        def step():
            with torch.no_grad():
                optimizer.apply(self._gradients, self.variables)

        return _prepared(step, steps, lambda: [v.value for v in optimizer.variables])

    def peers(self):
        """Return name, rule and a function of `steps` that prepares it, for each of torch's."""

        def preparing(make):
            def prepare(steps):
                weights = [v.value for v in self.variables]
                optimizer, before = over(make, weights, self._gradients)
                before()

                def state():
                    values = [x for slots in optimizer.state.values() for x in slots.values()]
                    return [x for x in values if isinstance(x, torch.Tensor)]

                return _prepared(optimizer.step, steps, state, before)

            return prepare

        found = (*PEERS, *others())
        return [(f"{name} {rule}", rule, preparing(make)) for name, rule, make in found]

    def forget(self):
        """Let go of what the family before has left."""
        gc.collect()


def _prepared(step, steps, state, before=None):
    """As many updates as fit into `LONG`, and no more than asked for: nothing surrounds them."""
    first = timed(step)
    steps = max(1, min(steps, int(LONG / timed(step))))

    def run():
        for _ in range(steps):
            step()

    slots = sum(x.numel() * x.element_size() for x in state())
    return Prepared(run, steps, None, None, first, slots, before)
