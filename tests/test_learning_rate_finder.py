"""The finder sweeps as it says, leaves no trace of the sweep, and trains on as it says."""

import sys

import keras
import numpy as np
import problems
import pytest
from keras import ops
from test_parity import MODES

import tf_blocknorm as tfb
from tf_blocknorm.callbacks import learning_rate_rule
from tf_blocknorm.callbacks.learning_rate_finder import LearningRateFinder

BACKEND = keras.backend.backend()
each_mode = pytest.mark.parametrize("mode", MODES)
needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow")
STEPS = 20
GRID = np.geomspace(1e-4, 1.0, STEPS).astype("float32")


def finder(**changes):
    return LearningRateFinder(**{"min_learning_rate": 1e-4, "max_learning_rate": 1.0, **changes})


@pytest.fixture
def suggests(monkeypatch):
    """A suggestion that does not depend on the sweep."""
    monkeypatch.setattr(learning_rate_rule, "suggest", lambda *curves: (0.05, "as told"))


class Watch(keras.callbacks.Callback):
    """To be listed before the finder, which restores the weights in the last batch."""

    def on_train_begin(self, logs=None):
        self.rates, self.weights = [], [self.model.get_weights()]

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))
        self.weights.append(self.model.get_weights())


class Follow(keras.callbacks.Callback):
    def __init__(self, rates):
        super().__init__()
        self.rates = rates

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = self.rates[batch]


def network(optimizer, **options):
    """With everything that a sweep changes: weights, statistics, random numbers, slots."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((6,)),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3, seed=5),  # torch heeds no other state
        keras.layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile(optimizer, "sparse_categorical_crossentropy", **{"jit_compile": False, **options})
    return model


def examples(batches, seed=0):
    """Batches of 4."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4 * batches, 6)).astype("float32"), rng.integers(0, 3, 4 * batches)


def fit(model, data, callbacks=(), **options):
    options = {"batch_size": 4, "shuffle": False, "verbose": 0, **options}
    return model.fit(*data, callbacks=list(callbacks), **options)


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return {v.path: np.array(ops.convert_to_numpy(v)) for v in variables}


def assert_same_bits(actual, expected):
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(actual[path], value, err_msg=path)


# The sweep


@each_mode
def test_rates_losses_and_correlations_of_a_sweep(mode):
    """The gradients of this model are its inputs, so that all three can be computed by hand."""
    rows, watch, found = problems.half_precision_rows(STEPS), Watch(), finder(steps=STEPS)
    model = problems.compiled(keras.optimizers.SGD(0.5), **MODES[mode])
    problems.train(model, rows, callbacks=[watch, found])
    np.testing.assert_array_equal(found.learning_rates, GRID)
    np.testing.assert_array_equal(np.float32(watch.rates[:-1]), GRID[1:])  # one update ahead

    gradients = problems.gradients(rows)
    weights = [w.astype(float) for w in problems.start_weights()]
    losses, correlations, last = [], [], None
    for rate, gradient in zip(GRID.astype(float), gradients):
        losses.append(sum((w * g).sum() for w, g in zip(weights, gradient)))
        weights = [w - rate * g for w, g in zip(weights, gradient)]
        kernels = [g.ravel() / max(np.linalg.norm(g), 1e-99) for g in gradient if g.ndim >= 2]
        if last is not None:
            correlations.append(np.mean([a @ b for a, b in zip(kernels, last)]))
        last = kernels
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5, atol=1e-4)
    assert np.isnan(found.correlations[0])
    np.testing.assert_allclose(found.correlations[1:], correlations, rtol=1e-5, atol=1e-6)
    for actual, expected in zip(watch.weights[-1], weights):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_correlations_are_of_raw_gradients_of_any_size():
    rows, found = problems.half_precision_rows(STEPS), [finder(steps=STEPS) for _ in range(3)]
    optimizers = [tfb.BlockNormSGD(norm="max"), tfb.BlockNormSGD(norm="max"), "sgd"]
    for one, factor, optimizer in zip(found, (2.0**-110, 2.0**100, 1.0), optimizers):
        scaled = (rows * factor).astype("float32")
        problems.train(problems.compiled(optimizer), scaled, callbacks=[one])
    np.testing.assert_allclose(found[0].correlations, found[1].correlations, atol=1e-6)
    np.testing.assert_allclose(found[0].correlations, found[2].correlations, atol=1e-6)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses steps_per_execution on torch")
