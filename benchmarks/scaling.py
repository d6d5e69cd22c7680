"""Step time against the number of weights, and against the number of variables."""

import math
import time

import keras

from benchmarks import contenders, measure
from benchmarks.models import Problem

NAMES = ("Keras SGD", "BlockNormSGD", "Keras Adam", "BlockNormAdam")
WEIGHTS = (10**5, 10**6, 10**7, 10**8, 10**9)  # in MATRICES variables
MATRICES = 10
VARIABLES = (10, 30, 100, 300, 1000, 3000, 10000)  # of SIDES weights
SIDES = (25, 40)
PATIENCE = 45  # seconds for the preparation of one contender
TINY = {"weights": (10**3, 10**4), "variables": (2, 4)}
SLOTS = {"Keras Adam": 2, "BlockNormAdam": 2}


def records(make_runner, job):
    """Yield a record for every contender and size, and one for each that is left out."""
    series = TINY if job["tiny"] else {"weights": WEIGHTS, "variables": VARIABLES}
    for axis in job["axes"]:
        spent = dict.fromkeys(NAMES, 0.0)
        before = 1
        for size in series[axis]:
            shapes = shapes_of(axis, size)
            names = []
            for name in NAMES:
                # A trace takes as long as there are variables; more weights do not lengthen it.
                expected = spent[name] * size / before if axis == "variables" else 0.0
                reason = _too_much(name, shapes) or _too_long(expected)
                if reason:
                    yield {"what": "scaling", "axis": axis, "size": size, "name": name} | reason
                else:
                    names.append(name)
            if names:
                yield from _point(make_runner, job, axis, size, shapes, names, spent)
            before = size


def shapes_of(axis, size):
    """Return the shapes of the variables at a point."""
    if axis == "variables":
        return [SIDES] * size
    rows = max(1, round(math.sqrt(size / MATRICES)))
    return [(rows, size // MATRICES // rows)] * MATRICES


def _point(make_runner, job, axis, size, shapes, names, spent):
    steps = max(1, min(100, 2 * 10**7 // sum(math.prod(s) for s in shapes), 3000 // len(shapes)))
    runner = make_runner(Problem(lambda: _Weights(shapes), None, None, steps), job["jit_compile"])
    prepared = {}
    for name in names:
        began = time.perf_counter()
        prepared[name] = runner.update(contenders.BY_NAME[name].make, steps)
        spent[name] = time.perf_counter() - began
    runs = {name: p.run for name, p in prepared.items()}
    times = measure.turns(runs, job["rounds"], job["seconds"] / 2)
    for name, seconds in times.items():
        yield {
            "what": "scaling",
            "axis": axis,
            "size": size,
            "name": name,
            "milliseconds": measure.spread([1e3 * s / prepared[name].steps for s in seconds]),
            "trace": prepared[name].trace_seconds,
        }
    prepared.clear()
    runner.forget()


def _too_much(name, shapes):
    """Say that there is no memory for weights, gradients, slots and half as much again."""
    needed = 1.5 * 4 * sum(math.prod(s) for s in shapes) * (2 + SLOTS.get(name, 0))
    free = measure.free_memory()
    if free is not None and needed > free:
        return {"left_out": f"needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"}
    return None


def _too_long(expected):
    if expected > PATIENCE:
        return {"left_out": f"would take about {expected:.0f} s to prepare"}
    return None


class _Weights(keras.Model):
    """Variables and nothing else."""

    def __init__(self, shapes):
        super().__init__()
        for i, shape in enumerate(shapes):
            self.add_weight(shape=shape, name=f"w{i}", initializer="ones")
        self.built = True
