"""The command line: `tf-blocknorm list | run | sweep | find | report`."""

import os
import sys

from tf_blocknorm.experiments.errors import ExperimentError


def main(argv=None):
    """Run a command; return the exit code (2 for a mistake of the user, 130 after Ctrl-C)."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        from rich.console import Console

        from tf_blocknorm.experiments import (
            commands,
            finding,
            large_batch,
            parsing,
            quadratic,
            report,
            series,
        )
    except ImportError as error:
        print(
            f"tf-blocknorm: error: There is no module `{error.name}`: "
            "pip install 'tf_blocknorm[experiments]'",
            file=sys.stderr,
        )
        return 2
    arguments = parsing.parser().parse_args(argv)
    # A notebook is to be saved as a file is: without bars, which would be there a thousand times.
    is_terminal = sys.stdout.isatty() and not Console().is_jupyter
    # Tables in a file are not cut to the 80 columns of a terminal that is not there.
    width = None if is_terminal else 160
    console = Console(
        soft_wrap=True,
        width=width,
        force_jupyter=False,
        force_terminal=None if is_terminal else False,
    )
    try:
        _check_folder(getattr(arguments, "out", None))
        if arguments.command == "list":
            return _list(console)
        if arguments.command == "report":
            return report.run(arguments, argv, console)
        _complete(arguments)
        if arguments.problem == parsing.QUADRATIC:
            return quadratic.run(arguments, argv, console)
        if arguments.problem == parsing.LARGE_BATCH:
            return large_batch.run(arguments, argv, console)
        if arguments.series:
            return series.run(arguments, argv, console)
        command = {"run": commands.run, "sweep": commands.sweep, "find": finding.find}
        return command[arguments.command](arguments, argv, console)
    except ExperimentError as error:
        print(f"tf-blocknorm: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _check_folder(out):
    if out and os.path.exists(out) and not os.path.isdir(out):
        raise ExperimentError(f"`--out` must be a folder. Received: out={out}")


def _complete(arguments):
    """Fill in what depends on the machine and the problem."""
    from tf_blocknorm.experiments.parsing import LARGE_BATCH, OPTIONS, QUADRATIC
    from tf_blocknorm.experiments.problems import PROBLEMS
    from tf_blocknorm.experiments.recipes import COMPARED, LARGE_BATCH_METHODS
    from tf_blocknorm.experiments.records import cores

    arguments.methods = list(dict.fromkeys(arguments.methods))
    given = {name: getattr(arguments, name) for name in OPTIONS}
    given = {name: values for name, values in given.items() if values is not None}
    arguments.options = {name: values[0] for name, values in given.items()}
    # Of `run`: what other kinds of problem do not take.
    training = (*OPTIONS, "data", "methods", "epochs", "updates", "jobs", "dtype_policy")
    foreign = {
        QUADRATIC: (*training, "examples", "schedule", "learning_rate", "sweep", "network"),
        LARGE_BATCH: ("schedule", "learning_rate", "sweep"),
    }.get(arguments.problem, ("network",))
    unknown = [name for name in foreign if getattr(arguments, name, None)]
    if arguments.problem != QUADRATIC:
        is_large = arguments.problem == LARGE_BATCH
        arguments.network = (arguments.network or "mlp") if is_large else arguments.problem
        network = PROBLEMS[arguments.network]
        unknown += [option for option in arguments.options if option not in network.options]
        arguments.data = arguments.data or network.data
        arguments.methods = arguments.methods or list(LARGE_BATCH_METHODS if is_large else COMPARED)
    for name in unknown:
        option = name.replace("_", "-")
        raise ExperimentError(f"The problem `{arguments.problem}` has no option --{option}.")
    several = [(name, sorted(set(values))) for name, values in given.items() if len(values) > 1]
    takes_several = arguments.command != "find" and arguments.problem != LARGE_BATCH
    if len(several) > takes_several:
        raise ExperimentError(
            f"{'Only one option takes' if takes_several else 'No option takes'} several values "
            f"here. Received: {'; '.join(f'{name}={values}' for name, values in several)}"
        )
    arguments.series = several[0] if several else None
    if arguments.jobs is None:
        import tensorflow as tf

        arguments.jobs = 1 if tf.config.list_physical_devices("GPU") else min(4, cores())


def _list(console):
    from tf_blocknorm.experiments.data import NAMES
    from tf_blocknorm.experiments.parsing import LARGE_BATCH, QUADRATIC
    from tf_blocknorm.experiments.problems import PROBLEMS
    from tf_blocknorm.experiments.recipes import RECIPES, TUNED

    console.print("Problems")
    for problem in PROBLEMS.values():
        console.print(f"  {problem.name:20} {problem.summary}", highlight=False)
    summary = "a loss with a known minimum, from six initial rates (`run` alone)"
    console.print(f"  {QUADRATIC:20} {summary}", highlight=False)
    summary = "a network at several sizes of the batch (`run` alone)"
    console.print(f"  {LARGE_BATCH:20} {summary}", highlight=False)
    console.print(f"Data\n  {', '.join(NAMES)}, PATH.npz, PATH.txt", highlight=False)
    console.print("Methods (tuned learning rates)")
    for name, recipe in RECIPES.items():
        rates = ", ".join(
            f"{problem} on {data}: {tuning.rates[name]:g}"
            for (problem, data), tuning in TUNED.items()
            if name in tuning.rates
        )
        rates = f" ({rates})" if rates else ""
        console.print(f"  {name:20} {recipe.label}{rates}", highlight=False)
    return 0
