"""What `BlockNormMonitor` shows is what NumPy computes, and training is what it is without."""

import csv

import keras
import numpy as np
import problems
import pytest
from test_parity import MODES

import tf_blocknorm as tfb
from tf_blocknorm.callbacks.monitor import BlockNormMonitor

BACKEND = keras.backend.backend()
TENSORFLOW = pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow")
EXECUTIONS = pytest.mark.skipif(BACKEND == "torch", reason="torch has no steps_per_execution")
STEPS, RATE = 7, 0.05
GROUPS = {
    "variable": {path: [i] for i, path in enumerate(problems.PATHS)},
    "layer": {"a": [0, 1, 2], "b": [3, 4, 5]},
    "model": {"model": [0, 1, 2, 3, 4, 5]},
}
NORMS = {
    "l2": lambda x: np.sqrt((x**2).sum()),
    "rms": lambda x: np.sqrt((x**2).mean()),
    "max": lambda x: np.abs(x).max(),
    "avg_l1": lambda x: np.abs(x).mean(),
}


def sizes(tensors, norm, block):
    tensors = [np.asarray(x, float).ravel() for x in tensors]
    groups = GROUPS[block].values()
    return np.array([NORMS[norm](np.concatenate([tensors[i] for i in g])) for g in groups])


def expected(rows, due, norm="rms", block="layer", normalised=False, batch_size=1):
    """The samples of gradient descent at these updates, counted from 1."""
    weights = [np.asarray(w, float) for w in problems.start_weights()]
    samples = []
    for update, gradients in enumerate(problems.gradients(rows, batch_size), 1):
        units = [g / (np.linalg.norm(g) or 1.0) for g in gradients] if normalised else gradients
        changed = [w - RATE * u for w, u in zip(weights, units)]
        if update in due:
            steps = [n - w for n, w in zip(changed, weights)]
            samples.append([sizes(x, norm, block) for x in (gradients, weights, steps)])
        weights = changed
    return dict(zip(("grad_norm", "param_norm", "update_norm"), np.stack(samples, axis=1)))


def assert_shows(monitor, due, expected):
    records = monitor.records
    np.testing.assert_array_equal(records["update"], due)
    np.testing.assert_allclose(records["learning_rate"], RATE, rtol=1e-6)
    for name, values in expected.items():
        # What a step changes is known to the rounding of weights of about 1.
        tolerance = 2e-7 if name == "update_norm" else 1e-30
        np.testing.assert_allclose(records[name], values, rtol=2e-5, atol=tolerance, err_msg=name)
    with np.errstate(all="ignore"):
        ratios = records["update_norm"] / records["param_norm"]
    np.testing.assert_array_equal(records["update_ratio"], ratios)


def sgd():
    return keras.optimizers.SGD(RATE)


def seen(monitor, optimizer=None, rows=None, epochs=1, callbacks=(), **options):
    model = problems.compiled(optimizer or sgd(), **{"jit_compile": BACKEND == "jax", **options})
    rows = problems.rows(STEPS) if rows is None else rows
    problems.train(model, rows, epochs=epochs, callbacks=[*callbacks, monitor])
    return model


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", [sgd, lambda: tfb.BlockNormSGD(RATE)], ids=["keras", "own"])
def test_samples_equal_numpy(mode, optimizer):
    monitor = BlockNormMonitor(update_freq=3)
    seen(monitor, optimizer(), **MODES[mode])
    normalised = isinstance(optimizer(), tfb.BlockNormSGD)
    due = [1, 4, 7]
    assert_shows(monitor, due, expected(problems.rows(STEPS), due, normalised=normalised))
    assert monitor.blocks == ("a", "b")


@pytest.mark.parametrize(
    ("norm", "block"),
    [("l2", "variable"), ("rms", "model"), ("max", "layer"), ("avg_l1", "model")],
)
def test_norms_and_blocks(norm, block):
    monitor = BlockNormMonitor(2, norm, block)
    seen(monitor)
    due = [1, 3, 5, 7]
    assert_shows(monitor, due, expected(problems.rows(STEPS), due, norm, block))
    assert monitor.blocks == tuple(GROUPS[block])


