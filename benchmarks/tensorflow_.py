"""How optimizers of Keras are run on TensorFlow: their update alone, and in a training step."""

import gc
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks import measure
from benchmarks.models import gradients
from benchmarks.prepared import Prepared, size_of


class Runner:
    """One network, its variables shared by all who move them.

    Args:
        problem: A `Problem`.
        jit_compile: Whether XLA compiles what is run.
    """

    def __init__(self, problem, jit_compile):
        keras.utils.set_random_seed(0)
        self._rng = np.random.default_rng(0)
        self._problem, self._jit = problem, jit_compile
        self._model = problem.build()
        self.variables = self._model.trainable_variables
        self.shapes = [tuple(v.shape) for v in self.variables]
        self._gradients = None

    def update(self, make, steps):
        """Prepare `steps` updates in one call, with the same gradients."""
        if self._gradients is None:
            self._gradients = self._tensors()
        optimizer = make()
        began = time.perf_counter()
        optimizer.build(self.variables)
        built = time.perf_counter() - began

        def step():
            optimizer.apply(self._gradients, self.variables)

        # One launch per update, as in training; and a loop that XLA sees whole would compute but
        # once what depends on the gradients alone.
        update = tf.function(step, autograph=False, jit_compile=self._jit or None)
        run = update if self._jit else step

        def body(i):
            run()
            return i + 1

        @tf.function(autograph=False)
        def loop():
            return tf.while_loop(lambda i: i < steps, body, [0], parallel_iterations=1)

        # Without the loop, which takes its time for all that it carries along, the same for all.
        traced = measure.timed_alone(update.get_concrete_function)
        loop.get_concrete_function()
        return _prepared(lambda: loop()[0].numpy(), steps, optimizer, built, traced)

    def train(self, make):
        """Prepare a training step as `fit` calls it, on one batch over and over."""
        optimizer = make()
        x, y = self._problem.batch(self._rng)
        batches = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
        self._model.compile(optimizer, self._problem.loss, jit_compile=self._jit)
        optimizer.build(self.variables)
        self._model.make_train_function(force=True)
        step = self._model.train_function
        # What is traced now keeps to this optimizer when the model is compiled for the next one.
        return _prepared(lambda: float(step(batches)["loss"]), 1, optimizer, None, None)

    def forget(self):
        """Let go of what the family before has left."""
        keras.backend.clear_session(free_memory=False)
        gc.collect()

    def peers(self):
        """Return no one: other libraries run elsewhere."""
        return []

    def _tensors(self):
        tables = [
            layer.embeddings.path
            for layer in self._model.layers
            if isinstance(layer, keras.layers.Embedding)
        ]
        rows = self._problem.batch(self._rng)[0].reshape(-1) if tables else ()
        shapes = [
            (len(rows), v.shape[1]) if v.path in tables else tuple(v.shape) for v in self.variables
        ]
        tensors = [tf.constant(g) for g in gradients(shapes, self._rng)]
        return [
            tf.IndexedSlices(t, tf.constant(rows), tf.constant(v.shape)) if v.path in tables else t
            for t, v in zip(tensors, self.variables)
        ]


def _prepared(run, steps, optimizer, built, traced):
    began = time.perf_counter()
    run()
    first = time.perf_counter() - began
    slots = sum(size_of(v.shape, v.dtype) for v in optimizer.variables)
    return Prepared(run, steps, built, traced, first, slots)
