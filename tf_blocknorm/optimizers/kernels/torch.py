"""torch's operations on lists of tensors: one call for all variables of a step.

What is asked for some variables waits until the step has asked for all (`together`); then those of
one dtype and device, with the same options, are updated in place by a handful of
`torch._foreach_*` calls (on GPUs single kernels wherever all tensors take the same number), and by
the operations of `torch_fused`.

Variables are read as `_value`: `value` looks for scopes that change what it returns, of which there
are none in a step that is fused, and takes as long for that as an update of a small variable.
"""

import collections
import contextlib
import itertools
import threading

import torch
from keras import ops

from tf_blocknorm.light import standard
from tf_blocknorm.optimizers.kernels import shared, torch_fused
from tf_blocknorm.optimizers.kernels.shared import fits, parts

__all__ = [
    "adam",
    "adam_directions",
    "adam_scalars",
    "blend",
    "descend",
    "fits",
    "heavy_ball",
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
            for (function, options, *_), asked in waiting.items():
                columns = [[*itertools.chain(*column)] for column in zip(*asked)]
                _carry_out(function, options, columns)
    finally:
        _local.waiting = _local.shared = None


def _carry_out(function, options, columns):
    """One function for all who asked for it: columns of what they have, or None."""
    columns = [None if column[0] is None else column for column in columns]
    sizes = [x.numel() for x in columns[0]]
    of_short = _OF_SHORT.get(function) if columns[0][0].is_cpu else None
    most = _SHORT if of_short else -1
    short = [i for i, size in enumerate(sizes) if size <= most]
    long = [i for i, size in enumerate(sizes) if size > most]
    for call, some in ((of_short, short), (function, long)):
        # In turns, so that temporary tensors find the memory of those before in the cache.
        for part in parts(some, [sizes[i] for i in some], _ENOUGH):
            call(*(column and [column[i] for i in part] for column in columns), *options)


def _later(function, columns, options=(), optional=()):
    """Asks for a function of lists with one entry per variable; those of `optional` may be None."""
    mixed = any(len({x is None for x in column}) > 1 for column in optional)
    mixed = mixed or len({x.device for x in columns[0]}) > 1
    columns = [*columns, *optional]
    one_by_one = ([[x] for x in row] for row in zip(*columns))
    for asked in one_by_one if mixed else [columns]:
        first = asked[0][0]
        absent = tuple(column[0] is None for column in asked)
        _local.waiting[function, options, first.dtype, first.device, absent].append(asked)


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


def _numbers(values, like):
    """The same of a list, which is often one for all."""
    if all(value is values[0] for value in values):
        return [_number(values[0], like)] * len(values)
    return [_number(value, like) for value in values]


def _times(tensors, factors):
    return [x if f is None else x * _number(f, x) for x, f in zip(tensors, factors)]


def _values(variables):
    return [variable._value for variable in variables]


def descend(variables, directions, rates, factors):
    """Variables -= rates * factors * directions."""
    directions = _times(directions, factors)
    _later(_descend, (_values(variables), directions, _numbers(rates, directions[0])))


def _descend(variables, directions, rates):
    torch._foreach_addcmul_(variables, directions, rates, value=-1)


def blend(slots, tensors, factors, decay):
    """Slots = decay * slots + factors * tensors."""
    _later(_blend, (_values(slots), tensors, _numbers(factors, tensors[0])), (decay,))


def _blend(slots, tensors, factors, decay):
    if decay:
        torch._foreach_mul_(slots, decay)
        torch._foreach_addcmul_(slots, tensors, factors)
    else:  # which 0 times a slot that is not a number would not give
        torch._foreach_copy_(slots, tensors)
        torch._foreach_mul_(slots, factors)


def velocity(variables, slots, gradients, momentum, rates, factors, nesterov=False):
    """Slots = momentum * slots - rates * factors * gradients; variables += slots (or ahead)."""
    gradients = _times(gradients, factors)
    columns = _values(variables), _values(slots), gradients, _numbers(rates, gradients[0])
    _later(_velocity, columns, (momentum, nesterov))


def _velocity(variables, slots, gradients, rates, momentum, nesterov):
    torch._foreach_mul_(slots, momentum)
    torch._foreach_addcmul_(slots, gradients, rates, value=-1)
    torch._foreach_add_(variables, slots, alpha=momentum if nesterov else 1.0)
    if nesterov:
        torch._foreach_addcmul_(variables, gradients, rates, value=-1)


def _short_velocity(variables, slots, gradients, rates, momentum, nesterov):
    steps = torch._foreach_mul(gradients, rates)
    torch_fused.sgd(variables, slots, steps, -1.0, momentum, nesterov, maximize=True)


def heavy_ball(variables, slots, gradients, momentum, rates, factors, decays, nesterov=False):
    """Slots = momentum * slots + updates; variables -= rates * slots (or from ahead).

    The updates are the gradients times the factors, plus the variables times the decays.
    """
    columns = _values(variables), _values(slots), gradients, _numbers(rates, gradients[0])
    optional = _numbers(factors, gradients[0]), _numbers(decays, gradients[0])
    _later(_heavy_ball, columns, (momentum, nesterov), optional)


def _heavy_ball(variables, slots, gradients, rates, factors, decays, momentum, nesterov):
    if nesterov:  # which takes the update twice
        if factors:
            gradients = torch._foreach_mul(gradients, factors)
        if decays:
            gradients = torch._foreach_addcmul(gradients, variables, decays)
        factors = decays = None
    torch._foreach_mul_(slots, momentum)
    if factors:
        torch._foreach_addcmul_(slots, gradients, factors)
    else:
        torch._foreach_add_(slots, gradients)
    if decays:
        torch._foreach_addcmul_(slots, variables, decays)
    torch._foreach_addcmul_(variables, slots, rates, value=-momentum if nesterov else -1.0)
    if nesterov:
        torch._foreach_addcmul_(variables, gradients, rates, value=-1)


def _short_heavy_ball(variables, slots, gradients, rates, factors, decays, momentum, nesterov):
    # Callbacks may want a rate for each.
    if not momentum or len({*map(id, rates)}) > 1 or len({*map(id, decays or ())}) > 1:
        _heavy_ball(variables, slots, gradients, rates, factors, decays, momentum, nesterov)
        return
    if factors:
        gradients = torch._foreach_mul(gradients, factors)
    decay = float(decays[0]) if decays else 0.0
    torch_fused.sgd(variables, slots, gradients, rates[0], momentum, nesterov, decay)


# What does the same for short tensors.
_OF_SHORT = {_velocity: _short_velocity, _heavy_ball: _short_heavy_ball}


def adam(variables, ms, vs, v_hats, gradients, factors, beta_1, beta_2, epsilon, rate, powers):
    """Adam as Keras has it; `powers` are those of the betas, and a v_hat may be None."""
    like = gradients[0]
    key = id(rate), id(powers), like.dtype, like.device
    if key not in _local.shared:  # With what must not go before, as its id would come again.
        _local.shared[key] = _rate_of_adam(rate, powers, like), rate, powers
    columns = _values(variables), gradients, _values(ms), _values(vs)
    optional = (
        [None if v_hat is None else v_hat._value for v_hat in v_hats],
        _numbers(factors, like),
    )
    _later(_adam, columns, (_local.shared[key][0], beta_1, beta_2, epsilon), optional)


def _rate_of_adam(rate, powers, gradient):
    first, second = (1.0 - _number(power, gradient) for power in powers)
    return _number(rate, gradient) * torch.sqrt(second) / first


def _adam(variables, gradients, ms, vs, v_hats, factors, *scalars):
    if factors:
        gradients = torch._foreach_mul(gradients, factors)
    torch_fused.adam(variables, gradients, (ms, vs, v_hats) if v_hats else (ms, vs), *scalars)


def adam_scalars(epsilon, correction_1, correction_2):
    """As for all backends, but that torch's Adam takes its epsilon as a number."""
    epsilon, rate = shared.adam_scalars(epsilon, correction_1, correction_2)
    return float(epsilon), rate


def adam_directions(ms, vs, gradients, beta_1, beta_2, epsilon, rate, starts):
    """What Adam would subtract at learning rate 1, plus `starts`, where that is not None.

    Its averages are updated. To be read once the step has been carried out. `epsilon` and `rate`
    are those of `adam_scalars`.
    """
    results = [torch.zeros_like(g) if x is None else x for g, x in zip(gradients, starts)]
    columns = results, gradients, _values(ms), _values(vs)
    _later(_directions, columns, (rate, beta_1, beta_2, epsilon))
    return results


def _directions(results, gradients, ms, vs, *scalars):
    torch_fused.adam(results, gradients, (ms, vs), *scalars)
