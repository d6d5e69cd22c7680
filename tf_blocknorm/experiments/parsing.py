"""What the command line takes, and its help."""

import argparse

from tf_blocknorm.experiments.data import NAMES
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.recipes import COMPARED, RECIPES
from tf_blocknorm.experiments.schedules import SCHEDULES

# A problem of another kind: a loss without data. Its options are `--seeds`, `--quick`, `--out`.
QUADRATIC = "quadratic"

# An experiment on a problem, `--network`, at several sizes of the batch.
LARGE_BATCH = "large-batch"

# Of problems: whole numbers, each an option of the command line.
OPTIONS = {
    "depth": "hidden layers (mlp: 30, scaled: 8, char-lstm: 2), all of resnet (20)",
    "scale": "how badly they are scaled (scaled: 4)",
    "units": "in a layer (char-lstm: 128)",
    "unroll": "characters in a window of text (char-lstm: 50)",
    "vocabulary": "different words (sentiment: 10000)",
    "length": "words of a review that are read (sentiment: 200)",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser():
    """Return the parser of the command line."""
    made = _Parser(
        prog="tf-blocknorm",
        description="Train a network with several optimizers, at equal tuning, and compare them.",
        epilog="Start with: tf-blocknorm run mlp",
        allow_abbrev=False,
    )
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("list", help="show the problems, data and methods there are")
    for name, text in (
        ("run", "compare methods at their tuned learning rates: table and figure"),
        ("sweep", "find each method's best learning rate, on validation data"),
    ):
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog="One of the problem's options may get several values, as in `--depth 6 12 30`: "
            "then methods are compared at each. Finished runs are kept in DIR and not repeated. "
            "After Ctrl-C, the same command goes on where it was.",
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
        length = command.add_mutually_exclusive_group()
        length.add_argument(
            "--epochs",
            type=_whole(1),
            metavar="N",
            help="passes over the training data (default: fitting the problem and the data)",
        )
        length.add_argument(
            "--updates",
            type=_whole(1),
            metavar="N",
            help="as many epochs as come closest to N updates",
        )
        command.add_argument(
            "--examples",
            type=_whole(1),
            metavar="N",
            help="train on N of the training examples, always the same ones (default: on all)",
        )
        command.add_argument(
            "--schedule",
            choices=SCHEDULES,
            metavar="SCHEDULE",
            help="of the learning rate: "
            + ", or ".join(f"{name} ({text})" for name, text in SCHEDULES.items())
            + " (default: linear)",
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
            rates = command.add_mutually_exclusive_group()
            rates.add_argument(
                "--learning-rate",
                type=_rate,
                metavar="RATE",
                help="for every method, instead of the tuned ones",
            )
            rates.add_argument(
                "--sweep",
                metavar="FILE",
                help="each method at its best rate in this file, which `sweep` wrote",
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
    _add_report(commands)
    return made


def _add_problem(command, *more):
    """Add what every command takes; `more` are names of problems beside the usual ones."""

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
        "y_train, x_test, y_test, or (char-lstm) of a text (default: that of the problem; digits "
        "need no network)",
    )
    for option, text in OPTIONS.items():
        command.add_argument(f"--{option}", type=_whole(1), nargs="+", metavar="N", help=text)
    command.add_argument(
        "--out", default="runs", metavar="DIR", help="where everything goes (default: runs)"
    )


def _add_find(commands):
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


def _add_report(commands):
    command = commands.add_parser(
        "report",
        help="one page, as HTML and Markdown, of what the others wrote into a folder",
        description="Write report.html, a page that needs nothing else, and report.md with its "
        "figures: for each JSON file that run, sweep or find wrote into DIR its command, what was "
        "run, on which machine, tables and a figure.",
        allow_abbrev=False,
    )
    command.add_argument("folder", metavar="DIR", help="where run, sweep and find wrote (--out)")
    command.add_argument("--out", metavar="DIR", help="where the page goes (default: the same)")


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
