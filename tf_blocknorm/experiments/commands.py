"""What `tf-blocknorm run` and `tf-blocknorm sweep` do once their arguments are known."""

import math
import shlex

from tf_blocknorm.experiments import figures, records, runner, tables, workers
from tf_blocknorm.experiments.errors import ExperimentError
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.progress import Progress
from tf_blocknorm.experiments.recipes import RECIPES, tuning
from tf_blocknorm.experiments.schedules import FALLS, OWN, SCHEDULES

# How often a sweep may widen its grids before it reports that a best rate lies at an edge.
EXTENSIONS = 4
SERIES = (1, 2, 5)


class Session:
    """The runs of one command: what they have in common, and what is finished of them.

    Args:
        arguments: The parsed command line.
        argv: The command line itself, for the record.
        console: A `rich.console.Console`.
        split: `"test"` or `"validation"`.
    """

    def __init__(self, arguments, argv, console, split):
        self.console, self.out, self.jobs = console, arguments.out, arguments.jobs
        self.command = shlex.join(["tf-blocknorm", *argv])
        self.problem = PROBLEMS[arguments.problem]
        self.methods, self.source = arguments.methods, arguments.data
        self.options = {**self.problem.options, **arguments.options}
        self.data = self.problem.load(arguments.data, **self.options).part(arguments.examples)
        self.split, self.runs = split, []
        self.common = {
            "dtype_policy": arguments.dtype_policy or "float32",
            "examples": arguments.examples,
            "schedule": SCHEDULES[arguments.schedule or "linear"],
        }
        self.evaluated = self.data if split == "test" else self.data.without_test()
        default = self.problem.epochs(len(self.evaluated.x_train))
        if arguments.quick:
            default = max(1, default // 6)
        if arguments.updates:
            batches = len(self.evaluated.x_train) // self.problem.batch_size
            default = max(1, round(arguments.updates / max(1, batches)))
        self.epochs = arguments.epochs or default
        self.seeds = range(arguments.seeds or (1 if arguments.quick else 3))
        self.name = f"{self.problem.name}-{self.data.name}"

    def add(self, method, learning_rate):
        """Plan the runs of a method, one per seed, with what is `common` to all from here on."""
        self.runs += [
            runner.Run(
                self.problem.name,
                self.source,
                method,
                learning_rate,
                seed,
                self.epochs,
                self.options,
                self.split,
                **self.common,
            )
            for seed in self.seeds
        ]

    def introduce(self, *lines):
        """Print what is about to happen."""
        self.console.print(
            f"{self.problem.described(self.options)} on {self.data.name}: "
            f"{len(self.evaluated.x_train)} training and {len(self.evaluated.x_test)} "
            f"{self.split} examples, "
            f"batches of {self.common.get('batch_size', self.problem.batch_size)}, "
            f"{self.epochs} epochs, {len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}, "
            f"{self.common['dtype_policy']}.\n"
            f"{self._schedules()} {self.jobs} run{'s' * (self.jobs > 1)} at a time.",
            highlight=False,
        )
        for line in lines:
            self.console.print(line, highlight=False)

    def _schedules(self):
        if self.common.get("warmup"):
            return (
                f"All methods: learning rate rises over {self.common['warmup']:.0%} of the updates "
                "and falls along a cosine to 0."
            )
        own = self._own_schedules()
        others = f", but for {', '.join(own)}, which set it themselves" if own else ""
        return f"All methods: learning rate {FALLS[self.common['schedule']]}{others}."

    def _own_schedules(self):
        return [method for method in self.methods if RECIPES[method].schedule == OWN]

    def train(self):
        """Train what is not yet on disk."""
        missing = [run for run in self.runs if runner.finished(run, self.out) is None]
        reused = len(self.runs) - len(missing)
        if reused:
            self.console.print(f"{reused} finished runs found in {self.out}.", highlight=False)
        with Progress(self.console, missing) as progress:
            workers.train_all(missing, self.out, self.jobs, self.command, progress)

    def summaries(self):
        """Return the summaries of all finished runs."""
        found = (runner.finished(run, self.out) for run in self.runs)
        return [summary for summary in found if summary]

    def interrupted(self):
        """Say what is kept and how to go on."""
        self.console.print(
            f"Interrupted: {len(self.summaries())} of {len(self.runs)} runs are finished and kept. "
            f"Continue with: {self.command}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def save(self, stem, summaries, header, rows):
        """Print the table; write it in Markdown, and the summaries as JSON."""
        self.console.print(tables.terminal(header, rows))
        records.write_text(f"{self.out}/{stem}.md", tables.markdown(header, rows))
        record = {"command": self.command, "runs": summaries}
        records.write_json(f"{self.out}/{stem}.json", record)

    def written(self, stem):
        """Print where everything is."""
        self.console.print(f"Table:  {self.out}/{stem}.md\nRuns:   {self.out}/{stem}.json")
        self.console.print(f"Figure: {self.out}/{stem}.png")

    def title(self):
        """Return the heading of a figure."""
        return f"{self.problem.title} on {self.data.name}"

    def subtitle(self, options=None):
        """Return the small print of a figure; `options` are those to name in it, else all."""
        seeds = f"{len(self.seeds)} seeds, bands from lowest to highest"
        name = self.problem.described(self.options if options is None else options)
        if examples := self.common["examples"]:
            name = f"{name}; {examples} training examples"
        if (policy := self.common["dtype_policy"]) != "float32":
            name = f"{name}; {policy}"
        decay = "" if self._own_schedules() else f"; {self.common['schedule']}"
        return f"{name}; {seeds if len(self.seeds) > 1 else '1 seed'}{decay}"


def run(arguments, argv, console):
    """Compare methods at their tuned learning rates; return the exit code."""
    session = Session(arguments, argv, console, "test")
    session.introduce(plan(session, arguments))
    code = 0
    try:
        session.train()
    except KeyboardInterrupt:
        session.interrupted()
        code = 130
    summaries = session.summaries()
    if summaries:
        session.save(session.name, summaries, *tables.by_method(summaries))
        pairs = [
            (summary, runner.epochs_on_disk(run, session.out))
            for run in session.runs
            if (summary := runner.finished(run, session.out))
        ]
        path = f"{session.out}/{session.name}.png"
        figures.curves(pairs, path, session.title(), session.subtitle())
        session.written(session.name)
    return code


def plan(session, arguments):
    """Plan the runs of `run`; return one sentence on where the learning rates come from."""
    names = ("options", "epochs", "updates", "quick", "examples", "schedule")
    changed = any(getattr(arguments, name) for name in names)
    if arguments.learning_rate:
        rates = dict.fromkeys(session.methods, arguments.learning_rate)
        effort = f"Tuning: none; learning rate {arguments.learning_rate:g} for every method."
    elif arguments.sweep:
        rates, effort = swept(session, arguments.sweep)
    else:
        rates, effort = tuning(session.problem.name, session.data.name, changed)
    for method in session.methods:
        session.add(method, rates[method])
    return effort


def swept(session, path):
    """Return the best rates in a file that `sweep` wrote, and one sentence on how it found them."""
    try:
        record = records.read_json(path)
        runs = [run for run in record["runs"] if run["split"] == "validation"]
        problem, data = session.problem.name, session.data.name
        runs = [run for run in runs if (run["problem"], run["source"]) == (problem, data)]
        runs = [run for run in runs if run["options"] == session.options]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExperimentError(f"`--sweep` must be a file that `sweep` wrote: {path}") from error
    rates = tables.best_rates(runs) if runs else {}
    missing = [method for method in session.methods if method not in rates]
    if missing:
        raise ExperimentError(
            f"In {path} there is no sweep of {', '.join(missing)} for "
            f"{session.problem.described(session.options)} on {session.data.name}."
        )
    tried = max(len({r["learning_rate"] for r in runs if r["method"] == m}) for m in rates)
    seeds, epochs = len({run["seed"] for run in runs}), {run["epochs"] for run in runs}
    parts = {run["examples"] for run in runs if "examples" in run}
    return rates, (
        f"Tuning: each method's learning rate is the best of {tried} on validation examples "
        f"({seeds} seed{'s' * (seeds > 1)}, {max(epochs)} epochs"
        f"{f' on {max(parts)} examples' if parts else ''}): {path}."
    )


def sweep(arguments, argv, console):
    """Train at many learning rates, on validation data; return the exit code.

    Finds each method's best rate; or shows what becomes of the given ones.
    """
    session = Session(arguments, argv, console, "validation")
    code = 0
    try:
        if arguments.rates:
            try_rates(session, arguments.rates)
        else:
            tune(session)
    except KeyboardInterrupt:
        session.interrupted()
        code = 130
    summaries = session.summaries()
    if summaries:
        stem = f"{'rates' if arguments.rates else 'sweep'}-{session.name}"
        session.save(stem, summaries, *tables.by_rate(summaries))
        console.print("* best mean over seeds", markup=False)
        path = f"{session.out}/{stem}.png"
        figures.rates(summaries, path, session.title(), session.subtitle())
        session.written(stem)
    return code


def try_rates(session, rates):
    """Train every method at these rates, on validation data."""
    metric = session.problem.metric.title
    session.introduce(f"Rates as given; {metric} on examples taken from the training data.")
    for method in session.methods:
        takes_one = RECIPES[method].rate is not None
        for rate in rates if takes_one else rates[:1]:
            session.add(method, rate)
    session.train()


def tune(session):
    """Train every method at the rates of its grid, and wider while a best one is at an edge."""
    grids = {method: list(RECIPES[method].grid) for method in session.methods}
    session.introduce(
        f"The same number of learning rates for each method ({len(grids[session.methods[0]])}, and "
        "more for all while a best one lies at an edge); chosen on examples taken from the "
        "training data."
    )
    for method, grid in grids.items():
        for rate in grid:
            session.add(method, rate)
    session.train()
    for _ in range(EXTENSIONS):
        best = tables.best_rates(session.summaries())
        if not any(best[method] in (grid[0], grid[-1]) for method, grid in grids.items()):
            break
        for method, grid in grids.items():
            session.add(method, widen(grid, best[method]))
        session.train()


def widen(grid, best):
    """Add to a grid the next rate on the side where its best one is, and return that rate."""
    upwards = grid.index(best) >= len(grid) / 2
    grid.append(neighbour(grid[-1], 1)) if upwards else grid.insert(0, neighbour(grid[0], -1))
    return grid[-1] if upwards else grid[0]


def neighbour(rate, step):
    """Return the next rate up (1) or down (-1) in the series … 1, 2, 5, 10, 20, 50 …"""
    exponent = math.floor(math.log10(rate) + 1e-9)
    place = SERIES.index(round(rate / 10.0**exponent)) + step
    return float(f"{SERIES[place % 3]}e{exponent + place // 3}")
