"""What a user meets: arguments, errors, special variables, other parts of Keras."""

import inspect

import keras
import numpy as np
import pytest
from cases import CASES, TABLE, l3
from keras import ops

import tf_blocknorm as tfb

BACKEND = keras.backend.backend()
FORMS = {
    tfb.BlockNormSGD: keras.optimizers.SGD,
    tfb.BlockNormAdam: keras.optimizers.Adam,
    tfb.BlockNormAdamW: keras.optimizers.AdamW,
    tfb.BlockNormNadam: keras.optimizers.Nadam,
    tfb.BlockNormAdagrad: keras.optimizers.Adagrad,
    tfb.BlockNormRMSprop: keras.optimizers.RMSprop,
    tfb.BlockNormLion: keras.optimizers.Lion,
    tfb.BlockNormMuon: keras.optimizers.Muon,
}
ALL_FORMS = pytest.mark.parametrize("form", FORMS, ids=lambda c: c.__name__)


def variables(*values, dtype="float32"):
    return [keras.Variable(np.asarray(v, dtype), name=f"v{i}") for i, v in enumerate(values)]


def apply(optimizer, gradients, variables):
    gradients = [
        None if g is None else ops.convert_to_tensor(np.asarray(g, "float32")) for g in gradients
    ]
    optimizer.apply(gradients, variables)
    return [ops.convert_to_numpy(v) for v in variables]


# -------------------------------------------------------------------------------------- arguments


@ALL_FORMS
def test_the_parents_arguments_in_its_order_and_then_ours_by_keyword(form):
    parent = [
        p
        for p in inspect.signature(FORMS[form].__init__).parameters.values()
        if p.name not in ("self", "kwargs")
    ]
    parameters = list(inspect.signature(form).parameters.values())
    assert [(p.name, p.default) for p in parameters[: len(parent)]] == [
        (p.name, p.default) for p in parent
    ]
    ours = parameters[len(parent) :]
    assert {p.kind for p in ours} == {inspect.Parameter.KEYWORD_ONLY}
    assert [p.name for p in ours][:3] == ["norm", "block", "exclude"]


def test_positional_arguments_are_those_of_keras():
    optimizer = tfb.BlockNormSGD(0.5, 0.25, True)
    assert float(optimizer.learning_rate) == 0.5
    assert (optimizer.momentum, optimizer.nesterov) == (0.25, True)


@pytest.mark.parametrize("rate", [1, np.float32(1), np.float64(1), np.int64(1)])
def test_any_number_is_a_learning_rate(rate):
    assert float(tfb.BlockNormSGD(rate).learning_rate) == 1.0
    assert float(tfb.BlockNormAdam(learning_rate=rate).learning_rate) == 1.0


@CASES
def test_config_holds_every_argument_given(case):
    """Compared with what was given, not with another config, which could forget the same."""
    config = case.optimizer().get_config()
    for name, value in case.arguments.items():
        if name == "learning_rate" and not callable(value):
            assert config[name] == pytest.approx(value)
        elif name == "block" and isinstance(value, list):
            assert config[name] == [list(pair) for pair in value]
        elif name.startswith("exclude"):
            assert config[name] == ([value] if isinstance(value, str) else list(value or ()))
        elif isinstance(value, tuple):
            assert config[name] == list(value)
        elif not callable(value):
            assert config[name] == value, name
    copy = case.cls.from_config(config)
    assert copy.get_config() == config
    assert (copy.norm, type(copy.norm)) == (case.optimizer().norm, type(case.optimizer().norm))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(case.optimizer()))
    assert type(again) is case.cls


def test_config_is_json():
    import json

    optimizer = tfb.BlockNormSGD(norm=l3, block=[("a", "b")], exclude=["c"], learning_rate=0.1)
    assert json.loads(json.dumps(optimizer.get_config())) == optimizer.get_config()


