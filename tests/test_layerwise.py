"""NovoGrad, LARS and LAMB: published numbers, kinship, and their famous implementations."""

import keras
import numpy as np
import problems
import pytest
from keras import ops

import tf_blocknorm as tfb

START = [[1.0, -2.0], [0.5, 3.0]]
GRADIENT = np.array([[0.1, -0.2], [0.3, 0.05]])
FOUR = [GRADIENT * c for c in (1, -2, 3, -0.5)]
THREE = [GRADIENT * c for c in (1, -0.5, 1)]


def after(optimizer, start, gradients):
    """The variable after steps with these gradients."""
    variable = keras.Variable(np.array(start, "float32"), name="kernel")
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(np.array(gradient, "float32"))], [variable])
    return ops.convert_to_numpy(variable)


def assert_close(actual, expected, **tolerance):
    np.testing.assert_allclose(actual, expected, **{"rtol": 2e-6, "atol": 2e-6, **tolerance})


# ------------------------------------------------------------------------------- published numbers


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [[0.9108593, -1.8217186], [0.25632284, 2.93168472]]),
        ({"grad_averaging": True}, [[0.99553644, -1.99107287], [0.48779827, 2.99657926]]),
        ({"amsgrad": True}, [[0.91076278, -1.82152557], [0.25603328, 2.93163646]]),
        (
            {"epsilon_inside": True, "epsilon": 1e-2},
            [[0.9130374, -1.82607479], [0.26285712, 2.93277376]],
        ),
    ],
)
def test_novograd_golden_values(arguments, expected):
    optimizer = tfb.NovoGrad(0.1, weight_decay=0.01, **arguments)
    assert_close(after(optimizer, START, FOUR), expected)


@pytest.mark.parametrize(
    ("start", "gradients", "arguments", "expected"),
    [
        ([1, 2], [[0.1, 0.2]], {}, [0.9552786425, 1.9105572849]),
        ([3, 4], [[0.3, 0.4]], {"weight_decay": 0.1}, [2.91, 3.88]),
        (
            [1, 2],
            [[0.1, 0.2]] * 2,
            {"grad_averaging": "after_first"},
            [0.9105572849, 1.8211145698],
        ),
        ([1, 2], [[0.1, 0.0]] * 2, {}, [0.71, 2.0]),
    ],
)
def test_novograd_as_in_the_tests_of_tensorflow_addons(start, gradients, arguments, expected):
    optimizer = tfb.NovoGrad.like("tensorflow_addons", learning_rate=0.1, **arguments)
    assert_close(after(optimizer, start, gradients), expected)


@pytest.mark.parametrize(
    ("optimizer", "losses"),
    [
        (tfb.NovoGrad.like("optax", learning_rate=0.003), "14.0 13.9 13.9 13.8 13.7"),
        (tfb.LAMB(0.003, weight_decay=None, exclude=None), "13.9 13.8 13.8 13.7 13.6"),
        (tfb.LARS(0.003, exclude=None), "14.0 14.0 14.0 14.0 14.0"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_losses_in_the_documentation_of_optax(optimizer, losses):
    x, found = keras.Variable(np.array([1, 2, 3], "float32")), []
    for _ in range(5):
        optimizer.apply([2.0 * ops.convert_to_tensor(x)], [x])
        found.append(f"{float(ops.sum(ops.square(x))):.1f}")
    assert " ".join(found) == losses


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (tfb.LAMB(0.1), [[0.48712735, -1.47648016], [-0.00755427, 2.46584435]]),
        (
            tfb.LAMB(0.1, trust_clip=(0.0, 1.0)),
            [[0.81264976, -1.80965176], [0.31414693, 2.80665777]],
        ),
        (
            tfb.LARS(1.0, trust_coefficient=0.1, weight_decay=0.01),
            [[0.76110569, -1.52221137], [-0.06007742, 2.72394732]],
        ),
        (
            tfb.LARS(1.0, trust_coefficient=0.1, weight_decay=0.01, joint_norm=True),
            [[0.78207447, -1.56414894], [0.02728074, 2.7099799]],
        ),
        (
            tfb.LARS(
                1.0,
                trust_coefficient=0.1,
                weight_decay=0.01,
                larc=True,
                learning_rate_inside=False,
                epsilon=1e-8,
            ),
            [[0.7163894, -1.4327788], [-0.22188648, 2.72924938]],
        ),
    ],
    ids=["lamb", "clipped", "lars", "joint", "larc"],
)
def test_golden_values(optimizer, expected):
    assert_close(after(optimizer, START, THREE), expected)


# ----------------------------------------------------------------------------------------- kinship


def everything(cls, *args, rows=None, **arguments):
    """Weights of the model of all ranks after `fit`."""
    optimizer = cls(*args, **arguments)
    return problems.train(problems.compiled(optimizer), problems.rows(6) if rows is None else rows)


def assert_equal(actual, expected, **tolerance):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, **tolerance)


