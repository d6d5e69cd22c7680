"""The quadratic: a loss whose minimum is known, and methods that must find their own step size.

K. Kolasinski's first experiment ("max-normed-optimizer", 2018): `0.5 x'Qx + b'x` with 100
variables, 1000 steps from one initial point, and the initial learning rate spread over two decades.
What decides is how little the result depends on that rate.
"""

import dataclasses
import math
import shlex
from collections.abc import Callable

import keras
import numpy as np
from rich.progress import track

import tf_blocknorm
from tf_blocknorm.experiments import quadratic_figure, records, tables

DIMENSION, STEPS = 100, 1000
# What counts as found: this close to the minimum, as a fraction of its depth.
FOUND = 0.01
# Of every how many steps the record of a run keeps one.
KEPT = 50
RATES = (0.001, 0.005, 0.01, 0.03, 0.05, 0.1)
QUICK_RATES = (0.001, 0.01, 0.1)


class Quadratic:
    """One problem, drawn with a seed: matrix, vector, start, and the minimum they have.

    Attributes:
        matrix: Positive definite, by scikit-learn's `make_spd_matrix`.
        vector, start: Standard normal.
        lowest: The value at the minimum.
    """

    def __init__(self, seed):
        from sklearn.datasets import make_spd_matrix

        generator = np.random.default_rng(seed)
        self.matrix = make_spd_matrix(DIMENSION, random_state=seed)
        self.vector = generator.standard_normal(DIMENSION)
        self.start = generator.standard_normal(DIMENSION)
        self.lowest = self(-np.linalg.solve(self.matrix, self.vector))

    def __call__(self, x):
        return float(0.5 * x @ self.matrix @ x + self.vector @ x)

    def excess(self, x):
        """Return how far above the minimum a point is, as a fraction of the minimum's depth."""
        with np.errstate(over="ignore", invalid="ignore"):
            return (self(np.asarray(x, float)) - self.lowest) / abs(self.lowest)


class Point(keras.layers.Layer):
    """A layer whose only weight is the point, and whose output is the loss there."""

    def __init__(self, quadratic):
        super().__init__()
        self.quadratic = quadratic

    def build(self, _):
        self.x = self.add_weight(
            shape=(DIMENSION,), initializer=lambda *_, **__: self.quadratic.start, name="x"
        )
        self.matrix = keras.ops.convert_to_tensor(self.quadratic.matrix, "float32")
        self.vector = keras.ops.convert_to_tensor(self.quadratic.vector, "float32")

    def call(self, inputs):
        x = self.x
        loss = 0.5 * keras.ops.sum(x * keras.ops.matmul(self.matrix, x)) + keras.ops.sum(
            self.vector * x
        )
        return inputs * 0.0 + loss


@dataclasses.dataclass(frozen=True)
class Method:
    """A method: from an initial rate, an optimizer and callbacks.

    Attributes:
        label: What tables and figures call it.
        make: Function from the rate to an optimizer and a list of callbacks.
        rate: Function from the optimizer to the rate it is at.
    """

    label: str
    make: Callable
    rate: Callable = lambda optimizer: float(optimizer.learning_rate)


def _adaptive(rate):
    optimizer = tf_blocknorm.AdaptiveBlockNormSGD(
        initial_rate=rate, norm="std", momentum=0.95, target_correlation=0.3
    )
    return optimizer, []


def _original(rate):
    optimizer = tf_blocknorm.AdaptiveBlockNormSGD.original(
        initial_rate=rate,
        max_rate=0.5,
        rate_update=0.05,
        momentum=0.9,
        momentum_update=1e-5,
        norm="std",
    )
    return optimizer, []


def _barzilai_borwein(rate):
    # Without noise there is nothing to smooth. The short quotient, as the long one's steps leave
    # the minimum again and again.
    callback = tf_blocknorm.BarzilaiBorwein(
        frequency=1, quotient="short", phi=None, max_change=None
    )
    return keras.optimizers.SGD(rate), [callback]


def _block_rate(optimizer):
    return next(iter(optimizer.block_rates.values()))


METHODS = {
    "AdaptiveBlockNormSGD": Method("AdaptiveBlockNormSGD", _adaptive, _block_rate),
    "original": Method("adaptive, original", _original, _block_rate),
    "BarzilaiBorwein": Method("BarzilaiBorwein, SGD", _barzilai_borwein),
    "Adam": Method("Adam", lambda rate: (keras.optimizers.Adam(rate), [])),
    "SGD": Method("SGD, momentum 0.9", lambda rate: (keras.optimizers.SGD(rate, 0.9), [])),
}


