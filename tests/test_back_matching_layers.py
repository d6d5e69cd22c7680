"""The scalars of each type of layer, against explicit Jacobians."""

import keras
import numpy as np
import pytest
import reference_back_matching as reference
from keras import layers, ops

import tf_blocknorm as tfb
from tf_blocknorm.back_matching import Options, curvatures

BACKEND = keras.backend.backend()
RANKS = pytest.mark.parametrize("rank", ["in", "min"])
CLOSE = {"rtol": 2e-5, "atol": 1e-7}


def rng():
    return np.random.default_rng(0)


def randomized(model):
    """The model, with weights that fit nothing; those that are variances stay positive."""
    draw = rng()
    for variable in model.variables:
        value = draw.normal(0.2, 0.7, variable.shape)
        variable.assign(np.abs(value) + 0.3 if "variance" in variable.name else value)
    return model


def below(*chain, shape):
    """Dense weights, and the chain of layers above them; (curvature of the bias, function).

    The bias of the first layer adds to each channel of what the chain gets: its curvature is the
    factor of the chain times the number of positions.
    """
    first = layers.Dense(shape[-1], name="first")
    return randomized(keras.Sequential([keras.Input(shape), first, *chain])), first


def factor_of(chain, shape, x=None, **options):
    """m_z of layers in a chain."""
    model, first = below(*chain, shape=shape)
    found = curvatures(model, x, Options(**options))
    positions = np.prod(shape[:-1])
    return next(c for v, c in found if v is first.bias) / positions, model


def after_first(model):
    """What the chain above the first layer makes of an array."""

    def function(x):
        x = ops.convert_to_tensor(x.astype("float32"))
        for layer in model.layers[1:]:
            x = layer(x)
        return ops.convert_to_numpy(x)

    return function


# ------------------------------------------------------------------------ the specification's table

MLP = [
    # rank, relu, multipliers of W1, b1, W2, b2, sums of W1 and W2 after one step of 0.1
    ("min", "unit", 1.2184163143, 0.5576073767, -0.5898174131),
    ("min", "active", 2.2153023896, 1.0138315940, -0.6410293652),
    ("in", "unit", 2.4368326285, 1.1152147534, -0.6524097990),
    ("in", "active", 4.4306047791, 2.0276631881, -0.7548337033),
]


@pytest.mark.parametrize(("rank", "relu", "w1", "b1", "after"), MLP)
def test_vectors_of_the_specification(rank, relu, w1, b1, after):
    x = np.sin(0.7 * np.arange(15)).reshape(5, 3)
    y = np.cos(1.1 * np.arange(10)).reshape(5, 2)
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, activation="relu"), layers.Dense(2)]
    )
    first = np.cos(0.5 * np.arange(12)).reshape(3, 4)
    second = np.sin(0.9 * np.arange(8) + 0.3).reshape(4, 2)
    model.set_weights([first, np.array([0.1, -0.2, 0.3, 0.0]), second, np.zeros(2)])
    model.compile(
        keras.optimizers.SGD(0.1),
        lambda y, z: 0.5 * ops.sum(ops.square(y - z), axis=-1),
        jit_compile=False,
    )
    callback = tfb.BackMatching(x, rank=rank, relu=relu, normalize=None, bounds=None)
    history = model.fit(x, y, batch_size=5, verbose=0, callbacks=[callback])
    assert history.history["loss"][0] == pytest.approx(1.1544765769, rel=1e-5)
    rates = list(callback.multipliers.values())
    np.testing.assert_allclose(rates, [w1, b1, 6.0418295056, 1.0], rtol=1e-5)
    sums = [float(w.sum()) for w in model.get_weights()[::2]]
    np.testing.assert_allclose(sums, [after, -0.6333055993], rtol=2e-6)


