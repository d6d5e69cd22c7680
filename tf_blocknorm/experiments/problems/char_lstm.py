"""A language model of characters: two layers of LSTM, as in A. Karpathy's char-rnn (2015).

The text is divided as there (90 % for training, 5 % for validation, 5 % for testing); windows of
`unroll` characters begin without a state, unlike there. The metric is bits per character: lower is
better. It covers the beginnings of windows, of which little is known, so that it is higher than
that of a model which carries its state on, the more so the shorter the windows: compare numbers at
one `unroll` only. A text without structure of C equally frequent characters has log2(C) bits.

Yu et al. (arXiv:1707.04822) trained networks of this kind on Penn Treebank; the details of theirs
are not known to us.
"""

import keras
from keras import layers

from tf_blocknorm.experiments.data import text
from tf_blocknorm.experiments.problems.base import Problem
from tf_blocknorm.experiments.problems.metrics import BITS

EMBEDDING = 32


def build(_, num_classes, unroll, depth, units):
    """Return an embedding, `depth` times an LSTM, and a softmax at every time step."""
    model = keras.Sequential(name="char-lstm")
    model.add(keras.Input((unroll,), dtype="int32"))
    model.add(layers.Embedding(num_classes, EMBEDDING))
    for _ in range(depth):
        model.add(layers.LSTM(units, return_sequences=True))
    model.add(layers.Dense(num_classes, activation="softmax", dtype="float32"))
    return model


CHAR_LSTM = Problem(
    name="char-lstm",
    title="Character LSTM",
    summary="two layers of LSTM (--depth) of 128 units (--units) on windows of text (--unroll)",
    build=build,
    loss="sparse_categorical_crossentropy",
    metric=BITS,
    batch_size=50,
    updates=4000,
    data=text.SHAKESPEARE,
    options={"unroll": 50, "depth": 2, "units": 128},
    load=lambda source, unroll, **_: text.load(source, unroll),
)
