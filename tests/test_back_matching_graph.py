"""The walk over the graph: what adds up, what is invariant, what is refused."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops
from test_back_matching_layers import factor_of, randomized, rng

import tf_blocknorm as tfb
from tf_blocknorm.back_matching import Match, Options, curvatures, multipliers, register_rule
from tf_blocknorm.back_matching.graph import Graph
from tf_blocknorm.back_matching.rules import RULES


def first_bias(model, **options):
    return next(c for v, c in curvatures(model, None, Options(**options)) if "first" in v.path)


def chain_of(*chain):
    """Input of 4 numbers, a layer named first, then what `chain` makes of it."""
    x = keras.Input((4,))
    first = layers.Dense(4, use_bias=False, name="first")(x)
    return randomized(keras.Model(x, chain[0](first) if chain else first))


def square(model, name):
    return np.mean(ops.convert_to_numpy(model.get_layer(name).kernel) ** 2)


@pytest.mark.parametrize("plus", [lambda x, y: layers.Add()([x, y]), lambda x, y: x + y])
def test_residual(plus):
    def block(x):
        y = layers.Dense(6, name="inner")(x)
        return plus(x, layers.Dense(4, name="outer")(y))

    model = chain_of(block)
    branch = 6 * square(model, "inner") * 4 * square(model, "outer")
    assert first_bias(model) == pytest.approx(1 + branch, rel=1e-5)
    model.get_layer("outer").kernel.assign(np.zeros((6, 4)))
    assert first_bias(model) == 1.0


def test_the_exact_trace_of_a_residual_block_is_near():
    size, draw = 100, rng()
    x = keras.Input((size,))
    first = layers.Dense(size, use_bias=False, name="first")(x)
    branch = layers.Dense(size, use_bias=False, name="branch")
    model = keras.Model(x, first + branch(first))
    kernel = draw.normal(0.0, np.sqrt(0.5 / size), (size, size))
    branch.kernel.assign(kernel)
    exact = ((np.eye(size) + kernel) ** 2).sum() / size
    assert first_bias(model) == pytest.approx(exact, rel=0.03)


def test_the_exact_trace_of_a_relu_network_is_near():
    """Of the Gauss-Newton matrix by each hidden tensor, the mean over 200 samples."""
    sizes, draw = (30, 80, 50, 60, 10), rng()
    hidden = [layers.Dense(n, activation="relu") for n in sizes[1:-1]]
    model = keras.Sequential([keras.Input((30,)), *hidden, layers.Dense(10)])
    weights = [draw.normal(0, np.sqrt(2 / n), (n, m)) for n, m in itertools.pairwise(sizes)]
    for layer, kernel in zip(model.layers, weights):
        layer.kernel.assign(kernel)
    x = draw.normal(size=(200, 30))
    biases = [c for v, c in curvatures(model, x) if v.name == "bias"]
    masks, z = [], x
    for kernel in weights[:-1]:
        z = z @ kernel
        masks.append(z > 0)
        z = np.maximum(z, 0.0)
    jacobians = np.broadcast_to(weights[-1], (200, *weights[-1].shape))
    for k in (2, 1, 0):
        jacobians = masks[k][:, :, None] * jacobians
        exact = np.mean(np.square(jacobians).sum(axis=(1, 2))) / sizes[k + 1]
        assert biases[k] == pytest.approx(exact, rel=0.1)
        jacobians = weights[k] @ jacobians


def test_projection_and_fan_out():
    def both(x):
        a, b = layers.Dense(5, name="a")(x), layers.Dense(5, name="b")(x)
        return layers.Concatenate()([layers.Add()([a, b]), layers.Dense(2, name="c")(x)])

    model = chain_of(both)
    expected = 5 * square(model, "a") + 5 * square(model, "b") + 2 * square(model, "c")
    assert first_bias(model) == pytest.approx(expected, rel=1e-5)


def test_average_and_subtract():
    assert first_bias(chain_of(lambda x: layers.Average()([x, layers.Flatten()(x)]))) == 0.5
    assert first_bias(chain_of(lambda x: layers.Subtract()([x, layers.Flatten()(x)]))) == 2.0


def test_several_outputs():
    x = keras.Input((4,))
    first = layers.Dense(4, use_bias=False, name="first")(x)
    model = randomized(keras.Model(x, [first, layers.Dense(3, name="top")(first)]))
    assert first_bias(model) == pytest.approx(1 + 3 * square(model, "top"), rel=1e-5)


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_models_within_models(kind):
    inner = [layers.Dense(5, activation="tanh", name="i"), layers.Dense(3, name="j")]
    if kind == "sequential":
        nested = keras.Sequential([keras.Input((4,)), *inner])
    else:
        x = keras.Input((4,))
        nested = keras.Model(x, inner[1](inner[0](x)))
    x = keras.Input((4,))
    first = layers.Dense(4, name="first")
    model = randomized(keras.Model(x, layers.Dense(2)(nested(first(x)))))
    flat = keras.Sequential([keras.Input((4,)), first, *inner, model.layers[-1]])
    batch = rng().normal(size=(20, 4)).astype("float32")
    for a, b in zip(curvatures(model, batch), curvatures(flat, batch)):
        assert a[0] is b[0]
        assert a[1] == pytest.approx(b[1], rel=1e-5)


def test_a_shared_layer_adds_up_its_uses():
    shared = layers.Dense(4, use_bias=False, name="first")
    x = keras.Input((4,))
    model = randomized(keras.Model(x, shared(shared(x))))
    value = square(model, "first")
    assert first_bias(model) == pytest.approx(1 + 4 * value, rel=1e-5)


def test_inputs_of_any_form():
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    y = layers.Concatenate()([layers.Dense(2)(a), layers.Dense(2)(b)])
    x = {"a": np.full((4, 2), 2.0), "b": np.full((4, 3), 3.0)}
    by_name = keras.Model({"a": a, "b": b}, y)
    in_order = keras.Model([a, b], y)
    for model, inputs in ((by_name, x), (in_order, [x["a"], x["b"]])):
        kernels = [c for v, c in curvatures(model, inputs) if v.name == "kernel"]
        assert kernels == [4.0, 9.0]


def test_what_lies_below_all_that_is_trained_needs_no_rule():
    frozen = layers.Dense(3, activation="tanh")
    frozen.trainable = False
    chain = [layers.LSTM(3, trainable=False), frozen, layers.Dense(2, name="first")]
    model = randomized(keras.Sequential([keras.Input((5, 2)), *chain]))
    assert [v.name for v, _ in curvatures(model, np.ones((4, 5, 2)))] == ["kernel", "bias"]


def test_frozen_layers_pass_on_what_is_above_them():
    model = chain_of(lambda x: layers.Dense(3, name="top")(x))
    expected = first_bias(model)
    model.get_layer("top").trainable = False
    assert first_bias(model) == expected


# ---------------------------------------------------------------------------------- invariances


def test_rescaling_changes_multipliers_by_the_squares_and_training_not_at_all():
    sizes, factors = (5, 8, 6, 3), (4.0, 0.125, 2.0)
    x = rng().normal(size=(32, 5)).astype("float32")
    y = rng().normal(size=(32, 3)).astype("float32")

    def network(factors, **callback):
        dense = [
            layers.Dense(n, activation="relu" if n > 3 else None, use_bias=False) for n in sizes[1:]
        ]
        model = randomized(keras.Sequential([keras.Input((5,)), *dense]))
        model.set_weights([f * w for f, w in zip(factors, model.get_weights())])
        model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
        options = {"update_freq": 1, "normalize": None, "bounds": None, **callback}
        # The powers of two: no rounding differs.
        callback = tfb.BackMatching(x, **options)
        model.fit(x, y, 32, epochs=5, verbose=0, callbacks=[callback])
        return model.predict(x, verbose=0), np.array(list(callback.multipliers.values()))

    (a, rates), (b, rescaled) = network((1, 1, 1)), network(factors)
    np.testing.assert_allclose(rescaled / rates, np.square(factors), rtol=1e-5)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    plain = {"bounds": (1.0, 1.0)}
    (a, _), (b, _) = network((1, 1, 1), **plain), network(factors, **plain)
    assert not np.abs(a - b).max() < 0.1, "which SGD does not do"


def test_orthogonal_layers_that_see_white_inputs_are_sgd():
    draw = rng()
    x = np.linalg.qr(draw.normal(size=(12, 4)))[0] * np.sqrt(12.0)
    np.testing.assert_allclose(x.T @ x / 12, np.eye(4), atol=1e-12)
    orthogonal = {"kernel_initializer": keras.initializers.Orthogonal(seed=0)}
    model = keras.Sequential([keras.Input((4,)), *[layers.Dense(4, **orthogonal) for _ in "abc"]])
    found = curvatures(model, x)
    np.testing.assert_allclose([c for _, c in found], 1.0, rtol=1e-5)
    np.testing.assert_allclose(multipliers(found), 1.0, rtol=1e-5)


def test_one_dense_layer_and_one_sample_are_normalised_least_mean_squares():
    """The mean of the eigenvalues counts those that are 0: 1 / n of the rate fits the sample."""
    x, y = rng().normal(size=(1, 7)), rng().normal(size=(1, 3))
    model = keras.Sequential([keras.Input((7,)), layers.Dense(3, use_bias=False)])
    model.compile(
        keras.optimizers.SGD(1 / 7), lambda y, z: 0.5 * ops.sum(ops.square(y - z), axis=-1)
    )
    callback = tfb.BackMatching(x, normalize=None)
    model.fit(x, y, verbose=0, callbacks=[callback])
    np.testing.assert_allclose(model.predict(x, verbose=0), y, rtol=1e-5)
    (rate,) = callback.multipliers.values()
    assert rate == pytest.approx(7 / (x**2).sum(), rel=1e-5)


def test_a_stack_with_batch_normalisation_is_static_in_the_number_of_filters():
    """With He initialisation, rates grow with the filters, whatever sizes and strides are."""
    chain = []
    for filters, stride in ((16, 1), (32, 2), (128, 1)):
        chain += [
            layers.Conv2D(filters, 3, stride, "same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    model = keras.Sequential([keras.Input((16, 16, 16)), *chain, layers.GlobalAveragePooling2D()])
    for layer in chain[::3]:
        fan_in = 9 * layer.kernel.shape[-2]
        value = rng().normal(size=layer.kernel.shape)
        layer.kernel.assign(value * np.sqrt(2 / fan_in / np.mean(value**2)))
    found = [(v, c) for v, c in curvatures(model) if v.name == "kernel"]
    rates = 1 / np.array([c for _, c in found])
    # Padding lowers how often taps see the image, a little more on smaller maps.
    np.testing.assert_allclose(rates / rates[0], [1, 2, 8], rtol=0.35)


# --------------------------------------------------------------------------- multipliers, errors


def variables(*sizes):
    return [keras.Variable(np.ones(size)) for size in sizes]


def test_the_geometric_mean_of_the_multipliers_of_all_weights_is_one():
    found = list(zip(variables(3, (2, 5), 1), [4.0, 0.5, 1e-2]))
    rates = multipliers(found)
    assert np.prod(np.power(rates, [3, 10, 1])) == pytest.approx(1.0)
    np.testing.assert_allclose(np.divide(rates, rates[0]), [1, 8, 400])
    assert multipliers(found, Options(normalize=None)) == pytest.approx([0.25, 2.0, 100.0])


def test_bounds_come_last():
    found = list(zip(variables(100, 1, 1), [7.0, 7e-9, 7e9]))
    assert multipliers(found, Options(bounds=(0.5, 20.0)))[1:] == [20.0, 0.5]
    assert multipliers(found)[1:] == [1e3, 1e-3]


def test_no_curvature_is_no_gradient():
    found = list(zip(variables(2, 2, 5), [0.25, 4.0, 0.0]))
    assert multipliers(found) == pytest.approx([4.0, 0.25, 1.0])
    assert multipliers(list(zip(variables(2), [0.0]))) == [1.0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_breaks_all(value):
    assert np.isnan(multipliers(list(zip(variables(2, 3), [1.0, value])))).all()


class Doubled(layers.Dense):
    def call(self, x):
        return 2.0 * super().call(x)


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (lambda: layers.LSTM(3, name="odd"), "layers of the class LSTM"),
        (lambda: Doubled(3, name="odd"), "layers of the class Doubled"),
        (lambda: layers.Activation(lambda x: x, name="odd"), "the activation '<lambda>'"),
        (lambda: layers.Activation("softmax", name="odd"), "the activation 'softmax'"),
    ],
)
def test_layers_without_a_rule(layer, what):
    chain = [layers.Dense(4, name="first"), layer(), layers.Flatten(), layers.Dense(2, name="top")]
    model = randomized(keras.Sequential([keras.Input((5, 4)), *chain]))
    with pytest.raises(ValueError, match=rf"no rule for {what}.*Received: layer 'odd'"):
        curvatures(model)
    found = curvatures(model, None, Options(unknown="identity"))
    assert {v.path.split("/")[-2] for v, _ in found} == {"first", "top"}
    m = np.sum(ops.convert_to_numpy(chain[-1].kernel) ** 2) / chain[-1].kernel.shape[0]
    assert first_bias_of(found) == pytest.approx(5 * m, rel=1e-5)


def first_bias_of(found):
    return next(c for v, c in found if v.path.endswith("first/bias"))


def test_operations_with_several_outputs_are_refused_or_pass_all_on():
    x = keras.Input((4,))
    left, right = ops.split(layers.Dense(4, name="first")(x), 2, axis=-1)
    model = keras.Model(x, layers.Concatenate()([left, right, right]))
    with pytest.raises(ValueError, match="no rule for layers of the class Split"):
        curvatures(model)
    assert first_bias_of(curvatures(model, None, Options(unknown="identity"))) == 3.0


def test_multiplier_one_for_layers_without_a_rule():
    chain = [layers.Dense(4), layers.LSTM(3), layers.Dense(2)]
    model = randomized(keras.Sequential([keras.Input((5, 4)), *chain]))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    callback = tfb.BackMatching(unknown="identity")
    model.fit(np.ones((4, 5, 4)), np.ones((4, 2)), verbose=0, callbacks=[callback])
    rates = [(path.split("/")[-2], rate) for path, rate in callback.multipliers.items()]
    assert {rate == 1.0 for name, rate in rates if name.startswith("lstm")} == {True}
    assert {rate == 1.0 for name, rate in rates if name.startswith("dense")} != {True}


def test_variables_without_a_rule():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="odd"), layers.Dense(2)])
    model.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match=r"variables \['.*odd/lora_kernel_a', .*layer 'odd'"):
        curvatures(model)


def test_a_rule_of_ones_own():
    class Triple(layers.Layer):
        def call(self, x):
            return 3.0 * x

    @register_rule(Triple)
    def triple(seen):
        return Match(9.0)

    try:
        m, _ = factor_of([Triple()], (4,))
        assert m == 9.0
    finally:
        del RULES[Triple]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


class Changed(keras.Model):
    """Functional, but for what it does."""

    def call(self, x):
        return 2.0 * super().call(x)


def test_models_that_are_no_graph():
    model = Subclassed()
    model(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"`model` must be functional or .* class Subclassed"):
        curvatures(model)
    with pytest.raises(ValueError, match=r"class Sequential, which is not built"):
        curvatures(keras.Sequential([layers.Dense(2)]))
    x = keras.Input((3,))
    with pytest.raises(ValueError, match="class Changed"):
        curvatures(Changed(x, layers.Dense(2)(x)))
    nested = keras.Sequential([keras.Input((3,)), layers.Dense(3), Subclassed()])
    with pytest.raises(ValueError, match="no rule for layers of the class Subclassed"):
        curvatures(nested)


def test_shapes_that_vary_need_inputs():
    chain = [layers.Conv2D(3, 3, padding="same"), layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((None, None, 2)), *chain, layers.Dense(2)])
    with pytest.raises(ValueError, match=r"`inputs` must be given .* Received: inputs=None, and"):
        curvatures(model)
    assert len(curvatures(model, np.ones((3, 6, 6, 2)))) == 4


def test_the_graph_s_private_parts_are_there():
    """What `graph.py` reads of Keras."""
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(2)(x))
    assert callable(model._standardize_inputs)
    assert layers.Dropout(0.5)._call_has_training_arg
    (node,) = (n for nodes in model._nodes_by_depth.values() for n in nodes if not n.is_input)
    assert node.operation is model.layers[1]
    assert (len(node.input_tensors), len(node.outputs)) == (1, 1)
    assert node.arguments.fill_in({id(node.input_tensors[0]): 5}) == ((5,), {})
    assert keras.Sequential([x, layers.Dense(2)])._functional is not None
    assert len(Graph(model).uses) == 1
