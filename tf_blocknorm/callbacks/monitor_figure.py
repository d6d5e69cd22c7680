"""The heat map of `BlockNormMonitor`."""

import math

import numpy as np

from tf_blocknorm.callbacks.colours import FAINT, INK

try:
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError:
    message = "`plot()` needs matplotlib: pip install 'tf_blocknorm[experiments]'"
    raise ImportError(message) from None


def draw(asked, made, names, updates, path):
    """Draw two panels, blocks by updates.

    Args:
        asked, made: Arrays (blocks, updates): logarithms of gradient and step over weights.
        names: Of the blocks.
        updates: Their numbers.
        path: Of the image file, or None.

    Returns:
        The figure.
    """
    height = min(max(2.4 + 0.14 * len(names), 4.2), 10.0)
    figure = Figure(figsize=(11, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    left = min(0.06 + 0.0062 * max(map(len, names)), 0.35)
    edges = {"left": left, "right": 0.92, "top": 1 - 1.3 / height, "bottom": 0.55 / height}
    figure.subplots_adjust(**edges, wspace=0.05)
    panels = figure.subplots(1, 2, sharey=True)
    values = [np.where(np.isfinite(v), v, np.nan) for v in (asked, made)]
    middles = [np.nanmedian(v) if np.isfinite(v).any() else 0.0 for v in values]
    offsets = [v - middle for v, middle in zip(values, middles)]
    largest = np.nanmax(np.abs(np.append(offsets, 1.0)))
    colours = colormaps["RdBu_r"].with_extremes(bad=INK)
    titles = ("gradient ÷ weights", "step ÷ weights")
    for panel, offset, middle, title in zip(panels, offsets, middles, titles):
        image = panel.imshow(
            offset, colours, vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
        )
        finite = offset[:, np.isfinite(offset).any(axis=0)]
        spread = (
            np.median(np.nanmax(finite, axis=0) - np.nanmin(finite, axis=0)) if finite.size else 0
        )
        heading = {"loc": "left", "fontsize": 11, "fontweight": "bold", "color": INK}
        panel.set_title(title, pad=20, **heading)
        remark = (
            f"largest block: {10**spread:,.4g} \u00d7 the smallest     (white: {10**middle:.1e})"
        )
        panel.text(0, 1 + 0.07 / height, remark, fontsize=8.5, color=INK, transform=panel.transAxes)
        shown = np.unique(np.linspace(0, len(updates) - 1, 7).round().astype(int))
        panel.set_xticks(shown, updates[shown])
        panel.set_xlabel("update", color=INK, fontsize=9)
        panel.tick_params(colors=FAINT, labelcolor=INK, labelsize=8, length=2)
        panel.spines[:].set_visible(False)
    room = (edges["top"] - edges["bottom"]) * height / 0.13
    shown = np.arange(0, len(names), max(1, math.ceil(len(names) / room)))
    panels[0].set_yticks(shown, [names[i] for i in shown], fontsize=7)
    bar = figure.colorbar(image, cax=figure.add_axes((0.935, edges["bottom"], 0.012, 0.4)))
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    bar.ax.yaxis.set_major_formatter(lambda x, _: f"\u00d7 {10**x:,g}")
    bar.ax.tick_params(colors=FAINT, labelcolor=INK, labelsize=8, length=2)
    bar.outline.set_visible(False)
    above = 1 - 0.36 / height
    figure.text(
        left, above, "One learning rate, many scales", fontsize=14, fontweight="bold", color=INK
    )
    figure.text(
        left,
        above - 0.3 / height,
        "A plain step is one learning rate times the gradient: red blocks move far, blue ones "
        "hardly. (Black: weights of zero, or no number.)",
        fontsize=9,
        color=FAINT,
    )
    if path is not None:
        figure.savefig(path)
    return figure
