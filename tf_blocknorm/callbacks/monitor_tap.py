"""What `BlockNormMonitor` does inside of the training step."""

import itertools
import math
import types

import keras
import numpy as np
from keras import ops

from tf_blocknorm import norms
from tf_blocknorm.norms.modes import inside_xla
from tf_blocknorm.optimizers import taps
from tf_blocknorm.optimizers.partition import Partition

_MEASURED = ("grad_norm", "param_norm", "update_norm")


class Measure(taps.Tap):
    """Measures the blocks at every so many updates, and keeps the last `capacity` samples."""

    name = "block_norm_monitor"
    saved = False  # It is taken over at the end of an epoch at the latest.

    def __init__(self, norm, block, every, capacity):
        self.norm, self.block, self.every, self.capacity = norm, block, every, capacity

    def create(self, add, variables):
        self.weights = variables
        self.partition = Partition(variables, self.block)
        members = self.partition.members()
        self.groups = list(members.values())
        self.first = np.zeros(len(self.partition.labels), "int32")
        for place, group in zip(self.partition.places(members), self.groups):
            self.first[place] = group[0]
        own = tuple(getattr(self.optimizer, "block_statistics", ()))
        self.statistics = (*_MEASURED, "update_ratio", *own, "learning_rate")
        self.rows = (*_MEASURED, *own, "learning_rate")
        wide = any(keras.backend.standardize_dtype(v.dtype) == "float64" for v in variables)
        self.dtype = "float64" if wide else "float32"
        self.shape = (len(self.rows), len(self.partition.labels))
        return types.SimpleNamespace(
            start=add("start", (), "int32"),
            updates=add("updates", (self.capacity,), "int32"),
            samples=add("samples", (self.capacity, *self.shape), self.dtype),
        )

    def begin(self, iterations):
        """An epoch begins after so many updates."""
        if self.attached:
            self.state.start.assign(iterations)
            self.state.updates.assign(np.zeros(self.capacity, "int32"))

    def take(self):
        """The samples since the last call: pairs of an update and its rows, in their order."""
        updates = ops.convert_to_numpy(self.state.updates)
        if not updates.any():
            return []
        samples = np.array(ops.convert_to_numpy(self.state.samples), "float64")
        order = [i for i in np.argsort(updates) if updates[i]]
        self.state.updates.assign(np.zeros(self.capacity, "int32"))
        return [(int(updates[i]), dict(zip(self.rows, samples[i]))) for i in order]

    def _since(self):
        return ops.subtract(ops.cast(self.optimizer.iterations, "int32"), self.state.start)

    def _due(self):
        return ops.equal(ops.mod(self._since(), self.every), 0)

    def before_step(self, variables):
        if inside_xla():  # There, both branches of a condition have the same shape.
            return [ops.copy(w) for w in self.weights]

        def copy():
            flat = [ops.reshape(ops.cast(w, self.dtype), (-1,)) for w in self.weights]
            return ops.concatenate(flat)

        return _rarely(self._due(), copy, lambda: ops.zeros((0,), self.dtype))

    def after_step(self, gradients, variables, learning_rate, before):
        given = dict(zip(self.indices(variables), gradients))
        entries = len(self.partition.labels)

        def measure():
            old = before if inside_xla() else self._pieces(before)
            new = [ops.cast(w, self.dtype) for w in self.weights]
            gradients = [given[i] if i in given else ops.zeros_like(w) for i, w in enumerate(old)]
            updates = [ops.subtract(n, ops.cast(o, self.dtype)) for n, o in zip(new, old)]
            tensors = (gradients, old, updates)
            made = [block for t in tensors for block in self.partition.make(t, self.groups)]
            own = getattr(self.optimizer, "block_statistics", {})
            rows = [
                norms.sizes(made, self.norm),
                *(ops.take(own[name], self.first) for name in self.rows[len(_MEASURED) : -1]),
                ops.broadcast_to(learning_rate, (entries,)),
            ]
            flat = [ops.reshape(ops.cast(row, self.dtype), (-1,)) for row in rows]
            return ops.reshape(ops.concatenate(flat), self.shape)

        state, due, since = self.state, self._due(), self._since()
        sample = _rarely(due, measure, lambda: ops.zeros(self.shape, self.dtype))
        slot = ops.mod(ops.floor_divide(since, self.every), self.capacity)
        here = ops.logical_and(due, ops.equal(ops.arange(self.capacity, dtype="int32"), slot))
        # Assigned outside of the condition, as tf.distribute demands.
        number = ops.add(ops.cast(self.optimizer.iterations, "int32"), 1)
        state.updates.assign(ops.where(here, number, ops.convert_to_tensor(state.updates)))
        here = ops.reshape(here, (-1, 1, 1))
        state.samples.assign(ops.where(here, sample, ops.convert_to_tensor(state.samples)))

    def _pieces(self, flat):
        """The weights out of one vector."""
        ends = [0, *itertools.accumulate(math.prod(w.shape) for w in self.weights)]
        flat = ops.slice(flat, (0,), (ends[-1],))
        parts = itertools.pairwise(ends)
        return [ops.reshape(flat[i:j], w.shape) for (i, j), w in zip(parts, self.weights)]


def _rarely(condition, true, false):
    result = ops.cond(condition, true, false)
    if keras.backend.backend() == "tensorflow" and not inside_xla():
        import tensorflow as tf

        if not tf.executing_eagerly() and tf.distribute.get_strategy().num_replicas_in_sync == 1:
            # As one operation. TensorFlow would make one of each of the hundreds of inputs, for
            # every step, due or not.
            (conditional,) = (tensor.op for tensor in result.op.inputs)
            as_one = tf.compat.v1.AttrValue(b=False)
            conditional._set_attr("_lower_using_switch_merge", as_one)
    return result
