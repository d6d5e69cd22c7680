"""JAX: what is compiled; the rows on two devices with keras.distribution, and in two processes."""

import os
import re

import input_problems
import jax
import keras
import numpy as np
import problems
import pytest
import workers
from cases import CORE_CASES, EACH_PART, PARTS, TABLE
from cases_inputs import PARTS as INPUT_PARTS
from cases_inputs import TABLE as INPUT_TABLE
from test_parity import assert_equal

import tf_blocknorm as tfb

STEPS = 6


def test_there_are_two_devices():
    assert len(jax.devices()) == 2


MADE = {
    "sgd": lambda: tfb.BlockNormSGD(weight_decay=0.1),
    "max": lambda: tfb.BlockNormSGD(norm="max"),
    "momentum": lambda: tfb.BlockNormSGD(momentum=0.9, nesterov=True),
    "update": lambda: tfb.BlockNormSGD(momentum=0.9, normalize="update"),
    "relative": lambda: tfb.BlockNormSGD(scale="parameter", noise=0.1),
    "layers": lambda: tfb.BlockNormAdam(block="model"),
    "adamw": lambda: tfb.BlockNormAdamW(amsgrad=True),
    "rmsprop": lambda: tfb.BlockNormRMSprop(),
    "adagrad": lambda: tfb.BlockNormAdagrad(),
    "novograd": lambda: tfb.NovoGrad(),
    "lars": lambda: tfb.LARS(),
    "lamb": lambda: tfb.LAMB(),
    "insgd": lambda: tfb.INSGD(powers=[(".", 100.0)]),
    "adaptive": lambda: tfb.AdaptiveBlockNormSGD(),
    "adaptive momentum": lambda: tfb.AdaptiveBlockNormSGD(momentum=0.5, average=0.5),
}


@pytest.mark.parametrize("name", MADE)
def test_a_step_copies_nothing_and_is_compiled_once(name):
    rng = np.random.default_rng(0)
    shapes = [(96, 160), (160,), (160, 64)]
    variables = [keras.Variable(rng.normal(size=shape)) for shape in shapes]
    optimizer = MADE[name]()
    optimizer.build(variables)
    gradients = [jax.numpy.asarray(rng.normal(size=s), "float32") for s in shapes]
    # What is donated is gone, and the variables are to stay.
    held = jax.tree.map(
        jax.numpy.copy, ([v.value for v in variables], [v.value for v in optimizer.variables])
    )

    def step(weights, state, gradients):
        return optimizer.stateless_apply(state, gradients, weights)

    step = jax.jit(step, donate_argnums=(0, 1))
    compiled = step.lower(*held, gradients).compile().as_text()
    assert re.findall(r"= f32\[(?:96,160|160,64)\]\S* copy\(", compiled) == []
    for _ in range(3):
        held = step(*held, gradients)
    assert step._cache_size() == 1


def data_parallel():
    return keras.distribution.DataParallel(devices=keras.distribution.list_devices())


def model_parallel():
    mesh = keras.distribution.DeviceMesh(
        (1, 2), ["batch", "model"], keras.distribution.list_devices()
    )
    layout = keras.distribution.LayoutMap(mesh)
    layout["b/filters"] = (None, None, "model", None)
    layout["b/wide"] = ("model", None, None)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


@CORE_CASES
@pytest.mark.parametrize("make", [data_parallel, model_parallel])
def test_sharded_over_two_devices(case, make):
    rows = problems.rows(2 * STEPS)
    keras.distribution.set_distribution(make())
    try:
        model = problems.compiled(case.optimizer(), jit_compile=True)
        sharding = model.get_layer("b").all[1].value.sharding
        assert sharding.is_fully_replicated == (make is data_parallel)
        actual = problems.train(model, rows, batch_size=2)
    finally:
        keras.distribution.set_distribution(None)
    assert_equal(actual, case.reference(problems.gradients(rows, 2)))


@CORE_CASES
def test_accumulated_micro_batches_are_one_batch(case):
    if case.rates or case.arguments.get("use_ema"):
        pytest.skip("Keras counts micro-batches in schedules, and averages after each")
    rows = problems.rows(3 * STEPS)
    model = problems.compiled(case.optimizer(gradient_accumulation_steps=3), jit_compile=True)
    actual = problems.train(model, rows)
    assert_equal(actual, case.reference(problems.gradients(rows, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_loss_scaling_skips_steps_that_are_not_finite(value):
    case = next(case for case in TABLE if case.name == "sgd-max-nesterov")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        rows = problems.half_precision_rows(STEPS)
        rows[2, 5] = value
        actual = problems.train(problems.compiled(case.optimizer(), jit_compile=True), rows)
    finally:
        keras.config.set_dtype_policy("float32")
    healthy = problems.gradients(np.delete(rows, 2, axis=0))
    assert_equal(actual, case.reference(healthy))


@EACH_PART
def test_two_processes_equal_one(part, tmp_path):
    """All rows in one go, with jax.distributed and DataParallel."""
    address = f"127.0.0.1:{workers.free_port()}"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    workers.run_both(
        "worker_jax.py",
        arguments=[[tmp_path / f"{i}.npz", STEPS, address, i, part] for i in range(2)],
        environments=[environment] * 2,
        timeout=900,
    )
    gradients = problems.gradients(problems.rows(2 * STEPS), 2)
    for case in PARTS[part]:
        expected = case.reference(gradients)
        for i in range(2):
            result = np.load(tmp_path / f"{i}.npz")
            assert_equal([result[f"{case.name}:{k}"] for k in range(len(expected))], expected)


@EACH_PART
def test_input_statistics_over_two_processes(part, tmp_path):
    """Each has a row of every batch."""
    address = f"127.0.0.1:{workers.free_port()}"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    workers.run_both(
        "worker_jax_inputs.py",
        arguments=[[tmp_path / f"{i}.npz", STEPS, address, i, part] for i in range(2)],
        environments=[environment] * 2,
        timeout=900,
    )
    x, y = input_problems.data(2 * STEPS)
    for case in INPUT_PARTS[part]:
        expected = case.reference(x, y)
        for i in range(2):
            result = np.load(tmp_path / f"{i}.npz")
            for k, weight in enumerate(expected):
                actual = result[f"{case.name}:{k}"]
                np.testing.assert_allclose(actual, weight, rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("parallel", ["data", "model"])
def test_input_statistics_over_two_devices(parallel):
    case = next(case for case in INPUT_TABLE if case.name == "paper-l1-decay")
    x, y = input_problems.data(2 * STEPS)
    made = data_parallel()
    if parallel == "model":
        layout = keras.distribution.LayoutMap(model_parallel().device_mesh)
        layout["grouped/kernel"] = (None, None, None, "model")
        layout["dense/kernel"] = ("model", None)
        made = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    keras.distribution.set_distribution(made)
    try:
        model = input_problems.compiled(case.optimizer(), norm=case.norm, jit_compile=True)
        kernel = model.get_layer("grouped").kernel
        assert kernel.value.sharding.is_fully_replicated == (parallel == "data")
        actual = input_problems.train(model, x, y)
    finally:
        keras.distribution.set_distribution(None)
    for a, b in zip(actual, case.reference(x, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-6, atol=5e-6)
