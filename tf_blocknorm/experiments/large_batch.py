"""`tf-blocknorm run large-batch`: accuracy against the size of the batch, at equal epochs.

The learning rates are tuned at one size. At the others they are multiplied by the factor of the
batch, or by its square root; the better of both counts. Every method gets as many runs.
"""

import argparse

import keras
import numpy as np

from tf_blocknorm.experiments import figures, records, tables
from tf_blocknorm.experiments.commands import Session, tune
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.recipes import RECIPES

TUNED_AT = 128
SIZES = (32, 128, 512, 2048, 4096)
SCALINGS = {"sqrt": 0.5, "linear": 1.0}
WARMUP = 0.1
EPOCHS = 5
DEPTH = 6  # of the multilayer perceptron: with large batches, few epochs are too few updates for 30


def run(arguments, argv, console):
    """Tune, train at all sizes, print the tables and save them and the figure; return the code."""
    given = vars(arguments)
    given = {**given, "problem": arguments.network, "seeds": arguments.seeds or 1}
    if arguments.network == "mlp":
        given["options"] = {"depth": DEPTH, **arguments.options}
    if not (arguments.epochs or arguments.updates or arguments.quick):
        given["epochs"] = EPOCHS
    session = Session(argparse.Namespace(**given), argv, console, "validation")
    session.common |= {"batch_size": TUNED_AT, "warmup": WARMUP}
    code = 0
    try:
        tune(session)
        largest = len(session.evaluated.x_train)
        best = tables.best_rates(session.summaries())
        for size in (size for size in SIZES if size != TUNED_AT and size <= largest):
            session.common |= {"batch_size": size}
            for method, rate in best.items():
                for exponent in SCALINGS.values():
                    session.add(method, scaled(rate, size, exponent))
        session.train()
    except KeyboardInterrupt:
        session.interrupted()
        code = 130
    summaries = session.summaries()
    if summaries:
        stem = f"large-batch-{session.name}"
        session.save(stem, summaries, *table(summaries))
        console.print("(+: rate scaled linearly with the batch; else with its root)", markup=False)
        header, rows = memory(session.problem, session.options, session.data, session.methods)
        console.print(tables.terminal(header, rows))
        records.write_text(f"{session.out}/{stem}-memory.md", tables.markdown(header, rows))
        title = f"{session.title()}, {session.epochs} epochs"
        described = session.problem.described(session.options)
        subtitle = f"{described}; {session.common['dtype_policy']}; warm-up and cosine"
        draw(summaries, f"{session.out}/{stem}.png", title, subtitle)
        session.written(stem)
    return code


def scaled(rate, size, exponent):
    """Return the learning rate at another size of the batch, to three digits."""
    return float(f"{rate * (size / TUNED_AT) ** exponent:.3g}")


def curves(summaries):
    """Return for each method a dict from the size of the batch to rate and metrics there."""
    return tables.best_along(summaries, lambda summary: summary["batch_size"])


def draw(summaries, path, title, subtitle):
    """Draw the best metric of each method against the size of the batch."""
    metric = PROBLEMS[summaries[0]["problem"]].metric
    lines = {RECIPES[name].label: line for name, line in curves(summaries).items()}
    figures.along("examples per batch", lines, metric, path, title, subtitle)


def table(summaries):
    """Return header and rows: one row per method, one column per size of the batch."""
    lines, metric = curves(summaries), PROBLEMS[summaries[0]["problem"]].metric
    sizes = sorted({size for line in lines.values() for size in line})
    rows = []
    for method, line in lines.items():
        tuned = line[TUNED_AT][0] if TUNED_AT in line else None
        cells = []
        for size in sizes:
            if size not in line:
                cells.append("")
                continue
            rate, values = line[size]
            linear = size != TUNED_AT and rate == scaled(tuned, size, SCALINGS["linear"])
            cells.append(tables.spread(values, metric.factor, metric.form) + " +" * linear)
        rows.append([RECIPES[method].label, "" if tuned is None else f"{tuned:g}", *cells])
    return ["method", f"rate at {TUNED_AT}", *map(str, sizes)], rows


def memory(problem, options, dataset, methods):
    """Return header and rows: what optimizers keep, in bytes per byte of the weights."""
    rows = []
    for method in methods:
        keras.utils.clear_session()
        model = problem.build(dataset.input_shape, dataset.num_classes, **options)
        model, given = RECIPES[method].prepare(model)
        optimizer = RECIPES[method].make(0.01, **given)
        optimizer.build(model.trainable_variables)
        kept, weights = (_bytes(v) for v in (optimizer.variables, model.trainable_variables))
        rows.append([RECIPES[method].label, f"{kept / 1e6:.2f}", f"{kept / weights:.3f}"])
    return ["method", "optimizer, MB", "per byte of weights"], rows


def _bytes(variables):
    return sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in variables)
