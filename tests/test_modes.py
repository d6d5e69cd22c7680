"""The ways in which TensorFlow runs a step give one result."""

import keras
import numpy as np
import problems
import pytest
import tensorflow as tf
from cases import CORE_CASES, TABLE
from test_parity import assert_equal

STEPS = 6


def by_name(name):
    return next(case for case in TABLE if case.name == name)


@CORE_CASES
def test_built_before_the_first_step_or_in_it(case):
    """Within `fit`, TensorFlow builds an optimizer inside the trace of the first step."""
    assert_built_early_or_late_is_the_same(case, jit_compile=False)


@pytest.mark.parametrize("name", ["sgd-exclude", "adam-scale-compiled", "lamb", "adaptive-model"])
def test_built_before_the_first_step_or_in_it_under_xla(name):
    assert_built_early_or_late_is_the_same(by_name(name), jit_compile=True)


def assert_built_early_or_late_is_the_same(case, **mode):
    late, early = (
        problems.train(
            problems.compiled(case.optimizer(), built=built, **mode), problems.rows(STEPS)
        )
        for built in (False, True)
    )
    for a, b in zip(late, early, strict=True):
        np.testing.assert_array_equal(a, b)


@CORE_CASES
@pytest.mark.parametrize(
    "mode", [{"jit_compile": False}, {"jit_compile": True}], ids=["graph", "xla"]
)
def test_accumulated_micro_batches_are_one_batch(case, mode):
    if case.rates:
        pytest.skip("Keras's schedules count micro-batches")
    if case.arguments.get("use_ema"):
        pytest.skip("Keras averages the weights after every micro-batch")
    rows = problems.rows(3 * STEPS)
    model = problems.compiled(case.optimizer(gradient_accumulation_steps=3), **mode)
    assert_equal(problems.train(model, rows), case.reference(problems.gradients(rows, 3)))


@CORE_CASES
def test_mixed_float16(case):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        rows = problems.half_precision_rows(STEPS)
        model = problems.compiled(case.optimizer())
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        actual = problems.train(model, rows)
    finally:
        keras.config.set_dtype_policy("float32")
    assert_equal(actual, case.reference(problems.gradients(rows)))


@CORE_CASES
def test_steps_per_execution(case):
    rows = problems.rows(STEPS)
    model = problems.compiled(case.optimizer(), steps_per_execution=4)
    assert_equal(problems.train(model, rows), case.reference(problems.gradients(rows)))


@CORE_CASES
def test_one_trace_for_all_steps_and_rates(case, monkeypatch):
    traces = []
    original = case.cls.on_gradients

    def counted(self, gradients, variables):
        traces.append(1)
        return original(self, gradients, variables)

    monkeypatch.setattr(case.cls, "on_gradients", counted)
    model = problems.compiled(case.optimizer())
    problems.train(model, problems.rows(2))
    first = len(traces)
    assert first >= 1
    if case.rates is None:
        model.optimizer.learning_rate = 0.001
    problems.train(model, problems.rows(STEPS))
    assert len(traces) == first


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_update_agrees_in_a_custom_loop(jit_compile):
    """`jit_compile=True` on the optimizer, called eagerly: compiled once, and equal."""
    case = by_name("adam-scale-compiled")
    model = problems.probe()
    optimizer = case.cls(**{**case.arguments, "jit_compile": jit_compile})
    gradients = problems.gradients(problems.rows(STEPS))
    for step in gradients:
        step = [tf.constant(g, tf.float32) for g in step]
        optimizer.apply(step, model.trainable_variables)
    assert_equal(model.get_weights(), case.reference(gradients))
    assert len(optimizer._scratch.compiled) == int(jit_compile)


# ------------------------------------------------------------------ gradients that are not finite


@pytest.mark.parametrize("jit_compile", [False, True])
def test_loss_scaling_skips_steps_that_are_not_finite(jit_compile):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        rows = problems.half_precision_rows(STEPS)
        rows[2, 5] = np.inf
        rows[4, -1] = np.nan
        case = by_name("sgd-rms-layer")
        model = problems.compiled(case.optimizer(), jit_compile=jit_compile)
        actual = problems.train(model, rows)
    finally:
        keras.config.set_dtype_policy("float32")
    assert int(model.optimizer.iterations) == STEPS - 2
    healthy = problems.gradients(np.delete(rows, [2, 4], axis=0))
    assert_equal(actual, case.reference(healthy))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "name",
    ["sgd-max-nesterov", "sgd-min_max-unit", "sgd-update-max", "adam", "novograd", "lars", "lamb"],
)
def test_a_broken_gradient_is_seen_in_the_weights(value, jit_compile, name):
    case = by_name(name)
    model = problems.compiled(case.optimizer(), jit_compile=jit_compile)
    rows = problems.rows(2)
    rows[1, 4] = value  # in a/kernel, second row, column 1
    kernel, bias = problems.train(model, rows)[:2]
    broken = np.isnan(kernel[:, 1] if case.options.get("block") == "unit" else kernel)
    assert broken.all()
    assert np.isfinite(bias).all()
