"""AdaptiveStepSize against its rule in NumPy, on every backend, and beside other callbacks."""

import keras
import numpy as np
import problems
import pytest
from keras import ops

import tf_blocknorm as tfb

BACKEND = keras.backend.backend()
MODES = {
    "tensorflow": {
        "graph": {"jit_compile": False},
        "xla": {"jit_compile": True},
        "executions": {"steps_per_execution": 3},
    },
    "jax": {"jit": {"jit_compile": True}, "executions": {"steps_per_execution": 3}},
    "torch": {"eager": {"jit_compile": False}},
}[BACKEND]
ROWS = problems.rows(12, seed=3)
OPTIONS = [
    {"rate_update": 0.8},
    {"rate_update": 0.5, "update_freq": 5, "average": 0.7},
    {"rate_update": 0.3, "target_correlation": -0.1, "max_learning_rate": 0.055, "block": "model"},
    {"rate_update": 0.1, "target_correlation": 0.5, "min_learning_rate": 0.04, "block": "layer"},
]


def rates(gradients, start, o, groups):
    """The rate of every step, and the one that is left at the end."""
    result, total, count, updates = [start], 0.0, 0, 0
    past = None
    for g in gradients:
        blocks = [np.concatenate([g[i].ravel() for i in group]) for group in groups]
        blocks = [b / np.sqrt((b**2).sum()) if b.any() else b for b in blocks]
        past = past or [np.zeros_like(b) for b in blocks]
        cosines, weights = [], []
        for b, p in zip(blocks, past):
            if b.any() and p.any():
                cosines.append((b * p).sum() / np.sqrt((p**2).sum()))
                weights.append(b.size)
        alpha = o.get("average", 0.0)
        past = [alpha * p + (1 - alpha) * b for p, b in zip(past, blocks)]
        updates += 1
        if cosines:
            total += np.average(cosines, weights=weights)
            count += 1
        rate = result[-1]
        if updates == o.get("update_freq", 1):
            if count:
                excess = total / count - o.get("target_correlation", 0.0)
                rate = rate * (1 + o["rate_update"] * excess)
                rate = max(rate, o.get("min_learning_rate", 1e-7))
                rate = min(rate, o.get("max_learning_rate", 1.0))
            total, count, updates = 0.0, 0, 0
        result.append(rate)
    return result


GROUPS = {
    "variable": [[i] for i in range(6)],
    "layer": [[0, 1, 2], [3, 4, 5]],
    "model": [[0, 1, 2, 3, 4, 5]],
}


def expected(o, rows=ROWS, start=0.05):
    return rates(problems.gradients(rows), start, o, GROUPS[o.get("block", "variable")])


def rate_of(model):
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return float(ops.convert_to_numpy(optimizer.learning_rate))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("o", OPTIONS, ids=str)
def test_rates_and_weights_equal_the_reference(o, mode):
    model = problems.compiled(keras.optimizers.SGD(0.05), **MODES[mode])
    weights = problems.train(model, ROWS, callbacks=[tfb.AdaptiveStepSize(**o)])
    rule = expected(o)
    np.testing.assert_allclose(rate_of(model), rule[-1], rtol=1e-5)
    assert len(set(rule)) > 2, "the rate must change for this test to see anything"
    gradients = problems.gradients(ROWS)
    for i, (weight, start) in enumerate(zip(weights, problems.start_weights())):
        moved = sum(rate * g[i] for rate, g in zip(rule, gradients))
        scale = np.abs(moved).max()
        np.testing.assert_allclose(weight, start - moved, rtol=1e-5, atol=1e-5 * (1 + scale))


def optimizers():
    return {
        "block_norm": tfb.BlockNormSGD(0.05),
        "block_norm_compiled": tfb.BlockNormSGD(0.05, jit_compile=True),
        "adam": keras.optimizers.Adam(0.05),
        "loss_scale": keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.05), initial_scale=2.0
        ),
    }


@pytest.mark.parametrize("name", optimizers())
def test_any_optimizer(name):
    o = OPTIONS[1]
    model = problems.compiled(optimizers()[name])
    problems.train(model, ROWS, callbacks=[tfb.AdaptiveStepSize(**o)])
    np.testing.assert_allclose(rate_of(model), expected(o)[-1], rtol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute")
@pytest.mark.parametrize("name", ["block_norm", "adam", "loss_scale"])
def test_replicas(name, strategy):
    o = OPTIONS[1]
    with strategy.scope():
        model = problems.compiled(optimizers()[name])
    problems.train(model, ROWS, batch_size=2, callbacks=[tfb.AdaptiveStepSize(**o)])
    rule = rates(problems.gradients(ROWS, 2), 0.05, o, GROUPS["variable"])
    np.testing.assert_allclose(rate_of(model), rule[-1], rtol=1e-5)


def test_accumulation_counts_updates():
    o = {"rate_update": 0.8, "update_freq": 2}
    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=2)
    model = problems.compiled(optimizer)
    problems.train(model, ROWS, callbacks=[tfb.AdaptiveStepSize(**o)])
    rule = rates(problems.gradients(ROWS, 2), 0.05, o, GROUPS["variable"])
    np.testing.assert_allclose(rate_of(model), rule[-1], rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_size_of_the_gradients_does_not_matter(scale):
    o = OPTIONS[0]
    rows = np.clip(ROWS, -10, 10)  # so that all of them can be scaled within float32
    ends = []
    for factor in (1.0, scale):
        model = problems.compiled(keras.optimizers.SGD(0.05))
        problems.train(
            model, (rows * factor).astype("float32"), callbacks=[tfb.AdaptiveStepSize(**o)]
        )
        ends.append(rate_of(model))
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-5)


