"""Taps in every kind of layer and model, and gradients that are normalised by sample."""

import input_problems as problems
import keras
import numpy as np
import pytest
import reference_inputs as reference
from keras import layers, ops
from test_insgd import assert_equal, half_square, linear
from test_parity import MODES

import tf_blocknorm as tfb

MODE = list(MODES.values())[-1]
RNG = np.random.default_rng(5)


def inputs(*shape):
    return RNG.normal(0.2, 1.0, shape).astype("float32")


def measured(model, x, norm="l2", epochs=1, **options):
    """The taps' powers by their path after a step on all of x, of a model that did not change."""
    copy = tfb.with_input_statistics(model, norm=norm)
    outputs = copy.predict(x, verbose=0)
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), rtol=1e-6, atol=1e-6)
    copy.compile(tfb.INSGD(0.0), "mse", **{**MODE, **options})
    copy.optimizer.build(copy.trainable_variables)
    copy.fit(x, np.ones_like(outputs), batch_size=len(x), epochs=epochs, verbose=0)
    found = {}
    for variable in copy.trainable_variables:
        if getattr(variable, "adds_up", False):
            sums = ops.convert_to_numpy(variable)
            found[variable.path.removesuffix("/sums")] = sums[:-1] / sums[-1]
    return found


def sequential(*parts):
    return keras.Sequential([keras.Input(parts[0].shape[1:]), *parts[1:]])


def squares(x, axes):
    return (np.asarray(x, float) ** 2).sum(axes)


# ------------------------------------------------------------------------------ kinds of layers


def test_positions_of_a_sequence_are_samples():
    x = inputs(4, 5, 3)
    found = measured(sequential(x, layers.Dense(2, name="d")), x)
    np.testing.assert_allclose(found["d/input_tap"], [squares(x, -1).mean()], rtol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "l1", "standardized_l2", "standardized_l1"])
def test_convolutions_of_one_to_three_axes(norm):
    for n in (1, 2, 3):
        x = inputs(3, *(4,) * n, 2)
        for layer in (f"Conv{n}D", f"Conv{n}DTranspose"):
            found = measured(sequential(x, getattr(layers, layer)(2, 2, name="c")), x, norm)
            expected = np.mean([reference.per_channel(row.astype(float), norm) for row in x], 0)
            np.testing.assert_allclose(found["c/input_tap"], expected, rtol=1e-4, err_msg=layer)


def test_stride_padding_and_dilation_do_not_matter():
    x = inputs(3, 6, 6, 2)
    for options in ({"strides": 2}, {"padding": "same"}, {"dilation_rate": 2}):
        found = measured(sequential(x, layers.Conv2D(2, 2, name="c", **options)), x)
        np.testing.assert_allclose(found["c/input_tap"], squares(x, (1, 2)).mean(0), rtol=1e-5)


