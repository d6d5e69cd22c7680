"""TensorFlow's training operations: multi-threaded, one pass over a variable and its slots.

Each takes what it reads of the gradient as it is, and a factor on the way where the rule is linear
in it: the unit gradient itself is never written to memory. Outside XLA only, which fuses the plain
formulas as well; and on one replica, as they need the variable itself.
"""

import contextlib
import math
import threading

import tensorflow as tf
from tensorflow.python.eager import context

from tf_blocknorm.optimizers.kernels.shared import adam_scalars, fits, rank

__all__ = [
    "adam",
    "adam_directions",
    "adam_scalars",
    "after",
    "blend",
    "descend",
    "fits",
    "heavy_ball",
    "shrink",
    "together",
    "velocity",
]

after = tf.control_dependencies
_local = threading.local()


class _Turns:
    """At most four large variables have a temporary tensor at a time, where all of them could.

    What a step needs beside its slots does not grow with the network then; nor does it take longer.
    """

    _at_once, _large = 4, 2**18

    def __init__(self):
        self._made = []

    @contextlib.contextmanager
    def one_of(self, variable):
        """Gives a function that is to be told the operation at the end of it."""
        large = math.prod(variable.shape) >= self._large
        full = large and len(self._made) >= self._at_once
        with tf.control_dependencies([self._made[-self._at_once]] if full else []):
            yield self._made.append if large else lambda operation: None


@contextlib.contextmanager
def together():
    """Inside, variables take turns."""
    _local.turns = _Turns()
    try:
        yield
    finally:
        _local.turns = None


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
    return (tensor, rate * factor) if rank(factor) == 0 else (tensor * factor, rate)


def descend(variables, directions, rates, factors):
    """Variables -= rates * factors * directions; the operations."""
    made = []
    for variable, *row in zip(variables, directions, rates, factors):
        direction, rate = _absorb(*row)
        made.append(
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.handle, alpha=rate, delta=direction
            )
        )
    return made


def shrink(variables, factor):
    """Variables *= factor, in one pass; Keras takes three."""
    turns = _Turns()
    for variable in variables:
        with turns.one_of(variable) as took:
            value = variable * factor
            took(tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value))


def blend(slots, tensors, factors, decay):
    """Slots = decay * slots + factors * tensors."""
    kept = _scalar(decay, tensors[0])
    for slot, tensor, factor in zip(slots, tensors, factors):
        with _local.turns.one_of(slot) as took:
            value = tensor * _scalar(factor, tensor)
            if decay:
                value += kept * slot
            took(tf.raw_ops.AssignVariableOp(resource=slot.handle, value=value))


def velocity(variables, slots, gradients, momentum, rates, factors, nesterov=False):
    """Slots = momentum * slots - rates * factors * gradients; variables += slots (or ahead)."""
    momentum = _scalar(momentum, gradients[0])
    for variable, slot, *row in zip(variables, slots, gradients, rates, factors):
        gradient, rate = _absorb(*row)
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=slot.handle,
            lr=rate,
            grad=gradient,
            momentum=momentum,
            use_nesterov=nesterov,
        )


def heavy_ball(variables, slots, gradients, momentum, rates, factors, decays, nesterov=False):
    """Slots = momentum * slots + updates; variables -= rates * slots (or from ahead).

    The updates are the gradients times the factors, plus the variables times the decays.
    """
    momentum = _scalar(momentum, gradients[0])
    columns = variables, slots, gradients, rates, factors, decays
    for variable, slot, gradient, rate, factor, decay in zip(*columns):
        update = gradient if factor is None else gradient * _scalar(factor, gradient)
        if decay is not None:
            update += _scalar(decay, update) * variable
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=slot.handle,
            lr=_scalar(rate, update),
            grad=update,
            momentum=momentum,
            use_nesterov=nesterov,
        )


def adam(variables, ms, vs, v_hats, gradients, factors, beta_1, beta_2, epsilon, rate, powers):
    """Adam as Keras has it; `powers` are those of the betas, and a v_hat may be None."""
    scalars = _adam_scalars(gradients[0], beta_1, beta_2, epsilon, rate, powers)
    columns = variables, ms, vs, v_hats, gradients, factors
    for variable, m, v, v_hat, gradient, factor in zip(*columns):
        with _local.turns.one_of(variable) as took:
            if factor is not None:
                gradient = gradient * tf.cast(factor, gradient.dtype)
            took(_apply_adam(variable.handle, m, v, gradient, scalars, v_hat))


def _adam_scalars(like, beta_1, beta_2, epsilon, rate, powers=(0, 0)):
    """Those of the operation, by its names, for all variables: each would take time to trace."""
    numbers = {
        "beta1_power": powers[0],
        "beta2_power": powers[1],
        "lr": rate,
        "beta1": beta_1,
        "beta2": beta_2,
        "epsilon": epsilon,
    }
    return {name: _scalar(number, like) for name, number in numbers.items()}


def _apply_adam(handle, m, v, gradient, scalars, v_hat=None):
    arguments = {"var": handle, "m": m.handle, "v": v.handle, "grad": gradient, **scalars}
    if v_hat is None:
        return tf.raw_ops.ResourceApplyAdam(**arguments)
    return tf.raw_ops.ResourceApplyAdamWithAmsgrad(vhat=v_hat.handle, **arguments)


def adam_directions(ms, vs, gradients, beta_1, beta_2, epsilon, rate, starts):
    """What Adam would subtract at learning rate 1, plus `starts`, where that is not None.

    Its averages are updated. `epsilon` and `rate` are those of `adam_scalars`.
    """
    scalars = _adam_scalars(gradients[0], beta_1, beta_2, epsilon, rate)
    return [_adam_direction(*row, scalars) for row in zip(ms, vs, gradients, starts)]


def _adam_direction(m, v, gradient, start, scalars):
    dtype, shape = gradient.dtype, gradient.shape
    # A variable that lives for this step. Not one of changing shape that all take turns with: it
    # makes grappler mix up the shapes of a model's kernels (TensorFlow 2.21).
    place = tf.raw_ops.VarHandleOp(dtype=dtype, shape=shape, shared_name=context.anonymous_name())
    if start is None:  # not `tf.zeros`: TensorFlow folds constants out of their order
        start = tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True)
    tf.raw_ops.AssignVariableOp(resource=place, value=start)
    _apply_adam(place, m, v, gradient, scalars)
    return tf.raw_ops.ReadVariableOp(resource=place, dtype=dtype)
