"""torch's operations on lists: one call for all variables, whatever their number. (That every row
of the table makes the right numbers with them is `test_parity.py`.)"""

import collections
import functools

import keras
import numpy as np
import pytest
import torch

import tf_blocknorm as tfb
from benchmarks.contenders import back_matched
from tf_blocknorm.norms import fused_torch
from tf_blocknorm.norms.block import Block
from tf_blocknorm.optimizers.kernels import FUSED

RNG = np.random.default_rng(5)
NORMS = {
    "l1": lambda x: np.sum(np.abs(x)),
    "l2": lambda x: np.sqrt(np.sum(x**2)),
    "rms": lambda x: np.sqrt(np.mean(x**2)),
    "avg_l1": lambda x: np.mean(np.abs(x)),
    "max": lambda x: np.max(np.abs(x)),
}


def blocks(dtype="float32"):
    """Blocks of one and of several tensors, and the vectors that they are."""
    groups = [[(3, 4)], [(5,), (), (2, 3, 4)], [(7,)]]
    arrays = [
        [RNG.normal(0.3, 1.0, s).astype(dtype) * 10.0**i for s in g] for i, g in enumerate(groups)
    ]
    made = [Block([torch.tensor(np.asarray(x, dtype)) for x in group]) for group in arrays]
    return made, [np.concatenate([np.ravel(x) for x in g]).astype("float64") for g in arrays]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", NORMS)
