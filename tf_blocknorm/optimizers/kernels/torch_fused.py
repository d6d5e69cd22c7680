"""The operations behind torch's own optimizers with `fused=True`: lists of tensors in one pass.

They take the memory of tensors as it comes: what has it in another order is copied, and back.
"""

import contextlib

import torch


def sgd(variables, slots, gradients, rate, momentum, nesterov, decay=0.0, maximize=False):
    """SGD with momentum; `maximize` changes the sign of the gradients."""
    gradients = _in_order(gradients)
    with _contiguous([variables, slots]) as (variables, slots):
        torch._fused_sgd_(
            variables,
            gradients,
            slots,
            lr=rate,
            momentum=momentum,
            dampening=0.0,
            weight_decay=decay,
            nesterov=nesterov,
            maximize=maximize,
            is_first_step=False,
        )


def adam(variables, gradients, slots, rate, beta_1, beta_2, epsilon):
    """Adam, of averages whose bias the rate corrects."""
    if rate.device.type != "cpu":  # whose kernels read a float32
        rate = rate.to(torch.float32)
    long_ago = torch.full((), 1e9, device=rate.device)  # so that it corrects nothing itself
    gradients = _in_order(gradients)
    with _contiguous([variables, *slots]) as (variables, ms, vs, *v_hats):
        torch._fused_adam_(
            variables,
            gradients,
            ms,
            vs,
            v_hats[0] if v_hats else [],
            [long_ago] * len(variables),
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            weight_decay=0.0,
            eps=epsilon,
            amsgrad=bool(v_hats),
            maximize=False,
        )


def _in_order(tensors):
    """The same tensors, or copies where some have their memory in another order than their axes."""
    if all(map(torch.Tensor.is_contiguous, tensors)):
        return tensors
    return [x.contiguous() for x in tensors]


@contextlib.contextmanager
def _contiguous(lists):
    """The lists of tensors in order, and afterwards in those given what has been done to them."""
    ordered = list(map(_in_order, lists))
    yield ordered
    for tensors, copies in zip(lists, ordered):
        if copies is not tensors:
            for x, copy in zip(tensors, copies):
                if copy is not x:
                    x.copy_(copy)