def test_several_updates_per_call_have_the_mean_loss():
    rows = problems.half_precision_rows(22)
    single, several = finder(steps=STEPS), finder(steps=STEPS)
    problems.train(problems.compiled(keras.optimizers.SGD(1.0)), rows, callbacks=[single])
    model = problems.compiled(keras.optimizers.SGD(1.0), steps_per_execution=3)
    problems.train(model, rows, callbacks=[several])
    np.testing.assert_array_equal(several.learning_rates, GRID)
    np.testing.assert_allclose(several.correlations, single.correlations, atol=1e-6)
    means = single.losses[:18].reshape(6, 3).mean(axis=1)
    np.testing.assert_allclose(several.losses[:18:3], means, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(several.losses[:18:3], several.losses[2:18:3])


def test_gradient_accumulation_sweeps_once_per_update():
    rows = problems.half_precision_rows(2 * STEPS)
    found, watch = finder(steps=STEPS), Watch()
    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=2)
    problems.train(problems.compiled(optimizer), rows, callbacks=[watch, found])
    np.testing.assert_array_equal(found.learning_rates, GRID)
    np.testing.assert_array_equal(np.float32(watch.rates[:-2:2]), GRID[:-1])
    whole = finder(steps=STEPS)
    model = problems.compiled(keras.optimizers.SGD(1.0))
    problems.train(model, rows, batch_size=2, callbacks=[whole])
    np.testing.assert_allclose(found.losses, whole.losses, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.correlations, whole.correlations, atol=1e-4)


def test_a_sweep_goes_on_over_epochs():
    once, over = finder(steps=STEPS), finder(steps=STEPS)
    rows = problems.half_precision_rows(5)
    problems.train(problems.compiled(keras.optimizers.SGD(1.0)), rows, epochs=9, callbacks=[over])
    rows = np.tile(rows, (4, 1))
    problems.train(problems.compiled(keras.optimizers.SGD(1.0)), rows, callbacks=[once])
    np.testing.assert_array_equal(over.losses, once.losses)
    np.testing.assert_array_equal(over.correlations, once.correlations)


def test_it_stops_where_the_loss_blows_up():
    model = network(keras.optimizers.SGD(1.0))
    start, found = state(model), finder(steps=40, min_learning_rate=1e-3, max_learning_rate=1e12)
    history = fit(model, examples(50), [found])
    assert 10 < len(found.learning_rates) < 40
    assert len(found.losses) == len(found.correlations) == len(found.learning_rates)
    assert len(history.epoch) == 1
    assert {k: v for k, v in state(model).items() if k in start}.keys() == start.keys()


# No trace is left


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "noise": lambda: tfb.BlockNormSGD(0.01, momentum=0.9, noise=0.1, seed=3),
    "average": lambda: keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.9),
    "loss-scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01, momentum=0.9)
    ),
}
# Every optimizer in the backend's usual mode, one of them in every mode.
USUAL = "graph" if BACKEND == "tensorflow" else next(iter(MODES))
each_optimizer = pytest.mark.parametrize(
    ("mode", "make"),
    [
        pytest.param(mode, make, id=f"{mode}-{name}")
        for name, make in OPTIMIZERS.items()
        for mode in MODES
        if mode == USUAL or name == "adam"
    ],
)


@each_optimizer
def test_everything_is_as_before_the_sweep(mode, make):
    if BACKEND == "jax" and make is OPTIMIZERS["average"]:
        pytest.skip("a second `fit` with `use_ema` fails on JAX, also without callbacks")
    model = network(make(), **MODES[mode])
    fit(model, examples(3, seed=1))  # so that nothing is at its beginning
    before = state(model)
    fit(model, examples(STEPS), [finder(steps=STEPS)], epochs=2)
    assert_same_bits(state(model), before)


def test_an_optimizer_that_averages_and_has_not_begun():
    model = network(keras.optimizers.SGD(0.01, use_ema=True))
    before = model.get_weights()
    fit(model, examples(STEPS), [finder(steps=STEPS)])
    for actual, expected in zip(model.get_weights(), before):
        np.testing.assert_array_equal(actual, expected)


def test_an_interrupted_sweep_can_be_undone():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 7:
                raise InterruptedError

    model, found = network(keras.optimizers.Adam(0.01)), finder(steps=STEPS)
    fit(model, examples(1))
    before = state(model)
    with pytest.raises(InterruptedError):
        fit(model, examples(30), [found, Interrupt()])
    found.detach()
    assert_same_bits(state(model), before)