def test_channels_first():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no such convolutions on a CPU outside of XLA")
    x = inputs(3, 2, 4, 4)
    layer = layers.Conv2D(3, 2, data_format="channels_first", name="c")
    found = measured(sequential(x, layer), x)
    np.testing.assert_allclose(found["c/input_tap"], squares(x, (2, 3)).mean(0), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_einsum_with_an_ellipsis_and_a_shared_letter(dtype):
    x = inputs(4, 3, 5)
    layer = layers.EinsumDense("...x,xy->...y", output_shape=2, name="e", dtype=dtype)
    found = measured(sequential(x, layer), x)
    np.testing.assert_allclose(found["e/input_tap"], [squares(x, -1).mean()], rtol=1e-5)
    layer = layers.EinsumDense("abc,cbd->abd", output_shape=(3, 2), name="e")
    found = measured(sequential(x, layer), x)
    np.testing.assert_allclose(found["e/input_tap"], squares(x, -1).mean(0), rtol=1e-5)


def test_the_factor_of_a_shared_letter_stands_where_the_kernel_has_it():
    from tf_blocknorm.optimizers.inputs import geometry

    spread = geometry.einsum("abcd,dcxb->abcx", 4, (5, 3, 7, 2), "e").spread
    values = np.arange(6.0)  # of letters b and c, in this order
    found = ops.convert_to_numpy(spread(ops.convert_to_tensor(values)))
    np.testing.assert_array_equal(found, values.reshape(2, 3).T[None, :, None, :])


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("kind", ["MultiHeadAttention", "GroupQueryAttention"])
def test_every_projection_of_attention(kind, gate):
    x = inputs(3, 4, 6)
    args = {"MultiHeadAttention": (2, 3), "GroupQueryAttention": (3, 4, 2)}[kind]
    a = keras.Input((4, 6))
    b = layers.Dense(5, name="d")(a)
    layer = getattr(layers, kind)(*args, name="m", use_gate=gate)
    model = keras.Model(a, layer(a, b, b) if kind[0] == "M" else layer(a, a))
    found = measured(model, x)
    expected = squares(x, -1).mean()
    names = ["query", "gate"] if gate else ["query"]
    for name in names:
        np.testing.assert_allclose(found[f"m/{name}/input_tap"], [expected], rtol=1e-5)
    if kind[0] == "M":
        weights = {v.path: ops.convert_to_numpy(v) for v in model.weights}
        memory = x @ weights["d/kernel"] + weights["d/bias"]
        for name in ("key", "value"):
            expected = [squares(memory, -1).mean()]
            np.testing.assert_allclose(found[f"m/{name}/input_tap"], expected, rtol=1e-4)
    assert found["m/attention_output/input_tap"] > 0


def test_the_output_projection_of_attention():
    """With one position to attend to, its input is the value's projection."""
    x = inputs(5, 1, 6)
    a = keras.Input((1, 6))
    model = keras.Model(a, layers.MultiHeadAttention(2, 3, name="m")(a, a))
    found = measured(model, x)
    weights = {v.path: ops.convert_to_numpy(v) for v in model.weights}
    value = np.einsum("abc,cde->abde", x, weights["m/value/kernel"]) + weights["m/value/bias"]
    expected = [squares(value, (-1, -2)).mean()]
    np.testing.assert_allclose(found["m/attention_output/input_tap"], expected, rtol=1e-4)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_recurrent_layers_measure_every_step(kind, unroll):
    x = inputs(3, 4, 5)
    layer = getattr(layers, kind)(2, return_sequences=True, name="r", unroll=unroll)
    model = sequential(x, layer)
    found = measured(model, x)
    states = model.predict(x, verbose=0)
    states = np.concatenate([np.zeros_like(states[:, :1]), states[:, :-1]], axis=1)
    (cell,) = {path.split("/")[-2] for path in found}
    np.testing.assert_allclose(found[f"r/{cell}/input_tap"], [squares(x, -1).mean()], rtol=1e-5)
    expected = [squares(states, -1).mean()]
    np.testing.assert_allclose(found[f"r/{cell}/state_tap"], expected, rtol=1e-4)


def test_layers_within_layers():
    x = inputs(3, 4, 5)
    model = sequential(
        x,
        layers.TimeDistributed(layers.Dense(4, name="t")),
        layers.Bidirectional(layers.LSTM(2, return_sequences=True, name="l")),
        layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)], return_sequences=True, name="n"),
        keras.Sequential([layers.Dense(2, name="inner")], name="nested"),
    )
    found = measured(model, x)
    assert len(found) == 1 + 4 + 4 + 1
    (first,) = (power for path, power in found.items() if path.endswith("t/input_tap"))
    np.testing.assert_allclose(first, [squares(x, -1).mean()], rtol=1e-5)


def test_a_shared_layer_has_the_mean_of_its_calls():
    x = inputs(4, 3)
    layer, a = layers.Dense(3, name="d"), keras.Input((3,))
    model = keras.Model(a, layer(layer(a)))
    second = x @ ops.convert_to_numpy(layer.kernel) + ops.convert_to_numpy(layer.bias)
    expected = [np.mean([squares(x, -1).mean(), squares(second, -1).mean()])]
    np.testing.assert_allclose(measured(model, x)["d/input_tap"], expected, rtol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "l1", "standardized_l1"])
