"""torch's operations on lists of tensors: one call for all variables of a step.

What is asked for one variable waits until the step has asked for all (`together`); then variables
of one dtype and device, with the same options, are updated in place by a handful of
`torch._foreach_*` calls (on GPUs single kernels wherever all tensors take the same number), and by
the operations of `torch_fused`.

Variables are read as `_value`: `value` looks for scopes that change what it returns, of which there
are none in a step that is fused, and takes as long for that as an update of a small variable.
"""

import collections
import contextlib
import threading

import torch
from keras import ops

from tf_blocknorm.light import standard
from tf_blocknorm.optimizers.kernels import shared, torch_fused
from tf_blocknorm.optimizers.kernels.shared import fits, parts, rates

__all__ = [
    "adam",
    "adam_direction",
    "adam_scalars",
    "blend",
    "descend",
    "fits",
    "heavy_ball",
    "rates",
    "together",
    "velocity",
]

_ENOUGH = 2**21  # entries
# Entries up to which the operation behind `torch.optim.SGD(fused=True)`, of gradients multiplied
# beforehand, takes less time on CPUs than one call for every term does, and half as long for 1000.
_SHORT = 2**15
_local = threading.local()


@contextlib.contextmanager
def together():
    """Carries out at its end what was asked for inside; nothing after an error."""
    waiting = _local.waiting = collections.defaultdict(list)
    _local.shared = {}  # what is the same for all variables
    try:
        yield
        with torch.no_grad():
            for (function, options, _, _), rows in waiting.items():
                _carry_out(function, options, rows)
    finally:
        _local.waiting = _local.shared = None


def _carry_out(function, options, rows):
    """One function for all who asked for it, each with a row of tensors."""
    short, long = [], rows
    if function in _OF_SHORT and rows[0][0].is_cpu:
        long = []
        for row in rows:
            (short if row[0].numel() <= _SHORT else long).append(row)
    for call, some in ((_OF_SHORT.get(function), short), (function, long)):
        # In turns, so that temporary tensors find the memory of those before in the cache.
        for part in parts(some, [row[0].numel() for row in some], _ENOUGH):
            call(*map(list, zip(*part)), *options)


def _later(function, tensors, options=()):
    first = tensors[0]
    _local.waiting[function, options, first.dtype, first.device].append(tensors)


def _number(value, like):
    """A number or scalar as a tensor that can stand beside another; None as it is."""
    if isinstance(value, torch.Tensor):
        return value if value.dtype == like.dtype else value.to(like.dtype)
    if value is None:
        return None
    if not isinstance(value, (int, float)):
        return ops.convert_to_tensor(value).to(like.dtype)
    key = value, like.dtype, like.device
    if key not in _local.shared:
        _local.shared[key] = ops.convert_to_tensor(value, standard(like.dtype))
    return _local.shared[key]


def _times(tensor, factor):
    return tensor if factor is None else tensor * _number(factor, tensor)


def descend(variable, direction, rate, factor=None):
    """Variable -= rate * factor * direction."""
    tensors = (variable._value, _times(direction, factor), _number(rate, direction))
    _later(_descend, tensors)


def _descend(variables, directions, rates):
    torch._foreach_addcmul_(variables, directions, rates, value=-1)


def blend(slot, tensor, factor, decay):
    """Slot = decay * slot + factor * tensor."""
    _later(_blend, (slot._value, tensor, _number(factor, tensor)), (decay,))


def _blend(slots, tensors, factors, decay):
    if decay:
        torch._foreach_mul_(slots, decay)
        torch._foreach_addcmul_(slots, tensors, factors)
    else:  # which 0 times a slot that is not a number would not give
        torch._foreach_copy_(slots, tensors)
        torch._foreach_mul_(slots, factors)


def velocity(variable, slot, gradient, momentum, rate, factor=None, nesterov=False):
    """Slot = momentum * slot - rate * factor * gradient; variable += slot (or from ahead)."""
    gradient, rate = _times(gradient, factor), _number(rate, gradient)
    _later(_velocity, (variable._value, slot._value, gradient, rate), (momentum, nesterov))


def _velocity(variables, slots, gradients, rates, momentum, nesterov):
    torch._foreach_mul_(slots, momentum)
    torch._foreach_addcmul_(slots, gradients, rates, value=-1)
    torch._foreach_add_(variables, slots, alpha=momentum if nesterov else 1.0)
    if nesterov:
        torch._foreach_addcmul_(variables, gradients, rates, value=-1)


