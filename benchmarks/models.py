"""What is updated: the networks whose variables the optimizers have to move."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from tf_blocknorm.experiments.problems.mlp import MLP


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network, and what one batch of it looks like.

    Attributes:
        build: A function without arguments that returns a new model.
        batch: A function of a random generator that returns inputs and targets.
        loss: As `model.compile` takes it.
        steps: How many updates are timed at once, so that what surrounds them does not count.
    """

    build: Callable
    batch: Callable
    loss: str
    steps: int


def mlp(inputs=784, depth=30):
    """Many small variables: 30 times [Dense 128 → BatchNormalization → Dropout], a softmax."""

    def batch(rng):
        return rng.random((64, inputs), "float32"), rng.integers(0, 10, 64)

    loss = "sparse_categorical_crossentropy"
    return Problem(lambda: MLP.build((inputs,), 10, depth), batch, loss, steps=20)


def transformer(width=768, heads=12, blocks=8):
    """Few large variables: transformer blocks, without what is before and after them."""

    def build():
        x = inputs = keras.Input((16, width))
        for _ in range(blocks):
            y = layers.LayerNormalization()(x)
            x = layers.add([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
            y = layers.LayerNormalization()(x)
            y = layers.Dense(4 * width, activation="relu")(y)
            x = layers.add([x, layers.Dense(width)(y)])
        return keras.Model(inputs, x)

    def batch(rng):
        return tuple(rng.normal(size=(2, 16, width)).astype("float32") for _ in range(2))

    return Problem(build, batch, "mse", steps=3)


def resnet(size=32, depth=3, filters=16):
    """ResNet-20 on pictures (`depth=3`): convolutions of three widths, batch normalisation."""

    def unit(x, filters, stride, activation="relu"):
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        return layers.Activation(activation)(x)

    def build():
        inputs = keras.Input((size, size, 3))
        x = unit(inputs, filters, 1)
        for stage in range(3):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                y = unit(x, filters << stage, stride)
                y = unit(y, filters << stage, 1, "linear")
                if stride == 2:
                    x = layers.Conv2D(filters << stage, 1, 2, use_bias=False)(x)
                x = layers.Activation("relu")(layers.add([x, y]))
        outputs = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
        return keras.Model(inputs, outputs)

    def batch(rng):
        return rng.random((32, size, size, 3), "float32"), rng.integers(0, 10, 32)

    return Problem(build, batch, "sparse_categorical_crossentropy", steps=20)


def embedding(rows=1_000_000, width=32):
    """One table of a million rows, of which a batch touches a few thousand; a softmax."""

    def build():
        inputs = keras.Input((32,), dtype="int32")
        x = layers.GlobalAveragePooling1D()(layers.Embedding(rows, width)(inputs))
        return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))

    def batch(rng):
        return rng.integers(0, rows, (128, 32)), rng.integers(0, 10, 128)

    return Problem(build, batch, "sparse_categorical_crossentropy", steps=3)


PROBLEMS = {"small": mlp(), "large": transformer(), "resnet": resnet(), "embedding": embedding()}
TINY = {
    "small": dataclasses.replace(mlp(8, 1), steps=2),
    "large": transformer(8, 2, 1),
    "resnet": dataclasses.replace(resnet(8, 1, 4), steps=2),
    "embedding": embedding(100, 4),
}


def gradients(shapes, rng):
    """Yield float32 arrays whose sizes differ from variable to variable, as gradients' do."""
    for shape in shapes:
        gradient = rng.standard_normal(shape, "float32")
        gradient *= np.float32(10 ** rng.uniform(-4, -1))
        yield gradient
