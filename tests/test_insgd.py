"""INSGD against its NumPy reference, the numbers of the authors' code, and NLMS."""

import input_problems as problems
import keras
import numpy as np
import pytest
import reference_inputs as reference
from cases_inputs import CASES, TABLE
from keras import ops
from test_parity import MODES

import tf_blocknorm as tfb

STEPS = 6
TOLERANCE = {"rtol": 5e-6, "atol": 5e-6}


def by_name(name):
    return next(case for case in TABLE if case.name == name)


def assert_equal(actual, expected, **tolerance):
    for path, a, e in zip(problems.PATHS, actual, expected, strict=True):
        np.testing.assert_allclose(a, e, err_msg=path, **{**TOLERANCE, **tolerance})


# -------------------------------------------------------------------------------------- the table


@CASES
@pytest.mark.parametrize("mode", MODES)
def test_fit_equals_the_reference(case, mode):
    x, y = problems.data(2 * STEPS)
    model = problems.compiled(case.optimizer(), norm=case.norm, **MODES[mode])
    assert_equal(problems.train(model, x, y), case.reference(x, y))


@CASES
def test_every_variable_moves_far_beyond_the_tolerance(case):
    history = case.history(*problems.data(2 * STEPS))
    for path, start, *weights in zip(problems.PATHS, problems.start_weights(), *history):
        assert np.abs(np.subtract(weights, start)).max() > 500 * 5e-6, path


@CASES
def test_accumulated_micro_batches_are_one_batch(case):
    if case.rates or case.arguments.get("use_ema"):
        pytest.skip("Keras counts micro-batches in schedules, and averages after each")
    x, y = problems.data(3 * STEPS)
    mode = list(MODES.values())[-1]
    optimizer = case.optimizer(gradient_accumulation_steps=3)
    model = problems.compiled(optimizer, norm=case.norm, **mode)
    actual = problems.train(model, x, y, batch_size=1)
    assert_equal(actual, case.reference(x, y, batch_size=3))


def test_mixed_float16():
    case = by_name("paper-l1-decay")
    x, y = problems.half_precision_data(2 * STEPS)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = problems.compiled(case.optimizer(), norm=case.norm, **list(MODES.values())[-1])
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        actual = problems.train(model, x, y)
        sums = model.get_layer("dense").input_tap.sums
        assert keras.backend.standardize_dtype(sums.dtype) == "float32"
    finally:
        keras.config.set_dtype_policy("float32")
    assert_equal(actual, case.reference(x, y))


# ----------------------------------------------------------------------- numbers of the authors'

CONV = {
    "x": np.sin(0.7 * np.arange(36)).reshape(2, 3, 3, 2),
    "kernel": np.cos(0.3 * np.arange(16)).reshape(2, 2, 2, 2),
    "gradient": lambda t: np.sin(0.11 * np.arange(16) + t).reshape(2, 2, 2, 2),
}
CONV["x"][1, :, :, 1] = 0.0
DENSE = {
    "x": np.cos(0.9 * np.arange(12)).reshape(3, 4),
    "kernel": np.sin(0.5 * np.arange(8)).reshape(4, 2),
    "gradient": lambda t: np.cos(0.2 * np.arange(8) + t).reshape(4, 2),
}


def given_gradients(layer, given, norm, bias=None):
    """The layer's variables after three steps with these gradients, the bias's power and taps."""
    layer = tfb.with_input_statistics(layer, norm=norm)
    layer.build(given["x"].shape)
    layer.kernel.assign(given["kernel"])
    optimizer = tfb.INSGD.like("code", learning_rate=0.1, weight_decay=5e-4)
    variables = layer.trainable_variables
    optimizer.build(variables)
    x = ops.convert_to_tensor(given["x"].astype("float32"))
    tap = layer.input_tap
    sums = tap_gradient(tap, x)
    history = []
    for t in range(3):
        gradients = [given["gradient"](t).astype("float32"), np.zeros(2, "float32"), sums]
        order = {id(layer.kernel): 0, id(layer.bias): 1, id(tap.sums): 2}
        optimizer.apply(
            [ops.convert_to_tensor(gradients[order[id(v)]]) for v in variables], variables
        )
        history.append(ops.convert_to_numpy(layer.kernel))
    return ops.convert_to_numpy(tap.power()), history


def tap_gradient(tap, x):
    """What the tap sends, computed directly: that it gets there is for `fit` to show."""
    from tf_blocknorm.optimizers.inputs import measures

    return ops.convert_to_numpy(measures.sums(x, tap.geometry, tap.norm))


