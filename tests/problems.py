"""A model whose gradients are its inputs, so that any gradients can be sent through `model.fit`."""

import keras
import numpy as np
from keras import ops

# Ranks 0 to 5. The bias starts at zero, as biases do.
LAYERS = {
    "a": {"kernel": (4, 3), "bias": (3,), "gain": ()},
    "b": {"wide": (2, 3, 4), "filters": (2, 3, 2, 4), "volume": (2, 1, 3, 2, 2)},
}
SHAPES = [shape for weights in LAYERS.values() for shape in weights.values()]
PATHS = [f"{layer}/{name}" for layer, weights in LAYERS.items() for name in weights]
SIZES = [int(np.prod(shape)) for shape in SHAPES]
TOTAL = sum(SIZES)
BIAS = PATHS.index("a/bias")


@keras.saving.register_keras_serializable(package="tests")
class Linear(keras.layers.Layer):
    """The sum of all weights times their part of the input, which is then their gradient."""

    def __init__(self, shapes, start, **kwargs):
        super().__init__(**kwargs)
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.start = start

    def build(self, _):
        self.all = [self.add_weight(shape=s, name=n) for n, s in self.shapes.items()]

    def call(self, x):
        total, start = 0.0, self.start
        for weight in self.all:
            size = int(np.prod(weight.shape))
            part = ops.reshape(x[:, start : start + size], (-1, *weight.shape))
            axes = tuple(range(1, len(weight.shape) + 1))
            product = ops.multiply(part, weight)
            total = ops.add(total, ops.sum(product, axis=axes) if axes else product)
            start += size
        return ops.reshape(total, (-1, 1))

    def get_config(self):
        return {**super().get_config(), "shapes": self.shapes, "start": self.start}


@keras.saving.register_keras_serializable(package="tests")
def mean_output(_, outputs):
    return ops.mean(outputs, axis=-1)


def probe():
    """The model, with the weights that `start_weights` gives."""
    x = keras.Input((TOTAL,))
    outputs, start = [], 0
    for name, shapes in LAYERS.items():
        outputs.append(Linear(shapes, start, name=name)(x))
        start += sum(int(np.prod(shape)) for shape in shapes.values())
    model = keras.Model(x, keras.layers.Add(name="sum")(outputs))
    model.set_weights(start_weights())
    return model


def start_weights():
    rng = np.random.default_rng(7)
    weights = [rng.normal(0.5, 1.0, shape).astype("float32") for shape in SHAPES]
    weights[BIAS] = np.zeros_like(weights[BIAS])
    return weights


def rows(count, seed=0):
    """Gradients of very different sizes, one row per example; one of the third is zero."""
    rng = np.random.default_rng(seed)
    result = np.empty((count, TOTAL), "float32")
    for row in result:
        exponent = rng.uniform(-5, 3)
        parts = [10 ** (exponent + rng.uniform(-1, 1)) * rng.normal(0.3, 1.0, n) for n in SIZES]
        row[:] = np.concatenate(parts)
    if count > 2:
        result[2, : SIZES[0]] = 0.0
    return result


def half_precision_rows(count, seed=0):
    """Gradients that float16 holds exactly, also when multiplied by the first loss scale."""
    rng = np.random.default_rng(seed)
    return (rng.integers(-255, 256, (count, TOTAL)) / 256).astype("float32")


def gradients(rows, batch_size=1):
    """What the model's variables see of these rows: a list of float64 arrays per batch."""
    batches = rows.astype(float).reshape(-1, batch_size, TOTAL).mean(axis=1)
    ends = np.cumsum(SIZES)[:-1]
    return [[p.reshape(s) for p, s in zip(np.split(b, ends), SHAPES)] for b in batches]


def compiled(optimizer, model=None, built=True, **options):
    """A model with its optimizer; unless that is built, TensorFlow traces the first step twice."""
    model = model or probe()
    model.compile(optimizer, mean_output, **{"jit_compile": False, **options})
    if built:
        model.optimizer.build(model.trainable_variables)
    return model


def train(model, rows, batch_size=1, epochs=1, callbacks=None):
    """Weights after `fit` over the rows in their order."""
    zeros = np.zeros((len(rows), 1), "float32")
    model.fit(rows, zeros, batch_size, epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return model.get_weights()
