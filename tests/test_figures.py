"""Figures show every method, whatever their number, and also what diverged."""

import numpy as np
import pytest

from tf_blocknorm.experiments import figures, panels, tables
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.recipes import RECIPES

RATES = (1e-5, 1e-3, 0.1, 1.0)


def sweep(problem, methods):
    """Return runs of which the third rate is the best and the last one diverges."""
    metric, merits = PROBLEMS[problem].metric, (0.2, 0.5, 0.8, None)
    values = [m if m is None or metric.higher else 3.0 - m for m in merits]
    return [
        {
            "problem": problem, "method": method, "learning_rate": rate, "seed": seed,
            "split": "validation", "epochs": 3, "val_loss": 1.0, "batch_size": 64,
            f"val_{metric.name}": None if value is None else value + seed / 100,
        }
        for method in methods for rate, value in zip(RATES, values) for seed in (0, 1)
    ]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn: a list of figures."""
    found = []
    for module in (figures, panels):
        monkeypatch.setattr(module, "save", lambda figure, path: found.append(figure))
    return found


def shown(figure):
    """Return all texts of the visible panels."""
    return [
        text.get_text().replace(",\n", ", ")
        for panel in figure.axes
        if panel.get_visible()
        for text in [*panel.texts, panel.title, panel._left_title]
    ]


def has(figure, label):
    words = label.replace("(", "").replace(")", "").replace(",", " ").split()
    flat = [text.replace("\n", " ").replace("(", "").replace(")", "") for text in shown(figure)]
    return any(text.replace(",", " ").split()[: len(words)] == words for text in flat)


@pytest.mark.parametrize("problem", ["mlp", "char-lstm"])
@pytest.mark.parametrize("count", [1, 6, 7, 12, 30])
def test_no_method_is_left_out(problem, count, drawn):
    methods = list(RECIPES)[:count]
    runs = sweep(problem, methods)
    metric = PROBLEMS[problem].metric
    figures.rates(runs, "rates.png", "title", "subtitle")
    at_one_rate = [run for run in runs if run["learning_rate"] == RATES[1]]
    value = metric.of(at_one_rate[0])
    epochs = [{metric.name: value, f"val_{metric.name}": v} for v in (value, None, value)]
    figures.curves([(run, epochs) for run in at_one_rate], "curves.png", "title", "subtitle")
    lines = {
        RECIPES[method].label: {32: (0.1, np.array([value])), 64: (0.1, np.array([np.nan]))}
        for method in methods
    }
    figures.along("examples per batch", lines, metric, "sizes.png", "title", "subtitle")
    assert len(drawn) == 3
    for figure in drawn:
        for method in methods:
            assert has(figure, RECIPES[method].label)
    best = metric.text(0.805 if metric.higher else 2.205)
    tuned = [method for method in methods if RECIPES[method].rate]
    written = " ".join(shown(drawn[0])).replace("\n", " ")
    assert written.count(f"best: {best} at 0.1") == len(tuned)
    assert tables.best_rates(runs)["BlockNormSGD"] == 0.1


def test_a_cross_at_the_worse_end_for_what_diverged(drawn):
    for problem, place in (("mlp", 0.0), ("char-lstm", None)):
        figures.rates(sweep(problem, ["Adam"]), "rates.png", "title", "subtitle")
        (panel,) = drawn[-1].axes
        (cross,) = [line for line in panel.lines if line.get_marker() == "x"]
        worst = panel.get_ylim()[1] if place is None else place
        assert cross.get_xydata().tolist() == [[1.0, worst]]


def test_what_is_far_off_does_not_flatten_the_rest(drawn):
    runs = sweep("char-lstm", ["Adam"])
    runs[0]["val_bits_per_character"] = 1e6
    figures.rates(runs, "rates.png", "title", "subtitle")
    (panel,) = drawn[0].axes
    assert panel.get_ylim()[1] < 3.3 * 2.2