@pytest.mark.parametrize(
    ("norm", "power", "sums", "magnitudes", "first"),
    [
        (
            "standardized_l2",
            [8, 4],
            [-4.836711978977, -9.198561830742, -13.897106160779],
            [11.954977595648, 14.244880298299, 16.376717715949],
            [0.61817006, 0.5204040072, 0.1012317102, -0.165416912],
        ),
        (
            "standardized_l1",
            [7.59797352, 3.78219034],
            [-4.909062226862, -9.426260297904, -14.289732206300],
            None,
            [0.6084620845, 0.509346013, 0.0707569594, -0.1985395299],
        ),
    ],
)
def test_a_convolution_as_in_the_authors_code(norm, power, sums, magnitudes, first):
    found, history = given_gradients(keras.layers.Conv2D(2, 2), CONV, norm)
    np.testing.assert_allclose(found, power, rtol=1e-5)
    np.testing.assert_allclose([kernel.sum() for kernel in history], sums, rtol=1e-5)
    if magnitudes:
        np.testing.assert_allclose([np.abs(k).sum() for k in history], magnitudes, rtol=1e-5)
    # The spec's four numbers of k[0, 0] are its input channels by its outputs.
    np.testing.assert_allclose(history[-1][0, 0].ravel(), first, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "power", "total", "kernel"),
    [
        (
            "standardized_l2",
            3.1,
            1.759031397719,
            "-.9278900711 -.2910813018 .2591420832 .626694843 .7649689456 .6865153478 .4581210517 "
            ".1825604992",
        ),
        (
            "standardized_l1",
            3.2534699758,
            1.835080358684,
            "-.8898914678 -.259528539 .2829879416 .6418776008 .7708767502 .6829066903 .4451358598 "
            ".1607155227",
        ),
    ],
)
def test_a_dense_layer_as_in_the_authors_code(norm, power, total, kernel):
    found, history = given_gradients(keras.layers.Dense(2), DENSE, norm)
    np.testing.assert_allclose(found, [power], rtol=1e-5)
    assert history[-1].sum() == pytest.approx(total, rel=1e-5)
    expected = np.array(kernel.split(), float)
    np.testing.assert_allclose(history[-1].ravel(), expected, rtol=2e-5, atol=1e-6)


def test_a_bias_as_in_the_authors_code():
    bias = keras.Variable([0.5, -0.5], name="bias")
    optimizer = tfb.INSGD.like("code", learning_rate=0.1, weight_decay=5e-4)
    for t in range(3):
        optimizer.apply([ops.convert_to_tensor(np.array([0.1, 0.2], "float32") * (t + 1))], [bias])
    expected = [0.40476266, -0.69005396]
    np.testing.assert_allclose(ops.convert_to_numpy(bias), expected, rtol=1e-6)


# ------------------------------------------------------------------------------------------- NLMS


def linear(features, convert, **options):
    model = keras.Sequential(
        [keras.Input((features,)), keras.layers.Dense(1, use_bias=False, name="d")]
    )
    return convert(model, **options)


@keras.saving.register_keras_serializable(package="tests")
def half_square(y, p):
    return 0.5 * ops.square(y - p)


