"""What the commands have in common that print one table and may write it to a file."""

import argparse

from rich.console import Console

from tf_blocknorm.experiments import records, tables


def parsed(description, rounds):
    """Return the arguments of the command line: `network`, `rounds` and `out`."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("network", nargs="?", default="large", choices=("small", "large"))
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", help="where to write the table, as Markdown")
    return parser.parse_args()


def show(header, rows, out):
    """Print the table, and write it in Markdown if `out` is a path."""
    Console().print(tables.terminal(header, rows))
    if out:
        records.write_text(out, tables.markdown(header, rows))
