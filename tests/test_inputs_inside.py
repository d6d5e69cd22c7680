"""Kernels that see something else than their layer's input: separable convolutions, dropout."""

import keras
import numpy as np
import pytest
import reference_inputs as reference
from keras import layers, ops
from test_inputs import inputs, measured, sequential, squares
from test_parity import MODES

import tf_blocknorm as tfb
from tf_blocknorm.back_matching import Options, curvatures

TENSORFLOW = keras.backend.backend() == "tensorflow"
WINDOWS = [{}, {"strides": 2, "padding": "same"}, {"dilation_rate": 2}]

# --------------------------------------------------------------------------- separable convolutions


def in_two(layer, x):
    """The two layers that a separable convolution stands for, with its weights."""
    options = {k: getattr(layer, k) for k in ("strides", "padding", "dilation_rate", "data_format")}
    name = f"DepthwiseConv{layer.rank}D"
    depthwise = getattr(layers, name)(
        layer.kernel_size,
        depth_multiplier=layer.depth_multiplier,
        use_bias=False,
        name="depthwise",
        **options,
    )
    pointwise = getattr(layers, f"Conv{layer.rank}D")(
        layer.filters,
        1,
        activation=layer.activation,
        use_bias=layer.use_bias,
        data_format=layer.data_format,
        name="pointwise",
    )
    model = sequential(x, depthwise, pointwise)
    model.set_weights(layer.get_weights())
    return model


@pytest.mark.parametrize("norm", ["l2", "l1", "standardized_l2", "standardized_l1"])
@pytest.mark.parametrize("options", WINDOWS, ids=["plain", "strided", "dilated"])
@pytest.mark.parametrize("rank", [1, 2])
def test_both_kernels_of_a_separable_convolution(rank, options, norm):
    x = inputs(3, *(7,) * rank, 2)
    layer = getattr(layers, f"SeparableConv{rank}D")(3, 2, depth_multiplier=2, name="s", **options)
    found = measured(sequential(x, layer), x, norm)
    between = in_two(layer, x).layers[0](x)
    for tap, seen in (("input_tap", x), ("pointwise_tap", between)):
        rows = np.asarray(ops.convert_to_numpy(seen), float)
        expected = np.mean([reference.per_channel(row, norm) for row in rows], 0)
        np.testing.assert_allclose(found[f"s/{tap}"], expected, rtol=1e-4)


