"""A run that is saved and continued ends bit for bit where an uninterrupted one does."""

import os
import pickle
import signal
import subprocess
import sys

import keras
import numpy as np
import problems
import pytest
import tensorflow as tf
from cases import CORE_CASES, EACH_PART, PARTS, l3

import tf_blocknorm as tfb

FIRST, REST = problems.rows(3, seed=0), problems.rows(3, seed=1)


def through_keras(model, optimizer, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


def through_pickle(model, optimizer, folder):
    return pickle.loads(pickle.dumps(model))


def through_weights(model, optimizer, folder):
    model.save_weights(folder / "model.weights.h5")
    model = problems.compiled(optimizer)
    optimizer.build(model.trainable_variables)
    model.load_weights(folder / "model.weights.h5")
    return model


def through_checkpoint(model, optimizer, folder):
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(folder / "checkpoint")
    model = problems.compiled(optimizer)
    optimizer.build(model.trainable_variables)
    status = tf.train.Checkpoint(model=model, optimizer=optimizer).restore(path)
    status.assert_existing_objects_matched()
    return model


FORMATS = [through_keras, through_pickle, through_weights, through_checkpoint]


@CORE_CASES
def test_a_continued_run_is_identical(case, tmp_path):
    model = problems.compiled(case.optimizer())
    problems.train(model, FIRST)
    for form in FORMATS:
        (tmp_path / form.__name__).mkdir()
    continued = [form(model, case.optimizer(), tmp_path / form.__name__) for form in FORMATS]
    expected = problems.train(model, REST)
    for form, copy in zip(FORMATS, continued):
        assert type(copy.optimizer) is case.cls
        for path, a, b in zip(problems.PATHS, problems.train(copy, REST), expected):
            np.testing.assert_array_equal(a, b, err_msg=f"{form.__name__}: {path}")
        assert int(copy.optimizer.iterations) == 6


@EACH_PART
def test_backup_and_restore_after_a_killed_process(part, tmp_path):
    """Every row is interrupted in its third epoch, and the process killed."""
    script = os.path.join(os.path.dirname(__file__), "worker_resume.py")
    first = subprocess.run(
        [sys.executable, script, "interrupt", tmp_path, part], capture_output=True
    )
    assert first.returncode == -signal.SIGKILL, first.stderr.decode()[-3000:]
    assert len(list(tmp_path.iterdir())) == len(PARTS[part])
    second = subprocess.run([sys.executable, script, "resume", tmp_path, part], capture_output=True)
    assert second.returncode == 0, second.stderr.decode()[-3000:]
    results = np.load(tmp_path / "results.npz")
    for case in PARTS[part]:
        assert results[f"{case.name}:epochs"] == 2, case.name  # of 4
        for i, path in enumerate(problems.PATHS):
            np.testing.assert_array_equal(
                results[f"{case.name}:resumed:{i}"],
                results[f"{case.name}:uninterrupted:{i}"],
                err_msg=f"{case.name}: {path}",
            )


def test_other_state_than_the_optimizers_is_an_error(tmp_path):
    model = problems.compiled(tfb.BlockNormSGD(0.1, 0.9))
    problems.train(model, FIRST)
    model.save_weights(tmp_path / "model.weights.h5")
    plain = problems.compiled(tfb.BlockNormSGD(0.1))
    plain.optimizer.build(plain.trainable_variables)
    with pytest.raises(
        ValueError, match=r"must have as many variables.*Received: 8 saved .* for 2\."
    ):
        plain.load_weights(tmp_path / "model.weights.h5")


def test_exclusions_from_weight_decay_survive_a_reload(tmp_path):
    """Keras forgets what its method of this name was told."""
    rows = problems.rows(2)
    optimizer = tfb.BlockNormSGD(0.1, weight_decay=0.5)
    model = problems.compiled(optimizer, built=False)
    gain, kernel = model.trainable_variables[2], model.trainable_variables[0]
    optimizer.exclude_from_weight_decay(var_list=[gain], var_names=["bias", "b/filters"])
    model.optimizer.build(model.trainable_variables)
    copy = through_keras(model, None, tmp_path)
    assert copy.optimizer.get_config()["exclude_from_weight_decay"] == [
        f"^{gain.path}$",
        "bias",
        "b/filters",
    ]
    for a, b in zip(problems.train(model, rows), problems.train(copy, rows)):
        np.testing.assert_array_equal(a, b)
    assert optimizer._use_weight_decay(kernel)
    assert not optimizer._use_weight_decay(gain)
    with pytest.raises(ValueError, match="must be called before the optimizer is built"):
        optimizer.exclude_from_weight_decay(var_names=["kernel"])


def test_a_registered_norm_needs_its_registration():
    config = tfb.BlockNormSGD(norm=l3).get_config()
    assert tfb.BlockNormSGD.from_config(config).norm is l3
    keras.saving.get_custom_objects().pop("tests>l3")
    try:
        with pytest.raises(ValueError, match="l3"):
            tfb.BlockNormSGD(norm=l3)
    finally:
        keras.saving.register_keras_serializable(package="tests")(l3)