def test_powers_are_taken_in_float32_where_layers_compute_in_bfloat16(norm):
    """Of the rounded inputs: sums of so many numbers, and their number, need more digits."""
    x = np.abs(inputs(300, 17, 17, 2)) + 1.0
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = sequential(x, layers.Conv2D(3, 17, name="c"), layers.Flatten())
        model.add(layers.Dense(1, name="d"))
    finally:
        keras.config.set_dtype_policy("float32")
    copy = tfb.with_input_statistics(model, norm=norm)
    copy.compile(tfb.INSGD(0.0), "mse", **MODE)
    copy.fit(x, np.zeros((300, 1)), batch_size=300, verbose=0)
    tap = copy.get_layer("c").input_tap
    assert keras.backend.standardize_dtype(tap.sums.dtype) == "float32"
    assert float(ops.convert_to_numpy(tap.sums)[-1]) == 300
    seen = ops.convert_to_numpy(ops.cast(ops.cast(x, "bfloat16"), "float32")).astype(float)
    expected = np.mean([reference.per_channel(row, norm) for row in seen], 0)
    np.testing.assert_allclose(ops.convert_to_numpy(tap.power()), expected, rtol=2e-5)


def test_an_embedding_makes_plain_steps():
    words = RNG.integers(0, 7, (6, 3))
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), layers.Embedding(7, 4, mask_zero=True), layers.LSTM(2)]
    )
    copy = tfb.with_input_statistics(model)
    copy.compile(tfb.INSGD(0.1, momentum=0.0), "mse", **MODE)
    before = ops.convert_to_numpy(copy.layers[0].embeddings)
    copy.fit(words, np.ones((6, 2)), verbose=0)
    assert np.abs(ops.convert_to_numpy(copy.layers[0].embeddings) - before).max() > 1e-4


# -------------------------------------------------------------------------------- kinds of models


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, tapped=True, **kwargs):
        super().__init__(**kwargs)
        self.tapped = tapped
        dense = layers.Dense(1, name="d")
        self.dense = tfb.with_input_statistics(dense) if tapped else dense

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {**super().get_config(), "tapped": self.tapped}


def test_a_subclassed_model_makes_its_layers_with_taps(tmp_path):
    x, y = inputs(8, 3), inputs(8, 1)
    model = Subclassed()
    model.compile(tfb.INSGD(0.05), half_square, **MODE)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    copy = keras.saving.load_model(tmp_path / "m.keras")
    for each in (model, copy):
        each.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_subclassed_model_cannot_be_given_taps_from_outside():
    model = Subclassed(tapped=False)
    model(np.ones((1, 3)))
    message = r"must be a layer with a rule in the configuration.*self.dense = tf_blocknorm.with"
    with pytest.raises(ValueError, match=message):
        tfb.with_input_statistics(model)


def test_clones_and_files_keep_the_taps(tmp_path):
    x, y = problems.data(4)
    model = problems.compiled(tfb.INSGD(0.02))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    expected = problems.train(model, x, y)
    assert_equal(problems.train(problems.compiled(tfb.INSGD(0.02), clone), x, y), expected)
    again = tfb.with_input_statistics(problems.probe(convert=None), norm="l1", exclude=["dense"])
    again.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("grouped").input_norm == "l1"
    assert type(loaded.get_layer("dense")) is layers.Dense
    assert isinstance(loaded.get_layer("grouped"), layers.Conv2D)


def test_weights_with_and_without_taps_are_interchangeable(tmp_path):
    plain, tapped = problems.probe(convert=None), problems.probe()
    for a, b in ((plain, tapped), (tapped, plain)):
        a.set_weights([w + 1.0 for w in a.get_weights()])
        a.save_weights(tmp_path / "m.weights.h5")
        b.load_weights(tmp_path / "m.weights.h5")
        assert_equal(problems.weights(b), problems.weights(a))


