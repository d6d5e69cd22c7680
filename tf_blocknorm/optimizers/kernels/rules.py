"""Keras's rules, carried out by fused operations.

Each takes the optimizer, the index of a variable, its gradient, the variable, and the rate.
"""

import keras

from tf_blocknorm.optimizers.kernels import FUSED


def _sgd(optimizer, index, gradient, variable, rate):
    rate, factor = optimizer.rate_and_factor(index, rate)
    gradient_descent(optimizer, index, gradient, variable, rate, factor)


def gradient_descent(optimizer, index, gradient, variable, rate, factor=None):
    """The rule of Keras's SGD for the gradient times a factor, which may be None."""
    if optimizer.momentum:
        slot = optimizer.momentums[index]
        FUSED.velocity(
            variable, slot, gradient, optimizer.momentum, rate, factor, optimizer.nesterov
        )
    else:
        FUSED.descend(variable, gradient, rate, factor)


def _adam(optimizer, index, gradient, variable, rate):
    FUSED.adam(
        variable,
        optimizer._momentums[index],
        optimizer._velocities[index],
        gradient,
        optimizer.factor(index),
        optimizer.beta_1,
        optimizer.beta_2,
        optimizer.epsilon,
        rate,
        optimizer.powers((optimizer.beta_1, optimizer.beta_2), gradient.dtype),
        optimizer._velocity_hats[index] if optimizer.amsgrad else None,
    )


# By the method that they stand for, which subclasses of Keras's may have replaced.
KERAS_RULES = {
    keras.optimizers.SGD.update_step: _sgd,
    keras.optimizers.Adam.update_step: _adam,
}
