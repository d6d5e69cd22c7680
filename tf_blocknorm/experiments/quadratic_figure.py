"""The two figures of the quadratic on one page: losses above, the rates that led there below."""

import pathlib

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tf_blocknorm.callbacks.colours import FAINT, GRID, INK

LOWEST, HIGHEST = 1e-6, 1e1


def draw(runs, labels, path, every=1):
    """Draw excess and rate against the step, a column for each method, a line for each rate.

    Args:
        runs: What `quadratic.train` returned, of one problem.
        labels: A dict from methods to titles.
        path: Of the PNG file.
        every: Of how many steps the runs keep one.
    """
    rates = sorted({run["initial_rate"] for run in runs})
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(rates)))
    colours = dict(zip(rates, shades, strict=True))
    methods = list(dict.fromkeys(run["method"] for run in runs))
    figure = Figure(figsize=(2.35 * len(methods) + 1.1, 5.2), dpi=180, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(methods), sharex=True, sharey="row", squeeze=False)
    figure.subplots_adjust(0.075, 0.1, 0.9, 0.82, wspace=0.12, hspace=0.14)
    for column, method in enumerate(methods):
        top, bottom = panels[:, column]
        title = labels[method].replace(", ", "\n")
        top.set_title(title, loc="left", fontsize=9, color=INK)
        for run in (run for run in runs if run["method"] == method):
            x = every * np.arange(1, len(run["excess"]) + 1)
            excess = np.clip(np.nan_to_num(run["excess"], nan=np.inf), LOWEST, 1e3 * HIGHEST)
            style = {"color": colours[run["initial_rate"]], "linewidth": 1.4}
            top.plot(x, excess, **style)
            bottom.plot(x, run["rates"], **style)
    for panel in panels.flat:
        panel.set_yscale("log")
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(FAINT)
        panel.tick_params(colors=FAINT, labelcolor=INK, labelsize=8)
        panel.grid(axis="y", color=GRID, linewidth=0.8)
    for panel in panels[0]:
        panel.set_ylim(LOWEST, HIGHEST)
        panel.axhline(0.01, color=FAINT, linewidth=0.8, linestyle=":")
    for panel in panels[1]:
        panel.set_ylim(1e-5, 1e1)
        panel.set_xlabel("step", fontsize=8, color=INK)
    panels[0, 0].set_ylabel("loss above the minimum / depth", fontsize=8, color=INK)
    panels[1, 0].set_ylabel("rate", fontsize=8, color=INK)
    lines = [Line2D([], [], color=colours[rate], linewidth=2) for rate in rates]
    figure.legend(
        lines,
        [f"{rate:g}" for rate in rates],
        title="initial rate",
        loc="center right",
        frameon=False,
        fontsize=8,
        title_fontsize=8,
    )
    figure.text(
        0.075,
        0.94,
        f"A quadratic, from {len(rates)} initial rates",
        fontsize=13,
        fontweight="bold",
        color=INK,
    )
    figure.text(0.075, 0.905, "dotted: 1 % above the minimum", fontsize=9, color=FAINT)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