def test_sizes_are_those_of_numpy(norm, dtype):
    made, vectors = blocks(dtype)
    found = fused_torch.sizes(made, norm)
    assert found.dtype == getattr(torch, dtype)
    expected = [NORMS[norm](x) for x in vectors]
    np.testing.assert_allclose(found, expected, rtol=2e-6 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("norm", NORMS)
def test_long_sums_are_as_exact_as_short_ones(norm):
    x = RNG.normal(0.3, 1.0, 3_000_001).astype("float32")
    found = float(fused_torch.sizes([Block([torch.tensor(x)])], norm)[0])
    assert found == pytest.approx(NORMS[norm](x.astype("float64")), rel=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("norm", NORMS)
def test_a_broken_entry_breaks_its_block_and_no_other(norm, broken):
    made, _ = blocks()
    made[1].tensors[2].view(-1)[-1] = broken
    found = fused_torch.sizes(made, norm).numpy()
    assert list(np.isfinite(found)) == [True, False, True]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("norm", NORMS)
def test_a_broken_entry_breaks_a_long_tensor(norm, broken):
    x = RNG.normal(size=300_001).astype("float32")
    for place in (0, 150_000, -1):
        tensor = torch.tensor(x)
        tensor[place] = broken
        (found,) = fused_torch.sizes([Block([tensor])], norm)
        assert not torch.isfinite(found)


def test_others_are_left_to_the_formulas():
    block = Block([torch.ones((3, 4))])
    assert fused_torch.sizes([block], "std") is None
    assert fused_torch.sizes([Block([torch.ones((3, 4))], per_unit=True), block], "l2") is None


def calls(optimizer, number, monkeypatch, dtype="float32"):
    """How often a step for so many variables calls each operation on lists."""
    counted = collections.Counter()

    def counting(name, function):
        def counted_function(*args, **kwargs):
            counted[name] += 1
            return function(*args, **kwargs)

        return counted_function

    variables = [keras.Variable(RNG.normal(size=(3, 4)), dtype=dtype) for _ in range(number)]
    optimizer.build(variables)
    gradients = [
        torch.tensor(RNG.normal(size=(3, 4)), dtype=getattr(torch, dtype)) for _ in variables
    ]
    with monkeypatch.context() as patch:
        for name in dir(torch):
            if name.startswith(("_foreach_", "_fused_")):
                patch.setattr(torch, name, counting(name, getattr(torch, name)))
        optimizer.apply(gradients, variables)
    return counted


@pytest.mark.parametrize(
    ("make", "operation"),
    [
        (lambda: tfb.BlockNormSGD(), "_foreach_addcmul_"),
        (lambda: tfb.BlockNormSGD(normalize="update"), "_foreach_addcmul_"),
        (lambda: tfb.BlockNormSGD(momentum=0.9), "_fused_sgd_"),
        (lambda: tfb.BlockNormAdam(), "_fused_adam_"),
        (lambda: tfb.BlockNormAdam(amsgrad=True), "_fused_adam_"),
        (lambda: tfb.BlockNormAdamW(), "_fused_adam_"),
        (lambda: tfb.NovoGrad(), "_fused_sgd_"),
        (lambda: tfb.LARS(), "_fused_sgd_"),
        (lambda: tfb.LAMB(), "_fused_adam_"),
    ],
)
def test_a_step_makes_the_same_few_calls_for_any_number_of_variables(make, operation, monkeypatch):
    few, many = (calls(make(), number, monkeypatch) for number in (2, 9))
    assert few == many
    assert few["_foreach_norm"]
    assert few[operation]


@pytest.mark.parametrize(
    ("make", "operation"),
    [
        (lambda: tfb.INSGD(powers=[(".", 2.0)]), "_foreach_addcmul_"),
        (lambda: tfb.INSGD(powers=[(".", 2.0)], normalize="gradient"), "_fused_sgd_"),
        (lambda: back_matched(keras.optimizers.SGD()), "_foreach_addcmul_"),
        (lambda: back_matched(keras.optimizers.SGD(momentum=0.9)), "_fused_sgd_"),
    ],
)
def test_so_does_one_that_measures_no_gradients(make, operation, monkeypatch):
    few, many = (calls(make(), number, monkeypatch) for number in (2, 9))
    assert few == many
    assert few[operation]
    assert not few["_foreach_norm"]


@pytest.mark.parametrize("make", [tfb.BlockNormSGD, tfb.LAMB])
def test_short_floats_are_left_to_the_formulas(make, monkeypatch):
    assert set(calls(make(), 2, monkeypatch, "bfloat16")) <= {"_foreach_norm"}


@pytest.mark.parametrize("transposed", ["variable", "gradient"])
@pytest.mark.parametrize(
    "make",
    [
        tfb.BlockNormSGD,
        functools.partial(tfb.BlockNormSGD, momentum=0.9),
        tfb.BlockNormAdam,
        tfb.NovoGrad,
        tfb.LAMB,
        tfb.AdaptiveBlockNormSGD,
    ],
)
def test_the_order_of_the_memory_does_not_matter(make, transposed):
    start, gradient = RNG.normal(size=(2, 3, 4)).astype("float32")

    def trained(start, gradient):
        variable, optimizer = keras.Variable(start), make(learning_rate=0.1)
        for _ in range(3):
            optimizer.apply([torch.from_numpy(gradient)], [variable])
        return keras.ops.convert_to_numpy(variable)

    expected = trained(start, gradient)
    if transposed == "variable":
        start = np.asfortranarray(start)
    else:
        gradient = np.asfortranarray(gradient)
    np.testing.assert_allclose(trained(start, gradient), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(params=["short", "long"])
def length(request, monkeypatch):
    """Variables count as short, which torch's SGD updates, or as long, which it does not."""
    if request.param == "long":
        monkeypatch.setattr(FUSED, "_SHORT", 0)


@pytest.fixture(params=["at once", "one by one"])
def together(request):
    """A function of lists, in one step: of the lists, or of each row, as lists of one."""

    def call(function, lists):
        lists = list(map(list, lists))
        rows = [[[x] for x in row] for row in zip(*lists)]
        with FUSED.together():
            for some in [lists] if request.param == "at once" else rows:
                function(*some)

    return call


def assert_all_close(variables, expected):
    found = [keras.ops.convert_to_numpy(x) for x in variables]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [None, 0.3])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_momentum_takes_factors_and_decay(length, together, momentum, decay, nesterov):
    """Factors of any shape, in the same call with what has none."""
    factors = [None, 0.7, RNG.uniform(0.5, 2, size=4), RNG.uniform(0.5, 2, size=(3, 1))]
    given = [torch.tensor(f) if isinstance(f, np.ndarray) else f for f in factors]
    starts, slots = RNG.normal(size=(2, 4, 3, 4))
    variables, momenta = (
        [keras.Variable(x, dtype="float64") for x in xs] for xs in (starts, slots)
    )
    for gradients in RNG.normal(size=(2, 4, 3, 4)):
        together(
            lambda v, m, g, *rest: FUSED.heavy_ball(v, m, g, momentum, *rest, nesterov),
            (variables, momenta, map(torch.tensor, gradients), [0.1] * 4, given, [decay] * 4),
        )
        updates = [g * (1 if f is None else f) for g, f in zip(gradients, factors)]
        updates = np.stack(updates) + (decay or 0) * starts
        slots = momentum * slots + updates
        starts = starts - 0.1 * (momentum * slots + updates if nesterov else slots)
    assert_all_close(variables, starts)
    assert_all_close(momenta, slots)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", ["heavy_ball", "velocity"])
def test_momentum_takes_rates_of_their_own(length, together, name, nesterov):
    starts, slots = RNG.normal(size=(2, 3, 3, 4))
    rates, decays = np.array([0.1, 0.2, 0.4]), [[None] * 3] if name == "heavy_ball" else []
    variables, momenta = (
        [keras.Variable(x, dtype="float64") for x in xs] for xs in (starts, slots)
    )
    for gradients in RNG.normal(size=(2, 3, 3, 4)):
        together(
            lambda v, m, g, *rest: getattr(FUSED, name)(v, m, g, 0.9, *rest, nesterov=nesterov),
            (variables, momenta, map(torch.tensor, gradients), rates, [0.7] * 3, *decays),
        )
        inside, outside = rates[:, None, None], -1.0
        if name == "heavy_ball":
            inside, outside = -1.0, inside
        updates = -0.7 * inside * gradients
        slots = 0.9 * slots + updates
        starts = starts - outside * (0.9 * slots + updates if nesterov else slots)
    assert_all_close(variables, starts)
    assert_all_close(momenta, slots)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tfb.BlockNormSGD(0.1, momentum=0.9),
        lambda: tfb.BlockNormAdam(0.1),
        lambda: tfb.NovoGrad(0.1),
        lambda: tfb.LAMB(0.1),
        lambda: tfb.AdaptiveBlockNormSGD(0.1),
    ],
)
def test_stateless_apply_changes_nothing_in_place(make):
    """Neither what it was given nor the variables."""
    start, *gradients = RNG.normal(size=(3, 3, 4)).astype("float32")
    optimizer, variable = make(), keras.Variable(start)
    optimizer.build([variable])
    state = [torch.clone(x.value) for x in optimizer.variables]
    given = [torch.tensor(2 * start)], [x.clone() for x in state]
    weights, after = given
    for gradient in gradients:
        weights, after = optimizer.stateless_apply(after, [torch.tensor(gradient)], weights)
    np.testing.assert_array_equal(given[0][0], 2 * start)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), start)
    for before, kept, own in zip(state, given[1], optimizer.variables):
        assert torch.equal(before, kept)
        assert torch.equal(before, own.value)

    variable.assign(2 * start)
    for gradient in gradients:
        optimizer.apply([torch.tensor(gradient)])
    for found, expected in zip([*weights, *after], [variable, *optimizer.variables]):
        expected = keras.ops.convert_to_numpy(expected)
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-6)


