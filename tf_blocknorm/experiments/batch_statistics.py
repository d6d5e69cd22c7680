"""Batch normalisation evaluated with statistics of the training data, not with running averages."""

import keras


class BatchStatistics(keras.callbacks.Callback):
    """Measures the statistics of all batch normalisation anew before each evaluation.

    A running average is one over batches that went through weights which have changed since, behind
    layers each of which was normalised by the same few examples. Here, some training examples pass
    through the network as one batch, so that every layer has their statistics behind layers that
    have theirs, too. (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3: precise
    statistics.) For networks without dropout, which would be part of the statistics.

    Args:
        inputs: The examples, an array.
    """

    def __init__(self, inputs):
        super().__init__()
        self.inputs = inputs

    def on_test_begin(self, logs=None):
        kind = keras.layers.BatchNormalization
        layers = [layer for layer in self.model.layers if isinstance(layer, kind)]
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.momentum = 0.0
        self.model(self.inputs, training=True)
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
