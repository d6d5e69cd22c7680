"""Figures for a page or a paper. Drawn without a display."""

import pathlib
import re

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from tf_blocknorm.callbacks.colours import FAINT, GRID, INK
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.recipes import RECIPES
from tf_blocknorm.experiments.tables import best_rates, grouped

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def curves(runs, path, title, subtitle):
    """Draw training and held-out metric against epochs: mean over seeds, band from min to max.

    Args:
        runs: List of pairs, the summary of a run and its epoch records.
        path: Of the PNG file.
        title, subtitle: Text above the panels.
    """
    first = runs[0][0]
    metric = PROBLEMS[first["problem"]].metric
    figure, panels = _page(2, title, subtitle)
    panels[0].set_title(f"training {metric}", loc="left", fontsize=10, color=INK)
    held_out = f"{first['split']} {metric}"
    panels[1].set_title(held_out, loc="left", fontsize=10, color=INK)
    methods = {}
    for summary, epochs in runs:
        methods.setdefault(summary["method"], []).append(epochs)
    for panel, key in zip(panels, (metric, f"val_{metric}"), strict=True):
        ends = []
        for colour, (method, group) in zip(COLOURS, methods.items(), strict=False):
            values = np.array([[epoch[key] for epoch in epochs] for epochs in group], float)
            x = np.arange(1, values.shape[1] + 1)
            _line(panel, x, values.T, colour)
            ends.append((values[:, -1].mean(), RECIPES[method].label, "", colour))
        panel.set_xlim(1, max(2, first["epochs"]))
        panel.set_xlabel("epoch", color=INK)
        if panel is panels[1]:
            _label(panel, ends)
    _save(figure, path)


def rates(summaries, path, title, subtitle):
    """Draw the held-out metric at the end of a run against its learning rate."""
    first = summaries[0]
    metric = PROBLEMS[first["problem"]].metric
    figure, (panel,) = _page(1, title, subtitle)
    ends = []
    everywhere = {summary["learning_rate"] for summary in summaries}
    for colour, (method, group) in zip(COLOURS, grouped(summaries, "method").items(), strict=False):
        recipe, parts = RECIPES[method], sorted(grouped(group, "learning_rate").items())
        x = [rate for rate, _ in parts]
        values = [np.array([s[f"val_{metric}"] for s in part], float) for _, part in parts]
        if recipe.rate is None:
            level = values[0].mean()
            _line(panel, [min(everywhere), max(everywhere)], values * 2, colour, linestyle="--")
            ends.append((level, recipe.label, f"from any: {level:.1%}", colour))
            continue
        _line(panel, x, values, colour, marker="o")
        best = x.index(best_rates(group)[method])
        top = values[best].mean()
        panel.plot(x[best], top, "o", ms=11, mfc="none", mec=colour, mew=1.5)
        ends.append((values[-1].mean(), recipe.label, f"best: {top:.1%} at {x[best]:g}", colour))
    panel.set_xscale("log")
    panel.set_xlabel("learning rate at the start (ring: best)", color=INK)
    panel.set_title(f"{first['split']} {metric}", loc="left", fontsize=10, color=INK)
    _label(panel, ends)
    _save(figure, path)


def batch_sizes(lines, path, title, subtitle):
    """Draw accuracy against the size of the batch.

    Args:
        lines: For each label a dict from the size to a learning rate and an array of accuracies.
        path: Of the PNG file.
        title, subtitle: Text above the panel.
    """
    figure, (panel,) = _page(1, title, subtitle)
    ends = []
    for colour, (label, line) in zip(COLOURS, lines.items(), strict=False):
        values = [values for _, values in line.values()]
        _line(panel, list(line), values, colour, marker="o")
        ends.append((values[-1].mean(), label, "", colour))
    panel.set_xscale("log", base=2)
    panel.set_xticks(sorted({size for line in lines.values() for size in line}))
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.set_xlabel("examples per batch", color=INK)
    panel.set_title("validation accuracy", loc="left", fontsize=10, color=INK)
    _label(panel, ends)
    _save(figure, path)


def _page(count, title, subtitle):
    figure = Figure(figsize=(5.2 + 3.6 * (count - 1), 4.2), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    figure.subplots_adjust(
        left=0.09 if count > 1 else 0.12,
        right=0.83 if count > 1 else 0.69,
        top=0.78,
        bottom=0.13,
        wspace=0.1,
    )
    left = figure.subplotpars.left
    figure.text(left, 0.94, title, fontsize=13, fontweight="bold", color=INK)
    figure.text(left, 0.885, subtitle, fontsize=9, color=FAINT)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(FAINT)
        panel.tick_params(colors=FAINT, labelcolor=INK, labelsize=9)
        panel.grid(axis="y", color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.set_ylim(0, 1)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure, panels


def _line(panel, x, values, colour, **style):
    """Draw the mean of each group of values, and a band from its lowest to its highest."""
    panel.plot(x, [v.mean() for v in values], color=colour, linewidth=2, markersize=4, **style)
    low, high = [v.min() for v in values], [v.max() for v in values]
    panel.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _label(panel, ends):
    """Write each line's name at its end, far enough apart to be read."""
    texts = []
    for height, label, remark, colour in sorted(ends):
        last = f"{height:.1%}" if np.isfinite(height) else "diverged"
        lines = [*re.split(r", | (?=\()", label), remark or last]
        texts.append([float(np.nan_to_num(height)), 0.03 * len(lines), "\n".join(lines), colour])
    edge = -1.0
    for text in texts:  # upwards, none into the one below it
        text[0] = max(text[0], edge + text[1])
        edge = text[0] + text[1]
    edge = 1.0
    for text in reversed(texts):  # and back, none above the panel
        text[0] = min(text[0], edge - text[1])
        edge = text[0] - text[1]
    for place, _, text, colour in texts:
        panel.annotate(
            text,
            xy=(1.03, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )


def _save(figure, path):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png", bbox_inches="tight", pad_inches=0.15)
    partial.replace(path)
