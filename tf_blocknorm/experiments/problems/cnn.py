"""A small convolutional network: the `cifar10_cnn` example that came with Keras 2."""

import keras
from keras import layers

from tf_blocknorm.experiments.problems.base import Problem
from tf_blocknorm.experiments.problems.images import demand_images
from tf_blocknorm.experiments.problems.metrics import ACCURACY

SMALLEST = 10  # pixels, of which one is left in the end


def build(input_shape, num_classes):
    """Return two blocks of two convolutions each, a wide layer, then a softmax."""
    demand_images("cnn", input_shape, SMALLEST)
    model = keras.Sequential(name="cnn")
    model.add(keras.Input(input_shape))
    if len(input_shape) == 2:
        model.add(layers.Reshape((*input_shape, 1)))
    for filters in (32, 64):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.Conv2D(filters, 3, activation="relu"))
        model.add(layers.MaxPooling2D())
        model.add(layers.Dropout(0.25))
    model.add(layers.Flatten())
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(num_classes, activation="softmax", dtype="float32"))
    return model


CNN = Problem(
    name="cnn",
    title="Convolutional network",
    summary="six layers: the cifar10_cnn of Keras",
    build=build,
    loss="sparse_categorical_crossentropy",
    metric=ACCURACY,
    batch_size=32,
    updates=20000,
    data="cifar10",
    options={},
)
