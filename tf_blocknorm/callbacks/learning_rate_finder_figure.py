"""The figure of a sweep over learning rates. Drawn without a display."""

import numpy as np

from tf_blocknorm.callbacks import learning_rate_rule
from tf_blocknorm.callbacks.colours import FAINT, GRID, INK

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
LOSS, CORRELATION, SUGGESTION = "#0072B2", "#D55E00", "#009E73"


def draw(sweep, path=None):
    """Draw loss and correlation against the learning rate, and mark the suggestion.

    Args:
        sweep: Has `learning_rates`, `losses`, `correlations`, `suggestion` and `rule`.
        path: Of a file to save the figure in; its ending says in which format.

    Returns:
        The `matplotlib.figure.Figure`.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Drawing a sweep needs matplotlib: pip install matplotlib") from error

    figure = Figure(figsize=(7.2, 5.2), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.subplots_adjust(left=0.1, right=0.97, top=0.83, bottom=0.1, hspace=0.22)
    rates, found = sweep.learning_rates, sweep.suggestion
    losses = learning_rate_rule.smooth(
        rates, np.minimum(sweep.losses, learning_rate_rule.ceiling(sweep.losses))
    )
    correlations = learning_rate_rule.smooth(rates, sweep.correlations)
    _curve(panels[0], rates, sweep.losses, losses, LOSS, "loss of each batch, and smoothed")
    _curve(
        panels[1],
        rates,
        sweep.correlations,
        correlations,
        CORRELATION,
        "correlation of successive gradients, mean over kernels, and smoothed",
    )
    # What comes after the training is destroyed must not flatten what comes before.
    first, best = losses[0], np.nanmin(losses)
    panels[0].set_ylim(*_limits(sweep.losses[sweep.losses < first + 1.2 * (first - best) + 1e-12]))
    panels[1].set_ylim(*_limits(correlations, 0.6))
    panels[1].axhline(0.0, color=FAINT, linewidth=0.8, zorder=1)
    panels[1].set_xscale("log")
    panels[1].set_xlim(rates[0], rates[-1])
    panels[1].set_xlabel("learning rate", color=INK)
    title = "No rate suggested"
    if found is not None:
        title = f"Suggested learning rate: {found:.2g}"
        for panel, smoothed in zip(panels, (losses, correlations)):
            panel.axvline(found, color=SUGGESTION, linewidth=1.5, zorder=3)
            height = np.interp(np.log(found), np.log(rates), smoothed)
            panel.plot(found, height, "o", ms=7, color=SUGGESTION, mec="white", zorder=5)
    left = figure.subplotpars.left
    figure.text(left, 0.945, title, fontsize=13, fontweight="bold", color=INK)
    figure.text(left, 0.9, sweep.rule, fontsize=9, color=FAINT)
    if path is not None:
        figure.savefig(path)
    return figure


def _curve(panel, rates, values, smoothed, colour, title):
    panel.plot(rates, values, ".", ms=3, color=colour, alpha=0.3, mec="none", zorder=2)
    panel.plot(rates, smoothed, color=colour, linewidth=2, zorder=4)
    panel.set_title(title, loc="left", fontsize=9, color=INK)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.tick_params(which="both", colors=FAINT, labelcolor=INK, labelsize=9)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)


def _limits(values, margin=0.08):
    low, high = np.nanmin(values), np.nanmax(values)
    room = margin * (high - low) or 1.0
    return low - room, high + room