def test_novograd_without_memory_of_norms_is_normalised_momentum():
    ours = everything(tfb.NovoGrad, 0.05, beta_1=0.9, beta_2=0.0, epsilon=0.0)
    assert_equal(ours, everything(tfb.BlockNormSGD, 0.05, momentum=0.9))


def test_lars_with_no_ratio_is_momentum_sgd():
    ours = everything(tfb.LARS, 1e-3, exclude=[".*"])
    assert_equal(ours, everything(keras.optimizers.SGD, 1e-3, momentum=0.9))


def test_lamb_with_no_ratio_is_adamw():
    arguments = {"epsilon": 1e-12, "weight_decay": 0.1}
    rows = problems.rows(2)  # In the third a gradient is zero.
    ours = everything(
        tfb.LAMB, 0.05, rows=rows, exclude=[".*"], exclude_from_weight_decay=None, **arguments
    )
    # Keras computes 1 - beta ** t in float32, which is off by 5e-5 of itself.
    theirs = everything(keras.optimizers.AdamW, 0.05, rows=rows, **arguments)
    assert_equal(ours, theirs, atol=1e-5)


def test_lamb_and_that_of_keras():
    arguments = {"epsilon": 1e-7, "exclude": None, "exclude_from_weight_decay": None}
    rows = problems.rows(2)
    ours = everything(tfb.LAMB, 0.05, rows=rows, weight_decay=None, **arguments)
    assert_equal(ours, everything(keras.optimizers.Lamb, 0.05, rows=rows), atol=1e-5)
    ours = everything(tfb.LAMB, 0.05, rows=rows, weight_decay=0.1, **arguments)
    theirs = everything(keras.optimizers.Lamb, 0.05, rows=rows, weight_decay=0.1)
    assert max(np.abs(a - b).max() for a, b in zip(ours, theirs)) > 1e-3


def test_keras_does_not_take_one_lamb_for_the_other():
    for optimizer in (keras.optimizers.Lamb(0.1), tfb.LAMB(0.1, trust_clip=(0, 1))):
        config = keras.saving.serialize_keras_object(optimizer)
        again = keras.saving.deserialize_keras_object(config)
        assert type(again) is type(optimizer)
        assert again.get_config() == optimizer.get_config()


# ------------------------------------------------------------------------------- what a step does


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e30])
@pytest.mark.parametrize(
    "make",
    [
        lambda: tfb.NovoGrad(0.1, epsilon=0.0, weight_decay=0.1, amsgrad=True),
        lambda: tfb.LARS(0.5, trust_coefficient=0.1),
        lambda: tfb.LARS(0.5, trust_coefficient=0.1, classic_momentum=False),
    ],
    ids=["novograd", "lars", "lars-momentum-ratio"],
)
def test_the_size_of_the_gradients_does_not_matter(make, size):
    small = after(make(), START, FOUR)
    assert np.abs(small - START).max() > 0.01
    assert_close(after(make(), START, [size * g for g in FOUR]), small)


