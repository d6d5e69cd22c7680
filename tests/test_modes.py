"""The ways in which TensorFlow runs a step give one result."""

import keras
import numpy as np
import problems
import pytest
import tensorflow as tf
from cases import CORE_CASES, TABLE
from test_parity import assert_equal

import tf_blocknorm as tfb

STEPS = 6


def by_name(name):
    return next(case for case in TABLE if case.name == name)


@CORE_CASES
def test_built_before_the_first_step_or_in_it(case):
    """Within `fit`, TensorFlow builds an optimizer inside the trace of the first step."""
    rows = problems.rows(STEPS)
    lazy = problems.train(problems.compiled(case.optimizer()), rows)
    model = problems.compiled(case.optimizer())
    model.optimizer.build(model.trainable_variables)
    for a, b in zip(lazy, problems.train(model, rows)):
        np.testing.assert_array_equal(a, b)


@CORE_CASES
@pytest.mark.parametrize(
    "mode", [{"jit_compile": False}, {"jit_compile": True}], ids=["graph", "xla"]
)
def test_accumulated_micro_batches_are_one_batch(case, mode):
    if case.rates:
        pytest.skip("Keras's schedules count micro-batches")
    if case.arguments.get("use_ema"):
        pytest.skip("Keras averages the weights after every micro-batch")
    rows = problems.rows(3 * STEPS)
    model = problems.compiled(case.optimizer(gradient_accumulation_steps=3), **mode)
    assert_equal(problems.train(model, rows), case.reference(problems.gradients(rows, 3)))


@CORE_CASES
def test_mixed_float16(case):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        rows = problems.half_precision_rows(STEPS)
        model = problems.compiled(case.optimizer())
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        actual = problems.train(model, rows)
    finally:
        keras.config.set_dtype_policy("float32")
    assert_equal(actual, case.reference(problems.gradients(rows)))


@CORE_CASES
def test_steps_per_execution(case):
    rows = problems.rows(STEPS)
    model = problems.compiled(case.optimizer(), steps_per_execution=4)
    assert_equal(problems.train(model, rows), case.reference(problems.gradients(rows)))


@CORE_CASES
def test_one_trace_for_all_steps_and_rates(case, monkeypatch):
    traces = []
    original = case.cls.on_gradients

    def counted(self, gradients, variables):
        traces.append(1)
        return original(self, gradients, variables)

    monkeypatch.setattr(case.cls, "on_gradients", counted)
    model = problems.compiled(case.optimizer())
    problems.train(model, problems.rows(2))
    first = len(traces)
    assert first >= 1
    if case.rates is None:
        model.optimizer.learning_rate = 0.001
    problems.train(model, problems.rows(STEPS))
    assert len(traces) == first


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_update_agrees_in_a_custom_loop(jit_compile):
    """`jit_compile=True` on the optimizer, called eagerly: compiled once, and equal."""
    case = by_name("adam-scale-compiled")
    model = problems.probe()
    optimizer = case.cls(**{**case.arguments, "jit_compile": jit_compile})
    gradients = problems.gradients(problems.rows(STEPS))
    for step in gradients:
        step = [tf.constant(g, tf.float32) for g in step]
        optimizer.apply(step, model.trainable_variables)
    assert_equal(model.get_weights(), case.reference(gradients))
    assert len(optimizer._scratch.compiled) == int(jit_compile)


# ------------------------------------------------------------------------------- non-finite
# gradients


@pytest.mark.parametrize("jit_compile", [False, True])
def test_loss_scaling_skips_steps_that_are_not_finite(jit_compile):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        rows = problems.half_precision_rows(STEPS)
        rows[2, 5] = np.inf
        rows[4, -1] = np.nan
        case = by_name("sgd-rms-layer")
        model = problems.compiled(case.optimizer(), jit_compile=jit_compile)
        actual = problems.train(model, rows)
    finally:
        keras.config.set_dtype_policy("float32")
    assert int(model.optimizer.iterations) == STEPS - 2
    healthy = problems.gradients(np.delete(rows, [2, 4], axis=0))
    assert_equal(actual, case.reference(healthy))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "name",
    ["sgd-max-nesterov", "sgd-min_max-unit", "sgd-update-max", "adam", "novograd", "lars", "lamb"],
)
def test_a_broken_gradient_is_seen_in_the_weights(value, jit_compile, name):
    case = by_name(name)
    model = problems.compiled(case.optimizer(), jit_compile=jit_compile)
    rows = problems.rows(2)
    rows[1, 4] = value  # in a/kernel, second row, column 1
    kernel, bias = problems.train(model, rows)[:2]
    broken = np.isnan(kernel[:, 1] if case.options.get("block") == "unit" else kernel)
    assert broken.all()
    assert np.isfinite(bias).all()


