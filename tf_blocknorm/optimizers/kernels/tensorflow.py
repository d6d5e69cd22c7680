"""TensorFlow's training operations: multi-threaded, one pass over a variable and its slots.

Each takes what it reads of the gradient as it is, and a factor on the way where the rule is linear
in it: the unit gradient itself is never written to memory. Outside XLA only, which fuses the plain
formulas as well; and on one replica, as they need the variable itself.
"""

import keras
import tensorflow as tf

_DTYPES = ("float32", "float64")


def fits(variable, tensor, *scalars):
    """Whether the operations take this variable, with this tensor and these scalars (or None)."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    same = dtype == keras.backend.standardize_dtype(tensor.dtype)
    return same and dtype in _DTYPES and all(_rank(scalar) == 0 for scalar in scalars)


def _rank(scalar):
    return len(getattr(scalar, "shape", ()))


def _scalar(value, like):
    """A number or scalar in the dtype of a tensor; `tf.cast` would round a number to float32."""
    if isinstance(value, (int, float)):
        return tf.constant(value, like.dtype)
    return tf.cast(value, like.dtype)


def _absorb(tensor, rate, factor):
    """The tensor and what it is to be multiplied by: rate and factor, or rate alone.

    A factor is a scalar, None, or a vector for the last axis, which no operation takes.
    """
    rate = _scalar(rate, tensor)
    if factor is None:
        return tensor, rate
    factor = tf.cast(factor, tensor.dtype)
    return (tensor, rate * factor) if _rank(factor) == 0 else (tensor * factor, rate)


def descend(variable, direction, rate, factor=None):
    """Variable -= rate * factor * direction."""
    direction, rate = _absorb(direction, rate, factor)
    tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=direction)


def velocity(variable, slot, gradient, momentum, rate, factor=None, nesterov=False):
    """Slot = momentum * slot - rate * factor * gradient; variable += slot (or from ahead)."""
    gradient, rate = _absorb(gradient, rate, factor)
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=slot.handle,
        lr=rate,
        grad=gradient,
        momentum=_scalar(momentum, gradient),
        use_nesterov=nesterov,
    )


def heavy_ball(variable, slot, update, momentum, rate, nesterov=False):
    """Slot = momentum * slot + update; variable -= rate * slot (or from ahead)."""
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=slot.handle,
        lr=_scalar(rate, update),
        grad=update,
        momentum=_scalar(momentum, update),
        use_nesterov=nesterov,
    )


def adam(variable, m, v, gradient, beta_1, beta_2, epsilon, rate, powers=(0.0, 0.0), v_hat=None):
    """Adam as Keras has it; `powers` are those of the betas, 0 for no bias correction."""
    arguments = {
        "var": variable.handle,
        "m": m.handle,
        "v": v.handle,
        "beta1_power": _scalar(powers[0], gradient),
        "beta2_power": _scalar(powers[1], gradient),
        "lr": _scalar(rate, gradient),
        "beta1": _scalar(beta_1, gradient),
        "beta2": _scalar(beta_2, gradient),
        "epsilon": _scalar(epsilon, gradient),
        "grad": gradient,
    }
    if v_hat is None:
        tf.raw_ops.ResourceApplyAdam(**arguments)
    else:
        tf.raw_ops.ResourceApplyAdamWithAmsgrad(vhat=v_hat.handle, **arguments)


def adam_direction(workspace, m, v, gradient, beta_1, beta_2, epsilon, corrections, start=None):
    """What Adam would subtract at learning rate 1, plus `start`; its averages are updated.

    `workspace` is a variable of that operation's own; `corrections` are what the averages are
    divided by.
    """
    if start is None:  # not `tf.zeros`: TensorFlow folds constants out of their order
        start = tf.raw_ops.Empty(shape=gradient.shape, dtype=gradient.dtype, init=True)
    workspace.assign(start)
    root = tf.sqrt(corrections[1])
    adam(workspace, m, v, gradient, beta_1, beta_2, epsilon * root, -root / corrections[0])
    return tf.ensure_shape(workspace.read_value(), gradient.shape)


def workspace(dtype):
    """A variable of any shape."""
    with tf.init_scope():
        return tf.Variable(tf.zeros([0], dtype), shape=tf.TensorShape(None), trainable=False)


def _keras_sgd(optimizer, index, gradient, factor, variable, rate):
    if optimizer.momentum:
        slot = optimizer.momentums[index]
        velocity(variable, slot, gradient, optimizer.momentum, rate, factor, optimizer.nesterov)
    else:
        descend(variable, gradient, rate, factor)


def _keras_adam(optimizer, index, gradient, factor, variable, rate):
    adam(
        variable,
        optimizer._momentums[index],
        optimizer._velocities[index],
        gradient if factor is None else gradient * tf.cast(factor, gradient.dtype),
        optimizer.beta_1,
        optimizer.beta_2,
        optimizer.epsilon,
        rate,
        optimizer.powers((optimizer.beta_1, optimizer.beta_2), gradient.dtype),
        optimizer._velocity_hats[index] if optimizer.amsgrad else None,
    )


# By the method that they stand for, which subclasses of Keras's may have replaced.
KERAS_RULES = {
    keras.optimizers.SGD.update_step: _keras_sgd,
    keras.optimizers.Adam.update_step: _keras_adam,
}