def test_the_given_model_stays_what_it_is():
    model = problems.compiled(keras.optimizers.SGD(0.01), problems.probe(convert=None))
    before = problems.weights(model)
    copy = tfb.with_input_statistics(model)
    assert not copy.compiled
    x, y = problems.data(4)
    problems.train(problems.compiled(tfb.INSGD(0.1), copy), x, y)
    assert_equal(problems.weights(model), before)
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]


def test_any_optimizer_trains_a_model_with_taps():
    x, y = problems.data(8)
    for make in (keras.optimizers.Adam, tfb.BlockNormSGD, lambda r: tfb.LARS(r, exclude=["bias"])):
        results = [
            problems.train(problems.compiled(make(0.01), problems.probe(convert=convert)), x, y)
            for convert in (None, tfb.with_input_statistics)
        ]
        assert_equal(*results, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("dense", {}, r"`model` must be a Keras model or layer. Received: model='dense'"),
        (layers.Dense(1), {"norm": "l3"}, r"`norm` must be one of 'l2', .*Received: norm='l3'"),
        (layers.Dense(1), {"exclude": "d"}, r"`exclude` must be a list .* Received: exclude='d'"),
        (layers.Dense(1), {"exclude": ["conv"]}, r"must match .*\['conv'\] match none"),
        (layers.Flatten(), {}, r"must be a layer with a rule .* Layers with a rule: Conv1D, "),
    ],
)
def test_arguments_are_checked(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        tfb.with_input_statistics(model, **arguments)


@pytest.mark.parametrize(
    ("layer", "shape", "norm", "message"),
    [
        (layers.Conv2D(1, 1, name="c"), (1, 1, 3), "standardized_l1", r"'c' with input_shape="),
        (layers.GRU(2, reset_after=False), (4, 3), "l2", r"`reset_after` must be True"),
        (
            layers.EinsumDense("abc,cd->ad", output_shape=(2,), name="e"),
            (4, 3),
            "l2",
            r"must not be summed over .* Received: equation='abc,cd->ad' in layer 'e'",
        ),
    ],
)
def test_what_cannot_be_measured_is_an_error(layer, shape, norm, message):
    layer = tfb.with_input_statistics(layer, norm=norm)
    with pytest.raises(ValueError, match=message):
        layer.build((None, *shape))


def test_constant_powers_that_do_not_follow_from_shapes():
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3, name="c")])
    with pytest.raises(ValueError, match=r"must follow from the shape .* layer 'c'; exclude it"):
        tfb.constant_powers(model)
    assert tfb.constant_powers(model, exclude=["c"]) == []
    with pytest.raises(ValueError, match=r"`model` must be a built Keras model"):
        tfb.constant_powers(keras.Sequential([layers.Dense(1)]))


# -------------------------------------------------------------------------------------- by sample


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "l1", "log": True, "floor": 0.3},
        {"norm": "standardized_l1", "log": True},
        {"epsilon": 2.0},
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_each_sample_is_divided_by_its_own_power(options, mode):
    x, y = problems.data(6)
    norm = options.get("norm", "l2")
    model = tfb.per_sample_normalized(problems.probe(convert=None), **options)
    model.compile(keras.optimizers.SGD(0.02), problems.linear_loss, **MODES[mode])
    actual = problems.train(model, x, y, batch_size=3)
    expected = [w.astype(float) for w in problems.start_weights()]
    powers = {"l2": 0, **{k: v for k, v in options.items() if k != "norm"}}
    powers.pop("l2")
    for part, (path, kernel) in zip(problems.PARTS.values(), _kernels(expected)):
        first = problems_first(path)
        last = first + int(np.prod(part.output_shape))
        for start in (0, 3):
            step = 0.0
            for k in range(start, start + 3):
                upstream = y[k, first:last].astype(float).reshape(part.output_shape)
                row = x[list(problems.PARTS).index(path)][k].astype(float)
                g = reference.gradient(part.linear, row, part.kernel_shape, upstream)
                normalised = path in ("dense", "grouped", "einsum")
                if normalised:
                    g = g / reference.divisor(part.spread(part.power(row, norm)), **_rule(options))
                step = step + g / 3
            kernel -= 0.02 * step
    for i in range(0, len(expected), 2):
        np.testing.assert_allclose(actual[i], expected[i], rtol=1e-5, atol=1e-5)
        assert np.abs(expected[i] - problems.start_weights()[i]).max() > 1e-3


