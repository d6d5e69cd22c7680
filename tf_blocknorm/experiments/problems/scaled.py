"""A multilayer perceptron whose layers do not fit one another: what layer-wise rates are for.

Its kernels are drawn as He et al. (2015) have it and then multiplied by `scale` and divided by it
in turn. The network computes what it would without, but the gradients of every second layer are
`scale` squared times as large as those of its neighbours, relative to the weights.
"""

import keras
from keras import layers

from tf_blocknorm.experiments.problems.base import Problem
from tf_blocknorm.experiments.problems.metrics import ACCURACY


def build(input_shape, num_classes, depth, scale):
    """Return `depth` times Dense 128 with ReLU, without normalisation, then a softmax."""
    model = keras.Sequential(name="scaled")
    model.add(keras.Input(input_shape))
    model.add(layers.Flatten())
    for layer in range(depth):
        last = layer == depth - 1 and depth % 2  # so that the product of all factors is 1
        factor = 1.0 if last else float(scale) ** (-1) ** layer
        drawn = keras.initializers.VarianceScaling(2.0 * factor**2)
        model.add(layers.Dense(128, activation="relu", kernel_initializer=drawn))
    model.add(layers.Dense(num_classes, activation="softmax", dtype="float32"))
    return model


SCALED = Problem(
    name="scaled",
    title="Badly scaled perceptron",
    summary="8 layers (--depth) whose kernels are 4 times (--scale) too large and small in turn",
    build=build,
    loss="sparse_categorical_crossentropy",
    metric=ACCURACY,
    batch_size=64,
    updates=1400,
    data="digits",
    options={"depth": 8, "scale": 4},
)
