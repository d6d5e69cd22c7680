"""How optimizers are run on JAX, compiled and with donated buffers: Keras's forms, and optax's."""

import gc
import time

import jax
import keras
import numpy as np
import optax
import optax.contrib

from benchmarks.contenders import RATE
from benchmarks.models import gradients
from benchmarks.prepared import Prepared, size_of

# A library, a rule, and the function that makes it.
PEERS = (
    ("optax", "sgd", lambda: optax.sgd(RATE)),
    ("optax", "momentum", lambda: optax.sgd(RATE, 0.9)),
    ("optax", "lars", lambda: optax.lars(RATE, 1e-4)),
    ("optax", "adam", lambda: optax.adam(RATE)),
    ("optax", "adamw", lambda: optax.adamw(RATE)),
    ("optax", "novograd", lambda: optax.novograd(RATE)),
    ("optax", "lamb", lambda: optax.lamb(RATE)),
    ("optax", "muon", lambda: optax.contrib.muon(RATE)),
)


def step_of(rule):
    """Return the function of weights, state and gradients that makes a step by a rule of optax."""

    def step(weights, state, gradients):
        updates, state = rule.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    return step


class Runner:
    """One network; every optimizer has its own copy of the weights, as they are donated."""

    def __init__(self, problem, jit_compile):
        if not jit_compile:
            raise ValueError("On JAX every update is compiled. Received: jit_compile=False")
        keras.utils.set_random_seed(0)
        self.variables = problem.build().trainable_variables
        self.shapes = [tuple(v.shape) for v in self.variables]
        rng = np.random.default_rng(0)
        self._gradients = [jax.numpy.asarray(g) for g in gradients(self.shapes, rng)]

    def update(self, make, steps):
        """Prepare `steps` updates by an optimizer of Keras."""
        optimizer = make()
        optimizer.build(self.variables)

        def step(weights, state, gradients):
            return optimizer.stateless_apply(state, gradients, weights)

        return self._prepared(step, [v.value for v in optimizer.variables], steps)

    def peers(self):
        """Return name, rule and a function of `steps` that prepares it, for each of optax."""

        def preparing(make):
            def prepare(steps):
                rule, weights = make(), [v.value for v in self.variables]
                return self._prepared(step_of(rule), rule.init(weights), steps)

            return prepare

        return [(f"{lib} {rule}", rule, preparing(make)) for lib, rule, make in PEERS]

    def forget(self):
        """Let go of what the family before has left."""
        gc.collect()

    def _prepared(self, step, state, steps):
        copies = jax.tree.map(jax.numpy.copy, ([v.value for v in self.variables], state))
        slots = sum(size_of(x.shape, x.dtype) for x in jax.tree.leaves(copies[1]))
        began = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(*copies, self._gradients)
        traced = time.perf_counter() - began
        held = list(copies)
        del copies
        began = time.perf_counter()
        compiled = lowered.compile()

        def run():
            for _ in range(steps):
                held[:] = compiled(*held, self._gradients)
            jax.block_until_ready(held)

        run()
        return Prepared(run, steps, None, traced, time.perf_counter() - began, slots)
