"""The command line: `tf-blocknorm list | run | sweep | find`."""

import argparse
import os
import sys

from tf_blocknorm.experiments.errors import ExperimentError


def main(argv=None):
    """Run a command; return the exit code (2 for a mistake of the user, 130 after Ctrl-C)."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        from rich.console import Console

        from tf_blocknorm.experiments import commands, finding, large_batch, quadratic
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
        if arguments.problem == QUADRATIC:
            return quadratic.run(arguments, argv, console)
        if arguments.problem == LARGE_BATCH:
            return large_batch.run(arguments, argv, console)
        command = {"run": commands.run, "sweep": commands.sweep, "find": finding.find}
        return command[arguments.command](arguments, argv, console)
    except ExperimentError as error:
        print(f"tf-blocknorm: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


# A problem of another kind: a loss without data. Its options are `--seeds`, `--quick`, `--out`.
QUADRATIC = "quadratic"

# An experiment on a problem, `--network`, at several sizes of the batch.
LARGE_BATCH = "large-batch"


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser():
    from tf_blocknorm.experiments.problems import PROBLEMS
    from tf_blocknorm.experiments.recipes import COMPARED, RECIPES

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
        _add_problem(command, *([QUADRATIC, LARGE_BATCH] if name == "run" else []))
        command.add_argument(
            "--methods",
            nargs="+",
            choices=RECIPES,
            default=[],
            metavar="METHOD",
            help=f"some of: {', '.join(RECIPES)} (default: {', '.join(COMPARED)})",
        )
        command.add_argument(
            "--seeds", type=_whole(1), metavar="N", help="runs per method (default: 3)"
        )
        command.add_argument(
            "--epochs",
            type=_whole(1),
            metavar="N",
            help="passes over the training data (default: fitting the problem and the data)",
        )
        command.add_argument(
            "--dtype-policy",
            choices=("float32", "mixed_bfloat16"),
            metavar="POLICY",
            help="what layers compute in: float32 or mixed_bfloat16, which is more than twice as "
            "fast for convolutions on processors that have it (default: float32)",
        )
        if name == "sweep":
            command.add_argument(
                "--rates",
                nargs="+",
                type=_rate,
                metavar="RATE",
                help="these, for every method, instead of looking for the best",
            )
        if name == "run":
            command.add_argument(
                "--network",
                choices=PROBLEMS,
                metavar="PROBLEM",
                help=f"what `{LARGE_BATCH}` trains: {', '.join(PROBLEMS)} (default: mlp)",
            )
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
            type=_whole(1),
            metavar="N",
            help="runs at a time (default: one per core, 4 at most; 1 with a GPU)",
        )
    _add_find(commands)
    return parser


def _add_problem(command, *more):
    """Add what every command takes; `more` are names of problems beside the usual ones."""
    from tf_blocknorm.experiments.data import NAMES
    from tf_blocknorm.experiments.problems import PROBLEMS

    command.add_argument(
        "problem",
        choices=[*PROBLEMS, *more],
        metavar="PROBLEM",
        help=f"one of: {', '.join([*PROBLEMS, *more])}",
    )
    command.add_argument(
        "--data",
        metavar="DATA",
        help=f"{', '.join(NAMES)}, or the path of an .npz file with the arrays x_train, "
        "y_train, x_test, y_test (default: that of the problem; digits need no network)",
    )
    for option, text in (
        ("--depth", "hidden layers (mlp: 30, scaled: 8)"),
        ("--scale", "how badly they are scaled (scaled: 4)"),
    ):
        command.add_argument(option, type=_whole(1), metavar="N", help=text)
    command.add_argument(
        "--out", default="runs", metavar="DIR", help="where everything goes (default: runs)"
    )


def _add_find(commands):
    from tf_blocknorm.experiments.recipes import RECIPES

    methods = [name for name, r in RECIPES.items() if r.rate == "learning_rate" and not r.callbacks]
    command = commands.add_parser(
        "find",
        help="suggest a learning rate for one method, from one short sweep",
        description="Suggest a learning rate for one method: train for a few hundred updates while "
        "the rate rises from one end to the other, and see where the training takes hold.",
        epilog="The rate is meant as the first of a linear decay to 0. A `sweep`, which trains to "
        "the end at each rate, is more accurate, and takes that much longer.",
        allow_abbrev=False,
    )
    _add_problem(command)
    command.add_argument(
        "--method",
        choices=methods,
        default="BlockNormSGD",
        metavar="METHOD",
        help=f"one of: {', '.join(methods)} (default: BlockNormSGD)",
    )
    command.add_argument(
        "--steps",
        type=_whole(1),
        default=300,
        metavar="N",
        help="updates that the sweep makes (default: 300)",
    )
    command.add_argument(
        "--signal",
        choices=("loss", "correlation"),
        default="loss",
        help="what decides if it can: the loss, or the correlation of successive gradients "
        "(default: loss)",
    )
    for end, rate in (("min", 1e-6), ("max", 10.0)):
        command.add_argument(
            f"--{end}-learning-rate",
            type=_rate,
            default=rate,
            metavar="RATE",
            help=f"{'first' if end == 'min' else 'last'} rate of the sweep (default: {rate:g})",
        )
    command.add_argument(
        "--seed",
        type=_whole(0),
        default=0,
        metavar="N",
        help="of the initial weights, dropout and the order of the examples (default: 0)",
    )
    command.set_defaults(methods=[], jobs=1)


def _complete(arguments):
    """Fill in what depends on the machine and the problem."""
    from tf_blocknorm.experiments.problems import PROBLEMS
    from tf_blocknorm.experiments.recipes import COMPARED, LARGE_BATCH_METHODS
    from tf_blocknorm.experiments.records import cores

    arguments.methods = list(dict.fromkeys(arguments.methods))
    given = {"depth": arguments.depth, "scale": arguments.scale}
    arguments.options = {name: value for name, value in given.items() if value is not None}
    # Of `run`: what other kinds of problem do not take.
    training = ("depth", "scale", "data", "methods", "epochs", "jobs", "dtype_policy")
    foreign = {
        QUADRATIC: (*training, "learning_rate", "network"),
        LARGE_BATCH: ("learning_rate",),
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
        console.print(f"  {problem.name:20} {problem.summary}", highlight=False)
    summary = "a loss with a known minimum, from six initial rates (`run` alone)"
    console.print(f"  {QUADRATIC:20} {summary}", highlight=False)
    summary = "a network at several sizes of the batch (`run` alone)"
    console.print(f"  {LARGE_BATCH:20} {summary}", highlight=False)
    console.print(f"Data\n  {', '.join(NAMES)}, PATH.npz", highlight=False)
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


def _whole(least):
    def whole(text):
        number = int(text) if text.isdecimal() else -1
        if number < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, at least {least}. Received: {text}"
            )
        return number

    return whole


def _rate(text):
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number. Received: {text}")
    return number