# --------------------------------------------------------------------------------- sparse gradients

OPTIMIZERS = {
    "sgd": lambda **o: tfb.BlockNormSGD(0.1, **o),
    "momentum-layer": lambda **o: tfb.BlockNormSGD(0.1, 0.9, norm="max", block="layer", **o),
    "unit": lambda **o: tfb.BlockNormSGD(0.1, norm="std", block="unit", **o),
    "update": lambda **o: tfb.BlockNormSGD(0.1, 0.9, norm="l1", normalize="update", **o),
    "adam": lambda **o: tfb.BlockNormAdam(0.1, norm="rms", **o),
    "novograd": lambda **o: tfb.NovoGrad(0.1, **o),
    "lars": lambda **o: tfb.LARS(0.1, trust_coefficient=0.5, **o),
    "lamb": lambda **o: tfb.LAMB(0.1, **o),
}


@pytest.mark.parametrize("mode", [None, False, True], ids=["eager", "graph", "xla"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"clipnorm": 0.5},
        {"clipvalue": 0.3},
        {"global_clipnorm": 0.5},
        {"loss_scale_factor": 8.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sparse_equals_dense(name, mode, more):
    """Rows that come twice, and rows that cancel."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(7, 3)).astype("float32")
    indices = np.array([[1, 1, 5, 5, 2], [0, 3, 3, 3, 6]])
    values = rng.normal(size=(2, 5, 3)).astype("float32")
    values[0, 3] = -values[0, 2]
    values[1, 1] *= 100

    def train(sparse):
        table, bias = keras.Variable(start), keras.Variable(np.ones(3, "float32"))
        optimizer = OPTIMIZERS[name](**more)
        optimizer.build([table, bias])

        def step(values, indices):
            gradient = tf.IndexedSlices(values, indices, tf.constant([7, 3]))
            gradient = gradient if sparse else tf.convert_to_tensor(gradient)
            optimizer.apply([gradient, tf.constant([1.0, 2.0, 3.0])], [table, bias])

        run = step if mode is None else tf.function(step, jit_compile=mode)
        for v, i in zip(values, indices):
            run(tf.constant(v), tf.constant(i))
        return table.numpy(), bias.numpy()

    for a, b in zip(train(sparse=True), train(sparse=False)):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


class Batches(keras.utils.PyDataset):
    """Batches whose size Keras does not know before it sees them."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.x[index * 4 : index * 4 + 4], self.y[index * 4 : index * 4 + 4]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sequences_in_batches_of_open_size(name):
    """There, TensorFlow does not know the shape of the gradient of a `Dense` kernel."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 5, 3)).astype("float32"), rng.integers(0, 4, (12, 5))

    def train(*data, **options):
        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense(4, activation="softmax")
        model = keras.Sequential([keras.Input((5, 3)), dense])
        optimizer = OPTIMIZERS[name](clipnorm=0.5)
        monitor = tfb.BlockNormMonitor(update_freq=1)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        model.fit(*data, shuffle=False, verbose=0, callbacks=[monitor], **options)
        return model.get_weights()

    for a, b in zip(train(Batches(x, y)), train(x, y, batch_size=4)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_an_embedding_in_fit_equals_one_hot_vectors(jit_compile):
    rng = np.random.default_rng(1)
    words = rng.integers(0, 5, (24, 6))
    y = rng.normal(size=(24, 1)).astype("float32")

    def train(embedding):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([embedding, keras.layers.Flatten(), keras.layers.Dense(1)])
        optimizer = tfb.BlockNormSGD(0.05, 0.9, norm="l2")
        model.compile(optimizer, "mse", jit_compile=jit_compile)
        one_hot = isinstance(embedding, keras.layers.Dense)
        x = np.eye(9, dtype="float32")[words] if one_hot else words
        model.build(x.shape)
        rng = np.random.default_rng(2)
        model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
        model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    sparse = train(keras.layers.Embedding(9, 4))
    dense = train(keras.layers.Dense(4, use_bias=False))
    for a, b in zip(sparse, dense):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
