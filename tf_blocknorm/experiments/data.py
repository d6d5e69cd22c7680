"""Named data sets and `.npz` files, checked before anything is trained on them."""

import dataclasses
import functools
import hashlib
import os

import numpy as np

from tf_blocknorm.experiments.errors import ExperimentError

KERAS_DATA = ("mnist", "fashion_mnist", "cifar10")
NAMES = ("digits", *KERAS_DATA)
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Examples to train on, and others to evaluate on.

    Attributes:
        name: `"digits"`, `"mnist"`, …, or the stem of the file.
        x_train, x_test: float32, of shape `(examples, *input_shape)`.
        y_train, y_test: int32 labels `0 … num_classes - 1`, of shape `(examples,)`.
        num_classes: number of classes.
        digest: hash of all arrays, by which a finished run is recognised.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    digest: str

    @property
    def input_shape(self):
        """Shape of one example."""
        return self.x_train.shape[1:]

    def without_test(self, fraction=0.2):
        """Return data whose `test` part is carved from the training examples.

        Whatever is chosen by comparing results (a learning rate, say) is chosen on this, so that
        the true test examples stay unseen until the end.
        """
        order = np.random.default_rng(0).permutation(len(self.x_train))
        held_out = round(fraction * len(order))
        if not 0 < held_out < len(order):
            raise ExperimentError(
                f"`{self.name}` has too few training examples to set {fraction:.0%} of them aside. "
                f"Received: len(x_train)={len(order)}"
            )
        train, test = order[held_out:], order[:held_out]
        return dataclasses.replace(
            self,
            x_train=self.x_train[train],
            y_train=self.y_train[train],
            x_test=self.x_train[test],
            y_test=self.y_train[test],
        )


@functools.lru_cache(maxsize=1)
def load(source):
    """Load and check a data set.

    Args:
        source: One of `NAMES`, or the path of an `.npz` file that holds `ARRAYS`.

    Returns:
        A `Data`.
    """
    if source == "digits":
        return _checked("digits", *_load_digits())
    if source in KERAS_DATA:
        return _checked(source, *_load_keras(source))
    if source.endswith(".npz"):
        name = os.path.splitext(os.path.basename(source))[0]
        return _checked(name, *_load_npz(source))
    raise ExperimentError(
        f"`--data` must be one of {', '.join(NAMES)}, or the path of an .npz file. "
        f"Received: data={source}"
    )


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

    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ExperimentError(
            f"`{name}` is not in Keras's cache and could not be downloaded ({reason}). "
            "Use `--data digits`, which needs no network, or `--data PATH.npz`."
        ) from error
    return x_train, y_train, x_test, y_test


def _load_npz(path):
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


def _checked(name, x_train, y_train, x_test, y_test):
    """Return a `Data`, or say what is wrong with the arrays."""
    x_train, y_train = _checked_part(name, "train", x_train, y_train)
    x_test, y_test = _checked_part(name, "test", x_test, y_test)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ExperimentError(
            f"`{name}`: the examples of `x_train` and `x_test` must have one shape. "
            f"Received: {x_train.shape[1:]} and {x_test.shape[1:]}"
        )
    classes = np.unique(y_train)
    if classes[0] != 0 or classes[-1] != len(classes) - 1 or len(classes) < 2:
        raise ExperimentError(
            f"`{name}`: the labels in `y_train` must be 0, 1, … without gaps, two classes at "
            f"least. Received: {len(classes)} different labels from {classes[0]} to {classes[-1]}"
        )
    if y_test.min() < 0 or y_test.max() >= len(classes):
        raise ExperimentError(
            f"`{name}`: the labels in `y_test` must occur in `y_train`. "
            f"Received: labels from {y_test.min()} to {y_test.max()} for {len(classes)} classes"
        )
    digest = hashlib.sha256()
    for array in (x_train, y_train, x_test, y_test):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array))
    return Data(name, x_train, y_train, x_test, y_test, len(classes), digest.hexdigest()[:16])


def _checked_part(name, part, x, y):
    if y.ndim == 2 and y.shape[1] == 1:  # As keras.datasets.cifar10 has it.
        y = y[:, 0]
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or x.size == 0:
        raise ExperimentError(
            f"`{name}`: `x_{part}` must have the shape (examples, …) and `y_{part}` (examples,). "
            f"Received: x_{part}.shape={x.shape}, y_{part}.shape={y.shape}"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ExperimentError(
            f"`{name}`: `y_{part}` must hold integer labels. Received: y_{part}.dtype={y.dtype}"
        )
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
    return x, y.astype("int32")
