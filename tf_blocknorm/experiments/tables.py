"""Tables over seeds: for the terminal, and in Markdown for pasting."""

import math
import statistics

import numpy as np
import rich.box
import rich.table

from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.recipes import RECIPES


def by_method(summaries):
    """Return header and rows: one row per method, mean ± standard deviation over seeds."""
    problem, split = summaries[0]["problem"], summaries[0]["split"]
    metric = PROBLEMS[problem].metric
    rows = []
    for method, group in grouped(summaries, "method").items():
        rates = {summary["learning_rate"] for summary in group}
        rows.append(
            [
                RECIPES[method].label,
                ", ".join(f"{r:g}" for r in sorted(rates)) if RECIPES[method].rate else "any",
                str(len(group)),
                spread([metric.of(s) for s in group], metric.factor, metric.form, metric.unit),
                spread([s["val_loss"] for s in group], 1, "{:.3f}"),
                spread([s["seconds"] for s in group], 1, "{:.0f}"),
            ]
        )
    header = ["method", "rate", "seeds", f"{split} {metric.title}", f"{split} loss", "seconds"]
    return header, rows


def by_rate(summaries):
    """Return header and rows: one row per method, one column per learning rate."""
    metric = PROBLEMS[summaries[0]["problem"]].metric
    best = best_rates(summaries)
    rates = sorted({summary["learning_rate"] for summary in summaries})
    rows = []
    for method, group in grouped(summaries, "method").items():
        cells = []
        for rate in rates:
            values = [metric.of(s) for s in group if s["learning_rate"] == rate]
            mark = " *" if best[method] == rate else ""
            cells.append(spread(values, metric.factor, metric.form) + mark if values else "")
        rows.append([RECIPES[method].label, *cells])
    return ["method", *(f"{rate:g}" for rate in rates)], rows


def best_rates(summaries):
    """Return for each method the learning rate of the best mean metric, lower loss first."""
    metric = PROBLEMS[summaries[0]["problem"]].metric

    def merit(item):
        rate, group = item
        score = statistics.fmean(metric.merit(metric.of(s)) for s in group)
        losses = [s["val_loss"] for s in group]
        return score, -math.inf if None in losses else -statistics.fmean(losses), -rate

    return {
        method: max(grouped(group, "learning_rate").items(), key=merit)[0]
        for method, group in grouped(summaries, "method").items()
    }


def best_along(summaries, place):
    """Return for each method a dict from `place(summary)` to the best rate there and its metrics.

    The best one on average; its metrics are an array of one per seed, NaN where training diverged.
    """
    metric = PROBLEMS[summaries[0]["problem"]].metric
    result = {}
    for method, group in grouped(summaries, "method").items():
        result[method] = {}
        for where in sorted({place(summary) for summary in group}):
            part = [summary for summary in group if place(summary) == where]
            rate = best_rates(part)[method]
            values = [metric.of(s) for s in part if s["learning_rate"] == rate]
            result[method][where] = (rate, np.array(values, float))
    return result


def grouped(summaries, key):
    """Return the summaries in lists by the value of a key, in order of appearance."""
    groups = {}
    for summary in summaries:
        groups.setdefault(summary[key], []).append(summary)
    return groups


def spread(values, factor, form, unit=""):
    """Return "mean ± standard deviation", or that something diverged (None or NaN)."""
    if any(value is None or math.isnan(value) for value in values):
        return "diverged"
    mean = form.format(factor * statistics.fmean(values))
    if len(values) == 1:
        return mean + unit
    return f"{mean} ± {form.format(factor * statistics.stdev(values))}{unit}"


def terminal(header, rows):
    """Return a table for `rich`; what stands in brackets goes below."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(row[0], *(cell.replace(" (", "\n(") for cell in row[1:]))
    return table


def markdown(header, rows):
    """Return a table in Markdown."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [header, rule, *rows])