@needs_tensorflow
@pytest.mark.parametrize("then", ["stop", "train"])
def test_mirrored_strategy(then, strategy, suggests):
    rows, found = (
        problems.half_precision_rows(60),
        [finder(steps=STEPS, then=then) for _ in range(2)],
    )
    with strategy.scope():
        spread = problems.compiled(tfb.BlockNormSGD(0.01, momentum=0.9))
    several = problems.train(spread, rows, batch_size=2, callbacks=[found[0]])
    one = problems.compiled(tfb.BlockNormSGD(0.01, momentum=0.9))
    single = problems.train(one, rows, batch_size=2, callbacks=[found[1]])
    np.testing.assert_array_equal(found[0].learning_rates, GRID)
    np.testing.assert_allclose(found[0].losses, found[1].losses, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found[0].correlations, found[1].correlations, atol=1e-5)
    for a, b in zip(several, single):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    if then == "stop":
        for variable, start in zip(spread.trainable_variables, problems.start_weights()):
            for copy in variable.value.values:
                np.testing.assert_array_equal(copy.numpy(), start)


@needs_tensorflow
def test_mirrored_strategy_with_statistics_and_random_numbers(strategy):
    with strategy.scope():
        model = network(keras.optimizers.Adam(0.01))

    def copies():
        variables = [*model.variables, *model.optimizer.variables]
        values = {v.path: getattr(v.value, "values", [v.value]) for v in variables}
        return {f"{p}:{i}": x.numpy() for p, xs in values.items() for i, x in enumerate(xs)}

    fit(model, examples(3, seed=1))
    before = copies()
    fit(model, examples(STEPS), [finder(steps=STEPS)])
    assert_same_bits(copies(), before)


# The training afterwards


@each_optimizer
def test_training_on_is_training_from_the_start_with_a_linear_decay(mode, make, suggests):
    data, epochs = examples(25), 2
    model, found, watch = network(make(), **MODES[mode]), finder(steps=STEPS, then="train"), Watch()
    history = fit(model, data, [watch, found], epochs=epochs)
    updates = 25 * epochs - STEPS
    rates = 0.05 * (1 - np.arange(1, updates) / updates)
    np.testing.assert_allclose(watch.rates[STEPS:-1], rates, rtol=1e-5)
    assert found.suggestion == 0.05
    assert float(model.optimizer.learning_rate) == np.float32(0.05), "ready for another `fit`"

    plain = network(make(), **MODES[mode])
    rest = [np.concatenate([array[4 * STEPS :], array]) for array in data]
    fit(plain, rest, [Follow([0.05, *watch.rates[STEPS:]])])
    for actual, expected in zip(model.get_weights(), plain.get_weights()):
        np.testing.assert_array_equal(actual, expected)
    assert max(history.history["loss"]) < 3.0, "the sweep is in no epoch's loss"


def test_a_second_fit_sweeps_again(suggests):
    model, found = network(keras.optimizers.SGD(0.01)), finder(steps=STEPS, then="train")
    fit(model, examples(25), [found])
    first = found.losses
    fit(model, examples(25), [found])
    assert not np.array_equal(found.losses, first)
    assert len(model.optimizer.variables) == 2, "iterations and learning rate"


def test_a_resumed_run_does_not_sweep_again(tmp_path, suggests):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    data, epochs = examples(25), 4
    whole = network(keras.optimizers.Adam(0.01))
    fit(whole, data, [finder(steps=STEPS, then="train")], epochs=epochs)

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    resumed = network(keras.optimizers.Adam(0.01))
    callbacks = [finder(steps=STEPS, then="train"), backup, Interrupt()]
    with pytest.raises(InterruptedError):
        fit(resumed, data, callbacks, epochs=epochs)
    resumed = network(keras.optimizers.Adam(0.01))
    again = finder(steps=STEPS, then="train")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    # BackupAndRestore loses the state of dropout's random numbers.
    seeds = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: resumed.layers[2].seed_generator.state.assign(
            ops.add(resumed.layers[2].seed_generator.state, [0, 2 * 25 - STEPS])
        )
    )
    fit(resumed, data, [again, backup, seeds], epochs=epochs)
    assert again.losses is None
    assert again.suggestion == pytest.approx(0.05)
    for actual, expected in zip(resumed.get_weights(), whole.get_weights()):
        np.testing.assert_array_equal(actual, expected)


