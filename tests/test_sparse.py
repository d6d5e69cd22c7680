"""Gradients of embeddings, and others whose shape TensorFlow does not know."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocknorm as tfb
from tf_blocknorm.optimizers import rows

OPTIMIZERS = {
    "sgd": lambda **o: tfb.BlockNormSGD(0.1, **o),
    "rms-model": lambda **o: tfb.BlockNormSGD(0.1, norm="rms", block="model", **o),
    "avg-l1": lambda **o: tfb.BlockNormSGD(0.1, norm="avg_l1", weight_decay=0.1, **o),
    "max-layer": lambda **o: tfb.BlockNormSGD(0.1, norm="max", block="layer", use_ema=True, **o),
    "l1-excluded": lambda **o: tfb.BlockNormSGD(0.1, norm="l1", exclude=["table"], **o),
    "compiled": lambda **o: tfb.BlockNormSGD(0.1, jit_compile=True, **o),
    "std": lambda **o: tfb.BlockNormSGD(0.1, norm="std", **o),
    "relative": lambda **o: tfb.BlockNormSGD(0.1, scale="parameter", **o),
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
def test_sparse_equals_dense(name, mode, more, monkeypatch):
    """Rows that come twice, with others between, and rows that cancel."""
    monkeypatch.setattr(rows, "LARGE", 1)
    rng = np.random.default_rng(0)
    start = rng.normal(size=(7, 3)).astype("float32")
    indices = np.array([[1, 5, 1, 5, 2], [3, 0, 3, 6, 3]])
    values = rng.normal(size=(2, 5, 3)).astype("float32")
    values[0, 3] = -values[0, 1]
    values[1, 2] *= 100

    def train(sparse):
        table = keras.Variable(start, name="table")
        bias = keras.Variable(np.ones(3, "float32"), name="bias")
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


KEEP_ROWS = ("sgd", "rms-model", "avg-l1", "max-layer", "l1-excluded", "compiled")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_moves_rows_and_what_a_dense_gradient(name, monkeypatch):
    monkeypatch.setattr(rows, "LARGE", 1)
    seen = []
    optimizer = OPTIMIZERS[name]()
    step = optimizer.update_step
    # Not to be traced: TensorFlow would keep what was seen then.
    monkeypatch.setattr(optimizer, "jit_compile", None)
    monkeypatch.setattr(optimizer, "update_step", lambda g, *more: (seen.append(g), step(g, *more)))
    table = keras.Variable(np.ones((7, 3), "float32"), name="table")
    gradient = tf.IndexedSlices(tf.ones((2, 3)), tf.constant([1, 5]), tf.constant([7, 3]))
    optimizer.apply([gradient], [table])
    assert rows.is_sparse(seen[0]) == (name in KEEP_ROWS)


def test_of_small_tables_gradients_are_dense():
    table = keras.Variable(np.ones((rows.LARGE // 64 - 1, 64), "float32"))
    assert not rows.is_large(table)
    assert rows.is_large(keras.Variable(np.ones((rows.LARGE // 64, 64), "float32")))
    assert not rows.is_large(keras.Variable(np.ones(rows.LARGE, "float32")))


@pytest.mark.parametrize("mode", [None, False, True], ids=["eager", "graph", "xla"])
def test_a_broken_row_breaks_all_that_were_looked_up(mode, monkeypatch):
    monkeypatch.setattr(rows, "LARGE", 1)
    table = keras.Variable(np.ones((7, 3), "float32"))
    optimizer = tfb.BlockNormSGD(0.1)
    optimizer.build([table])

    def step():
        values = tf.constant([[1.0, np.nan, 1.0], [1.0, 2.0, 3.0]])
        gradient = tf.IndexedSlices(values, tf.constant([5, 3]), tf.constant([7, 3]))
        optimizer.apply([gradient], [table])

    (step if mode is None else tf.function(step, jit_compile=mode))()
    assert np.isnan(table.numpy()[[3, 5]]).all()


class Batches(keras.utils.PyDataset):
    """Batches whose size Keras does not know before it sees them."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.x[index * 4 : index * 4 + 4], self.y[index * 4 : index * 4 + 4]


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "l1-excluded"])
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