def test_units():
    monitor = BlockNormMonitor(norm="l2", block="unit")
    seen(monitor)
    kernel = problems.gradients(problems.rows(1))[0][0]
    assert monitor.blocks[:3] == tuple(f"a/kernel[{i}]" for i in range(3))
    np.testing.assert_allclose(
        monitor.records["grad_norm"][0, :3], np.linalg.norm(kernel, axis=0), rtol=1e-6
    )


@pytest.mark.parametrize("freq", [1, 2, 3, "epoch"])
@pytest.mark.parametrize("per_call", [1, pytest.param(3, marks=EXECUTIONS)])
def test_no_sample_is_lost(freq, per_call):
    monitor = BlockNormMonitor(freq)
    seen(monitor, epochs=2, steps_per_execution=per_call)
    every = STEPS if freq == "epoch" else freq
    due = [e * STEPS + 1 + k for e in (0, 1) for k in range(0, STEPS, every)]
    rows = np.concatenate([problems.rows(STEPS)] * 2)
    assert_shows(monitor, due, expected(rows, due))
    epochs = [(update - 1) // STEPS for update in due]
    np.testing.assert_array_equal(monitor.records["epoch"], epochs)


def test_accumulated_gradients_count_once():
    rows = problems.rows(8)
    monitor = BlockNormMonitor(2)
    seen(monitor, keras.optimizers.SGD(RATE, gradient_accumulation_steps=2), rows)
    assert_shows(monitor, [1, 3], expected(rows, [1, 3], batch_size=2))


def test_loss_scale():
    rows = problems.half_precision_rows(STEPS)
    broken = rows.copy()
    broken[3] = np.inf
    monitor = BlockNormMonitor(2)
    optimizer = keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=4.0)
    seen(monitor, optimizer, broken)
    due = [1, 3, 5]  # of the 6 updates that are made
    assert_shows(monitor, due, expected(np.delete(rows, 3, axis=0), due))


@TENSORFLOW
def test_mirrored_strategy(strategy):
    rows = problems.rows(2 * STEPS)
    for optimizer in (sgd, lambda: keras.optimizers.LossScaleOptimizer(sgd())):
        monitor = BlockNormMonitor(3)
        with strategy.scope():
            model = problems.compiled(optimizer())
        problems.train(model, rows, batch_size=2, callbacks=[monitor])
        assert_shows(monitor, [1, 4, 7], expected(rows, [1, 4, 7], batch_size=2))