@pytest.mark.parametrize(
    ("stride", "padding", "kernel", "bias", "z"),
    [
        (1, "same", 5.374445651, 16, {"min": 9.3268266621, "in": 9.3268266621}),
        (2, "same", 1.4534809379, 4, {"min": 5.9677770451, "in": 2.2379163919}),
        (1, "valid", 1.9049306341, 4, {"min": 8.8991411973, "in": 3.337177949}),
    ],
)
@RANKS
def test_convolutions_of_the_specification(stride, padding, kernel, bias, z, rank):
    x = np.sin(0.37 * np.arange(64)).reshape(2, 4, 4, 2)
    values = np.cos(0.21 * np.arange(54)).reshape(3, 3, 2, 3)
    np.testing.assert_allclose(
        reference.convolution(x, values, stride, padding, rank),
        (kernel, bias, z[rank]),
        rtol=1e-8,
    )
    # Below it a layer that makes no difference, to see m_z by.
    first = layers.Dense(2, kernel_initializer="identity")
    above = layers.Conv2D(3, 3, stride, padding)
    model = keras.Sequential([keras.Input((4, 4, 2)), first, above])
    above.set_weights([values, np.zeros(3)])
    found = [c for _, c in curvatures(model, x, Options(rank=rank))]
    np.testing.assert_allclose(found[1:], [16 * z[rank], kernel, bias], rtol=1e-5)


# ------------------------------------------------------------------------------ explicit Jacobians

WINDOWS = {
    f"conv2d-{k}-{s}-{p}": lambda k=k, s=s, p=p: layers.Conv2D(3, k, s, p)
    for k in (1, 3, 5)
    for s in (1, 2)
    for p in ("same", "valid")
}
LINEAR = {
    **{name: (make, (6, 6, 2)) for name, make in WINDOWS.items()},
    "dense": (lambda: layers.Dense(4), (5,)),
    "dense-wide": (lambda: layers.Dense(9), (5,)),
    "dense-positions": (lambda: layers.Dense(4), (3, 5)),
    "conv1d": (lambda: layers.Conv1D(3, 3, 2, "same"), (7, 2)),
    "conv1d-causal": (lambda: layers.Conv1D(3, 3, padding="causal", dilation_rate=2), (7, 2)),
    "conv2d-dilated": (lambda: layers.Conv2D(3, 3, padding="same", dilation_rate=2), (6, 6, 2)),
    "conv2d-uneven": (lambda: layers.Conv2D(2, (3, 2), (2, 1), "same"), (5, 6, 2)),
    "conv2d-groups": (lambda: layers.Conv2D(4, 3, padding="same", groups=2), (5, 5, 4)),
    "conv3d": (lambda: layers.Conv3D(2, 2, padding="same"), (3, 3, 3, 2)),
    "depthwise1d": (lambda: layers.DepthwiseConv1D(3, padding="same"), (6, 2)),
    "depthwise2d": (
        lambda: layers.DepthwiseConv2D(3, 2, padding="same", depth_multiplier=2),
        (6, 6, 2),
    ),
    "average1d": (lambda: layers.AveragePooling1D(3, 2), (7, 2)),
    "average2d": (lambda: layers.AveragePooling2D(2), (6, 6, 2)),
    "average2d-overlapping": (lambda: layers.AveragePooling2D(3, 2), (7, 7, 2)),
    "average3d": (lambda: layers.AveragePooling3D(2), (4, 4, 4, 2)),
    "global-average1d": (lambda: layers.GlobalAveragePooling1D(), (6, 3)),
    "global-average2d": (lambda: layers.GlobalAveragePooling2D(), (4, 5, 3)),
    "flatten": (lambda: layers.Flatten(), (3, 2)),
    "reshape": (lambda: layers.Reshape((2, 3)), (3, 2)),
    "permute": (lambda: layers.Permute((2, 1)), (3, 2)),
    "padding": (lambda: layers.ZeroPadding2D(1), (3, 3, 2)),
    "rescaling": (lambda: layers.Rescaling(3.0, 1.0), (4,)),
    "dropout": (lambda: layers.Dropout(0.5), (4,)),
}
if BACKEND != "torch":  # where Keras repeats the border in place of leaving it out
    LINEAR["average2d-same"] = (lambda: layers.AveragePooling2D(3, 2, "same"), (6, 5, 2))
