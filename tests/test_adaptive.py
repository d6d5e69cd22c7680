"""AdaptiveBlockNormSGD beyond its rows in the table: kinship, names, errors, rates."""

import inspect

import keras
import numpy as np
import problems
import pytest
import reference_adaptive
from keras import ops

import tf_blocknorm as tfb

ROWS = problems.rows(8, seed=5)


def rates(model):
    return model.optimizer.block_rates


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_with_fixed_rates_it_is_normalised_sgd(momentum):
    common = {"norm": "rms", "block": "layer"}
    adaptive = tfb.AdaptiveBlockNormSGD(
        initial_rate=0.02, rate_update=0.0, momentum=momentum, **common
    )
    plain = tfb.BlockNormSGD(0.02, momentum=momentum, normalize="update", **common)
    a = problems.train(problems.compiled(adaptive), ROWS)
    b = problems.train(problems.compiled(plain), ROWS)
    for x, y in zip(a, b):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"rate_update": 0.9}, [[i] for i in range(6)]),
        ({"rate_update": 0.9, "block": "unit", "average": 0.5}, [[i] for i in range(6)]),
        ({"rate_update": 0.4, "adapt": "model"}, [[i] for i in range(6)]),
        ({"rate_update": 0.9, "relative_floor": 0.9}, [[i] for i in range(6)]),
        ({"rate_update": 0.5, "target_correlation": 0.7, "min_rate": 0.007}, [[0, 1, 2, 3, 4, 5]]),
        ({"rate_update": 0.5, "target_correlation": -0.7, "max_rate": 0.012}, [[0, 1, 2, 3, 4, 5]]),
    ],
    ids=str,
)
def test_rates_equal_the_reference(options, groups):
    if len(groups) == 1:
        options = {**options, "block": "model"}
    model = problems.compiled(tfb.AdaptiveBlockNormSGD(norm="l2", **options))
    problems.train(model, ROWS)
    expected = []
    o = {"block": options.get("block", "variable")}
    rule = {k: v for k, v in options.items() if k != "block"}
    gradients = problems.gradients(ROWS)
    reference_adaptive.run(
        problems.start_weights(), gradients, [1.0] * 8, groups, options=o, report=expected, **rule
    )
    np.testing.assert_allclose(list(rates(model).values()), expected[-1], rtol=2e-5)
    assert not np.allclose(expected[-1], 0.01, rtol=1e-2)


def test_names_of_rates():
    model = problems.compiled(tfb.AdaptiveBlockNormSGD())
    problems.train(model, ROWS[:1])
    assert list(rates(model)) == problems.PATHS
    assert list(model.optimizer.block_momenta) == problems.PATHS
    unit = problems.compiled(tfb.AdaptiveBlockNormSGD(block="unit"))
    problems.train(unit, ROWS[:1])
    assert list(rates(unit))[:4] == ["a/kernel[0]", "a/kernel[1]", "a/kernel[2]", "a/bias"]
    layer = problems.compiled(tfb.AdaptiveBlockNormSGD(block="layer", exclude=["^b/"]))
    problems.train(layer, ROWS[:1])
    assert list(rates(layer)) == ["a"]


def test_a_variable_without_gradient_keeps_its_rate():
    a, b = keras.Variable([3.0, 4.0]), keras.Variable([1.0, 1.0])
    optimizer = tfb.AdaptiveBlockNormSGD(rate_update=0.5)
    optimizer.build([a, b])
    for _ in range(3):
        optimizer.apply([ops.convert_to_tensor([1.0, 2.0])], [a])
    first, second = optimizer.block_rates.values()
    np.testing.assert_allclose([first, second], [0.01 * 1.5**2, 0.01], rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(b), [1.0, 1.0])


def test_zero_gradients_change_no_rate():
    a = keras.Variable([3.0, 4.0])
    optimizer = tfb.AdaptiveBlockNormSGD(rate_update=0.5, target_correlation=-0.5)
    for gradient in ([1.0, 2.0], [0.0, 0.0], [1.0, 2.0]):
        optimizer.apply([ops.convert_to_tensor(gradient)], [a])
    np.testing.assert_allclose(list(optimizer.block_rates.values()), [0.01], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_rates_do_not_depend_on_the_size_of_gradients(scale):
    ends = []
    for factor in (1.0, scale):
        a = keras.Variable([3.0, 4.0, 5.0])
        optimizer = tfb.AdaptiveBlockNormSGD(rate_update=0.5, average=0.3)
        for gradient in ([1.0, 2.0, 3.0], [1.0, -0.5, 2.0], [0.3, 2.0, -4.0]):
            optimizer.apply([ops.convert_to_tensor(np.float32(gradient) * factor)], [a])
        ends.append([*optimizer.block_rates.values(), *ops.convert_to_numpy(a)])
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6)