class Record(keras.callbacks.Callback):
    """Keeps the excess loss and the rate after every step."""

    def __init__(self, quadratic, rate):
        super().__init__()
        self.quadratic, self.rate = quadratic, rate
        self.excess, self.rates = [], []

    def on_train_batch_end(self, batch, logs=None):
        model = self.model
        self.excess.append(self.quadratic.excess(keras.ops.convert_to_numpy(model.weights[0])))
        self.rates.append(self.rate(model.optimizer))


def train(seed, method, rate):
    """Run one method from one initial rate, and return what happened as plain data."""
    keras.utils.clear_session()
    quadratic = Quadratic(seed)
    model = keras.Sequential([keras.Input((1,)), Point(quadratic)])
    optimizer, callbacks = METHODS[method].make(rate)
    model.compile(optimizer, loss=lambda _, y: keras.ops.mean(y, axis=-1), jit_compile=False)
    record = Record(quadratic, METHODS[method].rate)
    ones = np.ones((STEPS, 1), "float32")
    model.fit(ones, ones, batch_size=1, verbose=0, callbacks=[*callbacks, record])
    return {
        "seed": seed,
        "method": method,
        "initial_rate": rate,
        "excess": record.excess,
        "rates": record.rates,
    }


def run(arguments, argv, console):
    """Run all methods from all initial rates; print the table, save it and the figure."""
    seeds = range(arguments.seeds or (1 if arguments.quick else 3))
    rates = QUICK_RATES if arguments.quick else RATES
    console.print(
        f"quadratic: {DIMENSION} variables, {STEPS} steps, {len(seeds)} "
        f"problem{'s' * (len(seeds) > 1)} (seeds of matrix, vector and start), initial rates from "
        f"{rates[0]:g} to {rates[-1]:g}.",
        highlight=False,
    )
    plan = [(seed, method, rate) for seed in seeds for method in METHODS for rate in rates]
    runs, code = [], 0
    try:
        for one in track(plan, "Training", console=console, transient=True):
            runs.append(train(*one))
    except KeyboardInterrupt:
        console.print(f"Interrupted: {len(runs)} of {len(plan)} runs are finished.")
        code = 130
    if runs:
        _save(runs, arguments.out, shlex.join(["tf-blocknorm", *argv]), console)
    return code


def table(runs):
    """Return header and rows: the excess at the end, by method and initial rate; worst problem."""
    rows, rates = [], sorted({run["initial_rate"] for run in runs})
    for method, group in tables.grouped(runs, "method").items():
        cells = []
        for rate in rates:
            ends = [run["excess"][-1] for run in group if run["initial_rate"] == rate]
            cells.append(percent(max(ends, key=_badness)) if ends else "")
        rows.append([METHODS[method].label, *cells])
    return ["method", *(f"{rate:g}" for rate in rates)], rows


def percent(excess):
    """Return an excess as text, in %."""
    if not math.isfinite(excess) or excess > 1e3:
        return "diverged"
    return f"{100 * excess:.2g}" if excess >= 1e-4 else "<.01"


def _thinned(values):
    return [float(f"{value:.4g}") for value in values[KEPT - 1 :: KEPT]]


def _badness(excess):
    return excess if math.isfinite(excess) else math.inf


def _save(runs, out, command, console):
    stem = f"{out}/quadratic"
    header, rows = table(runs)
    console.print(
        f"How far above the minimum after {STEPS} steps, in % of its depth, by initial rate; "
        "the worst problem",
        highlight=False,
    )
    console.print(tables.terminal(header, rows))
    records.write_text(f"{stem}.md", tables.markdown(header, rows))
    kept = [
        {**run, "excess": _thinned(run["excess"]), "rates": _thinned(run["rates"])} for run in runs
    ]
    facts = {"versions": records.versions(), "machine": records.machine()}
    records.write_json(f"{stem}.json", {"command": command, **facts, "every": KEPT, "runs": kept})
    first = [run for run in runs if run["seed"] == runs[0]["seed"]]
    quadratic_figure.draw(first, {name: m.label for name, m in METHODS.items()}, f"{stem}.png")
    console.print(f"Table:  {stem}.md\nRuns:   {stem}.json\nFigure: {stem}.png", highlight=False)