def test_what_is_no_number_is_recorded():
    rows = problems.rows(3)
    rows[1, 0], rows[2, -1] = np.nan, np.inf
    monitor = BlockNormMonitor(1)
    model = seen(monitor, rows=rows)
    values = monitor.records["grad_norm"]
    assert np.isfinite(values[0]).all()
    assert np.isnan(values[1, 0])
    assert np.isfinite(values[1, 1])
    assert not np.isfinite(values[2, 1])
    assert np.isnan(model.history.history["grad_norm/a"][0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cls", [keras.optimizers.Adam, tfb.BlockNormSGD])
def test_training_is_the_same_to_the_last_bit(cls, mode):
    rows = problems.rows(STEPS)
    plain = problems.train(problems.compiled(cls(RATE), **MODES[mode]), rows)
    watched = seen(BlockNormMonitor(2), cls(RATE), **MODES[mode]).get_weights()
    for a, b in zip(plain, watched):
        np.testing.assert_array_equal(a, b)


@keras.saving.register_keras_serializable(package="tests")
class WithRatios(keras.optimizers.SGD):
    def build(self, variables):
        super().build(variables)
        if not hasattr(self, "ratios"):
            self.ratios = keras.Variable(np.zeros(len(variables), "float32"), trainable=False)
            self._track_variable(self.ratios)

    @property
    def block_statistics(self):
        return {"trust_ratio": self.ratios}

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        super()._backend_update_step(grads, trainable_variables, learning_rate)
        step = keras.ops.cast(self.iterations, "float32")
        self.ratios.assign(10.0 * step + keras.ops.arange(6, dtype="float32"))


def test_statistics_of_the_optimizer():
    monitor = BlockNormMonitor(2)
    model = seen(monitor, WithRatios(RATE), rows=problems.rows(3))
    np.testing.assert_array_equal(monitor.records["trust_ratio"], [[0, 3], [20, 23]])
    assert model.history.history["trust_ratio/b"] == [13]
    assert_shows(monitor, [1, 3], expected(problems.rows(3), [1, 3]))


def test_history_and_logs(tmp_path):
    for to_logs in (False, True):
        monitor = BlockNormMonitor(3, to_logs=to_logs)
        watch = keras.callbacks.CSVLogger(tmp_path / "log.csv")
        model = problems.compiled(sgd())
        rows = problems.rows(STEPS)
        problems.train(model, rows, epochs=2, callbacks=[monitor, watch])
        history = model.history.history
        for name in ("grad_norm", "param_norm", "update_norm", "update_ratio"):
            mean = monitor.records[name].reshape(2, 3, 2).mean(axis=1)
            np.testing.assert_allclose(history[f"{name}/a"], mean[:, 0])
            np.testing.assert_allclose(history[f"{name}/b"], mean[:, 1])
        np.testing.assert_allclose(history["learning_rate/all"], [RATE] * 2, rtol=1e-6)
        assert ("grad_norm/a" in (tmp_path / "log.csv").read_text()) is to_logs


def test_csv_file(tmp_path):
    path = tmp_path / "new" / "blocks.csv"
    for kept, append in ((0, False), (0, False), (6, True)):
        monitor = BlockNormMonitor(3, filename=path, separator=";", append=append)
        seen(monitor)
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        assert len(rows) == kept + 6
        assert [row["block"] for row in rows[-6:]] == ["a", "b"] * 3
        assert [int(row["update"]) for row in rows[-6::2]] == [1, 4, 7]
        for name in ("grad_norm", "param_norm", "update_norm", "update_ratio"):
            values = [float(row[name]) for row in rows[-6:]]
            np.testing.assert_array_equal(values, monitor.records[name].ravel())


def test_tensorboard_files(tmp_path):
    tf = pytest.importorskip("tensorflow")
    monitor = BlockNormMonitor(3, log_dir=tmp_path)
    seen(monitor)
    scalars = {}
    for path in (tmp_path / "train").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    for name in ("grad_norm", "update_ratio"):
        for column, block in enumerate("ab"):
            steps, values = zip(*scalars[f"{name}/{block}"])
            assert steps == (1, 4, 7)
            np.testing.assert_allclose(values, monitor.records[name][:, column], rtol=1e-6)
    assert [step for step, _ in scalars["learning_rate/all"]] == [1, 4, 7]


def test_a_second_fit_adds_and_another_model_begins_anew():
    monitor = BlockNormMonitor(3)
    model = seen(monitor)
    problems.train(model, problems.rows(STEPS), callbacks=[monitor])
    np.testing.assert_array_equal(monitor.records["update"], [1, 4, 7, 8, 11, 14])
    model.compile(sgd(), problems.mean_output)
    problems.train(model, problems.rows(2), callbacks=[monitor])
    np.testing.assert_array_equal(monitor.records["update"], [1, 4, 7, 8, 11, 14, 1])
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False, name="c")])
    other.compile(sgd(), "mse")
    other.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0, callbacks=[monitor])
    assert monitor.blocks == ("c",)
    np.testing.assert_array_equal(monitor.records["update"], [1])