def test_a_batch_of_one_is_normalised_least_mean_squares():
    """Every step projects onto the solutions of its sample, so that a sample is fitted at once."""
    rng = np.random.default_rng(4)
    x = (10 ** rng.uniform(-2, 2, (8, 1)) * rng.normal(size=(8, 5))).astype("float32")
    y = rng.normal(size=(8, 1)).astype("float32")
    model = linear(5, tfb.with_input_statistics)
    model.compile(tfb.INSGD.like("nlms"), half_square, jit_compile=False)
    w = ops.convert_to_numpy(model.layers[-1].kernel)[:, 0].astype(float)
    for k in range(8):
        model.fit(x[k : k + 1], y[k : k + 1], verbose=0)
        w = w + (y[k, 0] - w @ x[k]) * x[k].astype(float) / (x[k].astype(float) ** 2).sum()
        actual = ops.convert_to_numpy(model.layers[-1].kernel)[:, 0]
        np.testing.assert_allclose(actual, w, rtol=1e-4, atol=1e-4)
        assert actual @ x[k] == pytest.approx(y[k, 0], abs=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_without_the_logarithm_the_scale_of_the_inputs_cancels(scale):
    """Inputs times a, kernels over a: the outputs stay the same in every step."""
    x, y = problems.data(8)
    results = []
    for a in (1.0, scale):
        optimizer = tfb.INSGD(0.1, log=False, epsilon=0.0, exclude=["bias"])
        model = problems.compiled(optimizer)
        start = problems.start_weights()
        model.set_weights(_with_taps(model, [w / a if w.ndim > 1 else w for w in start]))
        weights = problems.train(model, [a * part for part in x], y)
        results.append([a * w if w.ndim > 1 else w for w in weights])
    assert_equal(results[1], results[0], rtol=1e-3, atol=1e-4)


def _with_taps(model, given):
    given = iter(given)
    named = ("kernel", "bias")
    return [next(given) if v.name in named else np.zeros(v.shape) for v in model.weights]


# ------------------------------------------------------------------------------------- properties


def test_a_standardised_power_is_a_constant():
    """The number of pixels less one, whatever the inputs: nothing of them is left."""
    x, y = problems.data(6)
    x = [part + np.arange(part.size).reshape(part.shape) % 7 for part in x]
    for a, b in ((1.0, 0.0), (50.0, 3.0)):
        model = problems.compiled(tfb.INSGD.like("code"), norm="standardized_l2")
        problems.train(model, [a * part + b for part in x], y)
        for name, n in (("dense", 5.1), ("grouped", 8), ("transposed", 3), ("einsum", 3.1)):
            power = ops.convert_to_numpy(model.get_layer(name).input_tap.power())
            np.testing.assert_allclose(power, n, rtol=2e-3, err_msg=name)


def test_constant_powers_are_those_of_standardised_inputs():
    x, y = problems.data(12)
    x = [part + np.arange(part.size).reshape(part.shape) % 7 for part in x]
    measured = problems.compiled(tfb.INSGD.like("code"), norm="standardized_l2")
    plain = problems.probe(convert=None)
    optimizer = tfb.INSGD.like("code", powers=tfb.constant_powers(plain))
    assert_equal(
        problems.train(problems.compiled(optimizer, plain), x, y),
        problems.train(measured, x, y),
        rtol=1e-3,
        atol=1e-4,
    )


def test_a_power_of_e_to_the_gain_is_sgd():
    plain = problems.probe(convert=None)
    kernels = [("kernel", float(np.exp(2.0)))]
    optimizer = tfb.INSGD(0.01, gain=2.0, powers=kernels, nesterov=True)
    x, y = problems.data(8)
    ours = problems.train(problems.compiled(optimizer, plain), x, y)
    sgd = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    assert_equal(ours, problems.train(problems.compiled(sgd, problems.probe(convert=None)), x, y))


def test_momentum_0_has_a_gain_of_1():
    kernel = keras.Variable([[1.0]], name="kernel")
    optimizer = tfb.INSGD.like("code", learning_rate=0.5, momentum=0.0, powers=[("", np.e)])
    optimizer.apply([ops.ones((1, 1))], [kernel])
    assert float(kernel[0, 0]) == pytest.approx(0.5, abs=1e-5)


def test_evaluation_leaves_the_statistics_as_they_are():
    x, y = problems.data(6)
    model = problems.compiled(tfb.INSGD(0.01))
    problems.train(model, x, y)
    before = [ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]
    model.evaluate([100 * part for part in x], y, verbose=0)
    model.predict([100 * part for part in x], verbose=0)
    after = [ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_a_channel_without_power_makes_no_step(epsilon):
    x, y = problems.data(4)
    x[1][..., 3] = 0.0
    model = problems.compiled(tfb.INSGD(0.01, log=False, epsilon=epsilon))
    kernel = problems.train(model, x, y)[2]
    assert np.isfinite(kernel).all()
    start = problems.start_weights()[2]
    np.testing.assert_array_equal(kernel[:, :, 1, 3:], start[:, :, 1, 3:])
    assert (kernel[:, :, 1, :3] != start[:, :, 1, :3]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25])
def test_an_input_that_is_not_finite_is_seen_in_the_weights(value):
    """Also where the power overflows and the gradient does not: over infinity it would be 0."""
    x, y = problems.data(2)
    x[0][1, 2] = value
    model = problems.compiled(tfb.INSGD(0.01, log=False))
    kernel, bias = problems.train(model, x, y)[:2]
    assert np.isnan(kernel).all()
    assert np.isfinite(bias).all()


def test_memory():
    """A momentum per weight, and of the statistics a few floats for each layer or channel."""
    model = problems.probe()
    optimizer = tfb.INSGD(0.1)
    optimizer.build(model.trainable_variables)
    weights = sum(w.size for w in problems.start_weights())
    powers = 1 + 4 + 3 + 2 + 3
    held = sum(int(np.prod(v.shape)) for v in optimizer.variables)
    assert held == 2 + weights + powers
    assert model.count_params() == weights + powers + len(problems.PARTS)


def test_the_monitor_shows_the_multipliers():
    monitor = tfb.BlockNormMonitor(1, block="variable")
    x, y = problems.data(2)
    model = problems.compiled(tfb.INSGD(0.01, input_momentum=0.0))
    problems.train(model, x, y, callbacks=[monitor])
    (_, powers) = problems.gradients_and_powers(x, y, 2)
    assert list(monitor.blocks) == problems.PATHS == list(model.optimizer.blocks)
    shown = dict(zip(monitor.blocks, monitor.records["input_multiplier"][0]))
    for path, power in zip(problems.PATHS, powers[0]):
        expected = 1.0 if power is None else np.mean(1.0 / reference.divisor(power))
        if path != "grouped/kernel":  # The reference's is spread over the groups' outputs.
            assert shown[path] == pytest.approx(expected, rel=1e-5), path


# ------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"`momentum` must be a number in \[0, 1\). Received: momentum=1.0"),
        ({"input_momentum": -1}, r"`input_momentum` must be a number in \[0, 1\). Received: inp"),
        ({"floor": 0.0}, r"`floor` must be a number > 0. Received: floor=0.0"),
        ({"epsilon": -1.0}, r"`epsilon` must be a number >= 0. Received: epsilon=-1.0"),
        ({"gain": 0.0}, r"`gain` must be a number > 0 or 'code'. Received: gain=0.0"),
        ({"gain": "paper"}, r"`gain` must be a number > 0 or 'code'. Received: gain='paper'"),
        ({"normalize": "step"}, r"`normalize` must be one of 'gradient', 'update'. Received: norm"),
        ({"weight_decay": -1}, r"`weight_decay` must be a number >= 0 or None. Received: weight_d"),
        ({"norm": "l1"}, r"`norm` must not be given.*with_input_statistics.*Received: norm='l1'"),
        ({"powers": 3.0}, r"`powers` must be None or a list of .* pairs .* Received: powers=3.0"),
        ({"powers": [("k", -1.0)]}, r"`powers` must be None .* Received: powers=\[\('k', -1.0\)\]"),
        ({"powers": [("(", 1.0)]}, r"`powers` must hold valid regular expressions"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfb.INSGD(**arguments)


def test_an_unknown_implementation():
    with pytest.raises(ValueError, match=r"`implementation` must be one of 'paper', .*='adam'"):
        tfb.INSGD.like("adam")


def test_a_kernel_without_a_power_is_an_error_that_names_it():
    plain = problems.probe(convert=None)
    message = r"must have the power of its input. Received: none for \['dense/kernel'.*with_input"
    with pytest.raises(ValueError, match=message):
        tfb.INSGD().build(plain.trainable_variables)
    partly = tfb.with_input_statistics(plain, exclude=["grouped"])
    with pytest.raises(ValueError, match=r"none for \['grouped/kernel'\].*`exclude=\['grouped/ker"):
        tfb.INSGD().build(partly.trainable_variables)
    tfb.INSGD(exclude=["grouped/kernel"]).build(partly.trainable_variables)
    tfb.INSGD(powers=[("grouped/kernel", 9.0)]).build(partly.trainable_variables)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the others can")
def test_overwriting_by_averages_is_an_error_on_jax():
    optimizer = tfb.INSGD(use_ema=True, ema_overwrite_frequency=3)
    with pytest.raises(ValueError, match=r"must be None on JAX .*: ema_overwrite_frequency=3"):
        optimizer.build(problems.probe().trainable_variables)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="an error there")
def test_overwriting_by_averages():
    x, y = problems.data(8)
    ema = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2}
    model = problems.compiled(tfb.INSGD(0.02, powers=[("kernel", np.e)], **ema))
    sgd = problems.compiled(keras.optimizers.SGD(0.02, 0.9, **ema), problems.probe(convert=None))
    assert_equal(problems.train(model, x, y), problems.train(sgd, x, y))


def test_a_power_for_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"Every pattern of `powers` must match .*'conv'"):
        tfb.INSGD(powers=[("conv", 1.0)]).build(problems.probe().trainable_variables)


def test_statistics_that_another_optimizer_gets_are_an_error():
    variables = [
        v for v in problems.probe().trainable_variables if v.path != "dense/input_tap/sums"
    ]
    with pytest.raises(ValueError, match=r"given its input statistics.*\['dense/kernel'\]"):
        tfb.INSGD().build(variables)


def test_the_configuration_is_complete():
    given = {
        "learning_rate": 0.5,
        "momentum": 0.1,
        "nesterov": True,
        "weight_decay": 0.2,
        "input_momentum": 0.3,
        "log": False,
        "floor": 2.0,
        "epsilon": 0.4,
        "gain": 0.6,
        "normalize": "gradient",
        "powers": [["a", 7.0]],
        "exclude": ["b"],
        "exclude_from_weight_decay": ["c"],
        "jit_compile": True,
    }
    config = tfb.INSGD(**given).get_config()
    assert {key: config[key] for key in given} == given
    again = tfb.INSGD.from_config(config)
    assert again.get_config() == config
