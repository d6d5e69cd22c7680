"""The machine's limit: how fast all cores read and write as much as an optimizer has to."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tf_blocknorm.experiments.records import cores

NAME = "limit"
STREAMS = 3  # of `a += b`: both are read, one is written


class Stream:
    """`a += b` on float32 numbers, every core with its own part.

    Args:
        size: How many numbers each of the two arrays has.
    """

    def __init__(self, size):
        workers = cores()
        parts = [max(1, size // workers)] * workers
        self.size = sum(parts)
        self._pool = ThreadPoolExecutor(workers)
        # Made by the thread that works on it, which on large machines decides where it lies.
        self._parts = list(self._pool.map(_pair, parts))

    def __call__(self):
        list(self._pool.map(_add, self._parts))


def _pair(size):
    return np.ones(size, "float32"), np.full(size, 1e-8, "float32")


def _add(pair):
    np.add(*pair, out=pair[0])