def test_every_step_of_lamb_is_the_learning_rate_times_the_weights():
    optimizer, weights = tfb.LAMB(0.1, weight_decay=0.3), np.array(START, "float32")
    variable = keras.Variable(weights)
    for scale in (1.0, 1e-3, 1e5, 1.0):
        optimizer.apply([ops.convert_to_tensor((scale * GRADIENT).astype("float32"))], [variable])
        new = ops.convert_to_numpy(variable)
        assert np.linalg.norm(new - weights) == pytest.approx(0.1 * np.linalg.norm(weights), 1e-5)
        weights = new


def test_a_first_gradient_that_comes_late_makes_no_longer_step():
    steps = [[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]
    assert_close(after(tfb.NovoGrad(1.0, beta_1=0.0), [0.0, 0.0], steps), [-0.6, -0.8])


def test_blocks_that_are_absent_from_a_step_stay_as_they_are():
    variables = [keras.Variable(np.array(START, "float32"), name=f"v{i}") for i in range(2)]
    gradient = ops.convert_to_tensor(GRADIENT.astype("float32"))
    novograd, lars = tfb.NovoGrad(0.1), tfb.LARS(0.1)
    for optimizer in (novograd, lars):
        optimizer.build(variables)
        optimizer.apply([gradient, 3.0 * gradient], variables)
        optimizer.apply([5.0 * gradient], variables[:1])
    size = np.linalg.norm(GRADIENT)
    expected = [np.sqrt(0.98 + 0.02 * 25) * size, 3 * size]
    assert_close(ops.convert_to_numpy(novograd.block_statistics["running_norm"]), expected)
    expected = 1e-3 * np.linalg.norm(START) / (3 * size)
    assert lars.trust_ratios["v1"] == pytest.approx(expected, rel=0.1)


def test_no_normalised_gradient_of_novograd_is_longer_than_the_bound():
    optimizer, variable = tfb.NovoGrad(1.0, beta_1=0.0, beta_2=0.96), keras.Variable([0.0, 0.0])
    for size in (1e-3, 1e5):
        before = ops.convert_to_numpy(variable).copy()
        optimizer.apply([ops.convert_to_tensor(np.array([0.6, 0.8], "float32") * size)], [variable])
        length = np.linalg.norm(ops.convert_to_numpy(variable) - before)
    assert length == pytest.approx(5.0, 1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("cls", [tfb.NovoGrad, tfb.LARS, tfb.LAMB])
def test_a_broken_gradient_is_never_mended(cls, bad):
    assert np.isnan(after(cls(0.1), START, [[[bad, 1.0], [1.0, 1.0]], GRADIENT])).all()


def test_memory():
    def numbers(optimizer):
        model = problems.compiled(optimizer)
        problems.train(model, problems.rows(1))
        count = sum(int(np.prod(v.shape)) for v in model.optimizer.variables)
        return count - 2  # the number of the step, and the learning rate

    blocks = len(problems.SIZES)
    assert numbers(tfb.NovoGrad(0.1)) == problems.TOTAL + blocks
    assert numbers(keras.optimizers.Adam(0.1)) == 2 * problems.TOTAL
    assert numbers(tfb.NovoGrad(0.1, amsgrad=True)) == problems.TOTAL + 2 * blocks
    matrices = sum(1 for shape in problems.SHAPES if len(shape) > 1)
    assert numbers(tfb.LARS(0.1)) == problems.TOTAL + matrices
    assert numbers(tfb.LARS(0.1, momentum=0.0)) == matrices
    assert numbers(tfb.LAMB(0.1)) == 2 * problems.TOTAL + matrices


@pytest.mark.parametrize("block", ["variable", "unit"])
@pytest.mark.parametrize("cls", [tfb.LARS, tfb.LAMB])
def test_the_monitor_shows_trust_ratios(cls, block):
    monitor = tfb.BlockNormMonitor(1, block="variable")
    model = problems.compiled(cls(0.1, block=block))
    problems.train(model, problems.rows(1), callbacks=[monitor])
    ratios = model.optimizer.trust_ratios
    for path, shape, shown in zip(
        problems.PATHS, problems.SHAPES, monitor.records["trust_ratio"][0], strict=True
    ):
        mine = [r for name, r in ratios.items() if name == path or name.startswith(f"{path}[")]
        assert len(mine) == (0 if len(shape) < 2 else shape[-1] if block == "unit" else 1)
        assert shown == pytest.approx(np.mean(mine) if mine else 1.0, rel=1e-5)
    weights = problems.start_weights()[0]
    if (cls, block) == (tfb.LARS, "variable"):
        (gradients,) = problems.gradients(problems.rows(1))
        expected = 1e-3 * np.linalg.norm(weights) / np.linalg.norm(gradients[0])
        assert ratios["a/kernel"] == pytest.approx(expected, rel=1e-5)


def test_the_monitor_shows_running_norms():
    monitor = tfb.BlockNormMonitor(1, block="variable")
    model = problems.compiled(tfb.NovoGrad(0.1, exclude=["bias"]))
    problems.train(model, problems.rows(1), callbacks=[monitor])
    (gradients,) = problems.gradients(problems.rows(1))
    expected = [np.linalg.norm(g) for g in gradients]
    expected[problems.BIAS] = 1.0
    np.testing.assert_allclose(monitor.records["running_norm"][0], expected, rtol=1e-5)


# ---------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (tfb.NovoGrad, {"beta_2": 1.0}, r"`beta_2` must be a number in \[0, 1\). Received: beta_2"),
        (tfb.NovoGrad, {"epsilon": -1}, "`epsilon` must be a number >= 0. Received: epsilon=-1"),
        (tfb.NovoGrad, {"weight_decay": -1}, "`weight_decay` must be a number >= 0 or None. Rec"),
        (tfb.NovoGrad, {"grad_averaging": "no"}, "`grad_averaging` must be one of False, True,"),
        (tfb.NovoGrad, {"norm": "l7"}, "`norm` must be one of"),
        (tfb.LARS, {"momentum": 1.0}, "`momentum` must be a number in"),
        (tfb.LARS, {"trust_coefficient": 0}, "`trust_coefficient` must be a number > 0. Received"),
        (tfb.LARS, {"classic_momentum": False, "joint_norm": True}, "Received: joint_norm=True"),
        (tfb.LAMB, {"trust_clip": 1.0}, r"`trust_clip` must be None or a pair \(low, high\)"),
        (tfb.LAMB, {"trust_clip": (2, 1)}, r"low <= high. Received: trust_clip=\(2, 1\)"),
        (tfb.LAMB, {"phi_bounds": (-1, 1)}, "`phi_bounds` must be None or a pair"),
        (
            tfb.LAMB,
            {"exclude": "bias"},
            "`exclude` must be a list of regular expressions .* or 've",
        ),
    ],
)
def test_arguments_are_checked(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_an_unknown_implementation():
    with pytest.raises(ValueError, match=r"`implementation` must be one of 'paper', .*='apex'"):
        tfb.NovoGrad.like("apex")


def test_vectors_are_biases_scales_and_scalars():
    optimizer = tfb.BlockNormSGD(
        0.1, exclude="vectors", exclude_from_weight_decay=["vectors", "b/"]
    )
    problems.compiled(optimizer).optimizer.build(problems.probe().trainable_variables)
    assert list(optimizer.blocks) == ["a/kernel", "b/wide", "b/filters", "b/volume"]
    assert optimizer._decays == (True, False, False, False, False, False)
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.exclude == ("vectors",)


def test_vectors_need_not_exist():
    assert_close(after(tfb.LAMB(0.1), START, []), START)


# --------------------------------------------------------------------------------- implementations

STEPS = 25
SHAPES = [(4, 3), (2, 3, 2)]


def course(seed=0):
    """Weights to begin with, and gradients for every step."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0.5, 1.0, shape).astype("float32") for shape in SHAPES]
    sizes = 10 ** rng.uniform(-2, 1, STEPS)
    return weights, [[s * rng.normal(0.2, 1.0, shape) for shape in SHAPES] for s in sizes]


def ours(optimizer):
    weights, gradients = course()
    variables = [keras.Variable(w, name=f"w{i}") for i, w in enumerate(weights)]
    for g in gradients:
        optimizer.apply([ops.convert_to_tensor(x.astype("float32")) for x in g], variables)
    return [ops.convert_to_numpy(v) for v in variables]


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
@pytest.mark.parametrize("name", ["novograd", "lars", "lamb"])
def test_optax(name, epsilon):
    optax, jnp = pytest.importorskip("optax"), pytest.importorskip("jax.numpy")
    common = {"weight_decay": 0.1, "epsilon": epsilon, "exclude_from_weight_decay": None}
    mine, theirs = {
        "novograd": (
            tfb.NovoGrad.like("optax", learning_rate=0.05, **common),
            optax.novograd(0.05, weight_decay=0.1, eps=epsilon),
        ),
        "lars": (
            tfb.LARS(0.5, trust_coefficient=0.1, joint_norm=True, **common),
            optax.lars(0.5, weight_decay=0.1, trust_coefficient=0.1, eps=epsilon),
        ),
        "lamb": (tfb.LAMB(0.05, **common), optax.lamb(0.05, eps=epsilon, weight_decay=0.1)),
    }[name]
    weights, gradients = course()
    weights = [jnp.asarray(w) for w in weights]
    state = theirs.init(weights)
    for g in gradients:
        updates, state = theirs.update([jnp.asarray(x, "float32") for x in g], state, weights)
        weights = optax.apply_updates(weights, updates)
    assert_equal(ours(mine), [np.asarray(w) for w in weights], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("mine", "theirs", "options"),
    [
        (
            lambda: tfb.NovoGrad.like("nemo", learning_rate=0.05, weight_decay=0.1, epsilon=0.5),
            "NovoGrad",
            {"lr": 0.05, "betas": (0.95, 0.98), "weight_decay": 0.1, "eps": 0.5},
        ),
        (
            lambda: tfb.NovoGrad.like(
                "timm", learning_rate=0.05, amsgrad=True, grad_averaging=True
            ),
            "NovoGrad",
            {"lr": 0.05, "betas": (0.95, 0.98), "amsgrad": True, "grad_averaging": True},
        ),
        (
            lambda: tfb.LARS(
                0.5,
                trust_coefficient=0.1,
                weight_decay=0.1,
                epsilon=0.5,
                nesterov=True,
                learning_rate_inside=False,
            ),
            "LARS",
            {
                "lr": 0.5,
                "momentum": 0.9,
                "weight_decay": 0.1,
                "nesterov": True,
                "trust_coefficient": 0.1,
                "eps": 0.5,
            },
        ),
        (
            lambda: tfb.LAMB(0.05, weight_decay=0.1, epsilon=0.5, bias_correction=False),
            "Lamb",
            {"lr": 0.05, "weight_decay": 0.1, "eps": 0.5},
        ),
    ],
    ids=["novograd", "novograd-amsgrad", "lars", "lamb"],
)
def test_torch_optimizer(mine, theirs, options):
    torch, package = pytest.importorskip("torch"), pytest.importorskip("torch_optimizer")
    weights, gradients = course()
    parameters = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
    optimizer = getattr(package, theirs)(parameters, **options)
    for g in gradients:
        for parameter, x in zip(parameters, g):
            parameter.grad = torch.tensor(x.astype("float32"))
        optimizer.step()
    expected = [parameter.detach().cpu().numpy() for parameter in parameters]
    assert_equal(ours(mine()), expected, rtol=1e-5, atol=1e-5)
