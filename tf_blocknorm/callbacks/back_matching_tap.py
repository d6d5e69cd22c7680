"""What runs inside the training step, and the numbers that it needs."""

import keras
from keras import ops

from tf_blocknorm.optimizers import taps


class Multipliers(taps.Tap):
    """Multiplies the learning rate of every variable by an entry of a vector."""

    name = "back_matching"

    def create(self, add, variables):
        dtypes = {keras.backend.standardize_dtype(v.dtype) for v in variables}
        dtype = "float64" if "float64" in dtypes else "float32"
        return {
            "multipliers": add("multipliers", (len(variables),), dtype, "ones"),
            "due": add("due", (), "int32"),  # the update before which to compute them anew
        }

    def rate_factors(self, indices):
        multipliers = ops.convert_to_tensor(self.state["multipliers"])
        each = multipliers if len(indices) == 1 else ops.unstack(multipliers)
        return [each[index] for index in indices]

    def after_step(self, gradients, variables, learning_rate, before):
        """Nothing: the multipliers change between steps."""
