"""Texts, character by character: each is to be predicted from those before it."""

import functools
import os

import numpy as np

from tf_blocknorm.experiments.data.arrays import stem
from tf_blocknorm.experiments.data.base import Data, digest, fetched
from tf_blocknorm.experiments.errors import ExperimentError

SHAKESPEARE = "shakespeare"
NAMES = (SHAKESPEARE,)
# "Tiny Shakespeare", 1.1 MB; the works are in the public domain.
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
# Train, validation, test, as in A. Karpathy's char-rnn.
SHARES = (0.90, 0.05, 0.05)
PARTS = ("train", "valid", "test")


def load(source, unroll):
    """Load a text and cut it into windows.

    A text is divided into its first 90 %, the next 5 % for validation and the last 5 % for testing,
    as in char-rnn. Each part is cut into windows of `unroll` characters, one after the other, whose
    targets are the same characters one place further on; what is left over at the end of a part is
    not used. Windows are examples like others: they come in random order, and no state goes from
    one to the next, so that the first characters of each are predicted from little.

    Args:
        source: `"shakespeare"`; or the path of a UTF-8 file; or of a folder with three files
            `*train*.txt`, `*valid*.txt` and `*test*.txt`, as Penn Treebank is distributed.
        unroll: Characters in a window.

    Returns:
        A `Data` with a validation part. Classes are the characters of the whole text, sorted.
    """
    name, parts, alphabet = _encoded(source)
    shortest = min(map(len, parts))
    if shortest <= unroll:
        raise ExperimentError(
            f"`{name}`: each part of the text must be longer than a window of {unroll} characters. "
            f"Received: a part of {shortest} (train, validation and test are 90, 5 and 5 %)"
        )
    (x, y), (x_validation, y_validation), (x_test, y_test) = (_windows(p, unroll) for p in parts)
    return Data(
        name, x, y, x_test, y_test, len(alphabet), digest(*parts), x_validation, y_validation
    )


def _windows(characters, unroll):
    used = (len(characters) - 1) // unroll * unroll
    shape = (-1, unroll)
    return characters[:used].reshape(shape), characters[1 : used + 1].reshape(shape)


@functools.lru_cache(maxsize=1)
def _encoded(source):
    """Return the name of a text, its three parts as arrays of numbers, and its characters."""
    texts = _parts(source)
    codes = [np.frombuffer(text.encode("utf-32-le"), np.uint32) for text in texts]
    alphabet = np.unique(np.concatenate(codes))
    name = source if source in NAMES else stem(os.path.normpath(source))
    if len(alphabet) < 2:
        raise ExperimentError(
            f"`{name}`: a text must have two different characters at least. "
            f"Received: {len(alphabet)}"
        )
    return name, [np.searchsorted(alphabet, part).astype("int32") for part in codes], alphabet


def _parts(source):
    if os.path.isdir(source):
        return [_read(_only_file(source, part)) for part in PARTS]
    text = _read(_shakespeare() if source == SHAKESPEARE else source)
    first = round(SHARES[0] * len(text))
    second = first + round(SHARES[1] * len(text))
    return text[:first], text[first:second], text[second:]


def _only_file(folder, part):
    found = [n for n in sorted(os.listdir(folder)) if part in n and n.endswith(".txt")]
    if len(found) != 1:
        raise ExperimentError(
            f"A folder of texts must hold one file `*{part}*.txt`. Received: {len(found)} such "
            f"files in `{folder}`"
        )
    return os.path.join(folder, found[0])


def _read(path):
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError as error:
        raise ExperimentError(
            f"`--data` must be {', '.join(NAMES)}, or the path of a text or of a folder of three. "
            f"There is no file `{path}`."
        ) from error
    except UnicodeDecodeError as error:
        raise ExperimentError(f"`{path}` cannot be read as UTF-8: {error}") from error
    except OSError as error:
        raise ExperimentError(f"`{path}` cannot be read: {error.strerror}") from error


def _shakespeare():
    import keras

    return fetched(
        SHAKESPEARE,
        lambda: keras.utils.get_file(
            "tinyshakespeare.txt", URL, file_hash=SHA256, cache_subdir="datasets"
        ),
        "PATH`, which may be any text of some 100 kB or more.",
    )