FIRST = {"data_format": "channels_first"}
if BACKEND != "tensorflow":  # which has no such convolution on the processor
    LINEAR |= {
        "conv2d-first": (lambda: layers.Conv2D(3, 3, 2, "same", **FIRST), (2, 6, 5)),
        "depthwise2d-first": (lambda: layers.DepthwiseConv2D(3, **FIRST), (2, 6, 5)),
        "average2d-first": (lambda: layers.AveragePooling2D(2, **FIRST), (2, 6, 4)),
        "global-average2d-first": (lambda: layers.GlobalAveragePooling2D(**FIRST), (2, 6, 4)),
    }


@RANKS
@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers_against_explicit_jacobians(name, rank):
    make, shape = LINEAR[name]
    m, model = factor_of([make()], shape, rank=rank)
    jacobian = reference.jacobian(after_first(model), shape)
    np.testing.assert_allclose(m, reference.average_eigenvalue(jacobian, rank), **CLOSE)


def kernel_jacobian(layer, x):
    """Of one layer's output by its kernel, at one input: by what it makes of each unit kernel."""
    kernel, others = layer.kernel, [v for v in layer.variables if v is not layer.kernel]
    for variable in others:
        variable.assign(np.zeros(variable.shape))
    size, columns = int(np.prod(kernel.shape)), []
    for unit in np.eye(size):
        kernel.assign(unit.reshape(kernel.shape))
        columns.append(ops.convert_to_numpy(layer(x)).ravel())
    return np.array(columns).T


@pytest.mark.parametrize("name", [name for name in LINEAR if name.startswith(("de", "conv"))])
def test_kernels_and_biases_against_explicit_jacobians(name):
    """J^T J of a kernel: the same block for every filter, whose mean eigenvalue is asked for."""
    make, shape = LINEAR[name]
    layer = make()
    model = randomized(keras.Sequential([keras.Input(shape), layer]))
    x = rng().normal(0.3, 1.0, (4, *shape)).astype("float32")
    found = [c for _, c in curvatures(model, x)]
    kernel, bias = layer.kernel, layer.bias
    of_kernel = []
    for sample in x:
        jacobian = kernel_jacobian(layer, sample[None])
        of_kernel.append((jacobian**2).sum() / jacobian.shape[1])
    positions = np.prod(model.output_shape[1:]) / bias.shape[0]
    np.testing.assert_allclose(found, [np.mean(of_kernel), positions], rtol=1e-5)
    assert [v is w for (v, _), w in zip(curvatures(model, x), (kernel, bias))] == [True, True]


def test_a_convolution_of_one_pixel_is_dense():
    x = rng().normal(size=(8, 3)).astype("float32")
    dense = keras.Sequential([keras.Input((3,)), layers.Dense(5), layers.Dense(2)])
    one = [layers.Conv2D(5, 1), layers.Conv2D(2, 1)]
    conv = keras.Sequential([keras.Input((1, 1, 3)), *one])
    randomized(dense)
    randomized(conv)
    for a, b in zip(curvatures(dense, x), curvatures(conv, x[:, None, None])):
        assert a[1] == pytest.approx(b[1], rel=1e-5)


@RANKS
@pytest.mark.parametrize(
    ("make", "shape", "outputs"),
    [
        (lambda: layers.MaxPooling2D(2), (4, 4, 3), 12),
        (lambda: layers.MaxPooling2D(3, 2, "same"), (5, 5, 2), 18),
        (lambda: layers.MaxPooling1D(3), (9, 2), 6),
        (lambda: layers.GlobalMaxPooling2D(), (4, 4, 3), 3),
    ],
)
def test_max_pooling(make, shape, outputs, rank):
    m, _ = factor_of([make()], shape, rank=rank)
    assert m == pytest.approx(outputs / (outputs if rank == "min" else np.prod(shape)))


@RANKS
def test_average_pooling_is_one_part_of_its_window(rank):
    m, _ = factor_of([layers.AveragePooling2D(2)], (6, 6, 2), rank=rank)
    assert m == pytest.approx(1 / 4 if rank == "min" else 1 / 16)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "silu", "elu", "leaky_relu"])
