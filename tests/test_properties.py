"""Properties that hold for all gradients, sought to be broken by hypothesis."""

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops
from reference import size

import tf_blocknorm as tfb
from tf_blocknorm import norms

NORMS = st.sampled_from([n for n in norms.names() if n != "std"])
ENTRIES = st.floats(-1e3, 1e3, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x)


def arrays(min_dims=0, max_dims=4):
    shapes = hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=5)
    return hnp.arrays(np.float32, shapes, elements=ENTRIES)


def step(gradients, **options):
    """Minus the first step from zero."""
    weights = [
        keras.Variable(np.zeros(g.shape, "float32"), name=f"w{i}") for i, g in enumerate(gradients)
    ]
    tfb.BlockNormSGD(**options).apply([ops.convert_to_tensor(g) for g in gradients], weights)
    return [-ops.convert_to_numpy(w) for w in weights]


quick = settings(deadline=None, max_examples=40)


@quick
@given(arrays(), NORMS, st.integers(-90, 90))
def test_a_power_of_two_changes_no_bit(gradient, norm, k):
    (a,), (b,) = step([gradient], norm=norm), step([np.ldexp(gradient, k)], norm=norm)
    np.testing.assert_array_equal(a, b)


@quick
@given(arrays(), NORMS, st.floats(1e-6, 1e6))
def test_the_step_has_the_length_of_the_learning_rate(gradient, norm, rate):
    (moved,) = step([gradient], norm=norm, learning_rate=rate)
    length = size(moved.astype(float).ravel(), norm)
    np.testing.assert_allclose(length, rate if gradient.any() else 0.0, rtol=1e-5)


@quick
@given(arrays(min_dims=1), NORMS, st.randoms(use_true_random=False))
def test_permuted_entries_give_the_permuted_step(gradient, norm, random):
    flat = gradient.ravel()
    order = random.sample(range(flat.size), flat.size)
    (a,), (b,) = step([flat[order]], norm=norm), step([flat], norm=norm)
    np.testing.assert_allclose(a, b[order], rtol=1e-5)


@quick
@given(arrays(min_dims=1), st.integers(1, 20), st.sampled_from(["l1", "l2", "max"]))
def test_zeros_beside_a_gradient_do_not_change_l1_l2_and_max(gradient, zeros, norm):
    padded = np.concatenate([gradient.ravel(), np.zeros(zeros, "float32")])
    (a,), (b,) = step([padded], norm=norm), step([gradient.ravel()], norm=norm)
    np.testing.assert_allclose(a[: gradient.size], b, rtol=1e-5)
    np.testing.assert_array_equal(a[gradient.size :], 0)


@quick
@given(arrays(), NORMS)
def test_one_variable_is_the_same_in_every_kind_of_block(gradient, norm):
    expected = step([gradient], norm=norm)[0]
    for block in ("layer", "model", [("w", "all")]):
        np.testing.assert_array_equal(step([gradient], norm=norm, block=block)[0], expected)
    if gradient.ndim < 2 or gradient.shape[-1] == 1:
        unit = step([gradient], norm=norm, block="unit")[0]
        np.testing.assert_allclose(unit, expected, rtol=1e-5)


@quick
@given(st.lists(arrays(), min_size=2, max_size=4), NORMS)
def test_a_block_of_several_variables_is_one_long_variable(gradients, norm):
    parts = step(gradients, norm=norm, block="model")
    (whole,) = step([np.concatenate([g.ravel() for g in gradients])], norm=norm)
    np.testing.assert_allclose(np.concatenate([p.ravel() for p in parts]), whole, rtol=1e-5)


@quick
@given(arrays(), NORMS, st.floats(0.0, 0.9375))
def test_without_history_normalising_the_update_is_normalising_the_gradient(
    gradient, norm, momentum
):
    (a,) = step([gradient], norm=norm, momentum=momentum)
    (b,) = step([gradient], norm=norm, momentum=momentum, normalize="update")
    np.testing.assert_allclose(a, b, rtol=1e-6)


@quick
@given(arrays(min_dims=1), st.floats(1e-3, 1e3))
def test_clipping_beyond_the_norm_changes_nothing(gradient, factor):
    bound = float(np.sqrt((gradient.astype(float) ** 2).sum()) * (1 + factor) + 1e-3)
    (a,), (b,) = step([gradient]), step([gradient], clipnorm=bound)
    np.testing.assert_allclose(a, b, rtol=1e-6)
