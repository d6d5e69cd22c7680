"""Figures of a result. Drawn without a display."""

import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import report, scaling
from tf_blocknorm.callbacks.colours import FAINT, GRID, INK
from tf_blocknorm.experiments.figures import COLOURS

MODES = {"graph": "TensorFlow graph", "xla": "compiled by XLA"}
SIZES = {"large": "few large variables", "small": "many small variables"}
AXES = {"weights": "weights, in 10 variables", "variables": "variables of 1000 weights"}


def draw(result, folder):
    """Draw what there are numbers for; return the paths."""
    paths = []
    for name, drawing in (("speed.png", _ratios), ("speed-scaling.png", _scaling)):
        figure = drawing(result)
        if figure is not None:
            path = pathlib.Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.15)
            paths.append(path)
    return paths


def _ratios(result):
    """For each of ours a bar per mode, and a mark at what is asked."""
    names = [ours.name for ours in report.OURS]
    figure, panels = _page(2, "Time of an update, relative to Keras's", result, sharey=True)
    drawn = False
    for panel, (problem, title) in zip(panels, SIZES.items()):
        for shift, colour, mode in zip((-0.2, 0.2), COLOURS, MODES):
            job = f"tensorflow-{problem}-{mode}"
            for place, ours in enumerate(report.OURS):
                ratio = report.record(result["jobs"], job, "update", ours.name).get("ratio")
                if ratio is None:
                    continue
                middle, drawn = ratio["median"], True
                label = MODES[mode] if place == 0 else None
                panel.barh(place + shift, middle, 0.36, color=colour, label=label)
                ends = [[ratio["low"], ratio["high"]]]
                panel.hlines(place + shift, *ends[0], color=INK, linewidth=1)
                target = report.asked(ours, problem, mode)
                sides = (place + shift - 0.18, place + shift + 0.18)
                panel.vlines(target, *sides, color="black", linewidth=2)
        panel.axvline(1.0, color=FAINT, linewidth=0.8, linestyle="--")
        panel.set_title(title, loc="left", fontsize=10, color=INK)
        panel.set_xlabel("time / Keras's (black: what is asked)", color=INK)
        panel.grid(axis="x", color=GRID, linewidth=0.8)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    if not drawn:
        return None
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, frameon=False, fontsize=9, loc="upper right")
    return figure


def _scaling(result):
    figure, panels = _page(2, "Time of an update against size", result, left=0.07)
    drawn = False
    for panel, (axis, title) in zip(panels, AXES.items()):
        entries = result["jobs"].get(f"scaling-{axis}", {}).get("records", ())
        for colour, name in zip(COLOURS, scaling.NAMES):
            line = [e for e in entries if e["name"] == name and "milliseconds" in e]
            if line:
                drawn = True
                sizes = [entry["size"] for entry in line]
                low, middle, high = (
                    [entry["milliseconds"][key] for entry in line]
                    for key in ("low", "median", "high")
                )
                panel.plot(sizes, middle, "o-", color=colour, markersize=4, label=name)
                panel.fill_between(sizes, low, high, color=colour, alpha=0.18, linewidth=0)
        panel.set(xscale="log", yscale="log")
        panel.set_xlabel(title, color=INK)
        panel.set_title("milliseconds", loc="left", fontsize=10, color=INK)
        panel.grid(color=GRID, linewidth=0.8)
    if not drawn:
        return None
    next(panel for panel in panels if panel.lines).legend(frameon=False, fontsize=9)
    return figure


def _page(count, title, result, left=0.2, **options):
    figure = Figure(figsize=(9, 4.6), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count, **options)
    figure.subplots_adjust(left=left, right=0.98, top=0.8, bottom=0.13, wspace=0.15)
    machine = result["machine"]
    below = f"{machine['processor']}, {machine['cores']} cores; TensorFlow, update alone"
    figure.text(0.02, 0.94, title, fontsize=13, fontweight="bold", color=INK)
    figure.text(0.02, 0.885, below, fontsize=9, color=FAINT)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(FAINT)
        panel.tick_params(colors=FAINT, labelcolor=INK, labelsize=9)
        panel.set_axisbelow(True)
    return figure, panels