@pytest.mark.parametrize("inline", [True, False])
def test_activations(activation, inline):
    function = getattr(keras.activations, activation)
    second = layers.Dense(5, activation=activation if inline else None)
    chain = [second] if inline else [second, layers.Activation(activation)]
    # Another layer on top: at the output an activation may belong to the loss.
    x = 3.0 * rng().normal(size=(200, 4)).astype("float32")
    m, model = factor_of([*chain, layers.Dense(5, use_bias=False)], (4,), x)
    linear, _ = factor_of([layers.Dense(5), layers.Dense(5, use_bias=False)], (4,), x)
    z = ops.convert_to_numpy(model.layers[0](x)).astype(float)
    z = z @ ops.convert_to_numpy(second.kernel) + ops.convert_to_numpy(second.bias)
    step = 1e-3
    high, low = (ops.convert_to_numpy(function((z + s).astype("float32"))) for s in (step, -step))
    slopes = ((high - low) / (2 * step)).astype(float)
    expected = (z > 0).mean() if activation == "relu" else (slopes**2).mean()
    assert m / linear == pytest.approx(expected, rel=1e-5 if activation == "relu" else 0.01)
    assert second.activation in (function, keras.activations.linear)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda: layers.ReLU(), 0.5),
        (lambda: layers.ReLU(negative_slope=0.5), (1 + 0.25) / 2),
        (lambda: layers.LeakyReLU(negative_slope=0.2), (1 + 0.04) / 2),
        (lambda: layers.Activation("relu"), 0.5),
        (lambda: layers.Activation("linear"), 1.0),
        (lambda: layers.ELU(), 0.5 + 0.336 / 2),
    ],
)
def test_static_activations_see_normal_numbers(layer, expected):
    """E exp(2z) over the negative half of the normal distribution is 2 * 0.168."""
    m, _ = factor_of([layer(), layers.Flatten()], (4,))
    assert m == pytest.approx(expected, rel=0.01)


def test_the_output_s_link_is_part_of_the_loss():
    for link in ("softmax", "sigmoid", "linear"):
        inline, _ = factor_of([layers.Dense(3, activation=link)], (4,))
        alone, _ = factor_of([layers.Dense(3), layers.Activation(link)], (4,))
        plain, _ = factor_of([layers.Dense(3)], (4,))
        assert inline == alone == plain
    m, _ = factor_of([layers.Dense(3), layers.Softmax()], (4,))
    assert m == plain
    m, _ = factor_of([layers.Dense(3, activation="tanh")], (4,))
    assert m < 0.7 * plain


# ----------------------------------------------------------------------------- normalisation layers


def test_batch_normalization_in_training():
    x = rng().normal(0.5, 2.0, (50, 4, 4, 3)).astype("float32")
    norm = layers.BatchNormalization()
    model, first = below(norm, shape=(4, 4, 3))
    found = {id(v): c for v, c in curvatures(model, x)}
    z = ops.convert_to_numpy(first(x)).astype(float)
    gamma = ops.convert_to_numpy(norm.gamma).astype(float)
    m = np.mean(gamma**2 / (z.var(axis=(0, 1, 2)) + norm.epsilon))
    assert found[id(first.bias)] == pytest.approx(16 * m, rel=1e-5)
    assert found[id(norm.gamma)] == found[id(norm.beta)] == 16.0
    # What is above sees what training makes of it, and the moving averages stay.
    before = [ops.convert_to_numpy(v) for v in norm.non_trainable_variables]
    model = keras.Sequential([keras.Input((4, 4, 3)), *model.layers, layers.Dense(2)])
    above = curvatures(model, x)[-2][1]
    normal = (z - z.mean(axis=(0, 1, 2))) / np.sqrt(z.var(axis=(0, 1, 2)) + norm.epsilon)
    seen = gamma * normal + ops.convert_to_numpy(norm.beta)
    assert above == pytest.approx(16 * np.mean(seen**2), rel=1e-5)
    for a, v in zip(before, norm.non_trainable_variables):
        np.testing.assert_array_equal(a, ops.convert_to_numpy(v))


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_normalization_by_its_moving_variance(frozen):
    """Without inputs, and where it is frozen, as Keras then uses it in training, too."""
    norm = layers.BatchNormalization(center=False)
    norm.trainable = not frozen
    model, first = below(norm, shape=(3,))
    found = {id(v): c for v, c in curvatures(model, np.ones((5, 3)) if frozen else None)}
    gamma, variance = (ops.convert_to_numpy(v) for v in (norm.gamma, norm.moving_variance))
    expected = np.mean(gamma**2 / (variance + norm.epsilon))
    assert found[id(first.bias)] == pytest.approx(expected, rel=1e-5)
    assert (id(norm.gamma) in found) == (not frozen)


