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
from tf_blocknorm.norms import fused_tensorflow as fused
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
    found = fused.dot(tf.constant(x), tf.constant(y[:, None]))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_others_are_left_to_the_formulas():
    block = Block([tf.ones((3, 4))])
    assert fused.sizes([block], "std") is None
    assert fused.sizes([Block([tf.ones((3, 4))], per_unit=True), block], "l2") is None


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


def test_convolutions_keep_their_shapes_under_lamb():
    """A workspace of changing shape let grappler mix up the kernels' shapes, in every third run."""
    x, y = RNG.normal(size=(16, 12, 12, 3)).astype("float32"), np.arange(16) % 5
    for seed in range(6):
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Conv2D(n, 3, activation="relu") for n in (8, 8, 16, 16)]
        head = [keras.layers.Flatten(), keras.layers.Dense(5, activation="softmax")]
        model = keras.Sequential([keras.Input((12, 12, 3)), *layers, *head])
        loss = "sparse_categorical_crossentropy"
        model.compile(tfb.LAMB(0.01), loss, jit_compile=False, steps_per_execution=4)
        history = model.fit(x, y, batch_size=2, verbose=0).history
        assert np.isfinite(history["loss"][0])
