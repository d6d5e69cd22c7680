"""A model of five linear layers beside one another, whose loss is linear, too.

The gradient of a kernel is then known for any weights: the input times what the loss multiplies the
outputs by, which is what is given as `y`.
"""

import dataclasses

import keras
import numpy as np
import reference_inputs as reference
from keras import ops

import tf_blocknorm as tfb

LAYERS = keras.layers


@dataclasses.dataclass(frozen=True)
class Part:
    """A layer: what it is in Keras and in NumPy, and how its power divides its kernel."""

    make: object
    linear: object
    power: object
    input_shape: tuple
    kernel_shape: tuple
    output_shape: tuple
    bias_axes: tuple
    spread: object


def _grouped(s):
    # Kernel [..., i, o]: outputs 0 to 2 see channels 0 and 1, outputs 3 to 5 channels 2 and 3.
    return np.array([[s[i + 2 * (o // 3)] for o in range(6)] for i in range(2)])


PARTS = {
    "dense": Part(
        lambda name: LAYERS.Dense(3, name=name),
        reference.dense,
        reference.whole,
        (6,),
        (6, 3),
        (3,),
        (),
        lambda s: s,
    ),
    "grouped": Part(
        lambda name: LAYERS.Conv2D(6, 2, groups=2, name=name),
        lambda x, w: reference.convolution(x, w, groups=2),
        reference.per_channel,
        (3, 3, 4),
        (2, 2, 2, 6),
        (2, 2, 6),
        (0, 1),
        _grouped,
    ),
    "depthwise": Part(
        lambda name: LAYERS.DepthwiseConv2D(2, depth_multiplier=2, name=name),
        reference.depthwise,
        reference.per_channel,
        (3, 3, 3),
        (2, 2, 3, 2),
        (2, 2, 6),
        (0, 1),
        lambda s: s[:, None],
    ),
    "transposed": Part(
        lambda name: LAYERS.Conv1DTranspose(3, 2, name=name),
        reference.transposed,
        reference.per_channel,
        (4, 2),
        (2, 3, 2),
        (5, 3),
        (0,),
        lambda s: s,
    ),
    "einsum": Part(
        lambda name: LAYERS.EinsumDense("abc,bcd->abd", (3, 2), bias_axes="d", name=name),
        reference.by_position,
        reference.per_position,
        (3, 4),
        (3, 4, 2),
        (3, 2),
        (0,),
        lambda s: s[:, None, None],
    ),
}
PATHS = [f"{name}/{weight}" for name in PARTS for weight in ("kernel", "bias")]


def probe(norm="l2", convert=tfb.with_input_statistics):
    """The model, with the weights that `start_weights` gives."""
    inputs, outputs = [], []
    for name, part in PARTS.items():
        inputs.append(keras.Input(part.input_shape, name=f"input_{name}"))
        outputs.append(LAYERS.Flatten(name=f"flat_{name}")(part.make(name)(inputs[-1])))
    model = keras.Model(inputs, LAYERS.Concatenate(name="all")(outputs))
    model.set_weights(start_weights())
    return convert(model, norm=norm) if convert else model


def weights(model):
    """Kernels and biases, without what taps hold."""
    return [ops.convert_to_numpy(v) for v in model.weights if v.name in ("kernel", "bias")]


def start_weights():
    rng = np.random.default_rng(3)
    shapes = [s for p in PARTS.values() for s in (p.kernel_shape, p.output_shape[-1:])]
    return [rng.normal(0.3, 1.0, shape).astype("float32") for shape in shapes]


def data(count, seed=0):
    """Inputs of different sizes, one of the channels dark, and what multiplies the outputs."""
    rng = np.random.default_rng(seed)
    x = []
    for part in PARTS.values():
        size = 10 ** rng.uniform(-0.5, 0.8, (count, *(1,) * len(part.input_shape)))
        x.append((size * rng.normal(0.4, 1.0, (count, *part.input_shape))).astype("float32"))
    x[1][..., 3] *= 1e-3
    y = rng.normal(0.1, 1.0, (count, outputs())).astype("float32")
    return x, y


def half_precision_data(count, seed=0):
    """Numbers whose products and sums float16 holds, also times the first loss scale."""
    rng = np.random.default_rng(seed)
    x = [rng.integers(-2, 3, (count, *p.input_shape)).astype("float32") / 2 for p in PARTS.values()]
    return x, rng.integers(-2, 3, (count, outputs())).astype("float32") / 64


def outputs():
    return sum(int(np.prod(part.output_shape)) for part in PARTS.values())


def gradients_and_powers(x, y, batch_size, norm="l2"):
    """What the reference needs: for every batch the gradients, and the powers or None."""
    gradients, powers = [], []
    for start in range(0, len(y), batch_size):
        rows = range(start, min(start + batch_size, len(y)))
        gs, ps, first = [], [], 0
        for part, inputs in zip(PARTS.values(), x):
            last = first + int(np.prod(part.output_shape))
            up = {k: y[k, first:last].astype(float).reshape(part.output_shape) for k in rows}
            own = {k: inputs[k].astype(float) for k in rows}
            kernels = [
                reference.gradient(part.linear, own[k], part.kernel_shape, up[k]) for k in rows
            ]
            gs += [np.mean(kernels, 0), np.mean([up[k].sum(part.bias_axes) for k in rows], 0)]
            ps += [part.spread(np.mean([part.power(own[k], norm) for k in rows], 0)), None]
            first = last
        gradients.append(gs)
        powers.append(ps)
    return gradients, powers


@keras.saving.register_keras_serializable(package="tests")
def linear_loss(y, outputs):
    return ops.sum(ops.multiply(y, outputs), axis=-1)


def compiled(optimizer, model=None, norm="l2", built=True, **options):
    """A model with its optimizer; unless that is built, TensorFlow traces the first step twice."""
    model = model or probe(norm)
    model.compile(optimizer, linear_loss, **{"jit_compile": False, **options})
    if built:
        model.optimizer.build(model.trainable_variables)
    return model


def train(model, x, y, batch_size=2, epochs=1, callbacks=None):
    """Kernels and biases after `fit` over the rows in their order."""
    model.fit(x, y, batch_size, epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return weights(model)
