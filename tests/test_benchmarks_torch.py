"""The benchmark on torch: what other libraries' optimizers do to what contenders share."""

import pytest
import torch

from benchmarks import torch_


@pytest.mark.parametrize("peer", torch_.others(), ids=lambda peer: f"{peer[0]}-{peer[1]}")
def test_optimizers_of_others_leave_our_gradients_alone(peer):
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    gradients = [torch.tensor([1e4, 2e4]), torch.tensor([1e-4, 3e-4]), torch.tensor([0.5, 0.0])]
    expected = [gradient.clone() for gradient in gradients]
    optimizer, before = torch_.over(peer[2], weights, gradients)
    for _ in range(3):
        before()
        assert all(map(torch.equal, [w.grad for w in weights], expected))
        optimizer.step()
        optimizer.step()
    assert all(map(torch.equal, gradients, expected))
