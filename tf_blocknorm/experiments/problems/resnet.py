"""ResNet-20 on small photographs, with the usual augmentation: for CIFAR-10 and CIFAR-100.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), section 4.2,
but with convolutions of 1 x 1 on the shortcuts that change the shape, as in the experiments with
INSGD, of whose network this one has the number of weights (272,474). In training, images are
shifted by up to 4 pixels and flipped at random: not for digits. No weight decay unless the
optimizer brings one, which costs some of the published accuracy.

Without normalisation (`resnet-plain`), residual branches must begin small: as in torch, where INSGD
was tried, kernels have a third of the variance that keeps the size of activations. That the
authors left torch's default in place is inferred.
"""

import dataclasses
import functools

import keras
from keras import layers

from tf_blocknorm.experiments.errors import ExperimentError
from tf_blocknorm.experiments.problems.augmentation import RandomShift
from tf_blocknorm.experiments.problems.base import Problem
from tf_blocknorm.experiments.problems.images import demand_images
from tf_blocknorm.experiments.problems.metrics import ACCURACY

SMALLEST = 8  # pixels, of which the last stage sees two by two


def build(input_shape, num_classes, depth, normalized):
    """Return three stages of residual blocks, global average pooling, and a softmax."""
    demand_images("resnet", input_shape, SMALLEST)
    if depth < 8 or depth % 6 != 2:
        raise ExperimentError(f"`--depth` of `resnet` must be 8, 14, 20, … Received: depth={depth}")
    small = None if normalized else keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")

    def convolution(x, filters, strides=1, size=3):
        drawn = small.clone() if small else "he_normal"
        x = layers.Conv2D(
            filters, size, strides, padding="same", use_bias=False, kernel_initializer=drawn
        )(x)
        # Runs are too short for Keras's average over the last 100 batches and more.
        return layers.BatchNormalization(momentum=0.9)(x) if normalized else x

    image = x = keras.Input(input_shape)
    if len(input_shape) == 2:
        x = layers.Reshape((*input_shape, 1))(x)
    x = RandomShift(4, dtype="float32")(x)
    x = layers.RandomFlip("horizontal", dtype="float32")(x)
    x = layers.Rescaling(4.0, -2.0)(x)  # to about zero mean and unit variance
    x = layers.ReLU()(convolution(x, 16))
    for filters in (16, 32, 64):
        for block in range((depth - 2) // 6):
            strides = 2 if filters > 16 and block == 0 else 1
            branch = layers.ReLU()(convolution(x, filters, strides))
            branch = convolution(branch, filters)
            shortcut = convolution(x, filters, strides, size=1) if strides > 1 else x
            x = layers.ReLU()(layers.Add()([branch, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(num_classes, activation="softmax", dtype="float32")(x)
    return keras.Model(image, outputs, name="resnet")


RESNET = Problem(
    name="resnet",
    title="ResNet",
    summary="ResNet-20 (--depth) with batch normalisation; images shifted and flipped at random",
    build=functools.partial(build, normalized=True),
    loss="sparse_categorical_crossentropy",
    metric=ACCURACY,
    batch_size=128,
    updates=8000,
    data="cifar10",
    options={"depth": 20},
)
RESNET_PLAIN = dataclasses.replace(
    RESNET,
    name="resnet-plain",
    title="ResNet without normalisation",
    summary="the same without batch normalisation",
    build=functools.partial(build, normalized=False),
)
