"""What `tf-blocknorm run` and `tf-blocknorm sweep` do once their arguments are known."""

import math
import shlex

from tf_blocknorm.experiments import figures, records, runner, tables, workers
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.progress import Progress
from tf_blocknorm.experiments.recipes import OWN, RECIPES, tuning

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
        self.data = self.problem.load(arguments.data, **self.options)
        self.split, self.runs = split, []
        self.common = {"dtype_policy": arguments.dtype_policy or "float32"}
        self.evaluated = self.data if split == "test" else self.data.without_test()
        default = self.problem.epochs(len(self.evaluated.x_train))
        if arguments.quick:
            default = max(1, default // 6)
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
        return f"All methods: learning rate decays linearly to 0{others}."

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

    def save(self, stem, header, rows):
        """Print the table; write it in Markdown, and the summaries as JSON."""
        self.console.print(tables.terminal(header, rows))
        records.write_text(f"{self.out}/{stem}.md", tables.markdown(header, rows))
        record = {"command": self.command, "runs": self.summaries()}
        records.write_json(f"{self.out}/{stem}.json", record)

    def written(self, stem):
        """Print where everything is."""
        self.console.print(f"Table:  {self.out}/{stem}.md\nRuns:   {self.out}/{stem}.json")
        self.console.print(f"Figure: {self.out}/{stem}.png")

    def subtitle(self):
        """Return the small print of a figure."""
        seeds = f"{len(self.seeds)} seeds, bands from lowest to highest"
        name = self.problem.described(self.options)
        if (policy := self.common["dtype_policy"]) != "float32":
            name = f"{name}; {policy}"
        decay = "" if self._own_schedules() else "; linear decay to 0"
        return f"{name}; {seeds if len(self.seeds) > 1 else '1 seed'}{decay}"


def run(arguments, argv, console):
    """Compare methods at their tuned learning rates; return the exit code."""
    session = Session(arguments, argv, console, "test")
    changed = bool(arguments.options) or bool(arguments.epochs) or arguments.quick
    if arguments.learning_rate:
        rates = dict.fromkeys(session.methods, arguments.learning_rate)
        effort = f"Tuning: none; learning rate {arguments.learning_rate:g} for every method."
    else:
        rates, effort = tuning(session.problem.name, session.data.name, changed)
    for method in session.methods:
        session.add(method, rates[method])
    session.introduce(effort)
    code = 0
    try:
        session.train()
    except KeyboardInterrupt:
        session.interrupted()
        code = 130
    if session.summaries():
        session.save(session.name, *tables.by_method(session.summaries()))
        pairs = [
            (summary, runner.epochs_on_disk(run, session.out))
            for run in session.runs
            if (summary := runner.finished(run, session.out))
        ]
        title = f"{session.problem.title} on {session.data.name}"
        figures.curves(pairs, f"{session.out}/{session.name}.png", title, session.subtitle())
        session.written(session.name)
    return code


def sweep(arguments, argv, console):
    """Train at many learning rates, on validation data; return the exit code.

    Finds each method's best rate; or shows what becomes of the given ones.
    """
    session = Session(arguments, argv, console, "validation")
    code = 0
    try:
        if arguments.rates:
            _try(session, arguments.rates)
        else:
            tune(session)
    except KeyboardInterrupt:
        session.interrupted()
        code = 130
    if session.summaries():
        stem = f"{'rates' if arguments.rates else 'sweep'}-{session.name}"
        session.save(stem, *tables.by_rate(session.summaries()))
        console.print("* best mean over seeds", markup=False)
        title = f"{session.problem.title} on {session.data.name}"
        figures.rates(session.summaries(), f"{session.out}/{stem}.png", title, session.subtitle())
        session.written(stem)
    return code


def _try(session, rates):
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
