"""Examples of numbers with one label each: named data sets and `.npz` files."""

import functools
import os

import numpy as np

from tf_blocknorm.experiments.data.base import checked, fetched
from tf_blocknorm.experiments.errors import ExperimentError

KERAS_DATA = ("mnist", "fashion_mnist", "cifar10", "cifar100")
NAMES = ("digits", *KERAS_DATA)
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@functools.lru_cache(maxsize=1)
def load(source):
    """Load and check a data set.

    Args:
        source: One of `NAMES`, or the path of an `.npz` file that holds `ARRAYS`.

    Returns:
        A `Data`.
    """
    if source == "digits":
        return checked("digits", *_load_digits(), _numbers)
    if source in KERAS_DATA:
        return checked(source, *_load_keras(source), _numbers)
    if source.endswith(".npz"):
        return checked(stem(source), *read_npz(source), _numbers)
    raise ExperimentError(
        f"`--data` must be one of {', '.join(NAMES)}, or the path of an .npz file. "
        f"Received: data={source}"
    )


def stem(path):
    """Return the name of a file without its folder and ending."""
    return os.path.splitext(os.path.basename(path))[0]


def _load_digits():
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ExperimentError(
            "The data `digits` come with scikit-learn: pip install 'tf_blocknorm[experiments]'"
        ) from error
    x, y = load_digits(return_X_y=True)
    images = (x.reshape(-1, 8, 8) / 16.0).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(
        images, y, test_size=0.2, random_state=0, stratify=y
    )
    return x_train, y_train, x_test, y_test


def _load_keras(name):
    import keras

    (x_train, y_train), (x_test, y_test) = fetched(
        name,
        getattr(keras.datasets, name).load_data,
        "digits`, which needs no network, or `--data PATH.npz`.",
    )
    return x_train, y_train, x_test, y_test


def read_npz(path):
    """Return the four `ARRAYS` of a file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file.files]
            if missing:
                raise ExperimentError(
                    f"`{path}` must hold the arrays {', '.join(ARRAYS)}. "
                    f"Missing: {', '.join(missing)}"
                )
            return [file[name] for name in ARRAYS]
    except ExperimentError:
        raise
    except FileNotFoundError as error:
        raise ExperimentError(f"There is no file `{path}`.") from error
    except Exception as error:  # NumPy and zipfile have many ways to say that a file is broken.
        raise ExperimentError(f"`{path}` cannot be read as an .npz file: {error}") from error


def _numbers(name, part, x):
    if x.dtype == np.uint8:
        x = x.astype("float32") / 255.0
    elif np.issubdtype(x.dtype, np.floating):
        x = x.astype("float32")
    else:
        raise ExperimentError(
            f"`{name}`: `x_{part}` must be floating point, or uint8 (which is divided by 255). "
            f"Received: x_{part}.dtype={x.dtype}"
        )
    if not np.isfinite(x).all():
        raise ExperimentError(f"`{name}`: `x_{part}` must be finite. Received: NaN or infinity")
    return x
