"""INSGD in the ways in which TensorFlow runs, saves and spreads a step."""

import json
import os

import input_problems as problems
import keras
import numpy as np
import pytest
import tensorflow as tf
import workers
from cases import EACH_PART
from cases_inputs import CORE_CASES, PARTS, TABLE
from test_insgd import assert_equal, by_name
from test_saving import through_keras, through_pickle

import tf_blocknorm as tfb

STEPS = 6


@CORE_CASES
def test_mirrored_strategy_equals_one_device(case, strategy):
    x, y = problems.data(2 * STEPS)
    compiled = case.arguments.get("jit_compile")
    with strategy.scope():
        model = problems.compiled(case.optimizer(), norm=case.norm, built=not compiled)
    if compiled:
        with pytest.raises(ValueError, match=r"`jit_compile=True` is not possible"):
            problems.train(model, x, y)
        return
    assert_equal(problems.train(model, x, y), case.reference(x, y))
    for variable in model.trainable_variables:
        first, second = (copy.numpy() for copy in variable.value.values)
        np.testing.assert_array_equal(first, second, err_msg=variable.path)


def test_mixed_precision_under_a_mirrored_strategy(strategy):
    x, y = problems.half_precision_data(2 * STEPS)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with strategy.scope():
            model = problems.compiled(by_name("paper").optimizer(), built=False)
        actual = problems.train(model, x, y)
    finally:
        keras.config.set_dtype_policy("float32")
    assert_equal(actual, by_name("paper").reference(x, y))


@EACH_PART
def test_two_worker_processes_equal_one_on_the_joint_batch(part, tmp_path):
    """One has two rows of three, the other the third."""
    addresses = [f"127.0.0.1:{workers.free_port()}" for _ in range(2)]
    tasks = [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        for index in range(2)
    ]
    workers.run_both(
        "worker_multi_inputs.py",
        arguments=[[tmp_path / f"{index}.npz", STEPS, part] for index in range(2)],
        environments=[{**os.environ, "TF_CONFIG": json.dumps(task)} for task in tasks],
        timeout=600,
    )
    x, y = problems.data(3 * STEPS)
    trained = [case for case in PARTS[part] if not case.arguments.get("jit_compile")]
    assert len(trained) >= 3
    for index in range(2):
        result = np.load(tmp_path / f"{index}.npz")
        for case in trained:
            expected = case.reference(x, y, batch_size=3)
            assert_equal([result[f"{case.name}:{i}"] for i in range(len(expected))], expected)


def test_micro_batches_of_different_sizes():
    """Five examples in three micro-batches: each counts once."""
    x, y = problems.data(5)
    model = problems.compiled(by_name("paper").optimizer(gradient_accumulation_steps=3))
    problems.train(model, x, y, batch_size=2)
    power = model.get_layer("grouped").input_tap.power()
    expected = (x[1].astype(float) ** 2).sum((1, 2)).mean(0)
    np.testing.assert_allclose(power, expected, rtol=1e-6)


@CORE_CASES
def test_built_before_the_first_step_or_in_it(case):
    x, y = problems.data(2 * STEPS)
    late, early = (
        problems.train(problems.compiled(case.optimizer(), norm=case.norm, built=built), x, y)
        for built in (False, True)
    )
    for a, b in zip(late, early, strict=True):
        np.testing.assert_array_equal(a, b)


@CORE_CASES
def test_steps_per_execution(case):
    x, y = problems.data(2 * STEPS)
    model = problems.compiled(case.optimizer(), norm=case.norm, steps_per_execution=4)
    assert_equal(problems.train(model, x, y), case.reference(x, y))


def test_one_trace_for_all_steps_and_rates(monkeypatch):
    traces = []
    original = tfb.INSGD.update_step

    def counted(self, gradient, variable, learning_rate):
        traces.append(1)
        return original(self, gradient, variable, learning_rate)

    monkeypatch.setattr(tfb.INSGD, "update_step", counted)
    x, y = problems.data(2 * STEPS)
    model = problems.compiled(tfb.INSGD(0.01))
    problems.train(model, [part[:4] for part in x], y[:4])
    first = len(traces)
    model.optimizer.learning_rate = 0.001
    problems.train(model, x, y)
    assert len(traces) == first >= len(problems.PATHS)