def test_every_own_argument_reaches_the_config():
    given = {
        "norm": "max",
        "block": "layer",
        "exclude": ["a"],
        "norm_epsilon": 0.5,
        "scale": "parameter",
        "scale_floor": 0.25,
        "normalize": "update",
        "noise": 0.125,
        "noise_distribution": "normal",
        "noise_every": 3,
        "seed": 5,
        "exclude_from_weight_decay": ["b"],
        "jit_compile": True,
    }
    parent = inspect.signature(keras.optimizers.SGD).parameters
    own = [name for name in inspect.signature(tfb.BlockNormSGD).parameters if name not in parent]
    assert set(own) == set(given)
    config = tfb.BlockNormSGD(**given).get_config()
    assert {name: config[name] for name in given} == given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "L2"}, r"`norm` must be one of 'l1', .* Received: norm='L2'"),
        ({"norm_epsilon": -1}, r"`norm_epsilon` must be a number >= 0. Received: norm_epsilon=-1"),
        ({"norm_epsilon": float("nan")}, r"`norm_epsilon` .* Received: norm_epsilon=nan"),
        (
            {"scale": "weights"},
            r"`scale` must be one of None, 'parameter'. Received: scale='weights'",
        ),
        ({"scale_floor": 0}, r"`scale_floor` must be a number > 0. Received: scale_floor=0"),
        ({"normalize": "step"}, r"`normalize` must be one of 'gradient', 'update'. Received: norm"),
        ({"noise": -0.1}, r"`noise` must be a number >= 0. Received: noise=-0.1"),
        ({"noise": True}, r"`noise` must be a number >= 0. Received: noise=True"),
        ({"noise_distribution": "gauss"}, r"`noise_distribution` must be one of .*='gauss'"),
        ({"noise_every": 0}, r"`noise_every` must be an integer >= 1. Received: noise_every=0"),
        ({"noise_every": 1.5}, r"`noise_every` must be an integer >= 1. Received: noise_every=1.5"),
        ({"seed": 0.5}, r"`seed` must be an integer or None. Received: seed=0.5"),
        ({"jit_compile": "yes"}, r"`jit_compile` must be one of None, True, False. Received: jit"),
        ({"momentum": 2.0}, r"`momentum` must be a float"),
        ({"learning_rate": "0.1"}, r"`learning_rate` should be float"),
        ({"epsilon": 1e-7}, r"not recognized: \{'epsilon'"),
    ],
    ids=str,
)
def test_wrong_arguments_fail_in_the_constructor(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfb.BlockNormSGD(**arguments)


# -------------------------------------------------------------------------------- special variables


@ALL_FORMS
def test_a_zero_gradient_moves_nothing(form):
    names = {"weight_decay", "adam_weight_decay"} & inspect.signature(form).parameters.keys()
    weights = variables([3.0, 4.0], [[5.0, 6.0]], [1.0])
    apply(form(0.1, **dict.fromkeys(names, 0.0)), [[0, 0], [[0, 0]], [2]], weights)
    np.testing.assert_array_equal(ops.convert_to_numpy(weights[0]), [3.0, 4.0])
    np.testing.assert_array_equal(ops.convert_to_numpy(weights[1]), [[5.0, 6.0]])
    assert float(weights[2][0]) != 1.0


@pytest.mark.parametrize("decays", [(0.5, 0.25), (None, 0.25), (0.5, None), (None, None)])
def test_muon_decays_matrices_and_the_rest_apart(decays):
    matrix, rest = decays
    optimizer = tfb.BlockNormMuon(0.5, weight_decay=matrix, adam_weight_decay=rest)
    after = apply(optimizer, [[[0.0]], [0.0]], variables([[8.0]], [8.0]))
    np.testing.assert_array_equal(after[0], [[8.0 * (1.0 - 0.5 * (matrix or 0.0))]])
    np.testing.assert_array_equal(after[1], [8.0 * (1.0 - 0.5 * (rest or 0.0))])


def test_muon_flattens_the_kernels_that_are_named():
    def slots(**arguments):
        weights = [keras.Variable(np.ones((2, 2, 3)), name=f"conv{i}") for i in range(2)]
        weights.append(keras.Variable(np.ones((2, 2, 2, 3)), name="conv_last"))
        optimizer = tfb.BlockNormMuon(**arguments)
        optimizer.build(weights)
        return [v is not None for v in optimizer.adam_velocities]

    assert slots() == [True, True, True]
    assert slots(flatten_layers=["conv0", "last"]) == [False, True, False]
    assert slots(flatten_layers=["conv"], exclude_layers=["conv1"]) == [False, True, False]
    with pytest.raises(ValueError, match="'dense', which matches none of"):
        slots(flatten_layers=["conv0", "dense"])


def test_muon_flattens_no_matrix_and_no_vectors():
    optimizer = tfb.BlockNormMuon(flatten_layers=["v0"])
    with pytest.raises(ValueError, match="`flatten_layers` must match"):
        optimizer.build(variables([[1.0]]))
    assert not optimizer.built
    with pytest.raises(ValueError, match="Received: flatten_layers='vectors'"):
        tfb.BlockNormMuon(flatten_layers="vectors")


def test_variables_without_a_gradient_are_left_out():
    weights = variables([3.0, 4.0], [1.0], [2.0])
    optimizer = tfb.BlockNormSGD(1.0, block="model")
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        a, b, c = apply(optimizer, [[30.0, 0.0], None, [40.0]], weights)
    np.testing.assert_allclose(a, [2.4, 4.0], rtol=1e-6)
    np.testing.assert_allclose(b, [1.0])
    np.testing.assert_allclose(c, [1.2], rtol=1e-6)


def test_frozen_layers():
    if BACKEND == "jax":
        pytest.skip("Keras on JAX demands a new optimizer for the other list of variables")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    optimizer = tfb.BlockNormSGD(0.1, block="layer")
    x, y = np.ones((8, 3)), np.full((8, 1), 9.0)
    model.compile(optimizer, "mse")
    model.fit(x, y, verbose=0)
    model.layers[0].trainable = False
    model.compile(optimizer, "mse")
    before = model.get_weights()
    model.fit(x, y, verbose=0)
    moved = [a - b for a, b in zip(model.get_weights(), before)]
    assert not moved[0].any()
    assert not moved[1].any()
    length = np.sqrt((moved[2] ** 2).sum() + (moved[3] ** 2).sum())
    np.testing.assert_allclose(length, 0.1, rtol=1e-5)


def test_variables_overwritten_with_their_gradient_are_no_part_of_a_block():
    weights = variables([3.0, 4.0], [1.0])
    weights[1].overwrite_with_gradient = True
    optimizer = tfb.BlockNormSGD(1.0, 0.9, block="model")
    a, b = apply(optimizer, [[30.0, 40.0], [7.0]], weights)
    np.testing.assert_allclose(a, [2.4, 3.2], rtol=1e-6)
    np.testing.assert_array_equal(b, [7.0])


def test_empty_variables():
    weights = variables(np.zeros((0, 3)), [3.0, 4.0])
    a, b = apply(tfb.BlockNormSGD(1.0, block="model"), [np.zeros((0, 3)), [30, 40]], weights)
    assert a.shape == (0, 3)
    np.testing.assert_allclose(b, [2.4, 3.2], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_variables(dtype):
    weights = [keras.Variable(np.ones((64, 64)), dtype=dtype)]
    # The squares of these add up to 1.6e6; float16 ends at 65504.
    gradient = ops.cast(np.full((64, 64), 20.0), dtype)
    tfb.BlockNormSGD(32.0).apply([gradient], weights)
    np.testing.assert_allclose(
        np.float32(ops.convert_to_numpy(ops.cast(weights[0], "float32"))), 0.5
    )


def test_float64_variables_are_normalised_in_float64():
    if BACKEND == "jax":
        pytest.skip("JAX has no float64 by default")
    weights = [keras.Variable(np.zeros(3), dtype="float64")]
    gradient = ops.convert_to_tensor(np.array([1e-200, 2e-200, 2e-200]), dtype="float64")
    tfb.BlockNormSGD(1.0).apply([gradient], weights)
    expected = -np.array([1.0, 2.0, 2.0]) / 3
    np.testing.assert_allclose(ops.convert_to_numpy(weights[0]), expected, rtol=1e-15)


def test_the_weights_norm_has_a_floor():
    weights = variables(np.zeros(4))
    (after,) = apply(tfb.BlockNormSGD(1.0, scale="parameter"), [[5, 0, 0, 0]], weights)
    np.testing.assert_allclose(after, [-1e-3 * np.sqrt(4), 0, 0, 0], rtol=1e-6)


def test_a_vector_is_one_unit():
    kernel, bias = variables(np.zeros((2, 2)), np.zeros(2))
    a, b = apply(tfb.BlockNormSGD(1.0, block="unit"), [[[3, 5], [4, 12]], [3, 4]], [kernel, bias])
    np.testing.assert_allclose(a, [[-0.6, -5 / 13], [-0.8, -12 / 13]], rtol=1e-6)
    np.testing.assert_allclose(b, [-0.6, -0.8], rtol=1e-6)


def test_a_constraint_holds_after_the_noise():
    weight = keras.Variable([0.1, 0.1])
    weight.constraint = keras.constraints.NonNeg()
    (after,) = apply(tfb.BlockNormSGD(0.5, noise=3.0, seed=0), [[1.0, 1.0]], [weight])
    assert (after >= 0).all()


def test_noise_needs_its_own_state_only():
    weights = variables([1.0])
    for noise, count in ((0.0, 2), (0.1, 3)):
        optimizer = tfb.BlockNormSGD(0.1, noise=noise)
        optimizer.build(weights)
        assert len(optimizer.variables) == count


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_noise_is_distributed_as_it_says(distribution):
    weights = variables(np.zeros(20000))
    optimizer = tfb.BlockNormSGD(1.0, noise=1.0, noise_distribution=distribution, seed=3)
    (noise,) = apply(optimizer, [np.zeros(20000)], weights)
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - {"uniform": 1 / np.sqrt(3), "normal": 1.0}[distribution]) < 0.02
    if distribution == "uniform":
        assert np.abs(noise).max() <= 1
    else:
        assert abs((np.abs(noise) < 1).mean() - 0.6827) < 0.015
    first = noise.copy()
    (after,) = apply(optimizer, [np.zeros(20000)], weights)
    assert abs(np.corrcoef(first, after - first)[0, 1]) < 0.03


def test_building_twice_adds_nothing():
    weights = variables([1.0], [[2.0]])
    optimizer = tfb.BlockNormAdam(noise=0.1, use_ema=True)
    optimizer.build(weights)
    count = len(optimizer.variables)
    optimizer.build(weights)
    assert len(optimizer.variables) == count


# ------------------------------------------------------------------------------ other parts of
# Keras


def test_the_slots_are_those_of_the_keras_parent():
    weights = variables([1.0], [[2.0]])
    for form, parent in FORMS.items():
        ours, theirs = form(), parent()
        ours.build(weights)
        theirs.build(weights)
        assert [v.shape for v in ours.variables] == [v.shape for v in theirs.variables]


def fit(optimizer, callbacks=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, name="d"), keras.layers.Dense(1)]
    )
    model.compile(optimizer, "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 3))
    model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=callbacks)
    return model


