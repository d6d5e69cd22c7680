"""Keras's rules, carried out by fused operations.

Each takes the optimizer, lists of the indices of variables, of their gradients, and of these
variables, and the learning rate.
"""

import keras

from tf_blocknorm.optimizers.kernels import FUSED


def _sgd(optimizer, indices, gradients, variables, rate):
    rates, factors = optimizer.rates_and_factors(indices, rate)
    gradient_descent(optimizer, indices, gradients, variables, rates, factors)


def gradient_descent(optimizer, indices, gradients, variables, rates, factors):
    """The rule of Keras's SGD for gradients times factors, which may be None."""
    if optimizer.momentum:
        slots = [optimizer.momentums[i] for i in indices]
        options = optimizer.momentum, rates, factors, optimizer.nesterov
        FUSED.velocity(variables, slots, gradients, *options)
    else:
        FUSED.descend(variables, gradients, rates, factors)


def _adam(optimizer, indices, gradients, variables, rate):
    powers = optimizer.powers((optimizer.beta_1, optimizer.beta_2), gradients[0].dtype)
    FUSED.adam(
        variables,
        [optimizer._momentums[i] for i in indices],
        [optimizer._velocities[i] for i in indices],
        [optimizer._velocity_hats[i] if optimizer.amsgrad else None for i in indices],
        gradients,
        optimizer.factors(indices),
        optimizer.beta_1,
        optimizer.beta_2,
        optimizer.epsilon,
        rate,
        powers,
    )


# By the method that they stand for, which subclasses of Keras's may have replaced.
KERAS_RULES = {
    keras.optimizers.SGD.update_step: _sgd,
    keras.optimizers.Adam.update_step: _adam,
}
