"""What a report says of one file: its command, what was run, where, its tables and its figure."""

import dataclasses
import statistics
import types

import numpy as np

from tf_blocknorm.callbacks import learning_rate_finder_figure
from tf_blocknorm.experiments import (
    figures,
    large_batch,
    quadratic,
    quadratic_figure,
    records,
    series,
    tables,
)
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.recipes import RECIPES

RUN, SWEEP, FIND, LARGE_BATCH, QUADRATIC = "run", "sweep", "find", "large-batch", "quadratic"
SERIES = "series"
ORDER = (RUN, SERIES, SWEEP, LARGE_BATCH, FIND, QUADRATIC)


class UnknownRecordError(ValueError):
    """A JSON file of another kind."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: what it shows, its header and its rows, all of text."""

    caption: str
    header: list
    rows: list


@dataclasses.dataclass(frozen=True)
class Entry:
    """A section of the report.

    Attributes:
        stem: Name of the file without its ending.
        kind: The command that wrote it.
        title: Heading.
        command: The command line.
        facts: Pairs of a word and what there is to say.
        tables: List of `Table`s.
        figure: A PNG image.
        seen: What the figure shows, in words.
    """

    stem: str
    kind: str
    title: str
    command: str
    facts: list
    tables: list
    figure: bytes
    seen: str

    @property
    def order(self):
        """Key to sort by: by kind, then by name."""
        return ORDER.index(self.kind), self.stem


def kind(record):
    """Return the function that makes the entry for a record."""
    runs = record.get("runs") if isinstance(record, dict) else None
    if isinstance(record, dict) and "suggestion" in record:
        return _found
    if not runs or "command" not in record:
        raise UnknownRecordError("not written by run, sweep or find")
    if "every" in record:
        return _quadratic
    if LARGE_BATCH in record["command"].split():
        return _large_batch
    if series.varied(runs):
        return _series
    return {"test": _compared, "validation": _swept}[runs[0]["split"]]


def _compared(record, path, drawn):
    """Methods at one rate each; a curve, if the record of each epoch is there."""
    runs, (title, described) = record["runs"], _titles(record["runs"])
    metric = PROBLEMS[runs[0]["problem"]].metric
    epochs = [_epochs(run, path.parent) for run in runs]
    if all(epochs):
        figures.curves(list(zip(runs, epochs)), drawn, title, described)
        seen = f"{metric.title} against the epoch, mean over seeds and range"
    elif path.with_suffix(".png").exists():
        drawn, seen = path.with_suffix(".png"), f"{metric.title} against the epoch"
    else:
        figures.ends(runs, drawn, title, described)
        seen = f"{metric.title} of every seed at the end, and their mean"
    header, rows = tables.by_method(_best_first(runs, metric))
    table = Table("Mean and standard deviation over seeds; best first", header, rows)
    return _entry(record, path, RUN, title, _facts(runs), [table], drawn, seen)


def _swept(record, path, drawn):
    """Methods at many rates each."""
    runs, (title, described) = record["runs"], _titles(record["runs"])
    metric = PROBLEMS[runs[0]["problem"]].metric
    figures.rates(runs, drawn, title, described)
    best = tables.best_rates(runs)
    at_best = [run for run in runs if run["learning_rate"] == best[run["method"]]]
    table = tables.by_method(_best_first(at_best, metric))
    shown = [
        Table("At each method's best rate; best first", *table),
        Table(f"{_measured(metric)}, by rate (*: best)", *tables.by_rate(runs)),
    ]
    seen = f"{metric.title} at the end against the learning rate"
    return _entry(record, path, SWEEP, title, _facts(runs), shown, drawn, seen)


def _large_batch(record, path, drawn):
    runs, (title, described) = record["runs"], _titles(record["runs"])
    metric = PROBLEMS[runs[0]["problem"]].metric
    large_batch.draw(runs, drawn, title, described)
    caption = (
        f"{_measured(metric)}, by examples per batch (+: rate scaled linearly with it; else with "
        "its root)"
    )
    shown = [Table(caption, *large_batch.table(runs))]
    seen = f"{metric.title} against the size of the batch"
    return _entry(record, path, LARGE_BATCH, title, _facts(runs), shown, drawn, seen)


def _series(record, path, drawn):
    runs, option = record["runs"], series.varied(record["runs"])
    metric = PROBLEMS[runs[0]["problem"]].metric
    title, _ = _titles(runs)
    series.draw(runs, option, drawn, title, _small_print(runs, without=option))
    caption = f"{_measured(metric)}, by {option} (in brackets: the learning rate)"
    shown = [Table(caption, *series.table(runs, option))]
    seen = f"{metric.title} against {option}"
    return _entry(record, path, SERIES, title, _facts(runs), shown, drawn, seen)


