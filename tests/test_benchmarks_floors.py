"""The bare formulas of the speed benchmark: two writings of each rule that make the same steps."""

import numpy as np
import pytest
import torch

from benchmarks import floors


@pytest.mark.parametrize("name", floors.RULES)
def test_jax_and_torch_make_the_same_steps(name, monkeypatch):
    monkeypatch.setattr(floors, "RATE", 0.1)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype("float32") for s in [(40, 30), (30,), (5, 4, 3)]]
    with torch.no_grad():
        runs = [backend(arrays).floor(name) for backend in (floors.Jax, floors.Torch)]
        for run in runs:
            run(), run()
        for start, *pair in zip(arrays, *(run() for run in runs)):
            steps = [np.asarray(weights) - start for weights in pair]
            assert np.abs(steps[0]).max() > 1e-5
            np.testing.assert_allclose(*steps, rtol=1e-4, atol=1e-6)