def test_the_original_has_its_authors_defaults():
    original = tfb.AdaptiveBlockNormSGD.original(momentum=0.5)
    assert original.get_config()["rate_update"] == 0.005
    assert (original.min_rate, original.max_rate, original.norm) == (1e-6, 0.01, "max")
    assert original.momentum == 0.5


def quadratic(optimizer, steps):
    """What becomes of a loss of 16 with curvatures from 0.01 to 10."""
    curvature = np.geomspace(0.01, 10.0, 20).astype("float32")
    x = keras.Variable(np.ones(20, "float32"))
    optimizer.build([x])
    step = compiled(optimizer, x, curvature)
    for _ in range(steps):
        step()
    return float((curvature * ops.convert_to_numpy(x) ** 2).sum() / 2)


def compiled(optimizer, x, curvature):
    """A step as `fit` would make it: eager JAX compiles the loops in norms anew every time."""

    def step():
        optimizer.apply([ops.multiply(curvature, x)], [x])

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(step)
    if keras.backend.backend() == "jax":
        import jax

        pure = jax.jit(lambda w, s: optimizer.stateless_apply(s, [curvature * w[0]], w))

        def step():
            weights, state = pure([x.value], [v.value for v in optimizer.variables])
            x.assign(weights[0])
            for variable, value in zip(optimizer.variables, state):
                variable.assign(value)

    return step


@pytest.mark.parametrize("initial_rate", [1e-4, 1e-2, 0.5])
def test_it_finds_the_scale_from_far_below_and_above(initial_rate):
    common = {"norm": "rms", "momentum": 0.9}
    adaptive = tfb.AdaptiveBlockNormSGD(initial_rate=initial_rate, target_correlation=0.5, **common)
    assert quadratic(adaptive, 400) < 0.1
    if initial_rate < 1e-3:
        assert quadratic(tfb.BlockNormSGD(initial_rate, normalize="update", **common), 400) > 10.0


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("initial_rate", 0.0),
        ("initial_rate", 1e-7),
        ("min_rate", -1.0),
        ("max_rate", 0.001),
        ("rate_update", 1.0),
        ("momentum", 1.1),
        ("momentum_update", -0.1),
        ("average", 1.0),
        ("target_correlation", 1.0),
        ("adapt", "layer"),
        ("relative_floor", 1.0),
        ("adapt_steps", 0),
        ("adapt_steps", 2.5),
        ("norm", "l7"),
        ("normalize", "gradient"),
    ],
)
def test_arguments_out_of_range(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` .*Received: {argument}="):
        tfb.AdaptiveBlockNormSGD(**{argument: value})


def test_the_signature_names_all_arguments():
    parameters = inspect.signature(tfb.AdaptiveBlockNormSGD).parameters
    assert list(parameters)[:3] == ["learning_rate", "initial_rate", "min_rate"]
    assert {"weight_decay", "clipnorm", "use_ema", "block", "noise", "name"} <= set(parameters)
    assert "normalize" not in parameters
    for name in parameters:
        assert f"        {name}:" in tfb.AdaptiveBlockNormSGD.__doc__ or name in KERAS, name


KERAS = set(inspect.signature(tfb.BlockNormSGD).parameters) - {"norm", "momentum"}


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_the_lengths_of_averages_do_not_drift(average):
    """They follow from one another, step by step: they are never measured again."""
    rng = np.random.default_rng(0)
    variables = [keras.Variable(np.zeros(shape, "float32")) for shape in ((40, 30), (30,), (5,))]
    optimizer = tfb.AdaptiveBlockNormSGD(average=average)
    optimizer.build(variables)
    for step in range(60):
        gradients = [
            ops.convert_to_tensor(rng.normal(0.2, 1.0, v.shape), "float32") for v in variables
        ]
        gradients[2] = gradients[2] * (step % 3 != 1)
        if step % 10 < 8:
            optimizer.apply(gradients, variables)
        else:
            optimizer.apply(gradients[:2], variables[:2])
    lengths = ops.convert_to_numpy(optimizer._past.lengths)
    measured = [np.linalg.norm(ops.convert_to_numpy(x)) for x in optimizer._past.averages]
    np.testing.assert_allclose(lengths, measured, rtol=1e-5)