def _rule(options):
    return {"log": False, **{k: v for k, v in options.items() if k != "norm"}}


def _kernels(weights):
    return zip(problems.PARTS, weights[::2])


def problems_first(name):
    before = list(problems.PARTS)[: list(problems.PARTS).index(name)]
    return sum(int(np.prod(problems.PARTS[other].output_shape)) for other in before)


def test_by_sample_nothing_but_the_kernels_gradient_changes():
    """Outputs, biases and the gradient that goes on to earlier layers."""
    x, y = inputs(4, 5), inputs(4, 2)

    def trained(convert):
        keras.utils.set_random_seed(0)
        model = sequential(
            x, layers.Dense(4, activation="tanh", name="first"), layers.Dense(2, name="second")
        )
        model.set_weights([RNG2.normal(size=w.shape) for w in model.get_weights()])
        model = convert(model)
        model.compile(keras.optimizers.SGD(0.1), "mse", **MODE)
        model.fit(x, y, batch_size=4, verbose=0)
        return model.get_weights()

    RNG2 = np.random.default_rng(0)
    plain = trained(lambda model: model)
    RNG2 = np.random.default_rng(0)
    ours = trained(lambda model: tfb.per_sample_normalized(model, exclude=["first"]))
    for i in (0, 1, 3):
        np.testing.assert_allclose(ours[i], plain[i], rtol=1e-5, atol=1e-6)
    assert np.abs(ours[2] - plain[2]).max() > 1e-2


def test_by_sample_and_by_batch_agree_for_one_sample():
    x, y = inputs(1, 5), inputs(1, 1)
    results = []
    for convert, optimizer in (
        (tfb.with_input_statistics, tfb.INSGD.like("nlms")),
        (tfb.per_sample_normalized, keras.optimizers.SGD(1.0)),
    ):
        model = linear(5, convert)
        model.set_weights([np.ones((5, 1)), *model.get_weights()[1:]])
        model.compile(optimizer, half_square, **MODE)
        model.fit(x, y, verbose=0)
        results.append(model.get_weights()[0])
        assert model.predict(x, verbose=0)[0, 0] == pytest.approx(y[0, 0], abs=1e-4)
    np.testing.assert_allclose(*results, rtol=1e-5)


def test_by_sample_samples_without_power_and_infinite_ones():
    model = linear(2, tfb.per_sample_normalized, epsilon=0.0)
    model.compile(keras.optimizers.SGD(1.0), half_square, **MODE)
    model.fit(np.zeros((2, 2)), np.ones((2, 1)), verbose=0)
    assert np.isfinite(model.get_weights()[0]).all()
    model.fit(np.full((1, 2), 1e25), np.ones((1, 1)), verbose=0)
    assert np.isnan(model.get_weights()[0]).all()


def test_by_sample_models_save_and_insgd_makes_plain_steps(tmp_path):
    x, y = problems.data(4)
    model = tfb.per_sample_normalized(problems.probe(convert=None), log=True, floor=0.7)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("dense").per_sample["floor"] == 0.7
    plain = tfb.INSGD(0.01, exclude=["depth", "trans"])
    a = problems.train(problems.compiled(plain, model), x, y)
    b = problems.train(problems.compiled(keras.optimizers.SGD(0.01, 0.9), loaded), x, y)
    assert_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": 2}, r"`norm` must be one of .*Received: norm=2"),
        ({"floor": 0.0}, r"`floor` must be a number > 0. Received: floor=0.0"),
        ({"epsilon": -1.0}, r"`epsilon` must be a number >= 0. Received: epsilon=-1.0"),
    ],
)
def test_by_sample_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfb.per_sample_normalized(layers.Dense(1), **arguments)
