"""What a backend hands over to be timed."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An optimizer that is ready to run.

    Attributes:
        run: Makes the updates, and returns when they are done.
        steps: How many they are.
        build_seconds: For the slots; None where it is not known by itself.
        trace_seconds: For the trace; None where there is none, or not by itself.
        first_seconds: For the first call, which compiles.
        slot_bytes: The memory of its state.
        before: What comes before each run, and does not count; None for nothing.
    """

    run: Callable
    steps: int
    build_seconds: float | None
    trace_seconds: float | None
    first_seconds: float
    slot_bytes: int
    before: Callable | None = None


def size_of(shape, dtype):
    """Return the bytes of an array."""
    return math.prod(shape) * np.dtype(str(dtype)).itemsize
