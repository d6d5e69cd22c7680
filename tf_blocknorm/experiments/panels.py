"""Panels with lines, bands and labels: what the figures are made of. Drawn without a display."""

import dataclasses
import pathlib
import re

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tf_blocknorm.callbacks.colours import FAINT, GRID, INK

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# More lines than this in one panel cannot be told apart: each gets a panel of its own.
MANY = 6
COLUMNS = 4
# What is this many times as high as the lowest value lies outside a panel for a loss.
HIGHEST = 3.0


@dataclasses.dataclass
class Line:
    """The values of one method.

    Attributes:
        label: Its name.
        x: Where.
        values: For each place an array, one value per seed; NaN for a run that diverged.
        remark: Said of it beside the name; else its last value.
        ring: Index of the place to mark; None for none.
        style: What else matplotlib is told.
    """

    label: str
    x: list
    values: list
    remark: str = ""
    ring: int | None = None
    style: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.values = [np.array(value, float) for value in self.values]

    def draw(self, panel, colour, worst, faint=False):
        """Draw the mean of the values, and a band from their lowest to their highest.

        What diverged is a cross at the edge `worst` of the panel.
        """
        means = np.array([value.mean() for value in self.values])
        style = {"linewidth": 2, "markersize": 4, **self.style, "color": colour}
        if faint:
            panel.plot(self.x, means, **{**style, "linewidth": 0.8, "marker": ""})
            return
        panel.plot(self.x, means, **style)
        low, high = ([f(value) for value in self.values] for f in (np.min, np.max))
        panel.fill_between(self.x, low, high, color=colour, alpha=0.18, linewidth=0)
        lost = [x for x, mean in zip(self.x, means) if not np.isfinite(mean)]
        panel.plot(lost, [worst] * len(lost), "x", ms=6, mew=1.5, color=colour, clip_on=False)
        if self.ring is not None and np.isfinite(means[self.ring]):
            place = self.x[self.ring], means[self.ring]
            panel.plot(*place, "o", ms=11, mfc="none", mec=colour, mew=1.5, clip_on=False)


def page(size, shape, title, subtitle, **margins):
    """Return a figure with its title and an array of panels that share their scales.

    Margins are in inches, so that text fits whatever the number of panels.
    """
    figure = Figure(figsize=size, dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    width, height = size
    inches = {"left": 0.6, "right": 0.2, "top": 0.92, "bottom": 0.55, **margins}
    panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    left = inches["left"] / width
    figure.subplots_adjust(
        left=left,
        right=1.0 - inches["right"] / width,
        top=1.0 - inches["top"] / height,
        bottom=inches["bottom"] / height,
        wspace=0.1,
        hspace=0.6,
    )
    figure.text(left, 1.0 - 0.25 / height, title, fontsize=13, fontweight="bold", color=INK)
    figure.text(left, 1.0 - 0.48 / height, subtitle, fontsize=9, color=FAINT)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(FAINT)
        panel.tick_params(colors=FAINT, labelcolor=INK, labelsize=9)
        panel.grid(axis="y", color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
    return figure, panels


def scale(panel, metric, lines):
    """Set the vertical scale of a panel; return its end for the worst values."""
    if metric.unit:  # a fraction
        panel.set_ylim(0, 1)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        return 0.0
    values = np.concatenate([value for line in lines for value in line.values])
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    if not metric.higher:
        high = min(high, HIGHEST * low)
    margin = 0.05 * (high - low) or 0.05
    panel.set_ylim(low - margin, high + margin)
    return panel.get_ylim()[0 if metric.higher else 1]


def heading(panel, text, **style):
    """Write above a panel."""
    panel.set_title(text, loc="left", **{"fontsize": 10, "color": INK, **style})


def draw(panel, lines, metric, beside=(), labels=True):
    """Draw some lines in one panel, and their names at their ends.

    The scale fits also the lines `beside`, which are those of a panel next to it.
    """
    worst, ends = scale(panel, metric, [*lines, *beside]), []
    for colour, line in zip(COLOURS, lines):
        line.draw(panel, colour, worst)
        last = line.values[-1].mean()
        text = f"{line.label}, {line.remark or metric.text(last)}"
        ends.append((last if np.isfinite(last) else worst, text, colour))
    if labels:
        _label(panel, ends)


def multiples(lines, metric, name, horizontal, path, title, subtitle):
    """Draw many lines: for each a panel, in which the others are grey.

    Args:
        lines: List of `Line`s.
        metric: A `Metric`.
        name: What the vertical axis shows.
        horizontal: Function that sets up the horizontal axis of a panel, without its name.
        path: Of the PNG file.
        title, subtitle: Text above the panels.
    """
    rows = -(-len(lines) // COLUMNS)
    size = (0.8 + 2.3 * COLUMNS, 1.0 + 2.0 * rows)
    subtitle = f"{name} {subtitle}"
    figure, panels = page(size, (rows, COLUMNS), title, subtitle, top=1.2, bottom=0.35)
    for panel, line in zip(panels.flat, lines):
        worst = scale(panel, metric, lines)
        for other in lines:
            other.draw(panel, GRID, worst, faint=True)
        line.draw(panel, COLOURS[0], worst)
        horizontal(panel)
        remark = line.remark or metric.text(line.values[-1].mean())
        name = line.label.replace(", ", ",\n", 1)
        heading(panel, f"{name}\n{remark}", fontsize=8)
        panel.tick_params(labelsize=8, labelbottom=True)
    for panel in panels.flat[len(lines) :]:
        panel.set_visible(False)
    save(figure, path)


def _label(panel, ends):
    """Write each line's name at its end, far enough apart to be read."""
    low, high = panel.get_ylim()
    texts = []
    for height, text, colour in sorted(ends):
        lines = re.split(r", | (?=\()", text)
        place = float(np.clip((height - low) / (high - low), 0.0, 1.0))
        texts.append([place, 0.03 * len(lines), "\n".join(lines), colour])
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
            xycoords="axes fraction",
            va="center",
            fontsize=9,
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )


def save(figure, path):
    """Write a PNG file so that it is there either wholly or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png", bbox_inches="tight", pad_inches=0.15)
    partial.replace(path)
