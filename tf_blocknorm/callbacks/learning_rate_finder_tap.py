"""What runs inside the training step during, and after, a sweep over learning rates."""

import keras
import numpy as np
from keras import ops

from tf_blocknorm import norms
from tf_blocknorm.optimizers import taps


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
        kernels = [i for i, v in enumerate(variables) if len(v.shape) >= 2]
        return {
            "updates": add("updates", (), "int32"),
            "values": add("values", (self.steps,)),
            "previous": {
                i: add("previous", like=variables[i]) for i in kernels or range(len(variables))
            },
        }

    def after_step(self, gradients, variables, learning_rate, before):
        cosines = []
        for gradient, index in zip(gradients, self.indices(variables)):
            previous = self.state["previous"].get(index)
            if previous is not None:
                unit = norms.unit(ops.cast(gradient, "float32"))
                cosines.append(ops.sum(ops.multiply(unit, previous)))
                previous.assign(unit)
        count = self.state["updates"]
        here = ops.equal(ops.arange(self.steps, dtype="int32"), ops.convert_to_tensor(count))
        mean = ops.mean(ops.stack(cosines))
        values = ops.convert_to_tensor(self.state["values"])
        self.state["values"].assign(ops.where(here, mean, values))
        count.assign(ops.add(count, 1))


def read(variable):
    """Return the value as a NumPy array of its own: JAX and torch may show the memory in use."""
    return np.array(ops.convert_to_numpy(variable))


def copies(variable):
    """Return the variable, or its copies on the replicas, where statistics may differ."""
    if keras.backend.backend() == "tensorflow":
        return getattr(variable.value, "values", [variable])
    return [variable]