def _short_velocity(variables, slots, gradients, rates, momentum, nesterov):
    steps = torch._foreach_mul(gradients, rates)
    torch_fused.sgd(variables, slots, steps, -1.0, momentum, nesterov, maximize=True)


def heavy_ball(variable, slot, gradient, momentum, rate, factor=None, decay=None, nesterov=False):
    """Slot = momentum * slot + update; variable -= rate * slot (or from ahead).

    The update is the gradient times the factor, plus the variable times the decay.
    """
    options = factor is not None, decay is not None, momentum, nesterov
    numbers = _number(rate, gradient), _number(factor, gradient), _number(decay, gradient)
    _later(_heavy_ball, (variable._value, slot._value, gradient, *numbers), options)


def _heavy_ball(
    variables,
    slots,
    gradients,
    rates,
    factors,
    decays,
    has_factors,
    has_decays,
    momentum,
    nesterov,
):
    if nesterov:  # which takes the update twice
        if has_factors:
            gradients = torch._foreach_mul(gradients, factors)
        if has_decays:
            gradients = torch._foreach_addcmul(gradients, variables, decays)
        has_factors = has_decays = False
    torch._foreach_mul_(slots, momentum)
    if has_factors:
        torch._foreach_addcmul_(slots, gradients, factors)
    else:
        torch._foreach_add_(slots, gradients)
    if has_decays:
        torch._foreach_addcmul_(slots, variables, decays)
    torch._foreach_addcmul_(variables, slots, rates, value=-momentum if nesterov else -1.0)
    if nesterov:
        torch._foreach_addcmul_(variables, gradients, rates, value=-1)


def _short_heavy_ball(variables, slots, gradients, rates, factors, decays, *options):
    has_factors, has_decays, momentum, nesterov = options
    # Callbacks may want a rate for each.
    if not momentum or len({*map(id, rates)}) > 1 or len({*map(id, decays)}) > 1:
        _heavy_ball(variables, slots, gradients, rates, factors, decays, *options)
        return
    if has_factors:
        gradients = torch._foreach_mul(gradients, factors)
    decay = float(decays[0]) if has_decays else 0.0
    torch_fused.sgd(variables, slots, gradients, rates[0], momentum, nesterov, decay)


# What does the same for short tensors.
_OF_SHORT = {_velocity: _short_velocity, _heavy_ball: _short_heavy_ball}


def adam(
    variable, m, v, gradient, factor, beta_1, beta_2, epsilon, rate, powers=(0.0, 0.0), v_hat=None
):
    """Adam as Keras has it; `powers` are those of the betas, 0 for no bias correction."""
    key = id(rate), id(powers), gradient.dtype, gradient.device
    if key not in _local.shared:  # With what must not go before, as its id would come again.
        _local.shared[key] = _rate_of_adam(rate, powers, gradient), rate, powers
    tensors = (variable._value, gradient, m._value, v._value)
    if v_hat is not None:
        tensors = (*tensors, v_hat._value)
    if factor is not None:
        tensors = (*tensors, _number(factor, gradient))
    scalars = _local.shared[key][0], beta_1, beta_2, epsilon
    _later(_adam, tensors, (scalars, factor is not None))


def _rate_of_adam(rate, powers, gradient):
    first, second = (1.0 - _number(power, gradient) for power in powers)
    return _number(rate, gradient) * torch.sqrt(second) / first


def _adam(variables, gradients, *more):
    *slots, scalars, has_factors = more
    if has_factors:
        gradients = torch._foreach_mul(gradients, slots.pop())
    torch_fused.adam(variables, gradients, slots, *scalars)


def adam_scalars(epsilon, correction_1, correction_2):
    """As for all backends, but that torch's Adam takes its epsilon as a number."""
    epsilon, rate = shared.adam_scalars(epsilon, correction_1, correction_2)
    return float(epsilon), rate


def adam_direction(m, v, gradient, beta_1, beta_2, epsilon, rate, start=None):
    """What Adam would subtract at learning rate 1, plus `start`; its averages are updated.

    To be read once the step has been carried out. `epsilon` and `rate` are those of `adam_scalars`.
    """
    result = torch.zeros_like(gradient) if start is None else start
    scalars = rate, beta_1, beta_2, epsilon
    _later(_directions, (result, gradient, m._value, v._value), (scalars,))
    return result


def _directions(results, gradients, ms, vs, scalars):
    torch_fused.adam(results, gradients, (ms, vs), *scalars)
