"""Norms: against NumPy, and exact over the whole float range."""

import keras
import numpy as np
import pytest
import reference
from cases import l3
from keras import ops

from tf_blocknorm import norms

NAMES = ("l1", "l2", "rms", "avg_l2", "avg_l1", "max", "min_max", "std")
SHAPES = [(), (7,), (3, 3, 8, 16), (300, 129)]
DTYPES = {"float32": (-100, 126), "float64": (-900, 1020)}

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    MODES = {"eager": lambda f: f, "graph": tf.function, "xla": tf.function(jit_compile=True)}
elif keras.backend.backend() == "jax":
    import jax

    MODES = {"jit": jax.jit}
    DTYPES.pop("float64")  # off in JAX by default
else:
    MODES = {"eager": lambda f: f}
    DTYPES.pop("float64")  # keras.ops makes float32 of NumPy's float64 on torch

ALL_MODES = pytest.mark.parametrize("mode", MODES)
ALL_NORMS = pytest.mark.parametrize("norm", NAMES)


def compiled(function, mode):
    fast = MODES[mode](function)
    return lambda *arrays: ops.convert_to_numpy(fast(*[ops.convert_to_tensor(a) for a in arrays]))


def random(shape, dtype="float32", seed=0):
    """Entries over three decades, of both signs."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0.3, 1.0, shape) * 10.0 ** rng.uniform(-3, 0, shape)).astype(dtype)


def test_names():
    assert norms.names() == NAMES


@ALL_NORMS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_size_of_any_rank(norm, shape, dtype):
    x = random(shape, dtype)
    size = norms.norm(x, norm)
    assert keras.backend.standardize_dtype(size.dtype) == dtype
    expected = reference.size(x.astype(float).ravel(), norm)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(ops.convert_to_numpy(size), expected, rtol=tolerance)


@ALL_NORMS
@ALL_MODES
@pytest.mark.parametrize("entries", [4095, 4096, 4097, 36_001])
def test_long_tensors(norm, mode, entries):
    """Whose sums XLA is helped with, in several stages, each of which may leave a rest."""
    x = random((entries,))
    size = compiled(lambda x: norms.sizes([norms.Block([x])], norm), mode)(x)
    # torch adds up to 8192 numbers one after another; a rest that is lost is 2e-4 or more.
    np.testing.assert_allclose(size, [reference.size(x.astype(float), norm)], rtol=4e-6)


@ALL_NORMS
@ALL_MODES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_unit", [False, True])
def test_powers_of_two_leave_every_bit(norm, mode, dtype, per_unit):
    lowest, highest = DTYPES[dtype]
    for shape in SHAPES[2:] if per_unit else SHAPES:
        unit = compiled(lambda x: norms.normalize([norms.Block([x], per_unit)], norm)[0][0], mode)
        x = random(shape, dtype)
        x = np.where(np.abs(x) < 2.0**-20, 0, x).astype(dtype)  # so that x * 2**lowest is normal
        expected = unit(x)
        assert np.isfinite(expected).all()
        assert np.abs(expected).max() > 0
        for k in [lowest, -80, -60, -45, -41, -40, -39, -3, 1, 30, 44, 45, 46, 60, 90, highest - 2]:
            np.testing.assert_array_equal(unit(np.ldexp(x, k)), expected, err_msg=f"{shape} {k}")


@ALL_NORMS
@ALL_MODES
def test_every_factor_leaves_the_unit_gradient(norm, mode):
    unit = compiled(lambda x: norms.unit(x, norm), mode)
    x = random((6, 5))
    x = np.where(np.abs(x) < 1e-2, 1e-2, x).astype("float32")
    expected = unit(x)
    for exponent in [-35, -30, -23, -19, -12, 0, 12, 19, 30, 38]:
        np.testing.assert_allclose(
            unit((x.astype(float) * 10.0**exponent).astype("float32")), expected, rtol=2e-6
        )


@ALL_NORMS
@ALL_MODES
def test_blocks_of_opposite_ends_of_the_range(norm, mode):
    small, usual, large = (random((4, 3), seed=s) for s in range(3))
    units = compiled(
        lambda *xs: ops.stack(
            [u[0] for u in norms.normalize([norms.Block([x]) for x in xs], norm)]
        ),
        mode,
    )
    expected = units(small, usual, large)
    np.testing.assert_array_equal(
        units(np.ldexp(small, -100), usual, np.ldexp(large, 120)), expected
    )


@ALL_NORMS
@ALL_MODES
@pytest.mark.parametrize("per_unit", [False, True])
def test_zero_stays_zero(norm, mode, per_unit):
    unit = compiled(lambda x: norms.normalize([norms.Block([x], per_unit)], norm)[0][0], mode)
    np.testing.assert_array_equal(unit(np.zeros((4, 3), "float32")), 0.0)
    x = random((4, 3))
    if per_unit:
        x[:, 1] = 0
        result = unit(x)
        np.testing.assert_array_equal(result[:, 1], 0.0)
        assert (result[:, [0, 2]] != 0).all()


@ALL_NORMS
@ALL_MODES
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(1,), (7,), (6, 5), (70, 80)])
def test_a_broken_entry_breaks_its_whole_block(norm, mode, value, shape):
    """XLA's maximum on CPUs, for one, drops NaNs."""
    units = compiled(
        lambda x, y: ops.concatenate(
            [
                ops.reshape(u[0], (-1,))
                for u in norms.normalize([norms.Block([x]), norms.Block([y])], norm)
            ]
        ),
        mode,
    )
    healthy = random((3,))
    for position in (0, np.prod(shape) // 2, np.prod(shape) - 1):
        broken = random(shape)
        broken.flat[position] = value
        result = units(broken, healthy)
        assert np.isnan(result[:-3]).all()
        assert np.isfinite(result[-3:]).all()


@ALL_MODES
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_measured_in_float32(mode, dtype):
    def length(x):
        return norms.norm(ops.cast(x, dtype), "l2")

    for value in (20.0, 3e-5):  # squares of 400 add up beyond 65504; squares of 9e-10 vanish
        x = np.full((64, 64), value, "float32")
        np.testing.assert_allclose(compiled(length, mode)(x), 64 * value, rtol=5e-3)


@ALL_MODES
def test_std_without_a_spread_is_the_rms(mode):
    unit = compiled(lambda x: norms.unit(x, "std"), mode)
    np.testing.assert_array_equal(unit(np.float32([5.0])), [1.0])
    np.testing.assert_array_equal(unit(np.float32(-5.0)), -1.0)
    # The mean of equal numbers is not that number in float32; the rest is not a gradient.
    # (XLA adds up 700,000 numbers one after the other, which costs it two digits.)
    np.testing.assert_allclose(unit(np.full((1000, 700), 0.1, "float32")), 1.0, rtol=1e-4)
    np.testing.assert_allclose(unit(np.full((1000, 7), 1e-30, "float32")), 1.0, rtol=1e-6)


def test_empty_tensors():
    empty = np.zeros((0, 3), "float32")
    for norm in NAMES:
        assert float(norms.norm(empty, norm)) == 0.0
        assert tuple(norms.unit(empty, norm).shape) == (0, 3)


@ALL_NORMS
def test_a_block_of_several_tensors_is_one_long_vector(norm):
    x, y = random((4, 3)), random((5,), seed=1) * np.float32(100)
    whole = norms.unit(np.concatenate([x.ravel(), y]), norm)
    parts = norms.normalize(
        [norms.Block([ops.convert_to_tensor(x), ops.convert_to_tensor(y)])], norm
    )
    parts = np.concatenate([ops.convert_to_numpy(p).ravel() for p in parts[0]])
    np.testing.assert_allclose(parts, ops.convert_to_numpy(whole), rtol=2e-6)


def test_epsilon_is_added_to_the_norm():
    x = np.float32([0.3, -0.4])
    np.testing.assert_allclose(norms.unit(x, "l2", epsilon=0.5), x, rtol=1e-6)
    tiny = np.float32([3e-20, -4e-20])
    np.testing.assert_allclose(norms.unit(tiny, "l2", epsilon=5e-20), tiny / 1e-19, rtol=1e-6)


def test_zero_padding_does_not_change_max():
    x = random((10,))
    padded = norms.unit(np.concatenate([x, np.zeros(90, "float32")]), "max")
    np.testing.assert_array_equal(ops.convert_to_numpy(padded)[:10], norms.unit(x, "max"))
    # … while it does change rms, by the root of the ratio of the numbers of entries.
    padded = norms.unit(np.concatenate([x, np.zeros(90, "float32")]), "rms")
    expected = ops.convert_to_numpy(norms.unit(x, "rms")) * np.sqrt(10)
    np.testing.assert_allclose(ops.convert_to_numpy(padded)[:10], expected, rtol=1e-6)


def test_registered_callable():
    x = random((5, 4))
    np.testing.assert_allclose(norms.norm(x, l3), reference.size(x.ravel(), "l3"), rtol=1e-5)


@pytest.mark.parametrize("norm", ["L2", "", None, 2, lambda x: x, np.linalg.norm])
def test_unknown_norm(norm):
    with pytest.raises(ValueError, match=r"`norm` must be one of 'l1', 'l2', .* Received: norm="):
        norms.norm([1.0], norm)