@pytest.mark.parametrize("monitor_first", [True, False])
def test_resumed_run(tmp_path, monitor_first):
    rows = problems.rows(STEPS)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def run(*callbacks):
        model = problems.compiled(sgd())
        monitor = BlockNormMonitor(3, filename=tmp_path / "blocks.csv", append=True)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        both = [monitor, backup] if monitor_first else [backup, monitor]
        weights = problems.train(model, rows, epochs=2, callbacks=[*both, *callbacks])
        return weights, monitor

    with pytest.raises(KeyboardInterrupt):
        run(Stop())
    weights, monitor = run()
    twice = np.concatenate([rows, rows])
    assert_shows(monitor, [8, 11, 14], expected(twice, [8, 11, 14]))
    with open(tmp_path / "blocks.csv") as file:
        updates = [int(row["update"]) for row in csv.DictReader(file)]
    assert updates[::2] == [1, 4, 7, 8, 11, 14]
    plain = problems.train(problems.compiled(sgd()), rows, epochs=2)
    for a, b in zip(weights, plain):
        np.testing.assert_array_equal(a, b)


def test_plot(tmp_path):
    rows = problems.rows(STEPS)
    rows[4, 0] = np.nan
    monitor = BlockNormMonitor(1, block="unit")
    with pytest.raises(ValueError, match="`plot\\(\\)` needs a sample"):
        monitor.plot()
    seen(monitor, rows=rows)
    figure = monitor.plot(tmp_path / "blocks.png")
    assert (tmp_path / "blocks.png").read_bytes().startswith(b"\x89PNG")
    asked, made = (panel.images[0].get_array() for panel in figure.axes[:2])
    records = monitor.records
    for shown, size in ((asked, records["grad_norm"]), (made, records["update_norm"])):
        with np.errstate(all="ignore"):
            ratios = np.log10(size / records["param_norm"]).T
        finite = np.isfinite(ratios)
        assert shown.shape == ratios.shape
        np.testing.assert_array_equal(np.ma.getmaskarray(np.ma.masked_invalid(shown)), ~finite)
        np.testing.assert_allclose(
            shown[finite], ratios[finite] - np.median(ratios[finite]), atol=1e-12
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"update_freq": 0}, "`update_freq` must be an integer >= 1 or .* update_freq=0"),
        ({"update_freq": 1.5}, "`update_freq` must be .* update_freq=1.5"),
        ({"update_freq": "batch"}, "`update_freq` must be .* update_freq='batch'"),
        ({"norm": "l7"}, "`norm` must be one of .* norm='l7'"),
        ({"block": "word"}, "`block` must be one of .* block='word'"),
        ({"append": None}, "`append` must be one of False, True. Received: append=None"),
        ({"to_logs": "all"}, "`to_logs` must be one of False, True. Received: to_logs='all'"),
        ({"separator": ""}, "`separator` must be one character. Received: separator=''"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockNormMonitor(**arguments)


@TENSORFLOW
def test_a_graph_measures_only_where_something_may_be_due(monkeypatch):
    """The step without the monitor is another graph; it is the one that takes all other steps."""
    calls = []

    class Spy(BlockNormMonitor):
        def _choose_step(self, measures):
            super()._choose_step(measures)
            calls.append(self.model.train_function is self._steps[True])

    monitor = Spy(3)
    traces = []
    measure = monitor.__class__.__mro__[1].set_model

    def set_model(self, model):
        measure(self, model)
        after = self.tap.after_step
        self.tap.after_step = lambda *args: (traces.append(1), after(*args))[1]

    monkeypatch.setattr(BlockNormMonitor, "set_model", set_model)
    seen(monitor, rows=problems.rows(8))
    assert calls == [True, False, False, True, False, False, True, False]
    assert len(traces) == 1
    assert_shows(monitor, [1, 4, 7], expected(problems.rows(8), [1, 4, 7]))


@TENSORFLOW
def test_a_step_that_another_callback_has_traced_anew():
    class Anew(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch in (2, 4):
                self.model.make_train_function(force=True)

    monitor = BlockNormMonitor(3)
    seen(monitor, rows=problems.rows(8), callbacks=[Anew()])
    assert_shows(monitor, [1, 4, 7], expected(problems.rows(8), [1, 4, 7]))
