"""What runs inside the training step during, and after, a sweep over learning rates."""

import keras
import numpy as np
from keras import ops

from tf_blocknorm.optimizers import agreement, taps
from tf_blocknorm.optimizers.partition import Partition


class Rates(taps.Tap):
    """Sets the rate of the next update: entry k of a table, less the fraction k / horizon of it."""

    name = "learning_rate_finder"

    def __init__(self, steps):
        self.steps = steps

    def create(self, add, variables):
        return {
            "updates": add("updates", (), "int32"),
            "rates": add("rates", (self.steps,)),
            "horizon": add("horizon", ()),
        }

    def begin(self, rates, horizon):
        """Start to count again; the rate of the next update is the first in the table."""
        self.state["updates"].assign(0)
        self.state["rates"].assign(np.asarray(rates, "float32"))
        self.state["horizon"].assign(horizon)
        if horizon:
            self.optimizer.learning_rate = float(rates[0])

    def after_step(self, gradients, variables, learning_rate, before):
        count = ops.add(self.state["updates"], 1)
        rates = ops.convert_to_tensor(self.state["rates"])
        rate = ops.take(rates, ops.minimum(count, self.steps - 1))
        passed = ops.divide(ops.cast(count, "float32"), self.state["horizon"])
        self.optimizer.learning_rate.assign(ops.multiply(rate, ops.subtract(1.0, passed)))
        self.state["updates"].assign(count)


class Correlations(taps.Tap):
    """Records the mean over kernels of the cosine between this gradient and the last."""

    name = "learning_rate_finder_sweep"
    saved = False

    def __init__(self, steps):
        self.steps = steps

    def create(self, add, variables):
        vectors = [len(v.shape) < 2 for v in variables]
        self.partition = Partition(variables, "variable", None if all(vectors) else vectors)
        return {
            "updates": add("updates", (), "int32"),
            "values": add("values", (self.steps,)),
            "previous": agreement.Past.create(self.partition, variables, add),
        }

    def after_step(self, gradients, variables, learning_rate, before):
        cosines, known = agreement.compare(
            self.partition,
            self.indices(variables),
            gradients,
            self.state["previous"],
            0.0,
            lambda slot, value: slot.assign(value),
        )
        known = ops.maximum(ops.sum(ops.cast(known, cosines.dtype)), 1.0)
        mean = ops.cast(ops.sum(cosines) / known, "float32")
        count = self.state["updates"]
        here = ops.equal(ops.arange(self.steps, dtype="int32"), ops.convert_to_tensor(count))
        values = ops.convert_to_tensor(self.state["values"])
        self.state["values"].assign(ops.where(here, mean, values))
        count.assign(ops.add(count, 1))


class Snapshot:
    """The values of variables, to be put back."""

    def __init__(self, variables):
        self.values = [(copy, read(copy)) for v in variables for copy in copies(v)]

    def restore(self):
        """Put the values back."""
        for variable, value in self.values:
            variable.assign(value)


def read(variable):
    """Return the value as a NumPy array of its own: JAX and torch may show the memory in use."""
    return np.array(ops.convert_to_numpy(variable))


def copies(variable):
    """Return the variable, or its copies on the replicas, where statistics may differ."""
    if keras.backend.backend() == "tensorflow":
        return getattr(variable.value, "values", [variable])
    return [variable]
