"""Examples to train on and others to evaluate on, checked before anything is trained."""

import dataclasses
import hashlib

import numpy as np

from tf_blocknorm.experiments.errors import ExperimentError


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Examples to train on, and others to evaluate on.

    Attributes:
        name: `"digits"`, `"mnist"`, …, or the stem of the file.
        x_train, x_test: of shape `(examples, *input_shape)`; float32, or int32 for tokens.
        y_train, y_test: int32 labels `0 … num_classes - 1`, of shape `(examples,)`, or
            `(examples, steps)` where every time step has one.
        num_classes: number of classes.
        digest: hash of all arrays, by which a finished run is recognised.
        x_validation, y_validation: the examples by which to choose a learning rate, if the data
            come with such; None if they are to be taken from the training data.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    digest: str
    x_validation: np.ndarray | None = None
    y_validation: np.ndarray | None = None

    @property
    def input_shape(self):
        """Shape of one example."""
        return self.x_train.shape[1:]

    def part(self, count):
        """Return data with `count` of the training examples, always the same ones; None: all."""
        if count is None:
            return self
        if count > len(self.x_train):
            raise ExperimentError(
                f"`{self.name}` has {len(self.x_train)} training examples. "
                f"Received: examples={count}"
            )
        rows = np.random.default_rng(0).permutation(len(self.x_train))[:count]
        return dataclasses.replace(self, x_train=self.x_train[rows], y_train=self.y_train[rows])

    def without_test(self, fraction=0.2):
        """Return data whose `test` part is that for validation, or carved from the training part.

        Whatever is chosen by comparing results (a learning rate, say) is chosen on this, so that
        the true test examples stay unseen until the end.
        """
        if self.x_validation is not None:
            return dataclasses.replace(self, x_test=self.x_validation, y_test=self.y_validation)
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


def fetched(name, fetch, alternative):
    """Return what `fetch()` finds in Keras's cache or downloads, or name the alternative."""
    try:
        return fetch()
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ExperimentError(
            f"`{name}` is not in Keras's cache and could not be downloaded ({reason}). "
            f"Use `--data {alternative}"
        ) from error


def digest(*arrays):
    """Return a hash of shapes and contents."""
    result = hashlib.sha256()
    for array in arrays:
        result.update(repr(array.shape).encode())
        result.update(np.ascontiguousarray(array))
    return result.hexdigest()[:16]


def checked(name, x_train, y_train, x_test, y_test, converted):
    """Return a `Data`, or say what is wrong with the arrays.

    Args:
        name: What to call the data.
        x_train, y_train, x_test, y_test: Arrays; labels may have a second axis of length 1.
        converted: Function from the name, `"train"` or `"test"`, and the array of examples to what
            a network takes; raises an `ExperimentError` for what is of no use.
    """
    x_train, y_train = _checked_part(name, "train", x_train, y_train, converted)
    x_test, y_test = _checked_part(name, "test", x_test, y_test, converted)
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
    arrays = x_train, y_train, x_test, y_test
    return Data(name, *arrays, len(classes), digest(*arrays))


def _checked_part(name, part, x, y, converted):
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
    return converted(name, part, x), y.astype("int32")
