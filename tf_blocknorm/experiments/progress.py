"""What is shown while runs go on: bars in a terminal, one line per finished run elsewhere."""

from rich import progress

from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.recipes import RECIPES


class Progress:
    """Shows how far a list of runs is; a context manager.

    Args:
        console: A `rich.console.Console`.
        runs: The runs to be trained.
    """

    def __init__(self, console, runs):
        self.console, self.total, self.count = console, len(runs), 0
        self.done = dict.fromkeys(map(id, runs), 0)
        self.tasks = {}
        self.bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=10),  # All of it fits into 80 columns.
            progress.TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
            progress.TextColumn("{task.fields[note]}"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console,
            transient=True,
            speed_estimate_period=600,
            disable=not console.is_terminal,
        )
        epochs = sum(run.epochs for run in runs)
        self.overall = self.bars.add_task("[bold]all runs", total=epochs, note="")

    def __enter__(self):
        self.bars.start()
        return self

    def __exit__(self, *_):
        self.bars.stop()

    def epoch(self, run, done, record):
        """Show that a run has begun (`done=0`, no record), or has finished `done` epochs."""
        if self.done[id(run)] == run.epochs:
            return  # A message that came later than the end of its run.
        if id(run) not in self.tasks:
            name = f"{run.method} {run.learning_rate:g}, seed {run.seed}"
            self.tasks[id(run)] = self.bars.add_task(name, total=run.epochs, note="")
        metric = PROBLEMS[run.problem].metric
        note = f"{metric.title} {metric.text(metric.of(record))}" if record else "starting"
        self.bars.update(self.tasks[id(run)], completed=done, note=note)
        self.bars.advance(self.overall, done - self.done[id(run)])
        self.done[id(run)] = done

    def finished(self, run, summary):
        """Print one line for a finished run."""
        self.bars.advance(self.overall, run.epochs - self.done[id(run)])
        self.done[id(run)] = run.epochs
        if id(run) in self.tasks:
            self.bars.remove_task(self.tasks.pop(id(run)))
        self.count += 1
        metric = PROBLEMS[run.problem].metric
        width = len(str(self.total))
        self.console.print(
            f"[{self.count:{width}}/{self.total}] {describe(run):46} "
            f"{run.split} {metric.title} {metric.text(metric.of(summary)):>7} "
            f"{summary['seconds']:6.0f} s",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def describe(run):
    """Return method, learning rate and seed of a run."""
    return f"{RECIPES[run.method].label}, rate {run.learning_rate:g}, seed {run.seed}"