def test_variables_of_two_dtypes():
    start = RNG.normal(size=(2, 3, 4))
    gradients = RNG.normal(size=(2, 3, 4))
    variables = [keras.Variable(x, dtype=d) for x, d in zip(start, ("float32", "float64"))]
    given = [torch.tensor(gradients[0], dtype=torch.float32), torch.tensor(gradients[1])]
    optimizer = tfb.BlockNormSGD(learning_rate=0.5, momentum=0.9)
    for _ in range(2):
        optimizer.apply(given, variables)
    for variable, before, gradient in zip(variables, start, gradients):
        expected = before - 0.5 * 2.9 * gradient / np.linalg.norm(gradient)
        found = keras.ops.convert_to_numpy(variable)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_after_an_error_nothing_is_left_over():
    variables = [keras.Variable(np.ones(3, "float32")) for _ in range(2)]
    optimizer = tfb.BlockNormSGD(learning_rate=1.0)
    optimizer.build(variables)
    gradients, rule = [torch.ones(3)] * 2, optimizer.update_step

    def fails_at_the_second(gradient, variable, learning_rate):
        if variable is variables[1]:
            raise RuntimeError("on purpose")
        rule(gradient, variable, learning_rate)

    optimizer.update_step = fails_at_the_second
    with pytest.raises(RuntimeError, match="on purpose"):
        optimizer.apply(gradients, variables)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variables[0]), np.ones(3))
    optimizer.update_step = rule
    optimizer.apply(gradients, variables)
    expected = np.ones(3) - 1 / np.sqrt(3)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variables[0]), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_back_matching_in_the_call_for_all_variables(dtype):
    """Whose rates it multiplies, and not gradients of float16, which could become infinite."""
    optimizer = back_matched(keras.optimizers.SGD(learning_rate=1e-3, momentum=0.9))
    variables = [keras.Variable(np.ones(shape), dtype=dtype) for shape in ((3, 2), (2,))]
    optimizer.build(variables)
    tap = optimizer._tapped.taps["back_matching"]
    tap.state["multipliers"].assign(np.array([1000.0, 0.5]))
    for _ in range(2):
        optimizer.apply([torch.full(v.shape, 100.0, dtype=v.value.dtype) for v in variables])
    expected = [1 - 2.9 * 100, 1 - 2.9 * 0.05]
    for variable, each in zip(variables, expected):
        found = keras.ops.convert_to_numpy(variable)
        np.testing.assert_allclose(found, each, rtol=1e-3 if dtype == "float16" else 1e-6)