def test_a_backup_from_within_a_sweep_is_refused(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    def run(*others):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        callbacks = [finder(steps=STEPS), backup, *others]
        fit(network(keras.optimizers.Adam(0.01)), examples(5), callbacks, epochs=9)

    with pytest.raises(InterruptedError):
        run(Interrupt())
    with pytest.raises(ValueError, match=r"in the midst of a sweep.*Received: steps=20"):
        run()


# Errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_learning_rate": 0}, r"`min_learning_rate` must be a number > 0. Received: min_"),
        ({"max_learning_rate": 1e-4}, r"`max_learning_rate` must be a number > .*=0.0001"),
        ({"steps": 19}, r"`steps` must be an integer >= 20. Received: steps=19"),
        ({"steps": 20.5}, r"`steps` must be an integer >= 20. Received: steps=20.5"),
        ({"then": "go"}, r"`then` must be one of 'stop', 'train'. Received: then='go'"),
        ({"signal": "both"}, r"`signal` must be one of 'loss', 'cor.*Received: signal='both'"),
    ],
)
def test_arguments_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        finder(**changes)


def test_a_schedule_is_refused():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 10)
    for rate in (schedule, lambda: 0.1):
        with pytest.raises(ValueError, match=r"`LearningRateFinder` sets the learning rate"):
            fit(network(keras.optimizers.SGD(rate)), examples(30), [finder(steps=STEPS)])