def _found(record, path, drawn):
    problem = PROBLEMS[record["problem"]]
    kept = ("learning_rates", "losses", "correlations")
    arrays = {name: np.array(record[name], float) for name in kept}
    learning_rate_finder_figure.draw(types.SimpleNamespace(**{**record, **arrays}), drawn)
    label = RECIPES[record["method"]].label
    rates, suggestion = record["learning_rates"], record["suggestion"]
    header = ["method", "suggested learning rate", "by", "updates", "from", "to"]
    suggested = "none" if suggestion is None else f"{suggestion:.2g}"
    row = [label, suggested, record["rule"], str(len(rates)), f"{rates[0]:.2g}", f"{rates[-1]:.2g}"]
    facts = [
        ("what", f"{problem.described(record['options'])} on {record['data']}"),
        ("seeds", str(record["seed"])),
        *_circumstances([record]),
    ]
    title = f"{problem.title} on {record['data']}: {label}"
    seen = "loss and correlation of successive gradients against the learning rate"
    return _entry(record, path, FIND, title, facts, [Table("", header, [row])], drawn, seen)


def _quadratic(record, path, drawn):
    runs = [{**run, "excess": _numbers(run["excess"])} for run in record["runs"]]
    first = [run for run in runs if run["seed"] == runs[0]["seed"]]
    labels = {name: method.label for name, method in quadratic.METHODS.items()}
    quadratic_figure.draw(first, labels, drawn, every=record["every"])
    caption = "How far above the minimum at the end, in % of its depth, by initial rate; worst seed"
    seeds = sorted({run["seed"] for run in runs})
    facts = [
        ("what", f"{quadratic.DIMENSION} variables, {quadratic.STEPS} steps"),
        ("seeds", _listed(seeds)),
        *_circumstances([record]),
    ]
    shown = [Table(caption, *quadratic.table(runs))]
    title, seen = "Quadratic", "loss and rate against the step, a column for each method"
    return _entry(record, path, QUADRATIC, title, facts, shown, drawn, seen)


def _entry(record, path, name, title, facts, shown, drawn, seen):
    figure = drawn.read_bytes()
    return Entry(path.stem, name, title, record["command"], facts, shown, figure, seen)


def _measured(metric):
    unit = f" in {metric.unit.strip()}" if metric.unit else ""
    return metric.title.capitalize() + unit


def _titles(runs):
    """Return title and small print of a figure."""
    first = runs[0]
    return f"{PROBLEMS[first['problem']].title} on {first['source']}", _small_print(runs)


def _small_print(runs, without=None):
    options = {name: n for name, n in runs[0]["options"].items() if name != without}
    seeds = len({run["seed"] for run in runs})
    parts = [PROBLEMS[runs[0]["problem"]].described(options), f"{seeds} seed{'s' * (seeds > 1)}"]
    policies = {run.get("dtype_policy", "float32") for run in runs} - {"float32"}
    return "; ".join([*parts, *_part(runs), *sorted(policies)])


def _part(runs):
    """Return how many examples runs are trained on, if not on all."""
    return sorted({f"{run['examples']} training examples" for run in runs if "examples" in run})


def _facts(runs):
    """Return what runs have in common, and what not."""
    first, times = runs[0], sorted(run["finished"] for run in runs)
    problem = PROBLEMS[first["problem"]]
    metric = problem.metric.title
    options = {n: _listed(dict.fromkeys(r["options"][n] for r in runs)) for n in first["options"]}
    epochs = _listed(sorted({run["epochs"] for run in runs}))
    sizes = _listed(sorted({run["batch_size"] for run in runs}))
    policies = _listed(sorted({run.get("dtype_policy", "float32") for run in runs}))
    trained_on = ", ".join([first["source"], *_part(runs)])
    return [
        ("what", f"{problem.described(options)} on {trained_on}; {metric} on "
         f"{first['split']} examples; {epochs} epochs, batches of {sizes}, {policies}"),
        ("schedule", _listed(dict.fromkeys(map(_schedule, runs)))),
        ("runs", str(len(runs))),
        ("seeds", _listed(sorted({run["seed"] for run in runs}))),
        *_circumstances(runs),
        ("finished", " to ".join(f"{t[:10]} {t[11:16]}" for t in (times[0], times[-1])) + " UTC"),
    ]  # fmt: skip


def _schedule(run):
    if run.get("warmup"):
        return f"warm-up over {run['warmup']:.0%} of the updates, then a cosine to 0"
    return run["schedule"]


def _circumstances(found):
    """Return versions and machines of some records, each once."""
    versions = [", ".join(f"{k} {v}" for k, v in one["versions"].items()) for one in found]
    machines = [
        "{system} {architecture}, {processor}, {cores} cores".format(**one["machine"])
        for one in found
    ]
    return [
        ("versions", _listed(dict.fromkeys(versions), "; ")),
        ("machine", _listed(dict.fromkeys(machines), "; ")),
    ]


def _listed(values, between=", "):
    return between.join(map(str, values))


def _epochs(run, folder):
    """Return the record of each epoch of a run, if its folder is there."""
    rate, seed = run["learning_rate"], run["seed"]
    parent = folder / f"{run['problem']}-{run['source']}-{run['split']}"
    for candidate in parent.glob(f"{run['method']}-{rate:g}-seed{seed}-*"):
        if records.read_json(candidate / "summary.json") == run:
            return records.read_lines(candidate / "epochs.jsonl")
    return []


def _best_first(runs, metric):
    groups = tables.grouped(runs, "method").values()

    def merit(group):
        return statistics.fmean(metric.merit(metric.of(run)) for run in group)

    return [run for group in sorted(groups, key=merit, reverse=True) for run in group]


def _numbers(values):
    """Return values with what JSON could not hold as infinity."""
    return [float("inf") if value is None else value for value in values]
