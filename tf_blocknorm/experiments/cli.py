"""The command line: `tf-blocknorm list | run | sweep`."""

import argparse
import os
import sys

from tf_blocknorm.experiments.errors import ExperimentError


def main(argv=None):
    """Run a command; return the exit code (2 for a mistake of the user, 130 after Ctrl-C)."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        from rich.console import Console

        from tf_blocknorm.experiments import commands
    except ImportError as error:
        print(
            f"tf-blocknorm: error: There is no module `{error.name}`: "
            "pip install 'tf_blocknorm[experiments]'",
            file=sys.stderr,
        )
        return 2
    arguments = _parser().parse_args(argv)
    console = Console(soft_wrap=True)
    try:
        if arguments.command == "list":
            return _list(console)
        _complete(arguments)
        command = commands.run if arguments.command == "run" else commands.sweep
        return command(arguments, argv, console)
    except ExperimentError as error:
        print(f"tf-blocknorm: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser():
    from tf_blocknorm.experiments.data import NAMES
    from tf_blocknorm.experiments.problems import PROBLEMS
    from tf_blocknorm.experiments.recipes import RECIPES

    parser = _Parser(
        prog="tf-blocknorm",
        description="Train a network with several optimizers, at equal tuning, and compare them.",
        epilog="Start with: tf-blocknorm run mlp",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("list", help="show the problems, data and methods there are")
    for name, text in (
        ("run", "compare methods at their tuned learning rates: table and figure"),
        ("sweep", "find each method's best learning rate, on validation data"),
    ):
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog="Finished runs are kept in DIR and not repeated. After Ctrl-C, the same command "
            "goes on where it was.",
            allow_abbrev=False,
        )
        command.add_argument(
            "problem",
            choices=PROBLEMS,
            metavar="PROBLEM",
            help=f"one of: {', '.join(PROBLEMS)}",
        )
        command.add_argument(
            "--data",
            default="digits",
            metavar="DATA",
            help=f"{', '.join(NAMES)}, or the path of an .npz file with the arrays x_train, "
            "y_train, x_test, y_test (default: digits, which needs no network)",
        )
        command.add_argument(
            "--methods",
            nargs="+",
            choices=RECIPES,
            default=list(RECIPES),
            metavar="METHOD",
            help=f"some of: {', '.join(RECIPES)} (default: all)",
        )
        command.add_argument(
            "--seeds", type=_count, metavar="N", help="runs per method (default: 3)"
        )
        command.add_argument(
            "--epochs",
            type=_count,
            metavar="N",
            help="passes over the training data (default: fitting the problem and the data)",
        )
        command.add_argument(
            "--depth", type=_count, metavar="N", help="hidden layers (mlp; default: 30)"
        )
        if name == "run":
            command.add_argument(
                "--learning-rate",
                type=_rate,
                metavar="RATE",
                help="for every method, instead of the tuned ones",
            )
        command.add_argument(
            "--quick", action="store_true", help="a look: one seed, a sixth of the epochs"
        )
        command.add_argument(
            "--jobs",
            type=_count,
            metavar="N",
            help="runs at a time (default: one per core, 4 at most; 1 with a GPU)",
        )
        command.add_argument(
            "--out", default="runs", metavar="DIR", help="where everything goes (default: runs)"
        )
    return parser


def _complete(arguments):
    """Fill in what depends on the machine and the problem."""
    from tf_blocknorm.experiments.problems import PROBLEMS
    from tf_blocknorm.experiments.records import cores

    arguments.methods = list(dict.fromkeys(arguments.methods))
    given = {"depth": arguments.depth}
    arguments.options = {name: value for name, value in given.items() if value is not None}
    for name in arguments.options:
        if name not in PROBLEMS[arguments.problem].options:
            raise ExperimentError(f"The problem `{arguments.problem}` has no option --{name}.")
    if os.path.exists(arguments.out) and not os.path.isdir(arguments.out):
        raise ExperimentError(f"`--out` must be a folder. Received: out={arguments.out}")
    if arguments.jobs is None:
        import tensorflow as tf

        arguments.jobs = 1 if tf.config.list_physical_devices("GPU") else min(4, cores())


def _list(console):
    from tf_blocknorm.experiments.data import NAMES
    from tf_blocknorm.experiments.problems import PROBLEMS
    from tf_blocknorm.experiments.recipes import RECIPES, TUNED

    console.print("Problems")
    for problem in PROBLEMS.values():
        console.print(f"  {problem.name:14} {problem.summary}", highlight=False)
    console.print(f"Data\n  {', '.join(NAMES)}, PATH.npz", highlight=False)
    console.print("Methods (tuned learning rates)")
    for name, recipe in RECIPES.items():
        rates = ", ".join(
            f"{problem} on {data}: {tuning.rates[name]:g}"
            for (problem, data), tuning in TUNED.items()
        )
        console.print(f"  {name:14} {recipe.label} ({rates})", highlight=False)
    return 0


def _count(text):
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1. Received: {text}")
    return number


def _rate(text):
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number. Received: {text}")
    return number
