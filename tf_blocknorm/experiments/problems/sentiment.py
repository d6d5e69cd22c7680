"""Reviews of films, good or bad: a convolution over the embedded words, and the maximum over time.

One width of Y. Kim's "Convolutional Neural Networks for Sentence Classification" (arXiv:1408.5882),
with an embedding that is learned. The gradient of the embedding is sparse, and small: a layer
unlike the others, which is what the problem is for.
"""

import keras
from keras import layers

from tf_blocknorm.experiments.data import reviews
from tf_blocknorm.experiments.errors import ExperimentError
from tf_blocknorm.experiments.problems.base import Problem
from tf_blocknorm.experiments.problems.metrics import ACCURACY

EMBEDDING, FILTERS, WIDTH = 64, 64, 5


def build(_, num_classes, vocabulary, length):
    """Return embedding, convolution, maximum, dropout, and a softmax."""
    if length < WIDTH:
        raise ExperimentError(f"`--length` must be {WIDTH} at least. Received: length={length}")
    model = keras.Sequential(name="sentiment")
    model.add(keras.Input((length,), dtype="int32"))
    model.add(layers.Embedding(vocabulary, EMBEDDING))
    model.add(layers.Conv1D(FILTERS, WIDTH, activation="relu"))
    model.add(layers.GlobalMaxPooling1D())
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(num_classes, activation="softmax", dtype="float32"))
    return model


SENTIMENT = Problem(
    name="sentiment",
    title="Sentiment of reviews",
    summary="a convolution over words: the 10000 most frequent (--vocabulary), 200 each (--length)",
    build=build,
    loss="sparse_categorical_crossentropy",
    metric=ACCURACY,
    batch_size=64,
    updates=2000,
    data=reviews.IMDB,
    options={"vocabulary": 10000, "length": 200},
    load=lambda source, vocabulary, length: reviews.load(source, vocabulary, length),
)
