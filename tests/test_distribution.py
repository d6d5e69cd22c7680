"""Two devices, and two processes, train as one device does."""

import json
import os

import keras
import numpy as np
import problems
import pytest
import workers
from cases import CORE_CASES, EACH_PART, PARTS, TABLE
from test_parity import assert_equal

import tf_blocknorm as tfb

STEPS = 6


@CORE_CASES
def test_mirrored_strategy_equals_one_device(case, strategy):
    rows = problems.rows(2 * STEPS)
    compiled = case.arguments.get("jit_compile")
    with strategy.scope():
        model = problems.compiled(case.optimizer(), built=not compiled)
    if compiled:
        with pytest.raises(ValueError, match=r"`jit_compile=True` is not possible .*issues/19005"):
            problems.train(model, rows, batch_size=2)
        return
    actual = problems.train(model, rows, batch_size=2)
    assert_equal(actual, case.reference(problems.gradients(rows, 2)))
    for variable in model.trainable_variables:
        first, second = (copy.numpy() for copy in variable.value.values)
        np.testing.assert_array_equal(first, second)


def test_mixed_precision_under_a_mirrored_strategy(strategy):
    case = next(case for case in TABLE if case.name == "sgd-rms-layer")
    rows = problems.half_precision_rows(2 * STEPS)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with strategy.scope():
            model = problems.compiled(case.optimizer(), built=False)
        actual = problems.train(model, rows, batch_size=2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert_equal(actual, case.reference(problems.gradients(rows, 2)))


def test_accumulation_in_a_graph_names_the_upstream_issue(strategy):
    with strategy.scope():
        model = problems.compiled(tfb.BlockNormSGD(gradient_accumulation_steps=2))
    with pytest.raises(
        ValueError, match=r"`gradient_accumulation_steps` .*issues/20582.*=2, with 2"
    ):
        problems.train(model, problems.rows(4), batch_size=2)


@EACH_PART
def test_two_worker_processes_equal_one(part, tmp_path):
    """All rows in one go. Keras's own `fit` does not work under MultiWorkerMirroredStrategy."""
    addresses = [f"127.0.0.1:{workers.free_port()}" for _ in range(2)]
    tasks = [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        for index in range(2)
    ]
    workers.run_both(
        "worker_multi.py",
        arguments=[[tmp_path / f"{index}.npz", STEPS, part] for index in range(2)],
        environments=[{**os.environ, "TF_CONFIG": json.dumps(task)} for task in tasks],
        timeout=600,
    )
    gradients = problems.gradients(problems.rows(2 * STEPS), 2)
    results = [np.load(tmp_path / f"{index}.npz") for index in range(2)]
    trained = [case for case in PARTS[part] if not case.arguments.get("jit_compile")]
    assert len(trained) > 20
    for case in trained:
        expected = case.reference(gradients)
        for result in results:
            assert_equal([result[f"{case.name}:{i}"] for i in range(len(expected))], expected)
