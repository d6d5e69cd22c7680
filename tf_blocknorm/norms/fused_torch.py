"""Norms by torch's reductions of lists of tensors: one call for all."""

import math

import torch

_ORDERS = {"l1": 1, "avg_l1": 1, "l2": 2, "rms": 2, "avg_l2": 2, "max": math.inf}

# Entries up to which torch's norm of a tensor on a CPU is exact enough, and fast. It adds one
# number after another, and errs by 1e-4 after some million; and the largest of many takes it twenty
# times as long as `aminmax`.
_SHORT = {1: 2**12, 2: 2**14, math.inf: 2**10}
# How many are added at a time. The absolute values of a part stay in the cache.
_ROW, _PART = 2**8, 2**18


def sizes(blocks, norm):
    """The norm of every block: a vector, or None if there is no fused way.

    Args:
        blocks: list of `Block` of one dtype, float32 or float64.
        norm: its name.
    """
    if norm not in _ORDERS or any(block.per_unit for block in blocks):
        return None
    order = _ORDERS[norm]
    most, every = _SHORT[order], [x for block in blocks for x in block.tensors]
    tensors = [x if x.numel() <= most or not x.is_cpu else _short(x, order) for x in every]
    found = torch.stack(torch._foreach_norm(tensors, order))
    if len(tensors) > len(blocks):
        parts = found.split([len(block.tensors) for block in blocks])
        found = torch.stack([torch.linalg.vector_norm(part, order) for part in parts])
    if norm in ("rms", "avg_l2", "avg_l1"):
        counts = [float(block.count) for block in blocks]
        counts = torch.tensor(counts, dtype=found.dtype, device=found.device)
        found = found / (counts if norm == "avg_l1" else torch.sqrt(counts))
    return found


def _short(x, order):
    """A tensor of the same norm, which torch computes well."""
    if order == math.inf:
        return torch.stack(torch.aminmax(x))
    x = x.reshape(-1)
    if order == 1:
        return torch.stack([part.abs().sum() for part in x.split(_PART)])
    while len(x) > _SHORT[order]:
        whole = len(x) - len(x) % _ROW
        rows = torch.linalg.vector_norm(x[:whole].view(-1, _ROW), dim=1)
        x = torch.cat([rows, x[whole:]])
    return x


def sum_of_squares(x, axes):
    """That of `x` over some axes, which stay with size 1."""
    return torch.sum(torch.square(x), axes, keepdim=True)


def dots(pairs):
    """For each pair of tensors the sum of the products of their entries."""
    return [torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in pairs]
