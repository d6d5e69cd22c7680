"""`BackMatching` in training equals its NumPy reference, however the step is run."""

import keras
import numpy as np
import pytest
import reference_back_matching as reference
from keras import ops
from test_parity import MODES

import tf_blocknorm as tfb

BACKEND = keras.backend.backend()
TENSORFLOW = pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow")
EXECUTIONS = pytest.mark.skipif(BACKEND == "torch", reason="torch has no steps_per_execution")
SIZES = (4, 7, 5, 3)
STEPS, BATCH, EPOCHS = 5, 6, 2

rng = np.random.default_rng(3)
X = (rng.normal(0.3, 1.0, (STEPS * BATCH, 4)) * [0.5, 1, 2, 3]).astype("float32")
Y = rng.normal(0.0, 1.0, (STEPS * BATCH, 3)).astype("float32")
INPUTS = (rng.normal(0.3, 1.0, (40, 4)) * [0.5, 1, 2, 3]).astype("float32")


def start():
    """Layers whose scales do not fit one another."""
    rng = np.random.default_rng(4)
    weights = []
    for n, m, scale in zip(SIZES, SIZES[1:], (1.5, 0.3, 0.7)):
        weights.append((scale * rng.normal(0.1, 1.0, (n, m))).astype("float32"))
        weights.append(rng.normal(0.0, 0.3, m).astype("float32"))
    return weights


@keras.saving.register_keras_serializable(package="tests")
def half_squared_distance(y, z):
    return 0.5 * ops.sum(ops.square(y - z), axis=-1)


def network(optimizer, **options):
    hidden = [keras.layers.Dense(size, activation="relu") for size in SIZES[1:-1]]
    layers = [keras.Input((SIZES[0],)), *hidden, keras.layers.Dense(SIZES[-1])]
    model = keras.Sequential(layers, name="net")
    model.set_weights(start())
    model.compile(optimizer, half_squared_distance, **{"jit_compile": False, **options})
    return model


def fit(model, *callbacks, epochs=EPOCHS, first=0, batch=BATCH):
    model.fit(
        X, Y, batch, initial_epoch=first, epochs=epochs, shuffle=False, verbose=0,
        callbacks=list(callbacks),
    )  # fmt: skip
    return model.get_weights()


def batches(batch=BATCH, epochs=EPOCHS):
    starts = list(range(0, len(X), batch)) * epochs
    return [(X[k : k + batch].astype(float), Y[k : k + batch].astype(float)) for k in starts]


# Arguments of SGD, and of the callback.
ROWS = {
    "measured": ({}, {"inputs": INPUTS, "update_freq": 3}),
    "static": ({"clipnorm": 0.8}, {"update_freq": 4}),
    "options": (
        {"momentum": 0.7, "nesterov": True, "weight_decay": 0.3},
        {
            "inputs": INPUTS,
            "update_freq": 2,
            "rank": "min",
            "relu": "unit",
            "bounds": (0.4, 1.5),
        },
    ),
    "raw": (
        {"learning_rate": 0.004, "momentum": 0.5},
        {"inputs": INPUTS, "update_freq": 1, "normalize": None, "bounds": None},
    ),
    "epoch": ({}, {"inputs": INPUTS, "update_freq": "epoch", "relu": "unit"}),
    "once": ({"momentum": 0.9}, {"inputs": INPUTS, "update_freq": None, "rank": "min"}),
}
EACH = pytest.mark.parametrize("row", ROWS)


def arguments(row):
    sgd, callback = ROWS[row]
    return {"learning_rate": 0.02, **sgd}, callback


def make(row, **more):
    sgd, callback = arguments(row)
    return keras.optimizers.SGD(**sgd, **more), tfb.BackMatching(**callback)


def expected(row, batch=BATCH, **more):
    sgd, callback = arguments(row)
    some = batches(batch)
    return reference.train(start(), some, **{**sgd, **callback, **more}, epoch=len(some) // EPOCHS)


def assert_equal(actual, expected):
    # A step moves weights by 1e-2; the weights are about 1.
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=5e-6, atol=5e-6)