def test_batch_normalization_against_its_exact_jacobian():
    """The exact trace is smaller by (N - 2) / N."""
    x = rng().normal(0.5, 2.0, (6, 2))
    eps = layers.BatchNormalization().epsilon

    def normalised(x):
        return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + eps)

    trace = 0.0
    for i in range(6):
        for j in range(2):
            high, low = x.copy(), x.copy()
            high[i, j] += 1e-5
            low[i, j] -= 1e-5
            trace += (((normalised(high) - normalised(low)) / 2e-5) ** 2).sum()
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(2, kernel_initializer="identity"),
            layers.BatchNormalization(),
        ]
    )
    (_, kernel), (_, bias), *_ = curvatures(model, x)
    assert bias * (6 - 2) / 6 == pytest.approx(trace / 12, rel=1e-3)
    assert kernel == pytest.approx(bias * np.mean(x**2), rel=1e-5)


@pytest.mark.parametrize("axis", [-1, [1, 2]])
def test_layer_normalization(axis):
    x = rng().normal(0.5, 2.0, (30, 5, 3)).astype("float32")
    norm = layers.LayerNormalization(axis=axis)
    model, first = below(norm, shape=(5, 3))
    found = {id(v): c for v, c in curvatures(model, x)}
    z = ops.convert_to_numpy(first(x)).astype(float)
    axes = (1, 2) if axis == [1, 2] else (2,)
    gamma = ops.convert_to_numpy(norm.gamma).astype(float)
    m = np.mean(gamma**2 / (z.var(axis=axes, keepdims=True) + norm.epsilon))
    assert found[id(first.bias)] == pytest.approx(5 * m, rel=1e-5)
    assert found[id(norm.gamma)] == found[id(norm.beta)] == (1.0 if axis == [1, 2] else 5.0)


def test_nothing_is_dropped_and_no_seed_is_used():
    drop = layers.Dropout(0.5, seed=3)
    chain = [layers.Dense(4), drop, layers.Dense(3)]
    model = randomized(keras.Sequential([keras.Input((4,)), *chain]))
    before = ops.convert_to_numpy(drop.seed_generator.state)
    found = [c for _, c in curvatures(model, np.ones((50, 4)))]
    outputs = ops.convert_to_numpy(model.layers[0](np.ones((1, 4), "float32")))
    assert found[2] == pytest.approx(np.mean(outputs**2), rel=1e-5)
    np.testing.assert_array_equal(before, ops.convert_to_numpy(drop.seed_generator.state))


def test_embedding():
    tokens = np.array([[1, 1, 2], [2, 2, 2], [4, 1, 1]])
    chain = [layers.Embedding(9, 4), layers.Flatten(), layers.Dense(2)]
    model = randomized(keras.Sequential([keras.Input((3,), dtype="int32"), *chain]))
    (table, measured), *_ = curvatures(model, tokens)
    assert table is chain[0].embeddings
    kernel = ops.convert_to_numpy(chain[2].kernel)
    assert measured == pytest.approx(3 / 3 * np.mean(kernel**2) * 2, rel=1e-5)
    assert curvatures(model)[0][1] == pytest.approx(3 / 9 * np.mean(kernel**2) * 2, rel=1e-5)