def test_learning_rate_callbacks():
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    assert float(fit(tfb.BlockNormSGD(0.8), [halve]).optimizer.learning_rate) == pytest.approx(0.1)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=1e9)
    assert float(fit(tfb.BlockNormSGD(0.8), [plateau]).optimizer.learning_rate) < 0.8


def test_inside_a_multi_optimizer():
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("needs Keras 3.15")
    optimizers = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.0))
    optimizers["d/.*|.*/d/.*"] = tfb.BlockNormSGD(0.1, 0.9, block="layer", exclude=["bias"])
    fresh, trained = (
        fit(keras.optimizers.SGD(0.0)),
        fit(keras.optimizers.MultiOptimizer(optimizers)),
    )
    moved = [np.abs(a - b).max() > 1e-3 for a, b in zip(fresh.get_weights(), trained.get_weights())]
    assert moved == [True, True, False, False]


def test_terminate_on_nan_sees_a_broken_loss():
    model = fit(tfb.BlockNormSGD(0.1))
    stop = keras.callbacks.TerminateOnNaN()
    x = np.full((16, 3), np.nan)
    history = model.fit(x, x[:, :1], epochs=5, verbose=0, callbacks=[stop])
    assert len(history.history["loss"]) == 1


# -------------------------------------------------------------------------------- block_normalized


