"""A multilayer perceptron so deep that plain gradients hardly train it.

K. Kolasinski's test of normalised SGD ("max-normed-optimizer", 2018): on MNIST, with 30 hidden
layers, he reports 95.6 % for max-normalised SGD, 90.7 % for Adam and 56.8 % for momentum SGD.

In `mlp-no-dropout` the dropout after every layer is left out. Thirty of them in a row are what
holds all methods up in the end.
"""

import dataclasses
import functools

import keras
from keras import layers

from tf_blocknorm.experiments.problems.base import Problem
from tf_blocknorm.experiments.problems.metrics import ACCURACY


def build(input_shape, num_classes, depth, dropout):
    """Return `depth` times [Dense 128 → BatchNormalization → Dropout], then a softmax."""
    model = keras.Sequential(name="mlp")
    model.add(keras.Input(input_shape))
    model.add(layers.Flatten())
    for _ in range(depth):
        regularizer = keras.regularizers.L2(1e-5)
        model.add(layers.Dense(128, activation="relu", kernel_regularizer=regularizer))
        model.add(layers.BatchNormalization())
        if dropout:
            model.add(layers.Dropout(dropout))
    model.add(layers.Dense(num_classes, activation="softmax", dtype="float32"))
    return model


MLP = Problem(
    name="mlp",
    title="Multilayer perceptron",
    summary="multilayer perceptron of 30 hidden layers (--depth), 128 units each",
    build=functools.partial(build, dropout=0.2),
    loss="sparse_categorical_crossentropy",
    metric=ACCURACY,
    batch_size=64,
    updates=1400,
    data="digits",
    options={"depth": 30},
)
MLP_NO_DROPOUT = dataclasses.replace(
    MLP,
    name="mlp-no-dropout",
    title="Multilayer perceptron without dropout",
    summary="the same without dropout",
    build=functools.partial(build, dropout=None),
)
