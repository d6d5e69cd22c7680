"""TensorFlow's fused operations: where they are used they make the same numbers; where they cannot
be, the plain formulas stand in. (That every row of the table makes them is `test_parity.py`.)"""

import keras
import numpy as np
import pytest
import reference

import tf_blocknorm as tfb

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's operations", allow_module_level=True)

import tensorflow as tf

from benchmarks.contenders import back_matched
from tf_blocknorm import norms
from tf_blocknorm.norms import fused_tensorflow as fused
from tf_blocknorm.norms import second_look_tensorflow
from tf_blocknorm.norms.block import Block

RNG = np.random.default_rng(3)
# Shapes in turns, so that stacked ones have to find their places; one above what is stacked.
SHAPES = [(3, 4), (5,), (3, 4), (), (5,), (300, 300), (2, 3, 4), (3, 4), (5,), (7,)]
NORMS = {
    "l2": lambda x: np.sqrt(np.sum(x**2)),
    "rms": lambda x: np.sqrt(np.mean(x**2)),
    "max": lambda x: np.max(np.abs(x)),
    "min_max": lambda x: (abs(x.max()) + abs(x.min())) / 2,
}


def arrays(dtype="float32"):
    return [
        np.asarray(RNG.normal(0.3, 1.0, shape) * 10.0 ** RNG.uniform(-5, 5)).astype(dtype)
        for shape in SHAPES
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", NORMS)
def test_sizes_are_those_of_numpy(norm, dtype):
    xs = arrays(dtype)
    found = fused.sizes([Block([tf.constant(x)]) for x in xs], norm)
    expected = [NORMS[norm](x.astype("float64")) for x in xs]
    np.testing.assert_allclose(found, expected, rtol=1e-6 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("norm", NORMS)
def test_sizes_of_blocks_of_several_are_those_of_numpy(norm):
    xs = arrays()
    groups = [[0, 1], [2], [3, 4, 5, 6], [7, 8], [9]]
    found = fused.sizes([Block([tf.constant(xs[i]) for i in group]) for group in groups], norm)
    joined = [np.concatenate([xs[i].ravel() for i in group]).astype("float64") for group in groups]
    np.testing.assert_allclose(found, [NORMS[norm](x) for x in joined], rtol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("norm", NORMS)
def test_a_broken_entry_breaks_its_block_and_no_other(norm, broken):
    for place in (0, 2, 5):
        xs = arrays()
        xs[place].flat[-1] = broken
        found = fused.sizes([Block([tf.constant(x)]) for x in xs], norm).numpy()
        assert [i for i, size in enumerate(found) if not np.isfinite(size)] == [place]


def test_long_scalar_products_are_exact():
    x, y = (RNG.normal(0.3, 1.0, 3_000_001).astype("float32") for _ in range(2))
    expected = np.dot(x.astype("float64"), y.astype("float64"))
    (found,) = fused.dots([(tf.constant(x), tf.constant(y[:, None]))])
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_others_are_left_to_the_formulas():
    block = Block([tf.ones((3, 4))])
    assert fused.sizes([block], "std") is None
    assert fused.sizes([Block([tf.ones((3, 4))], per_unit=True), block], "l2") is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_second_look_takes_all_tensors_along(norm, dtype):
    """23 tensors: two parts of 8, one of 4, of 2 and of 1; some blocks have several."""
    xs = arrays("float64") + arrays("float64") + [np.float64(-3.0), *arrays("float64")[:2]]
    groups = [[0, 1], [2], [3], [4, 5, 6], *([i] for i in range(7, 20)), [20], [21, 22]]
    variables = [tf.Variable(np.zeros(x.shape), dtype=dtype) for x in xs]

    @tf.function(autograph=False)
    def measured(tensors):
        blocks = [Block([tensors[i] for i in group]) for group in groups]
        parts, inverses = norms.unmultiplied(blocks, norm)
        shapes = [[x.shape for x in block.tensors] for block in parts]
        assert shapes == [[xs[i].shape for i in group] for group in groups]
        units = [
            [x * inverse for x in block.tensors]
            for block, inverse in zip(parts, tf.unstack(inverses, len(groups)))
        ]
        weights = [Block([variables[i] for i in group]) for group in groups]
        return tf.nest.flatten(units), norms.sizes(blocks, norm), norms.sizes(weights, norm)

    order = [i for group in groups for i in group]
    whole = [np.concatenate([xs[i].ravel() for i in group]) for group in groups]
    sizes = np.array([NORMS[norm](x) for x in whole])
    each = np.concatenate([[size] * len(group) for size, group in zip(sizes, groups)])
    tolerance = 1e-6 if dtype == "float32" else 1e-13
    small, large = (1e-25, 1e30) if dtype == "float32" else (1e-290, 1e290)
    for pattern in ([1.0], [1.0, small, large], [large]):
        scales = np.resize(pattern, len(groups))
        for group, scale in zip(groups, scales):
            for i in group:
                variables[i].assign(tf.constant(xs[i] * scale, dtype))
        units, found, found_of_variables = measured([v.read_value() for v in variables])
        for i, size, unit in zip(order, each, units):
            np.testing.assert_allclose(unit, xs[i] / size, rtol=tolerance)
        np.testing.assert_allclose(found, sizes * scales, rtol=tolerance)
        np.testing.assert_allclose(found_of_variables, sizes * scales, rtol=tolerance)


def test_a_condition_is_traced_once_for_all_graphs():
    def traced():
        measured = tf.function(lambda xs: norms.unmultiplied([Block([x]) for x in xs], "l2")[1])
        graph = measured.get_concrete_function(list(map(tf.constant, arrays()))).graph
        return [op.type for op in graph.get_operations()]

    kinds = traced()
    assert not {"If", "StatelessIf"}.intersection(kinds)
    assert kinds.count("PartitionedCall") == 2  # eight tensors, and two
    before = second_look_tensorflow._function.cache_info().misses
    traced()
    assert second_look_tensorflow._function.cache_info().misses == before


def operations(optimizer, dtype="float32"):
    """The training operations in the graph of an update."""
    variables = [keras.Variable(RNG.normal(size=(3, 4)), dtype=dtype, name="kernel")]
    optimizer.build(variables)
    gradients = [tf.constant(RNG.normal(size=(3, 4)), dtype)]
    step = tf.function(lambda: optimizer.apply(gradients, variables), autograph=False)
    graph = step.get_concrete_function().graph
    return {op.type for op in graph.get_operations() if op.type.startswith("ResourceApply")}


class OwnRule(keras.optimizers.SGD):
    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, 2.0 * learning_rate * gradient)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: tfb.BlockNormSGD(), {"ResourceApplyGradientDescent"}),
        (lambda: tfb.BlockNormSGD(normalize="update"), {"ResourceApplyGradientDescent"}),
        (lambda: tfb.BlockNormSGD(momentum=0.9), {"ResourceApplyKerasMomentum"}),
        (lambda: tfb.BlockNormAdam(), {"ResourceApplyAdam"}),
        (lambda: tfb.BlockNormAdamW(), {"ResourceApplyAdam"}),
        (lambda: tfb.BlockNormAdam(amsgrad=True), {"ResourceApplyAdamWithAmsgrad"}),
        (lambda: tfb.NovoGrad(), {"ResourceApplyMomentum"}),
        (lambda: tfb.LARS(), {"ResourceApplyKerasMomentum"}),
        (lambda: tfb.LAMB(), {"ResourceApplyAdam", "ResourceApplyGradientDescent"}),
        (lambda: tfb.BlockNormRMSprop(), set()),
        (lambda: tfb.block_normalized(OwnRule)(), set()),
        (lambda: back_matched(keras.optimizers.SGD()), {"ResourceApplyGradientDescent"}),
        (lambda: back_matched(keras.optimizers.SGD(0.1, 0.9)), {"ResourceApplyKerasMomentum"}),
        (lambda: back_matched(keras.optimizers.Adam()), set()),
        (lambda: back_matched(OwnRule()), set()),
    ],
)
def test_what_an_update_is_made_of(make, expected):
    assert operations(make()) == expected


