"""Reviews of films, as lists of words: each is good or bad."""

import functools

import numpy as np

from tf_blocknorm.experiments.data.arrays import read_npz, stem
from tf_blocknorm.experiments.data.base import checked, fetched
from tf_blocknorm.experiments.errors import ExperimentError

IMDB = "imdb"
NAMES = (IMDB,)
# As `keras.datasets.imdb` has them: 0 fills up, 1 begins a review, other words begin at 4.
UNKNOWN = 2


@functools.lru_cache(maxsize=1)
def load(source, vocabulary, length):
    """Load reviews, all made equally long.

    Args:
        source: `"imdb"`, or the path of an `.npz` file with the arrays `x_train`, `y_train`,
            `x_test`, `y_test`; examples are rows of whole numbers, 0 for nothing, and smaller
            numbers for more frequent words.
        vocabulary: Numbers of words are below it; those of rarer words become `UNKNOWN`.
        length: Words in an example. Longer reviews lose their beginning, shorter ones are
            filled up with 0 in front.

    Returns:
        A `Data` of int32 examples of shape `(length,)`.
    """
    if source == IMDB:
        name, (x_train, y_train, x_test, y_test) = IMDB, _load_imdb(length)
    elif source.endswith(".npz"):
        name, (x_train, y_train, x_test, y_test) = stem(source), read_npz(source)
    else:
        raise ExperimentError(
            f"`--data` must be {', '.join(NAMES)}, or the path of an .npz file. "
            f"Received: data={source}"
        )
    fitted = functools.partial(_fitted, vocabulary=vocabulary, length=length)
    return checked(name, x_train, y_train, x_test, y_test, fitted)


def _load_imdb(length):
    import keras

    (x_train, y_train), (x_test, y_test) = fetched(
        IMDB, keras.datasets.imdb.load_data, "PATH.npz`, with rows of whole numbers for words."
    )
    x_train, x_test = (keras.utils.pad_sequences(x, length) for x in (x_train, x_test))
    return x_train, y_train, x_test, y_test


def _fitted(name, part, x, vocabulary, length):
    if x.ndim != 2 or not np.issubdtype(x.dtype, np.integer) or x.min() < 0:
        raise ExperimentError(
            f"`{name}`: `x_{part}` must hold rows of whole numbers from 0 up, one for each word. "
            f"Received: x_{part}.shape={x.shape}, x_{part}.dtype={x.dtype}"
        )
    x = np.where(x < vocabulary, x, UNKNOWN)[:, -length:]
    return np.pad(x, ((0, 0), (length - x.shape[1], 0))).astype("int32")