def test_a_separable_convolution_with_channels_first():
    if TENSORFLOW:
        pytest.skip("TensorFlow has no such convolutions on a CPU outside of XLA")
    x = inputs(3, 2, 5, 5)
    layer = layers.SeparableConv2D(3, 2, data_format="channels_first", name="s")
    found = measured(sequential(x, layer), x)
    between = ops.convert_to_numpy(in_two(layer, x).layers[0](x))
    np.testing.assert_allclose(found["s/input_tap"], squares(x, (2, 3)).mean(0), rtol=1e-5)
    expected = squares(between, (2, 3)).mean(0)
    np.testing.assert_allclose(found["s/pointwise_tap"], expected, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_separable_convolution_trains_as_the_two_layers_it_stands_for(mode):
    x = inputs(12, 6, 6, 2)
    layer = layers.SeparableConv2D(3, 2, depth_multiplier=2, activation="tanh", name="s")
    whole = sequential(x, layer)
    whole.set_weights([inputs(*w.shape) for w in whole.get_weights()])
    start, results, rows = whole.get_weights(), [], inputs(12, 1, 1, 1)
    for model in (whole, in_two(layer, x)):
        model = tfb.with_input_statistics(model)
        model.compile(tfb.INSGD(0.5, log=False, input_momentum=0.5), "mse", **MODES[mode])
        y = rows * np.ones(model.output_shape[1:])
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        kernels = [v for v in model.weights if "kernel" in v.name or "bias" in v.name]
        results.append([ops.convert_to_numpy(v) for v in kernels])
    for before, a, b in zip(start, *results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert np.abs(a - before).max() > 1e-3


def test_constant_powers_of_a_separable_convolution():
    x = inputs(2, 8, 8, 3)
    model = sequential(x, layers.SeparableConv2D(4, 3, strides=2, name="s"))
    paths = [f"^{v.path}$" for v in model.weights[:2]]
    assert tfb.constant_powers(model) == list(zip(paths, [63.0, 8.0]))
    model.compile(tfb.INSGD.like("code", powers=tfb.constant_powers(model)), "mse")
    model.fit(x, np.ones((2, 3, 3, 4)), verbose=0)


def test_one_pixel_between_the_convolutions_cannot_be_standardised():
    layer = tfb.with_input_statistics(layers.SeparableConv2D(4, 3), "standardized_l2")
    with pytest.raises(ValueError, match=r"to standardise over.* input_shape=\(None, 1, 1, 2\)"):
        layer.build((None, 3, 3, 2))


@pytest.mark.parametrize("is_measured", [True, False])
@pytest.mark.parametrize("rank", ["in", "min"])
@pytest.mark.parametrize("options", WINDOWS, ids=["plain", "strided", "dilated"])
@pytest.mark.parametrize("axes", [1, 2])
def test_back_matching_sees_the_two_layers_that_it_stands_for(axes, options, rank, is_measured):
    x = inputs(4, *(7,) * axes, 3)
    cls = getattr(layers, f"SeparableConv{axes}D")
    layer = cls(2, 3, depth_multiplier=2, activation="relu", name="s", **options)
    whole = sequential(x, layer)
    whole.set_weights([inputs(*w.shape) for w in whole.get_weights()])
    found = [
        [c for _, c in curvatures(model, x if is_measured else None, Options(rank=rank))]
        for model in (under(whole, x), under(in_two(layer, x), x))
    ]
    assert len(found[0]) == 5
    np.testing.assert_allclose(*found, rtol=1e-5)


def under(model, x):
    """With a layer below, whose curvature tells the factor of the input, and one above."""
    first, last = layers.Dense(x.shape[-1], name="first"), layers.Activation("tanh")
    first.build(x.shape)
    first.set_weights([np.eye(x.shape[-1]), np.zeros(x.shape[-1])])
    return sequential(x, first, *model.layers, last)


# ------------------------------------------------------------------ dropout within recurrent layers


@pytest.mark.parametrize(
    "options",
    [{"dropout": 0.5}, {"recurrent_dropout": 0.4}, {"dropout": 0.3, "recurrent_dropout": 0.6}],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_recurrent_layers_measure_what_dropout_leaves(kind, options):
    """Of gates with masks of their own, the mean."""
    keras.utils.set_random_seed(0)  # masks, of which some leave the power nearly what it was
    x = np.random.default_rng(0).normal(0.2, 1.0, (3, 4, 5)).astype("float32")
    layer = getattr(layers, kind)(6, return_sequences=True, name="r", **options)
    model = tfb.with_input_statistics(sequential(x, layer))
    layer = model.get_layer("r")
    generator = layer.cell.seed_generator.state
    seed = ops.convert_to_numpy(generator)

    def draw_again():
        generator.assign(seed)
        keras.utils.set_random_seed(0)  # on torch, dropout draws from the one generator for all

    model.compile(tfb.INSGD(0.0), "mse", jit_compile=False)  # XLA draws other numbers
    for _ in range(2):  # the first one builds, which draws, too
        draw_again()
        model.train_on_batch(x, np.zeros((3, 4, 6)))
    actual = {}
    for name in ("input_tap", "state_tap"):
        actual[name] = float(ops.convert_to_numpy(getattr(layer.cell, name).power())[0])

    # The same masks again, and the states that they make.
    draw_again()
    states = ops.convert_to_numpy(layer(x, training=True))
    states = np.concatenate([np.zeros_like(states[:, :1]), states[:, :-1]], axis=1)
    draw_again()
    masks = layer.cell.get_dropout_mask(ops.convert_to_tensor(x[:, 0]))
    of_state = layer.cell.get_recurrent_dropout_mask(ops.convert_to_tensor(states[:, 0]))
    layer.cell.reset_dropout_mask()
    layer.cell.reset_recurrent_dropout_mask()
    for name, values, factors in (("input_tap", x, masks), ("state_tap", states, of_state)):
        factors = [ops.ones(())] if factors is None else factors
        factors = factors if isinstance(factors, list) else [factors]
        each = [ops.convert_to_numpy(f) for f in factors]
        each = [f[:, None] if f.ndim else f for f in each]
        expected = np.mean([squares(values * f, -1).mean() for f in each])
        plain = squares(values, -1).mean()
        np.testing.assert_allclose(actual[name], expected, rtol=1e-5)
        assert all(f.ndim == 0 for f in each) or abs(expected / plain - 1) > 1e-2


@pytest.mark.parametrize("mode", MODES)
def test_the_input_that_dropout_leaves_is_fitted_by_nlms(mode):
    """The gradient of one sample is that input, so that its square has to be the power."""
    x = np.linspace(1.0, 2.0, 40, dtype="float32").reshape(1, 1, 40)
    layer = layers.SimpleRNN(1, activation=None, use_bias=False, dropout=0.5, name="r")
    model = tfb.with_input_statistics(sequential(x, layer))
    model.compile(tfb.INSGD.like("nlms", learning_rate=0.1), lambda y, p: p, **MODES[mode])
    before = model.get_weights()[0]
    model.fit(x, np.zeros((1, 1)), verbose=0)
    step = (before - model.get_weights()[0])[:, 0] / 0.1
    seen = step / np.square(step).sum()  # of the step seen / power
    kept = np.abs(seen) > 1e-3
    assert 5 < kept.sum() < 35
    np.testing.assert_allclose(seen, np.where(kept, 2.0 * x[0, 0], 0.0), rtol=1e-4, atol=1e-6)


def test_dropout_inside_is_off_in_evaluation():
    x = inputs(3, 4, 5)
    layer = layers.LSTM(2, dropout=0.5, recurrent_dropout=0.5)
    model = sequential(x, layer)
    copy = tfb.with_input_statistics(model)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(copy.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)