def test_short_floats_are_left_to_the_formulas():
    assert operations(tfb.BlockNormSGD(), "bfloat16") == set()


@pytest.mark.parametrize(
    ("cls", "rule", "options"),
    [
        (tfb.BlockNormSGD, "sgd", {}),
        (tfb.BlockNormSGD, "sgd", {"momentum": 0.9}),
        (tfb.BlockNormSGD, "sgd", {"momentum": 0.9, "nesterov": True}),
        (tfb.BlockNormAdam, "adam", {"epsilon": 0.01}),
        (tfb.BlockNormAdam, "adam", {"epsilon": 0.01, "amsgrad": True}),
    ],
)
def test_float64_is_exact(cls, rule, options):
    weights = RNG.normal(size=(3, 4))
    variable = keras.Variable(weights, dtype="float64")
    optimizer, slots = cls(learning_rate=0.125, **options), {}
    for t in range(1, 6):
        gradient = RNG.normal(size=(3, 4)) * 10.0 ** RNG.uniform(-3, 3)
        optimizer.apply([tf.constant(gradient)], [variable])
        unit = gradient / np.linalg.norm(gradient)
        weights = weights - reference.RULES[rule](unit, slots, t, 0.125, **options)
    np.testing.assert_allclose(variable.numpy(), weights, rtol=1e-12)


@pytest.mark.parametrize("make", [tfb.LAMB, tfb.LARS, tfb.BlockNormAdam], ids=lambda c: c.__name__)
def test_convolutions_keep_their_shapes(make):
    """A workspace of changing shape let grappler mix up the kernels' shapes, in every third run."""
    x, y = RNG.normal(size=(16, 12, 12, 3)).astype("float32"), np.arange(16) % 5
    for seed in range(6):
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Conv2D(n, 3, activation="relu") for n in (8, 8, 16, 16)]
        head = [keras.layers.Flatten(), keras.layers.Dense(5, activation="softmax")]
        model = keras.Sequential([keras.Input((12, 12, 3)), *layers, *head])
        loss = "sparse_categorical_crossentropy"
        model.compile(make(0.01), loss, jit_compile=False, steps_per_execution=4)
        history = model.fit(x, y, batch_size=2, verbose=0).history
        assert np.isfinite(history["loss"][0])
