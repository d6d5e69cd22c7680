"""What tables and figures show of a run: how it is computed, written, and which end is better."""

import dataclasses
import math
from collections.abc import Callable

import keras


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: Its key in Keras's logs; on held-out examples, with `val_` before it.
        title: What tables and figures call it.
        make: Function that returns what `model.compile` takes.
        higher: Whether higher is better.
        factor, form, unit: How a value is written: multiplied, formatted, and what follows it.
    """

    name: str
    title: str
    make: Callable
    higher: bool
    factor: float = 1.0
    form: str = "{:.3f}"
    unit: str = ""

    def of(self, record):
        """Return the value on held-out examples in the record of a run or an epoch."""
        return record[f"val_{self.name}"]

    def merit(self, value):
        """Return a number that is higher the better a value is; None means diverged."""
        if value is None:
            return -math.inf
        return value if self.higher else -value

    def text(self, value):
        """Return a value as text, or a word if it is not a number."""
        if value is None or not math.isfinite(value):
            return "diverged"
        return self.form.format(self.factor * value) + self.unit.strip()


def bits_per_character(y_true, y_pred):
    """Return the cross-entropy in bits: those that a perfect code spends on each character.

    >>> label, probabilities = keras.ops.array([0]), keras.ops.array([[0.25, 0.75]])
    >>> round(float(bits_per_character(label, probabilities)[0]), 3)
    2.0
    """
    nats = keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
    return nats / math.log(2.0)


def _bits():
    return keras.metrics.MeanMetricWrapper(bits_per_character, name="bits_per_character")


ACCURACY = Metric(
    "accuracy", "accuracy", lambda: "accuracy", higher=True, factor=100.0, form="{:.1f}", unit=" %"
)
BITS = Metric("bits_per_character", "bits per character", _bits, higher=False)
