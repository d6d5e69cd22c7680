"""The small network without a name in the experiments with input-normalised SGD.

S. F. Atici, H. Pan and A. E. Cetin's "toy CNN", of whose program we know the layers and the number
of weights. That activations follow each normalisation and the sum, and that nothing but the
normalisation is left out where there is none, is inferred.
"""

import dataclasses
import functools

import keras
from keras import layers

from tf_blocknorm.experiments.problems.base import Problem
from tf_blocknorm.experiments.problems.images import demand_images
from tf_blocknorm.experiments.problems.metrics import ACCURACY

SMALLEST = 8  # pixels, of which the last convolution sees two by two


def build(input_shape, num_classes, normalized):
    """Return five convolutions, one of them beside a shortcut, and a linear layer."""
    demand_images("toy", input_shape, SMALLEST)

    def convolution(x, filters, strides=2, size=3):
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x) if normalized else x

    image = x = keras.Input(input_shape)
    if len(input_shape) == 2:
        x = layers.Reshape((*input_shape, 1))(x)
    x = layers.ReLU()(convolution(x, 8, strides=1))
    x = layers.ReLU()(layers.Add()([convolution(x, 16), convolution(x, 16, size=1)]))
    for filters in (32, 64):
        x = layers.ReLU()(convolution(x, filters))
    x = layers.Flatten()(layers.Dropout(0.2)(x))
    outputs = layers.Dense(num_classes, activation="softmax", dtype="float32")(x)
    return keras.Model(image, outputs, name="toy")


TOY = Problem(
    name="toy",
    title="Toy CNN",
    summary="six layers with batch normalisation: that of the INSGD experiments",
    build=functools.partial(build, normalized=True),
    loss="sparse_categorical_crossentropy",
    metric=ACCURACY,
    batch_size=128,
    updates=8000,
    data="cifar10",
    options={},
)
TOY_PLAIN = dataclasses.replace(
    TOY,
    name="toy-plain",
    title="Toy CNN without normalisation",
    summary="the same without batch normalisation",
    build=functools.partial(build, normalized=False),
)