# ------------------------------------------------------------------------------------------ saving


def through_weights(model, case, folder):
    model.save_weights(folder / "model.weights.h5")
    model = problems.compiled(case.optimizer(), norm=case.norm)
    model.optimizer.build(model.trainable_variables)
    model.load_weights(folder / "model.weights.h5")
    return model


def through_checkpoint(model, case, folder):
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(folder / "checkpoint")
    model = problems.compiled(case.optimizer(), norm=case.norm)
    model.optimizer.build(model.trainable_variables)
    status = tf.train.Checkpoint(model=model, optimizer=model.optimizer).restore(path)
    status.assert_existing_objects_matched()
    return model


FORMS = [through_keras, through_pickle, through_weights, through_checkpoint]


@CORE_CASES
def test_a_continued_run_is_identical(case, tmp_path):
    x, y = problems.data(2 * STEPS)
    model = problems.compiled(case.optimizer(), norm=case.norm)
    problems.train(model, [part[:STEPS] for part in x], y[:STEPS])
    for form in FORMS:
        (tmp_path / form.__name__).mkdir()
    copies = [form(model, case, tmp_path / form.__name__) for form in FORMS]
    rest = [part[STEPS:] for part in x], y[STEPS:]
    expected = problems.train(model, *rest)
    for form, copy in zip(FORMS, copies):
        assert type(copy.optimizer) is tfb.INSGD
        for path, a, b in zip(problems.PATHS, problems.train(copy, *rest), expected):
            np.testing.assert_array_equal(a, b, err_msg=f"{form.__name__}: {path}")


def test_a_run_continued_in_the_midst_of_micro_batches(tmp_path):
    case = by_name("paper")
    x, y = problems.data(12)
    optimizer = case.optimizer(gradient_accumulation_steps=3)
    model = problems.compiled(optimizer)
    problems.train(model, [part[:4] for part in x], y[:4], batch_size=1)
    copy = through_keras(model, case, tmp_path)
    actual = problems.train(copy, [part[4:] for part in x], y[4:], batch_size=1)
    assert_equal(actual, case.reference(x, y, batch_size=3))


def test_backup_and_restore(tmp_path):
    x, y = problems.data(4)

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    case = TABLE[1]
    model = problems.compiled(case.optimizer(), norm=case.norm)
    with pytest.raises(InterruptedError):
        problems.train(model, x, y, epochs=4, callbacks=[backup(), Interrupt()])
    resumed = problems.compiled(case.optimizer(), norm=case.norm)
    actual = problems.train(resumed, x, y, epochs=4, callbacks=[backup()])
    whole = problems.compiled(case.optimizer(), norm=case.norm)
    for a, b in zip(actual, problems.train(whole, x, y, epochs=4)):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------------ float16


@pytest.mark.parametrize("jit_compile", [False, True])
def test_loss_scaling_skips_steps_that_are_not_finite(jit_compile):
    """Also where it is the power alone that is not: its sums are among what Keras looks at."""
    case = by_name("paper")
    x, y = problems.half_precision_data(2 * STEPS)
    broken = [np.array(part) for part in x]
    broken[0][2, 1] = np.inf
    broken[3][7, 0] = np.nan
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = problems.compiled(case.optimizer(), jit_compile=jit_compile)
        actual = problems.train(model, broken, y)
    finally:
        keras.config.set_dtype_policy("float32")
    assert int(model.optimizer.iterations) == STEPS - 2
    healthy = [k for k in range(2 * STEPS) if k not in (2, 3, 6, 7)]
    assert_equal(actual, case.reference([part[healthy] for part in x], y[healthy]))


def test_a_multi_optimizer_gets_the_taps_with_their_kernels():
    x, y = problems.data(2 * STEPS)
    sgd = keras.optimizers.SGD(0.02, momentum=0.9)
    groups = keras.optimizers.OptimizerMap(sgd, {"dense/.*": by_name("paper").optimizer()})
    model = problems.compiled(keras.optimizers.MultiOptimizer(groups))
    actual = problems.train(model, x, y)
    expected = by_name("paper").reference(x, y)
    plain = problems.compiled(keras.optimizers.SGD(0.02, momentum=0.9))
    others = problems.train(plain, x, y)
    assert_equal(actual, expected[:2] + others[2:])
