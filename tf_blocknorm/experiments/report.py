"""`tf-blocknorm report`: one page of everything that the other commands wrote into a folder."""

import base64
import json
import pathlib
import tempfile

from tf_blocknorm.experiments import entries, records, tables
from tf_blocknorm.experiments.errors import ExperimentError


def run(arguments, argv, console):
    """Write the page as HTML and as Markdown, and return 0."""
    folder = pathlib.Path(arguments.folder)
    out = pathlib.Path(arguments.out or folder)
    found, left_out = collect(folder)
    if not found:
        raise ExperimentError(
            "`DIR` must be a folder into which run, sweep or find has written. "
            f"Received: {folder}, which holds {len(left_out)} other JSON files"
        )
    records.write_text(out / "report.html", page("report.html.jinja", found, left_out))
    for entry in found:
        (out / "report").mkdir(parents=True, exist_ok=True)
        (out / "report" / f"{entry.stem}.png").write_bytes(entry.figure)
    records.write_text(out / "report.md", page("report.md.jinja", found, left_out))
    for name, reason in left_out:
        console.print(f"Left out: {name} ({reason}).", highlight=False)
    console.print(
        f"Page:     {out}/report.html\nMarkdown: {out}/report.md, with the figures in {out}/report",
        highlight=False,
    )
    return 0


def collect(folder):
    """Return the entries for the JSON files of a folder, and what is left out and why."""
    if not folder.is_dir():
        raise ExperimentError(f"`DIR` must be a folder. Received: {folder}")
    found, left_out = [], []
    with tempfile.TemporaryDirectory() as drawn:
        for path in sorted(folder.glob("*.json")):
            try:
                record = records.read_json(path)
                make = entries.kind(record)
                found.append(make(record, path, pathlib.Path(drawn, "figure.png")))
            except (entries.UnknownRecordError, json.JSONDecodeError) as error:
                left_out.append((path.name, str(error)))
            except KeyError as error:
                reason = f"written by another version: there is no {error} here"
                left_out.append((path.name, reason))
    return sorted(found, key=lambda entry: entry.order), left_out


def page(template, found, left_out):
    """Return a page as text."""
    try:
        import jinja2
    except ImportError as error:
        raise ExperimentError(
            "A report needs jinja2: pip install 'tf_blocknorm[experiments]'"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tf_blocknorm.experiments"),
        autoescape=".html" in template,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["markdown_table"] = lambda t: tables.markdown(t.header, t.rows)
    return environment.get_template(template).render(entries=found, left_out=left_out)


def _data_uri(png):
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