@EACH
@pytest.mark.parametrize("mode", MODES)
def test_fit_equals_the_reference(row, mode):
    optimizer, callback = make(row)
    actual = fit(network(optimizer, **MODES[mode]), callback)
    weights, multipliers = expected(row)
    assert_equal(actual, weights)
    np.testing.assert_allclose(list(callback.multipliers.values()), multipliers, rtol=1e-5)
    assert list(callback.multipliers)[-1].endswith("bias")


@EACH
def test_every_variable_moves_otherwise_than_without(row):
    sgd, _ = arguments(row)
    plain = reference.train(
        start(), batches(), **sgd, inputs=INPUTS, bounds=(1, 1), update_freq=None
    )[0]
    for path, a, b in zip(range(6), expected(row)[0], plain):
        assert np.abs(a - b).max() > 200 * 5e-6, path


@EACH
@pytest.mark.parametrize("mode", MODES)
def test_accumulated_micro_batches_are_one_batch(row, mode):
    sgd, callback = arguments(row)
    if callback["update_freq"] == "epoch":
        callback = {**callback, "update_freq": 5}
    optimizer = keras.optimizers.SGD(**sgd, gradient_accumulation_steps=2)
    actual = fit(network(optimizer, **MODES[mode]), tfb.BackMatching(**callback), batch=BATCH // 2)
    assert_equal(actual, expected(row)[0])


@EXECUTIONS
@pytest.mark.parametrize("row", ["measured", "once", "epoch"])
def test_several_steps_per_execution(row):
    """A refresh comes before the first call of the step in which, or before which, it is due."""
    optimizer, callback = make(row)
    actual = fit(network(optimizer, steps_per_execution=5), callback)
    # Due after three updates: the next call begins after five.
    more = {"update_freq": 5} if row == "measured" else {}
    assert_equal(actual, expected(row, **more)[0])


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        optimizer, callback = make("measured")
        scaled = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0)
        actual = fit(network(scaled), callback)
    finally:
        keras.config.set_dtype_policy("float32")
    weights, multipliers = expected("measured")
    np.testing.assert_allclose(list(callback.multipliers.values()), multipliers, rtol=0.01)
    moved = [np.abs(w - s).max() for w, s in zip(weights, start())]
    for a, b, size in zip(actual, weights, moved):
        np.testing.assert_allclose(a, b, atol=0.03 * size)


@TENSORFLOW
@pytest.mark.parametrize("row", ["measured", "options", "epoch"])
def test_mirrored_strategy_equals_one_device(row, strategy):
    with strategy.scope():
        optimizer, callback = make(row)
        model = network(optimizer)
    # Two samples for each replica and step.
    actual = fit(model, callback, batch=2)
    assert_equal(actual, expected(row, batch=2)[0])
    for variable in model.trainable_variables:
        first, second = (copy.numpy() for copy in variable.value.values)
        np.testing.assert_array_equal(first, second)


@pytest.mark.skipif(BACKEND != "jax", reason="about keras.distribution")
@pytest.mark.parametrize("row", ["measured", "options"])
def test_data_parallel_on_two_devices(row):
    devices = keras.distribution.list_devices()
    assert len(devices) == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    try:
        optimizer, callback = make(row)
        actual = fit(network(optimizer, jit_compile=True), callback, batch=2)
    finally:
        keras.distribution.set_distribution(None)
    assert_equal(actual, expected(row, batch=2)[0])


