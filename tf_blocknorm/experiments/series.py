"""`--depth 6 12 30` and the like: methods compared at each value of one option of a problem.

`sweep` tunes every method at every value; `run` then trains them, on test data, at these rates.
"""

import argparse
import functools

from tf_blocknorm.experiments import figures, tables
from tf_blocknorm.experiments.commands import Session, plan, try_rates, tune
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.recipes import RECIPES


def run(arguments, argv, console):
    """Train at all values, print the table and save it and the figure; return the exit code."""
    option, values = arguments.series
    planned, code = [], 0
    for value in values:
        options = {**arguments.options, option: value}
        at_value = argparse.Namespace(**{**vars(arguments), "options": options})
        planned.append(_plan(at_value, argv, console))
    sessions = [session for session, _ in planned]
    try:
        for session, train in planned:
            train(session)
    except KeyboardInterrupt:
        session.interrupted()
        code = 130
    first, finished = sessions[0], [s for session in sessions for s in session.summaries()]
    if finished:
        stem = f"{_prefix(arguments)}{first.name}-{option}s"
        first.save(stem, finished, *table(finished, option))
        console.print("(in brackets: the learning rate)", markup=False)
        fixed = {name: n for name, n in first.options.items() if name != option}
        subtitle = first.subtitle(fixed)
        draw(finished, option, f"{first.out}/{stem}.png", first.title(), subtitle)
        first.written(stem)
    return code


def _plan(arguments, argv, console):
    """Return the session at one value, and the function of it that trains."""
    if arguments.command == "sweep":
        session = Session(arguments, argv, console, "validation")
        if arguments.rates:
            return session, functools.partial(try_rates, rates=arguments.rates)
        return session, tune
    session = Session(arguments, argv, console, "test")
    # Before any training: a rate may be missing.
    effort = plan(session, arguments)

    def train(session):
        session.introduce(effort)
        session.train()

    return session, train


def _prefix(arguments):
    if arguments.command == "run":
        return ""
    return "rates-" if arguments.rates else "sweep-"


def varied(summaries):
    """Return the option that differs between runs, or None."""
    options = [summary["options"] for summary in summaries]
    found = [name for name in options[0] if len({each[name] for each in options}) > 1]
    return found[0] if found else None


def _lines(summaries, option):
    return tables.best_along(summaries, lambda summary: summary["options"][option])


def table(summaries, option):
    """Return header and rows: one row per method, one column per value, metric and rate."""
    lines, metric = _lines(summaries, option), PROBLEMS[summaries[0]["problem"]].metric
    places = sorted({place for line in lines.values() for place in line})
    rows = []
    for method, line in lines.items():
        cells = []
        for place in places:
            rate, values = line.get(place, (None, ()))
            shown = tables.spread(list(values), metric.factor, metric.form) if rate else ""
            cells.append(f"{shown} ({rate:g})" if rate and RECIPES[method].rate else shown)
        rows.append([RECIPES[method].label, *cells])
    return ["method", *(f"{option} {place}" for place in places)], rows


def draw(summaries, option, path, title, subtitle):
    """Draw the best metric of each method against the option."""
    first = summaries[0]
    metric = PROBLEMS[first["problem"]].metric
    lines = {RECIPES[name].label: line for name, line in _lines(summaries, option).items()}
    figures.along(option, lines, metric, path, title, subtitle, first["split"])
