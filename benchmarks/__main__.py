"""The command.

    python -m benchmarks [--quick] [--only PATTERN ...] [--out FOLDER] [--figures FOLDER]
    python -m benchmarks --report           no measuring: tables and figures of what there is

Writes `speed.json`, `speed.md` and two figures. What `--only` measures takes its place in a
`speed.json` that is there already.
"""

import argparse
import pathlib
import sys
import time

import rich.console

from benchmarks import figures, jobs, regression, report
from tf_blocknorm.experiments import records, tables

BASELINE = jobs.ROOT / "results" / "speed.json"


def main(argv=None):
    """Measure, report, and compare with the committed numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure speed.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="size", const="quick")
    size.add_argument("--tiny", action="store_const", dest="size", const="tiny")
    parser.add_argument("--only", nargs="+", metavar="PATTERN")
    parser.add_argument("--patience", type=float, help="seconds for a job, then the next one")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs", "speed"))
    parser.add_argument("--figures", type=pathlib.Path)
    parser.add_argument("--baseline", type=pathlib.Path, default=BASELINE)
    arguments = parser.parse_args(argv)
    console = rich.console.Console(width=None if sys.stdout.isatty() else 160)
    path = arguments.out / "speed.json"
    baseline = records.read_json(arguments.baseline)
    result = {"machine": records.machine(), "jobs": {}}
    if arguments.report or arguments.only:
        result = records.read_json(path) or result
    if not arguments.report:
        try:
            todo = jobs.chosen(arguments.size or "full", arguments.only or ["*"])
        except ValueError as error:
            parser.error(str(error))
        for name, job in todo.items():
            console.print(f"{name} …", end=" ")
            began = time.perf_counter()
            if arguments.patience:
                job["patience"] = arguments.patience
            found = jobs.run(job)
            console.print("failed" if found is None else f"{time.perf_counter() - began:.0f} s")
            if found is not None:
                result["jobs"][name] = found
                records.write_json(path, result)
    if not result["jobs"]:
        parser.error(f"There are no measurements. File: {path}")
    for title, (header, rows) in report.tables(result).items():
        console.print(f"\n{title}", style="bold", markup=False, highlight=False)
        console.print(tables.terminal(header, rows))
    records.write_text(arguments.out / "speed.md", report.markdown(result))
    folder = arguments.figures or arguments.out
    for drawn in figures.draw(result, folder):
        console.print(f"figure: {drawn}")
    for line in regression.lines(result, baseline):
        console.print(line)


if __name__ == "__main__":
    main()