def test_block_normalized_returns_one_class_per_optimizer():
    for form, parent in FORMS.items():
        assert tfb.block_normalized(parent) is form
    cls = tfb.block_normalized(keras.optimizers.Adadelta)
    assert cls is tfb.block_normalized(keras.optimizers.Adadelta)
    assert cls.__name__ == "BlockNormAdadelta"


@keras.saving.register_keras_serializable(package="elsewhere")
class Adam(keras.optimizers.Optimizer):
    """Not Keras's, in spite of its name, and with an argument of its own."""

    def __init__(self, learning_rate=0.1, stretch=2.0, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.stretch = stretch

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, self.stretch * learning_rate * gradient)

    def get_config(self):
        return {**super().get_config(), "stretch": self.stretch}


def test_block_normalized_of_ones_own_optimizer():
    cls = tfb.block_normalized(Adam)
    assert cls is not tfb.BlockNormAdam
    (after,) = apply(cls(0.5, 4.0, norm="max"), [[5.0, -10.0]], variables([0.0, 0.0]))
    np.testing.assert_allclose(after, [-1.0, 2.0], rtol=1e-6)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(cls(stretch=3.0)))
    assert (type(copy), copy.stretch) == (cls, 3.0)
    adam = keras.optimizers.deserialize(keras.optimizers.serialize(tfb.BlockNormAdam()))
    assert type(adam) is tfb.BlockNormAdam