@TENSORFLOW
def test_one_trace_for_all_refreshes():
    traces = []

    class Spy(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            traces.append(variable)
            super().update_step(gradient, variable, learning_rate)

    fit(network(Spy(0.01)), tfb.BackMatching(INPUTS, update_freq=1))
    assert len(traces) == 6


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("row", ["measured", "options", "epoch", "once"])
@pytest.mark.parametrize("callback_first", [True, False])
def test_a_resumed_run_is_identical(row, callback_first, tmp_path):
    def run(*more):
        optimizer, callback = make(row)
        callbacks = [callback, *more] if callback_first else [*more, callback]
        return fit(network(optimizer), *callbacks, epochs=4)

    whole = run()
    backup = tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        run(keras.callbacks.BackupAndRestore(backup), Stop())
    for a, b in zip(whole, run(keras.callbacks.BackupAndRestore(backup))):
        np.testing.assert_array_equal(a, b)


def test_fit_in_two_parts_goes_on():
    optimizer, callback = make("measured")
    model = network(optimizer)
    fit(model, callback, epochs=1)
    actual = fit(model, callback, epochs=2, first=1)
    assert_equal(actual, expected("measured")[0])


def test_without_the_callback_training_is_plain_again(tmp_path):
    model = network(keras.optimizers.SGD(0.02))
    fit(model, tfb.BackMatching(INPUTS), epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    sgd = network(keras.optimizers.SGD(0.02))
    sgd.set_weights(model.get_weights())
    for other in (model, loaded):
        for a, b in zip(fit(other, epochs=1), fit(sgd, epochs=1)):
            np.testing.assert_allclose(a, b, rtol=1e-5)
        sgd.set_weights(loaded.get_weights() if other is model else sgd.get_weights())


@pytest.mark.parametrize("normalize", ["mean", None])
def test_what_is_no_number_is_seen_in_the_weights(normalize):
    broken = np.array(INPUTS)
    broken[0, 0] = np.nan
    model = network(keras.optimizers.SGD(0.02))
    weights = fit(model, tfb.BackMatching(broken, normalize=normalize), epochs=1)
    assert all(np.isnan(w).all() for w in weights)


def test_a_layer_without_a_gradient_waits():
    """A branch that begins at zero: its inner kernel has no gradient, and no curvature."""
    x = keras.Input((4,))
    inner = keras.layers.Dense(4, name="inner")(x)
    outer = keras.layers.Dense(4, kernel_initializer="zeros", name="outer")(inner)
    model = keras.Model(x, keras.layers.Dense(3)(keras.layers.Add()([x, outer])))
    model.compile(keras.optimizers.SGD(0.01), half_squared_distance)
    callback = tfb.BackMatching(INPUTS, update_freq=2)
    model.fit(X[:BATCH], Y[:BATCH], BATCH, epochs=1, verbose=0, callbacks=[callback])
    rates = {path.split("/")[-2]: r for path, r in callback.multipliers.items()}
    assert rates["inner"] == 1.0
    assert rates["outer"] != 1.0
    model.fit(X[:BATCH], Y[:BATCH], BATCH, epochs=4, verbose=0, callbacks=[callback])
    rates = {path.split("/")[-2]: r for path, r in callback.multipliers.items()}
    assert rates["inner"] > 10.0


# ------------------------------------------------------------------------------ what a user meets


def test_describe(capsys):
    model = network(keras.optimizers.SGD(0.01))
    tfb.BackMatching(INPUTS).describe(model)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["variable", "weights", "curvature", "multiplier"]
    found = reference.curvatures([w.astype(float) for w in start()], INPUTS.astype(float))
    rates = reference.multipliers(start(), found)
    assert len(rows) == 6
    for row, w, c, r in zip(rows, start(), found, rates):
        assert row.split()[1:] == [str(w.size), f"{c:.4g}", f"{r:.4g}"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"update_freq": 0}, r"`update_freq` must be an integer >= 1, .* Received: update_freq=0"),
        ({"update_freq": "never"}, r"`update_freq` must be .* Received: update_freq='never'"),
        ({"update_freq": 1.5}, r"`update_freq` must be .* Received: update_freq=1.5"),
        ({"rank": "full"}, r"`rank` must be one of 'in', 'min'. Received: rank='full'"),
        ({"relu": 1}, r"`relu` must be one of 'active', 'unit'. Received: relu=1"),
        ({"normalize": "max"}, r"`normalize` must be one of 'mean', None. Received: norm.*='max'"),
        ({"bounds": (2, 1)}, r"`bounds` must be None or a pair .* Received: bounds=\(2, 1\)"),
        ({"unknown": "skip"}, r"`unknown` must be one of .* Received: unknown='skip'"),
    ],
    ids=str,
)
def test_wrong_arguments_fail_in_the_constructor(given, message):
    with pytest.raises(ValueError, match=message):
        tfb.BackMatching(**given)


@pytest.mark.parametrize(
    "optimizer", [keras.optimizers.Adam(), tfb.BlockNormSGD(), tfb.LARS()], ids=lambda o: o.name
)
def test_other_rules_are_refused(optimizer):
    with pytest.raises(ValueError, match=r"Use `keras.optimizers.SGD`. Received: optimizer="):
        fit(network(optimizer), tfb.BackMatching())
