"""Tables over seeds: for the terminal, and in Markdown for pasting."""

import math
import statistics

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
    """Return header and rows: one row per learning rate, one column per method."""
    metric = PROBLEMS[summaries[0]["problem"]].metric
    best = best_rates(summaries)
    methods = grouped(summaries, "method")
    rows = []
    for rate in sorted({summary["learning_rate"] for summary in summaries}):
        cells = []
        for method, group in methods.items():
            values = [metric.of(s) for s in group if s["learning_rate"] == rate]
            mark = " *" if best[method] == rate else ""
            cells.append(spread(values, metric.factor, metric.form) + mark if values else "")
        rows.append([f"{rate:g}", *cells])
    return ["rate", *(RECIPES[method].label for method in methods)], rows


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


def grouped(summaries, key):
    """Return the summaries in lists by the value of a key, in order of appearance."""
    groups = {}
    for summary in summaries:
        groups.setdefault(summary[key], []).append(summary)
    return groups


def spread(values, factor, form, unit=""):
    """Return "mean ± standard deviation", or that something diverged."""
    if None in values:
        return "diverged"
    mean = form.format(factor * statistics.fmean(values))
    if len(values) == 1:
        return mean + unit
    return f"{mean} ± {form.format(factor * statistics.stdev(values))}{unit}"


def terminal(header, rows):
    """Return a table for `rich`."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(header, rows):
    """Return a table in Markdown."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [header, rule, *rows])
