"""The notebooks run from top to bottom, and their two files are in step."""

import json
import os
import pathlib
import re
import sys

import keras
import pytest

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow is what they are run on", allow_module_level=True)

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
RUN_IN_FULL = [path for path in SCRIPTS if path.with_suffix(".ipynb").exists()]
EACH = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
EACH_RUN = pytest.mark.parametrize("script", RUN_IN_FULL, ids=lambda path: path.stem)


def test_the_list_names_them_all():
    listed = re.findall(r"^\| \[\w+\]\((.*)\) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    best = [p.with_suffix(".ipynb") if p in RUN_IN_FULL else p for p in SCRIPTS]
    assert sorted(listed) == sorted(path.name for path in best)
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in RUN_IN_FULL}


@EACH_RUN
def test_script_and_notebook_are_in_step(script):
    pair = [jupytext.read(path) for path in (script, script.with_suffix(".ipynb"))]
    cells = [[(cell.cell_type, cell.source) for cell in notebook.cells] for notebook in pair]
    assert cells[0] == cells[1]


@EACH_RUN
def test_outputs_are_those_of_a_whole_run_without_errors(script):
    text = script.with_suffix(".ipynb").read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "Warning" not in json.dumps(outputs)
    assert not [path for path in (FOLDER.parent, pathlib.Path.home()) if str(path) in text]


@EACH
def test_the_badge_opens_it(script):
    assert f"/blob/main/notebooks/{script.stem}.ipynb)" in script.read_text()


@EACH
def test_it_runs(script, tmp_path, monkeypatch):
    monkeypatch.setenv("QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parent), *sys.path[1:]]))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    notebook = jupytext.read(script)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