def test_a_gradient_that_is_not_a_number_does_not_count():
    rows = ROWS.copy()
    rows[5] = np.nan
    model = problems.compiled(keras.optimizers.SGD(0.05))
    problems.train(model, rows, callbacks=[tfb.AdaptiveStepSize(rate_update=0.8)])
    before, after = (expected({"rate_update": 0.8}, part)[-1] for part in (rows[:5], rows[6:]))
    np.testing.assert_allclose(rate_of(model), before * (after / 0.05), rtol=1e-5)


class Halve(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            optimizer = self.model.optimizer
            optimizer.learning_rate = 0.5 * float(ops.convert_to_numpy(optimizer.learning_rate))


def test_another_callback_lowers_rate_and_bound():
    o = {"rate_update": 0.9, "target_correlation": -0.9, "max_learning_rate": 0.2}
    model = problems.compiled(keras.optimizers.SGD(0.05))
    callbacks = [tfb.AdaptiveStepSize(**o), Halve()]
    zeros = np.zeros((len(ROWS), 1))
    history = model.fit(ROWS, zeros, 1, 3, shuffle=False, verbose=0, callbacks=callbacks).history
    np.testing.assert_allclose(history["learning_rate"], [0.2, 0.1, 0.1], rtol=1e-6)


def test_reduce_on_plateau():
    model = problems.compiled(keras.optimizers.SGD(0.05))
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.1, patience=0, min_delta=1e30)
    o = {"rate_update": 0.9, "target_correlation": -0.9, "max_learning_rate": 0.2}
    problems.train(model, ROWS, epochs=3, callbacks=[tfb.AdaptiveStepSize(**o), plateau])
    # It waits for one epoch and reduces after the second and the third.
    np.testing.assert_allclose(rate_of(model), 0.2 * 0.1 * 0.1, rtol=1e-5)


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


def test_a_resumed_run_goes_on_as_it_would_have(tmp_path):
    o = {"rate_update": 0.5, "update_freq": 5, "average": 0.7}

    def run(*more, epochs=2):
        model = problems.compiled(keras.optimizers.Adam(0.05))
        callbacks = [tfb.AdaptiveStepSize(**o), *more]
        weights = problems.train(model, ROWS, epochs=epochs, callbacks=callbacks)
        return [*weights, rate_of(model)]

    whole = run()
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    with pytest.raises(KeyboardInterrupt):
        run(backup, Stop())
    resumed = run(keras.callbacks.BackupAndRestore(str(tmp_path / "backup")))
    for a, b in zip(whole, resumed):
        np.testing.assert_array_equal(a, b)


def test_fit_in_two_parts_goes_on():
    model = problems.compiled(keras.optimizers.SGD(0.05))
    adaptive = tfb.AdaptiveStepSize(rate_update=0.8)
    problems.train(model, ROWS[:7], callbacks=[adaptive])
    problems.train(model, ROWS[7:], callbacks=[adaptive])
    np.testing.assert_allclose(rate_of(model), expected({"rate_update": 0.8})[-1], rtol=1e-5)


def test_afterwards_the_optimizer_is_as_before(tmp_path):
    model = problems.compiled(keras.optimizers.Adam(0.05))
    problems.train(model, ROWS, callbacks=[tfb.AdaptiveStepSize()])
    weights, rate = model.get_weights(), rate_of(model)
    plain = problems.compiled(keras.optimizers.Adam(0.05))
    problems.train(plain, ROWS)
    assert len(model.optimizer.variables) == len(plain.optimizer.variables)
    assert vars(model.optimizer).keys() == vars(plain.optimizer).keys()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert rate_of(loaded) == rate
    for a, b in zip(loaded.get_weights(), weights):
        np.testing.assert_array_equal(a, b)
    problems.train(model, ROWS[:3])
    assert rate_of(model) == rate


def test_a_model_saved_in_mid_training_loads_without_the_callback(tmp_path, recwarn):
    path = str(tmp_path / "model.keras")
    model = problems.compiled(keras.optimizers.Adam(0.05))
    callbacks = [tfb.AdaptiveStepSize(), keras.callbacks.ModelCheckpoint(path)]
    problems.train(model, ROWS, callbacks=callbacks)
    loaded = keras.models.load_model(path)
    assert int(ops.convert_to_numpy(loaded.optimizer.iterations)) == len(ROWS)
    assert not [w for w in recwarn if "variables" in str(w.message)]
    problems.train(loaded, ROWS[:2])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("rate_update", 0.0),
        ("rate_update", 1.0),
        ("update_freq", 0),
        ("update_freq", 1.5),
        ("average", 1.0),
        ("target_correlation", -1.0),
        ("min_learning_rate", 0.0),
        ("max_learning_rate", 1e-9),
        ("block", "kernel"),
    ],
)
def test_arguments_out_of_range(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be .*Received: {argument}="):
        tfb.AdaptiveStepSize(**{argument: value})


def test_a_schedule_is_refused():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    for rate in (schedule, lambda: 0.1):
        model = problems.compiled(keras.optimizers.SGD(rate))
        with pytest.raises(ValueError, match="`AdaptiveStepSize` sets the learning rate"):
            problems.train(model, ROWS, callbacks=[tfb.AdaptiveStepSize()])
