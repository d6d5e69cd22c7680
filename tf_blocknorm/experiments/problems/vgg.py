"""A network in the manner of VGG with batch normalisation, small enough for a processor."""

import keras
from keras import layers

from tf_blocknorm.experiments.problems.base import Problem
from tf_blocknorm.experiments.problems.images import demand_images
from tf_blocknorm.experiments.problems.metrics import ACCURACY

SMALLEST = 8  # pixels, of which one is left in the end


def build(input_shape, num_classes):
    """Return three times two [Conv → BatchNormalization → ReLU] and a pooling, then a softmax."""
    demand_images("vgg", input_shape, SMALLEST)
    model = keras.Sequential(name="vgg")
    model.add(keras.Input(input_shape))
    if len(input_shape) == 2:
        model.add(layers.Reshape((*input_shape, 1)))
    for filters in (32, 64, 128):
        for _ in range(2):
            model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
            # Runs are too short for Keras's average over the last 100 batches and more.
            model.add(layers.BatchNormalization(momentum=0.9))
            model.add(layers.ReLU())
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(num_classes, activation="softmax", dtype="float32"))
    return model


VGG = Problem(
    name="vgg",
    title="VGG-like network",
    summary="six convolutions with batch normalisation, in the manner of VGG",
    build=build,
    loss="sparse_categorical_crossentropy",
    metric=ACCURACY,
    batch_size=128,
    updates=3500,
    data="cifar10",
    options={},
)