KERAS_OPTIMIZERS = sorted(
    name
    for name, value in vars(keras.optimizers).items()
    if isinstance(value, type)
    and issubclass(value, keras.optimizers.Optimizer)
    and value.update_step is not keras.optimizers.Optimizer.update_step
)


@pytest.mark.parametrize("name", KERAS_OPTIMIZERS)
@pytest.mark.parametrize("normalize", ["gradient", "update"])
def test_every_optimizer_of_keras_has_a_block_normalised_form(name, normalize):
    """It trains, and a factor of 1000 in front of the loss does not matter."""
    cls = tfb.block_normalized(getattr(keras.optimizers, name))
    results = []
    for factor in (1.0, 1000.0):
        weights = variables(np.ones((4, 4)), np.ones(4))
        optimizer = cls(learning_rate=0.1, norm="rms", normalize=normalize)
        for step in range(3):
            rng = np.random.default_rng(step)
            gradients = [factor * rng.normal(1, 1, (4, 4)), factor * rng.normal(1, 1, 4)]
            if normalize == "update" and name in ("Ftrl", "ScheduleFreeAdamW"):
                with pytest.raises(
                    ValueError, match=rf"needs a rule that .*BlockNorm{name} overwrites"
                ):
                    apply(optimizer, gradients, weights)
                return
            result = apply(optimizer, gradients, weights)
        assert (np.abs(result[0] - 1) > 0).all()
        results.append(result)
    if normalize == "gradient":
        for a, b in zip(*results):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "value",
    [keras.optimizers.SGD(), "sgd", int, keras.optimizers.LossScaleOptimizer],
    ids=["instance", "name", "other class", "wrapper"],
)
def test_block_normalized_of_something_else(value):
    with pytest.raises(ValueError, match=r"`optimizer_class` must .*Received: optimizer_class="):
        tfb.block_normalized(value)


def test_block_normalized_of_a_block_normalised_class():
    with pytest.raises(
        ValueError, match=r"must not be block-normalised already. Received: optimizer_class"
    ):
        tfb.block_normalized(tfb.BlockNormSGD)


def test_the_table_has_a_row_for_every_exported_class():
    classes = [thing for thing in vars(tfb).values() if isinstance(thing, type)]
    exported = {cls for cls in classes if issubclass(cls, keras.optimizers.Optimizer)}
    assert exported > set(FORMS)
    assert exported <= {tfb.INSGD, *(case.cls for case in TABLE)}  # INSGD: cases_inputs.py


@pytest.mark.parametrize(
    "cls", [*FORMS, tfb.AdaptiveBlockNormSGD, tfb.LAMB, tfb.LARS, tfb.NovoGrad]
)
def test_with_everything_excluded_no_block_is_left(cls):
    variable = keras.Variable([1.0, 2.0], name="only")
    optimizer = cls(exclude=["only"])
    optimizer.apply([ops.array([1.0, -1.0])], [variable])
    assert optimizer.blocks == {}
    after = ops.convert_to_numpy(variable)
    assert after[0] < 1.0
    assert after[1] != 2.0


@pytest.mark.parametrize(
    "make", [tfb.BlockNormSGD, tfb.BlockNormAdam, tfb.NovoGrad, tfb.LARS, tfb.LAMB]
)
@pytest.mark.parametrize("of_a_subclass", [True, False])
def test_an_update_step_in_place_of_ours_sees_every_variable(make, of_a_subclass):
    """What is done for all variables at once must not go past it."""
    seen = []

    def halved(update_step):
        def method(gradient, variable, learning_rate):
            seen.append(gradient)
            update_step(gradient, variable, 0.5 * learning_rate)

        return method

    class Halved(make):
        def update_step(self, gradient, variable, learning_rate):
            halved(super().update_step)(gradient, variable, learning_rate)

    optimizer = (Halved if of_a_subclass else make)(0.1)
    if not of_a_subclass:
        optimizer.update_step = halved(optimizer.update_step)
    starts, gradients = np.random.default_rng(0).normal(size=(2, 3, 2, 4)).astype("float32")
    ours = variables(*starts)
    optimizer.apply(list(map(ops.array, gradients)), ours)
    assert len(seen) == len(ours)

    expected = make(0.1 if make is tfb.LAMB else 0.05)  # which moves in `on_updates`
    others = variables(*starts)
    expected.apply(list(map(ops.array, gradients)), others)
    for variable, other in zip(ours, others):
        np.testing.assert_allclose(
            ops.convert_to_numpy(variable), ops.convert_to_numpy(other), rtol=1e-5
        )
