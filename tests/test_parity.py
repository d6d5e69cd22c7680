"""Every row against its NumPy reference, through `fit`."""

import keras
import numpy as np
import problems
import pytest
from cases import CASES

STEPS = 7
MODES = {
    "tensorflow": {
        "eager": {"run_eagerly": True},
        "graph": {"jit_compile": False},
        "xla": {"jit_compile": True},
    },
    "jax": {"jit": {"jit_compile": True}},
    "torch": {"eager": {"jit_compile": False}},
}[keras.backend.backend()]

# A step changes the weights by about 1e-2; float32 rounding of weights about 1 is 1e-7.
TOLERANCE = {"rtol": 2e-6, "atol": 2e-6}


def assert_equal(actual, expected, **tolerance):
    for path, a, e in zip(problems.PATHS, actual, expected, strict=True):
        np.testing.assert_allclose(a, e, err_msg=path, **{**TOLERANCE, **tolerance})


@CASES
@pytest.mark.parametrize("mode", MODES)
def test_fit_equals_the_reference(case, mode):
    rows = problems.rows(STEPS)
    model = problems.compiled(case.optimizer(), **MODES[mode])
    actual = problems.train(model, rows)
    assert_equal(actual, case.reference(problems.gradients(rows)))


@CASES
def test_every_variable_moves_far_beyond_the_tolerance(case):
    history = case.history(problems.gradients(problems.rows(STEPS)))
    for path, start, *weights in zip(problems.PATHS, problems.start_weights(), *history):
        assert np.abs(np.subtract(weights, start)).max() > 500 * 2e-6, path
