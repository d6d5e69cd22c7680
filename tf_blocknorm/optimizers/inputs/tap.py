"""How a statistic gets from the forward pass into the optimizer, on every backend."""

import functools

import keras
from keras import ops

from tf_blocknorm.optimizers.inputs import measures

# Attribute of a kernel: its tap, or None where there is no input to be measured.
ATTRIBUTE = "input_tap"


@keras.saving.register_keras_serializable(package="tf_blocknorm")
class InputTap(keras.layers.Layer):
    """Passes a tensor on as it is, and tells the optimizer how large it was.

    The result sits in a weight whose "gradient" is the statistic, and which Keras overwrites with
    its gradient (`overwrite_with_gradient`, made for the scales of float8). That is the one way
    from a layer into the step which every backend, XLA, loss scaling and replicas let pass. It is
    computed in the backward pass only: evaluation costs nothing and changes nothing.

    The weight holds sums over the samples and their number: over several calls in one step (a
    recurrent cell, a shared layer), over replicas and micro-batches both are added, and the
    quotient is the mean over all of them. It is no state: every step writes it before it is read,
    and a saved model has no copy of it.

    Args:
        geometry: a `Geometry`.
        norm: one of `measures.NORMS`.
    """

    def __init__(self, geometry, norm, **kwargs):
        super().__init__(**kwargs)
        self.geometry, self.norm = geometry, norm
        self.supports_masking = True

    def build(self, input_shape=None):
        self.sums = self.add_weight(
            shape=(self.geometry.channels + 1,),
            initializer="zeros",
            dtype=measures.at_least_float32(self.variable_dtype),
            autocast=False,
            aggregation="mean",
            overwrite_with_gradient=True,
            name="sums",
        )
        self.sums.adds_up = True

    def call(self, x, factors=None):
        """`x`; what is measured are its products with `factors`, which may have one axis more."""
        factors = [] if factors is None else [factors]

        def identity(x, weight, *factors):
            def grad(*args, upstream=None):
                upstream = args[0] if upstream is None else upstream
                seen = functools.reduce(ops.multiply, factors, x)
                sums = measures.sums(seen, self.geometry, self.norm)
                return upstream, ops.cast(sums, weight.dtype), *map(ops.zeros_like, factors)

            return x, grad

        return ops.custom_gradient(identity)(x, ops.convert_to_tensor(self.sums), *factors)

    def power(self):
        """The mean power of the last batch: a vector with one number per channel."""
        sums = ops.convert_to_tensor(self.sums)
        return ops.divide(sums[:-1], sums[-1])

    # Weights that were saved without taps are loaded with them, and the other way round.
    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass


def without_taps(variables):
    """Those of a model's variables that are not a tap's."""
    return [variable for variable in variables if not getattr(variable, "adds_up", False)]