@needs_tensorflow
def test_a_model_that_is_built_in_its_first_step_is_refused():
    model = keras.Sequential([keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"needs a model that is built.*`model.build\("):
        fit(model, examples(30), [finder(steps=STEPS)])


@pytest.mark.parametrize(("then", "batches"), [("stop", 19), ("train", 20)])
def test_too_few_batches_are_refused_before_anything_is_done(then, batches):
    model = network(keras.optimizers.SGD(0.1))
    before = model.get_weights()
    with pytest.raises(ValueError, match=rf"`steps` must be at most.*steps=20, and {batches} upd"):
        fit(model, examples(batches), [finder(steps=STEPS, then=then)])
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_data_of_unknown_length():
    def batches(count):
        x, y = examples(count)
        for i in range(count):
            yield x[4 * i : 4 * i + 4], y[4 * i : 4 * i + 4]

    model = network(keras.optimizers.SGD(0.1))
    before = state(model)
    with pytest.raises(ValueError, match=r"pass `steps_per_epoch` to `fit`"):
        model.fit(batches(30), callbacks=[finder(steps=STEPS, then="train")], verbose=0)
    with pytest.raises(ValueError, match=r"The data ended before the sweep.*steps=20, and 5 upd"):
        model.fit(batches(5), callbacks=[finder(steps=STEPS)], verbose=0)
    assert {k: v for k, v in state(model).items() if k in before}.keys() == before.keys()
    found = finder(steps=STEPS)
    model.fit(batches(30), callbacks=[found], verbose=0)
    assert len(found.losses) == STEPS


def test_no_suggestion_is_none_and_no_training(monkeypatch):
    monkeypatch.setattr(learning_rate_rule, "suggest", lambda *curves: (None, "nothing happened"))
    model, found = network(keras.optimizers.SGD(0.1)), finder(steps=STEPS, then="train")
    before = model.get_weights()
    with pytest.raises(ValueError, match="suggests no rate to train with: nothing happened"):
        fit(model, examples(30), [found])
    for actual, expected in zip(model.get_weights(), before):
        np.testing.assert_array_equal(actual, expected)


# What the curves say


RATES = np.geomspace(1e-6, 10.0, 281)  # 40 per decade
DECADES = np.log10(RATES)


def test_two_thirds_of_the_fall_of_the_loss():
    losses = 3.0 - 1.0 / (1.0 + np.exp(-12.0 * (DECADES + 2.0)))  # falls about .01, from 3 to 2
    losses[DECADES > -0.5] = 50.0
    rate, rule = learning_rate_rule.suggest(RATES, losses, np.zeros(281))
    # The logistic function is 2/3 at log(2) / 12 decades above its middle; smoothing widens it.
    assert 10 ** (np.log(2) / 12) < rate / 0.01 < 1.4
    assert rule == "where the loss has first made two thirds of its fall"
    straight = np.interp(DECADES, [-3.0, -1.0], [4.0, 1.0])
    assert learning_rate_rule.by_loss(RATES, straight) == pytest.approx(10 ** -(5 / 3), rel=2e-2)
    assert learning_rate_rule.by_loss(RATES, straight - 7.0) == pytest.approx(
        10 ** -(5 / 3), rel=2e-2
    )


def test_where_the_loss_falls_twice_it_is_the_first_time():
    losses = np.interp(DECADES, [-5, -4, -3, -2, -1, 0], [4.0, 0.5, 4.0, 0.0, 4.0, 4.0])
    assert 10**-4.4 < learning_rate_rule.by_loss(RATES, losses) < 10**-4


def test_a_flat_loss_leaves_it_to_the_correlation():
    rng = np.random.default_rng(0)
    losses = 2.3 + 0.1 * rng.normal(size=281)
    correlations = np.interp(DECADES, [-3.0, -2.0, -1.0, 0.0], [0.004, 0.0, -0.02, 0.01])
    correlations += 0.001 * rng.normal(size=281)
    correlations[0] = np.nan
    rate, rule = learning_rate_rule.suggest(RATES, losses, correlations)
    assert 0.005 < rate < 0.02
    assert rule.startswith("where successive gradients begin to oppose one another")
    noise = 0.001 * rng.normal(size=281)
    rate, rule = learning_rate_rule.suggest(RATES, losses, noise)
    assert rate is None
    assert rule.startswith("neither the loss nor the correlation")


def test_the_correlation_can_be_asked_first():
    losses = np.interp(DECADES, [-5.0, -4.0], [4.0, 0.5])
    correlations = np.interp(DECADES, [-3.0, -2.0, -1.0, 0.0], [0.004, 0.0, -0.02, 0.01])
    by_loss, _ = learning_rate_rule.suggest(RATES, losses, correlations, "loss")
    rate, rule = learning_rate_rule.suggest(RATES, losses, correlations, "correlation")
    assert by_loss < 1e-4 < 0.005 < rate < 0.02
    assert rule == "where successive gradients begin to oppose one another"
    flat = np.zeros(281)
    rate, rule = learning_rate_rule.suggest(RATES, losses, flat, "correlation")
    assert rate == by_loss
    assert rule.endswith("; the correlation says nothing")


def test_noise_alone_suggests_nothing():
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        losses, correlations = rng.normal(size=(2, 281))
        found += learning_rate_rule.suggest(RATES, 10.0 + losses, correlations)[0] is not None
    assert found <= 4


def test_a_loss_that_is_never_finite_suggests_nothing():
    rate, rule = learning_rate_rule.suggest(RATES[:12], np.full(12, np.nan), np.full(12, np.nan))
    assert rate is None
    assert "not finite" in rule


def test_smoothing_has_no_lag_and_passes_over_gaps():
    line = 3.0 * DECADES + 1.0
    inside = slice(20, -20)
    np.testing.assert_allclose(learning_rate_rule.smooth(RATES, line)[inside], line[inside])
    peak = np.where(np.arange(281) == 140, 1.0, 0.0)
    smoothed = learning_rate_rule.smooth(RATES, peak)
    assert smoothed.argmax() == 140
    assert smoothed[140] == pytest.approx(1 / (np.sqrt(2 * np.pi) * 0.15 * 40), rel=1e-2)
    assert smoothed[146] / smoothed[140] == pytest.approx(np.exp(-0.5), rel=1e-6)
    gap = np.ones(281)
    gap[100:103] = np.nan
    np.testing.assert_allclose(learning_rate_rule.smooth(RATES, gap), 1.0)


def test_when_the_training_counts_as_destroyed():
    losses = [2.0, 2.2] * 20
    assert not learning_rate_rule.diverged(losses)
    assert not learning_rate_rule.diverged([*losses, 30.0]), "one bad batch"
    assert learning_rate_rule.diverged([*losses, np.nan])
    assert learning_rate_rule.diverged([*losses, *[9.6] * 5])  # 2.1 + 3 * 2.1 + 10 * 0.1 = 9.4
    assert not learning_rate_rule.diverged([*losses, *[9.2] * 5])
    assert not learning_rate_rule.diverged([-x for x in [*losses, *[9.6] * 5]])


# The figure


def test_the_figure(tmp_path):
    pytest.importorskip("matplotlib")
    model, found = network(keras.optimizers.SGD(1.0)), finder(steps=40)
    fit(model, examples(50), [found])
    figure = found.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    texts = [text.get_text() for text in figure.texts]
    assert any(found.rule in text for text in texts)
    found.suggestion = None
    found.plot(tmp_path / "none.svg")
    assert b"<svg" in (tmp_path / "none.svg").read_bytes()


def test_without_matplotlib_or_a_sweep(monkeypatch):
    with pytest.raises(ValueError, match="There is no sweep to draw"):
        finder().plot()
    found = finder()
    found.learning_rates = np.ones(3)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        found.plot()
