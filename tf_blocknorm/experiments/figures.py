"""Figures for a page or a paper."""

from matplotlib.ticker import PercentFormatter, ScalarFormatter

from tf_blocknorm.callbacks.colours import GRID, INK
from tf_blocknorm.experiments.panels import (
    COLOURS,
    MANY,
    Line,
    draw,
    heading,
    multiples,
    page,
    save,
)
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.recipes import RECIPES
from tf_blocknorm.experiments.tables import best_rates, grouped

LABELS = 2.1  # inches beside a panel for the names of lines
NAN = float("nan")


def curves(runs, path, title, subtitle):
    """Draw training and held-out metric against epochs: mean over seeds, band from min to max.

    More than six methods get a panel each, with the held-out metric.

    Args:
        runs: List of pairs, the summary of a run and its epoch records.
        path: Of the PNG file.
        title, subtitle: Text above the panels.
    """
    first = runs[0][0]
    metric = PROBLEMS[first["problem"]].metric
    methods = {}
    for summary, epochs in runs:
        methods.setdefault(summary["method"], []).append(epochs)
    training, held_out = (
        [_line(RECIPES[method].label, group, key) for method, group in methods.items()]
        for key in (metric.name, f"val_{metric.name}")
    )
    name = f"{first['split']} {metric.title}"

    def horizontal(panel):
        panel.set_xlim(1, max(2, first["epochs"]))

    if len(methods) > MANY:
        subtitle = f"against epochs; {subtitle}"
        multiples(held_out, metric, name, horizontal, path, title, subtitle)
        return
    figure, ((left, right),) = page((8.8, 4.2), (1, 2), title, subtitle, right=LABELS)
    heading(left, f"training {metric.title}")
    heading(right, name)
    for panel in (left, right):
        horizontal(panel)
        panel.set_xlabel("epoch", color=INK)
    draw(left, training, metric, held_out, labels=False)
    draw(right, held_out, metric, training)
    save(figure, path)


def rates(summaries, path, title, subtitle):
    """Draw the held-out metric at the end of a run against its learning rate.

    More than six methods get a panel each.
    """
    first = summaries[0]
    metric = PROBLEMS[first["problem"]].metric
    everywhere = sorted({summary["learning_rate"] for summary in summaries})
    lines = [
        _of_rates(RECIPES[method], group, everywhere, metric)
        for method, group in grouped(summaries, "method").items()
    ]
    name = f"{first['split']} {metric.title}"
    axis = "learning rate at the start (ring: best)"

    def horizontal(panel):
        panel.set_xscale("log")
        if everywhere[-1] <= 10 * everywhere[0]:  # too few powers of ten for ticks
            panel.set_xticks(everywhere, [f"{rate:g}" for rate in everywhere])
            panel.minorticks_off()

    _against(axis, lines, metric, name, horizontal, path, title, subtitle)


def ends(summaries, path, title, subtitle):
    """Draw the held-out metric at the end of each run: a row per method, a dot per seed."""
    first, methods = summaries[0], grouped(summaries, "method")
    metric = PROBLEMS[first["problem"]].metric
    height = 1.3 + 0.42 * len(methods)
    figure, ((panel,),) = page((6.4, height), (1, 1), title, subtitle, left=LABELS, top=0.7)
    panel.grid(axis="y", visible=False)
    panel.grid(axis="x", color=GRID, linewidth=0.8)
    for row, group in enumerate(methods.values()):
        values = [NAN if metric.of(s) is None else metric.of(s) for s in group]
        panel.plot(values, [row] * len(values), "o", ms=6, color=COLOURS[0], alpha=0.6)
        panel.plot(sum(values) / len(values), row, "|", ms=16, mew=2, color=COLOURS[0])
    panel.set_yticks(range(len(methods)), [RECIPES[method].label for method in methods])
    panel.set_ylim(len(methods) - 0.5, -0.5)
    if metric.unit:
        panel.set_xlim(0, 1)
        panel.xaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_xlabel(f"{first['split']} {metric.title} (bar: mean)", color=INK)
    save(figure, path)


def along(axis, lines, metric, path, title, subtitle, split="validation"):
    """Draw a metric against the size of the batch, or an option of the problem.

    Args:
        axis: What is under the panel.
        lines: For each label a dict from the size to a learning rate and an array of values.
        metric: A `Metric`.
        path: Of the PNG file.
        title, subtitle: Text above the panel.
    """
    drawn = [
        Line(label, list(line), [values for _, values in line.values()], style={"marker": "o"})
        for label, line in lines.items()
    ]

    def horizontal(panel):
        panel.set_xscale("log", base=2)
        panel.set_xticks(sorted({size for line in drawn for size in line.x}))
        panel.xaxis.set_major_formatter(ScalarFormatter())

        panel.minorticks_off()

    name = f"{split} {metric.title}"
    _against(axis, drawn, metric, name, horizontal, path, title, subtitle)


def _against(axis, lines, metric, name, horizontal, path, title, subtitle):
    """Draw lines in one panel, or many of them in one each; `horizontal(panel)` sets the scale."""
    if len(lines) > MANY:
        subtitle = f"against {axis}; {subtitle}"
        multiples(lines, metric, name, horizontal, path, title, subtitle)
        return
    figure, ((panel,),) = page((6.4, 4.2), (1, 1), title, subtitle, right=LABELS)
    heading(panel, name)
    horizontal(panel)
    panel.set_xlabel(axis, color=INK)
    draw(panel, lines, metric)
    save(figure, path)


def _line(label, group, key):
    """Return the line of a method: a value per epoch and seed."""
    values = [[NAN if e[key] is None else e[key] for e in epochs] for epochs in group]
    return Line(label, list(range(1, len(values[0]) + 1)), list(zip(*values)))


def _of_rates(recipe, group, everywhere, metric):
    """Return the line of a method: values per learning rate, of which the best gets a ring."""
    parts = sorted(grouped(group, "learning_rate").items())
    values = [[NAN if metric.of(s) is None else metric.of(s) for s in part] for _, part in parts]
    mean = metric.text(sum(values[0]) / len(values[0]))
    if recipe.rate is None:
        ends = [everywhere[0], everywhere[-1]]
        style = {"linestyle": "--"}
        return Line(recipe.label, ends, values[:1] * 2, f"from any: {mean}", style=style)
    x = [rate for rate, _ in parts]
    best = x.index(best_rates(group)[group[0]["method"]])
    top = metric.text(sum(values[best]) / len(values[best]))
    return Line(recipe.label, x, values, f"best: {top} at {x[best]:g}", best, {"marker": "o"})
