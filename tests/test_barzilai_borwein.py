"""SGD-BB inside `fit` against NumPy in float64, written from the paper, and known values."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_blocknorm as tfb
from tf_blocknorm.callbacks.barzilai_borwein import BarzilaiBorwein

BACKEND = keras.backend.backend()
MODES = {
    "tensorflow": {"graph": {"jit_compile": False}, "xla": {"jit_compile": True}},
    "jax": {"jit": {"jit_compile": True}},
    "torch": {"eager": {"jit_compile": False}},
}[BACKEND]
ONE_MODE = next(iter(MODES.values()))
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow")
ROWS, INPUTS, OUTPUTS, BATCH = 24, 4, 3, 4
M = ROWS // BATCH


def data(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, INPUTS)) * [1.0, 0.5, 2.0, 1.0]
    return x.astype("float32"), rng.normal(size=(ROWS, OUTPUTS)).astype("float32")


def start():
    rng = np.random.default_rng(1)
    return [rng.normal(size=(INPUTS, OUTPUTS)).astype("float32"), np.ones(OUTPUTS, "float32")]


def build(optimizer, scale=1.0, **options):
    model = keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dense(OUTPUTS, name="dense")])
    model.set_weights(start())
    model.compile(
        optimizer,
        lambda t, p: scale * ops.sum(ops.square(t - p), axis=-1),
        **{**ONE_MODE, **options},
    )
    return model


def fit(model, callbacks, epochs=6, batch=BATCH):
    x, y = data()
    return model.fit(
        x, y, batch, epochs, shuffle=False, verbose=0, callbacks=callbacks
    ).history.get("learning_rate")


def batches(weights, scale=1.0, batch=BATCH):
    """Endlessly: the gradients of the next batch at the weights, whatever they are by then."""
    x, y = (a.astype(float) for a in data())
    while True:
        for i in range(0, ROWS, batch):
            a, b = x[i : i + batch], y[i : i + batch]
            error = 2 * scale * (a @ weights[0] + weights[1] - b) / len(a)
            yield [a.T @ error, error.sum(0)]


def norm(parts):
    return np.sqrt(sum((p**2).sum() for p in parts))


def reference(
    rate,
    epochs,
    scale=1.0,
    m=M,
    batch=BATCH,
    quotient="long",
    phi=lambda k: k + 1,
    beta=None,
    points="mean",
    epsilon=0.0,
    max_change=2.0,
    min_rate=0.0,
    max_rate=np.inf,
    blocks=((0, 1),),
    unit=None,
    momentum=0.0,
):
    """Weights, and the rates of the blocks in every epoch."""
    w = [a.astype(float) for a in start()]
    velocity = [np.zeros_like(a) for a in w]
    beta = min(1.0, 10 / m) if beta is None else beta
    rates, logs = [rate] * len(blocks), [[] for _ in blocks]
    last, history, seen = None, [], []
    gradients, updates = batches(w, scale, batch), epochs * (ROWS // batch)
    for t in range(updates):
        if t % (ROWS // batch) == 0:
            history.append(list(rates))
        g = next(gradients)
        seen.append(([a.copy() for a in w], g))
        step = unit(g) if unit else g
        for block, r in zip(blocks, rates):
            for i in block:
                velocity[i] = momentum * velocity[i] - r * step[i]
                w[i] += velocity[i]
        if (t + 1) % m:
            continue
        share = np.array([(1 - beta) ** (m - 1 - j) for j in range(m)])
        share /= share.sum()
        x_mean, g_mean = (
            [sum(c * s[part][i] for c, s in zip(share, seen)) for i in (0, 1)] for part in (0, 1)
        )
        now = (x_mean if points == "mean" else [a.copy() for a in w]), g_mean
        k, seen = (t + 1) // m, []
        if k >= 2:
            for b, block in enumerate(blocks):
                s, y = ([now[p][i] - last[p][i] for i in block] for p in (0, 1))
                ss, yy, sy = (
                    norm(s) ** 2,
                    norm(y) ** 2,
                    abs(sum((p * q).sum() for p, q in zip(s, y))),
                )
                long = ss / (sy + epsilon * ss) / m
                short = (sy + epsilon * ss) / (yy + 2 * epsilon * sy + epsilon**2 * ss) / m
                eta = long if quotient == "long" or (quotient != "short" and k % 2 == 0) else short
                if phi:
                    logs[b].append(np.log(eta * phi(k)))
                    eta = np.exp(np.mean(logs[b])) / phi(k)
                if unit:
                    u = unit(g_mean)
                    eta *= norm([g_mean[i] for i in block]) / norm([u[i] for i in block])
                new = eta * (1 - momentum)
                if max_change:
                    new = np.clip(new, rates[b] / max_change, rates[b] * max_change)
                rates[b] = np.clip(new, min_rate, max_rate)
        last = now
    return w, np.array(history), rates


def unit_l2(gradients):
    return [g / norm([g]) for g in gradients]


def unit_max(gradients):
    size = max(np.abs(g).max() for g in gradients)
    return [g / size for g in gradients]


def check(model, rule, learning_rates, expected, rtol=1e-4):
    weights, history, last = expected
    np.testing.assert_allclose(list(rule.rates.values()), last, rtol=rtol)
    shared = np.exp(np.log(history).mean(axis=1))
    np.testing.assert_allclose(learning_rates, shared, rtol=rtol)
    assert len(set(np.round(learning_rates, 7))) >= len(learning_rates) - 2
    for a, b in zip(model.get_weights(), weights):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5)


SGD = keras.optimizers.SGD
CASES = {
    "default": {},
    "paper": {"points": "end", "max_change": None},
    "short": {"quotient": "short", "max_change": None},
    "alternating": {"quotient": "alternating", "phi": None, "epsilon": 0.3, "max_change": None},
    "short-epsilon": {"quotient": "short", "epsilon": 2.0},
    "constant": {"phi": "constant", "max_change": 10.0, "beta": 0.0},
    "beta": {"beta": 0.3, "max_change": None},
}
PHI = {"linear": lambda k: k + 1, "constant": lambda k: 1.0, None: None}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_fit_equals_the_reference(case, mode):
    arguments = CASES[case]
    rule, model = BarzilaiBorwein(**arguments), build(SGD(0.01), **MODES[mode])
    rates = fit(model, [rule])
    phi = PHI[arguments.get("phi", "linear")]
    check(model, rule, rates, reference(0.01, 6, **{**arguments, "phi": phi}))


@pytest.mark.parametrize("mode", MODES)
def test_blocks(mode):
    rule, model = (
        BarzilaiBorwein(block="variable", max_change=None),
        build(SGD(0.01), **MODES[mode]),
    )
    rates = fit(model, [rule])
    expected = reference(0.01, 6, max_change=None, blocks=((0,), (1,)))
    check(model, rule, rates, expected)
    assert [n.rpartition("/")[2] for n in rule.rates] == ["kernel", "bias"]
    assert abs(np.log(expected[2][0] / expected[2][1])) > 0.05


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ["model", "variable", "max"])
def test_normalised_steps(case, mode):
    block = {"model": "model", "variable": "variable", "max": "model"}[case]
    options = {"norm": "max", "block": "model"} if case == "max" else {}
    rule = BarzilaiBorwein(block=block, max_change=3.0)
    model = build(tfb.BlockNormSGD(0.05, **options), **MODES[mode])
    rates = fit(model, [rule])
    blocks = ((0,), (1,)) if case == "variable" else ((0, 1),)
    unit = unit_max if case == "max" else unit_l2
    check(model, rule, rates, reference(0.05, 6, max_change=3.0, blocks=blocks, unit=unit), 5e-4)


def test_momentum():
    rule, model = BarzilaiBorwein(), build(SGD(0.004, momentum=0.5))
    check(model, rule, fit(model, [rule]), reference(0.004, 6, momentum=0.5))


def test_a_normalised_update_changes_as_a_normalised_gradient_does():
    weights = []
    for normalize in ("gradient", "update"):
        model = build(tfb.BlockNormSGD(0.05, normalize=normalize))
        fit(model, [BarzilaiBorwein()])
        weights.append(model.get_weights())
    for a, b in zip(*weights):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_every_so_many_updates_and_steps_per_execution():
    options = {"steps_per_execution": 3} if BACKEND != "torch" else {}
    rule, model = BarzilaiBorwein(frequency=4), build(SGD(0.01), **options)
    expected = reference(0.01, 6, m=4)
    check(model, rule, fit(model, [rule]), expected)


def test_accumulated_gradients():
    rule, model = BarzilaiBorwein(), build(SGD(0.01, gradient_accumulation_steps=2))
    check(model, rule, fit(model, [rule]), reference(0.01, 6, m=M // 2, batch=2 * BATCH))


def test_loss_scale():
    optimizer = keras.optimizers.LossScaleOptimizer(SGD(0.01), initial_scale=64.0)
    rule, model = BarzilaiBorwein(), build(optimizer)
    check(model, rule, fit(model, [rule]), reference(0.01, 6))


def test_bounds():
    rule = BarzilaiBorwein(min_rate=0.015, max_rate=0.018, max_change=1.7)
    model = build(SGD(0.01))
    rates = fit(model, [rule])
    expected = reference(0.01, 6, min_rate=0.015, max_rate=0.018, max_change=1.7)
    np.testing.assert_allclose(rates, expected[1][:, 0], rtol=1e-5)
    np.testing.assert_allclose(rates[2:5], [0.017, 0.018, 0.018], rtol=1e-5)
    rule, model = BarzilaiBorwein(min_rate=0.03), build(SGD(0.01))
    np.testing.assert_allclose(fit(model, [rule])[2], 0.03, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_scale_of_the_gradient(scale):
    rule, model = BarzilaiBorwein(max_change=None), build(SGD(0.01 / scale), scale)
    rates = np.multiply(fit(model, [rule]), scale)
    expected = reference(0.01, 6, max_change=None)
    np.testing.assert_allclose(rates, expected[1][:, 0], rtol=1e-4)
    rule, model = BarzilaiBorwein(), build(tfb.BlockNormSGD(0.05), scale)
    check(model, rule, fit(model, [rule]), reference(0.05, 6, unit=unit_l2), 1e-3)


class Bowl(keras.layers.Layer):
    """A quadratic of curvatures 1 and 4, from (1, 1)."""

    def build(self, _):
        self.w = self.add_weight(shape=(2,), initializer="ones")

    def call(self, x):
        return x * ops.sum(ops.array([0.5, 2.0]) * ops.square(self.w))


def bowl(rule, rate=0.1, updates=2):
    model = keras.Sequential([keras.Input((1,)), Bowl()])
    model.compile(SGD(rate), lambda _, output: ops.mean(output), **ONE_MODE)
    ones = np.ones((updates, 1))
    model.fit(ones, ones, 1, shuffle=False, verbose=0, callbacks=[rule])
    return rule.rates["model"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 17 / 65),
        ({"epsilon": 1.0}, 0.17 / (0.65 + 0.17)),
        ({"quotient": "short"}, 0.65 / 2.57),
        # The weights after a step with the gradients before it, as the paper takes them for m = 1.
        ({"points": "end"}, (0.09**2 + 0.24**2) / (0.09 * 0.1 + 0.24 * 1.6)),
    ],
)
def test_values_known_by_hand(arguments, expected):
    for phi in ("constant", "linear", None):
        rule = BarzilaiBorwein(frequency=1, phi=phi, max_change=None, **arguments)
        np.testing.assert_allclose(bowl(rule), expected, rtol=1e-5)


def test_on_a_quadratic_the_quotient_of_means_is_a_curvature_for_any_period():
    rule = BarzilaiBorwein(frequency=8, max_change=None)
    rate = 8 * bowl(rule, rate=0.4, updates=16)
    assert 1 / 4 <= rate <= 1


def test_the_recursion_is_the_geometric_mean():
    quotients = [0.5, 0.02, 0.1]
    tap = BarzilaiBorwein(max_change=None).tap
    tap.optimizer = SGD(1.0)
    state, c = [ops.ones(1), ops.zeros(1), ops.zeros(1)], 1.0
    for k, eta in enumerate(quotients, 2):
        tap._step_size = lambda _, eta=eta: ops.convert_to_tensor([eta], dtype="float32")
        rate, *state = tap._change(ops.cast(float(k), "float32"), ops.ones(()), *state)
        c = c ** ((k - 2) / (k - 1)) * (eta * (k + 1)) ** (1 / (k - 1))
        np.testing.assert_allclose(float(rate), c / (k + 1), rtol=1e-5)
    mean = np.exp(np.mean([np.log(e * (k + 1)) for k, e in enumerate(quotients, 2)]))
    assert abs(c - mean) < 1e-12


def test_logistic_regression_as_the_paper_runs_it():
    """The setting of the authors' example: single rows, n updates per epoch, weights at the end."""
    rng = np.random.default_rng(1)
    n, d, epochs = 200, 20, 6
    a = rng.standard_normal((n, d))
    t = rng.standard_normal(d)
    a *= np.sign(a @ t + 0.1 * rng.standard_normal(n))[:, None]
    x, eta, log_c, hist, last = np.zeros(d), 1e-2, 0.0, [], None
    ghat = np.zeros(d)
    for k in range(epochs):
        if k >= 2:
            s, y = x - last[0], ghat - last[1]
            raw = s @ s / abs(s @ y) / n
            log_c = ((k - 2) * log_c + np.log(raw * (k + 1))) / (k - 1)
            eta = np.exp(log_c) / (k + 1)
        last = x.copy(), ghat.copy()
        hist.append(eta)
        ghat = np.zeros(d)
        for row in a:
            g = -row / (1 + np.exp(row @ x)) + 1e-2 * x
            x = x - eta * g
            ghat = 10 / n * g + (1 - 10 / n) * ghat
    model = keras.Sequential(
        [
            keras.Input((d,)),
            keras.layers.Dense(
                1,
                use_bias=False,
                kernel_initializer="zeros",
                kernel_regularizer=keras.regularizers.L2(5e-3),
            ),
        ]
    )
    model.compile(SGD(1e-2), lambda _, p: ops.softplus(-p), **ONE_MODE)
    rule = BarzilaiBorwein(points="end", max_change=None)
    a = a.astype("float32")
    model.fit(a, np.ones((n, 1)), 1, epochs, shuffle=False, verbose=0, callbacks=[rule])
    # Here, averages add up to weight 1; the paper's to 1 - (1 - beta)**m, 3e-5 less.
    np.testing.assert_allclose(model.history.history["learning_rate"], hist, rtol=1e-3)
    np.testing.assert_allclose(model.get_weights()[0][:, 0], x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("broken", ["zero", "nan"])
def test_no_information_leaves_the_rate(broken):
    model = build(SGD(0.01), scale={"zero": 0.0, "nan": float("nan")}[broken])
    for block in ("model", "unit"):
        rule = BarzilaiBorwein(block=block)
        np.testing.assert_allclose(fit(model, [rule], 4), [0.01] * 4, rtol=1e-5)
        assert np.isfinite(list(rule.rates.values())).all()


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen == 4 * M + 2:
            raise InterruptedError


@pytest.mark.parametrize("block", ["model", "variable"])
def test_a_resumed_run_is_identical(block, tmp_path):
    def callbacks():
        # The backup on either side, as their order must not matter.
        pair = [BarzilaiBorwein(block=block), keras.callbacks.BackupAndRestore(tmp_path / block)]
        return pair if block == "model" else pair[::-1]

    whole = build(SGD(0.01))
    rates = fit(whole, [BarzilaiBorwein(block=block)], 8)
    with pytest.raises(InterruptedError):
        fit(build(SGD(0.01)), [*callbacks(), Stop()], 8)
    resumed = build(SGD(0.01))
    assert fit(resumed, callbacks(), 8) == rates[4:]
    for a, b in zip(whole.get_weights(), resumed.get_weights()):
        np.testing.assert_array_equal(a, b)


@on_tensorflow
@pytest.mark.parametrize("block", ["model", "variable"])
def test_mirrored_strategy(block, strategy):
    with strategy.scope():
        model = build(tfb.BlockNormSGD(0.05))
    rule = BarzilaiBorwein(block=block)
    blocks = ((0,), (1,)) if block == "variable" else ((0, 1),)
    expected = reference(0.05, 6, blocks=blocks, unit=unit_l2)
    check(model, rule, fit(model, [rule]), expected, 5e-4)
    for variable in [*rule.tap.variables, *model.trainable_variables]:
        first, second = (copy.numpy() for copy in variable.value.values)
        # TensorFlow rounds the product of rate, factor and step in another order on each replica.
        factor_apart = block != "model" and variable.trainable
        np.testing.assert_allclose(first, second, rtol=1e-5 if factor_apart else 0)


@pytest.mark.parametrize(
    ("optimizer", "arguments", "message"),
    [
        (SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)), {}, "the float that"),
        (SGD(lambda: 0.1), {}, "the float that the schedule or function begins"),
        (SGD(0.0), {}, "must be a float > 0"),
        (keras.optimizers.Adam(), {}, "step size of gradient descent.*Received: optimizer="),
        (tfb.BlockNormSGD(normalize="update"), {"block": "layer"}, "Received: block='layer'"),
    ],
)
def test_other_optimizers_are_refused(optimizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(build(optimizer), [BarzilaiBorwein(**arguments)], 1)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("frequency", 0),
        ("frequency", "batch"),
        ("quotient", "both"),
        ("phi", "cubic"),
        ("beta", 1.5),
        ("points", "start"),
        ("epsilon", -1.0),
        ("max_change", 1.0),
        ("min_rate", -1.0),
        ("max_rate", 0.0),
        ("block", "weights"),
    ],
)
def test_arguments_out_of_range(argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}` must be .*Received: {argument}={value!r}"):
        BarzilaiBorwein(**{argument: value})


def test_an_epoch_of_unknown_length_is_refused():
    def endless():
        while True:
            yield data()

    model = build(SGD(0.01))
    rule = BarzilaiBorwein()
    rule.set_model(model)
    rule.set_params({"steps": None})
    with pytest.raises(ValueError, match="Pass `steps_per_epoch`"):
        rule.on_train_begin()
    model.fit(endless(), steps_per_epoch=3, verbose=0, callbacks=[rule])
