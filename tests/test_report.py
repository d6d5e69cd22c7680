"""The report: what it says is in the files, and its page works in a browser, without a network."""

import json
import os
import pathlib
import re
import shutil

import html5lib
import pytest

from tf_blocknorm.experiments import cli, entries, report

RESULTS = pathlib.Path(__file__).parent.parent / "results"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def a_run(method, rate, seed, accuracy, split="test", **changes):
    return {
        "problem": "mlp", "source": "digits", "method": method, "learning_rate": rate,
        "seed": seed, "epochs": 2, "options": {"depth": 2}, "split": split, "batch_size": 64,
        "val_accuracy": accuracy, "val_loss": 1.0, "accuracy": 0.5, "loss": 1.0, "seconds": 10.0,
        "versions": {"python": "3.11.7", "keras": "3.15.1"},
        "machine": {"system": "Linux", "architecture": "x86_64", "processor": "fast", "cores": 2},
        "finished": "2026-11-22T16:44:23+00:00", "schedule": "linear decay to 0", **changes,
    }  # fmt: skip


def written(folder, name, runs, **facts):
    record = {"command": f"tf-blocknorm {name} <&>", "runs": runs, **facts}
    (folder / f"{name.replace(' ', '-')}.json").write_text(json.dumps(record))


@pytest.fixture
def folder(tmp_path):
    """A comparison, a sweep in which some runs diverged, and files that are neither."""
    methods = [("SGD", 0.5), ("Adam", 0.9), ("BlockNormSGD", 0.7)]
    runs = [a_run(name, 0.01, seed, a + seed / 50) for name, a in methods for seed in (0, 1)]
    written(tmp_path, "run mlp", runs)
    rates = [(0.01, 0.6), (0.1, 0.8), (1.0, None)]
    swept = [a_run(m, rate, 0, a, "validation") for m in ("SGD", "Adam") for rate, a in rates]
    written(tmp_path, "sweep mlp", swept)
    written(tmp_path, "old", [a_run("forgotten", 0.1, 0, 0.5)])
    (tmp_path / "speed.json").write_text('{"jobs": []}')
    (tmp_path / "broken.json").write_text('{"jobs"')
    return tmp_path


def test_what_the_page_says(folder, capsys):
    assert cli.main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    for name in ("speed", "broken", "old"):
        assert f"Left out: {name}.json (" in out
    text = (folder / "report.md").read_text()
    assert text.index("| Adam |") < text.index("| BlockNormSGD, max norm |")
    assert "| Adam | 0.01 | 2 | 91.0 ± 1.4 % | 1.000 ± 0.000 | 10 ± 0 |" in text
    assert "| SGD, momentum 0.9 | 60.0 | 80.0 * | diverged |" in text
    assert "Accuracy in %, by rate (*: best):\n\n| method | 0.01 | 0.1 | 1 |" in text
    assert "| SGD, momentum 0.9 | 0.1 | 1 | 80.0 % |" in text
    assert "mlp (depth 2) on digits; accuracy on test examples; 2 epochs, batches of 64" in text
    assert "- schedule: linear decay to 0\n- runs: 6\n" in text
    assert "- finished: 2026-11-22 16:44 to 2026-11-22 16:44 UTC" in text
    assert "- seeds: 0, 1\n- versions: python 3.11.7, keras 3.15.1\n" in text
    assert "- machine: Linux x86_64, fast, 2 cores" in text
    assert "`tf-blocknorm run mlp <&>`" in text
    for name in re.findall(r"\]\((.*?)\)", text):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert "<code>tf-blocknorm run mlp &lt;&amp;&gt;</code>" in page
    assert page.count("data:image/png;base64,") == 2


def test_curves_where_the_record_of_each_epoch_is_there(folder):
    runs = json.loads((folder / "run-mlp.json").read_text())["runs"]

    def compared():
        (entry,) = [e for e in report.collect(folder)[0] if e.stem == "run-mlp"]
        return entry

    assert "of every seed at the end" in compared().seen
    (folder / "run-mlp.png").write_bytes(b"the figure that run drew")
    assert compared().figure == b"the figure that run drew"
    for run in runs:
        name = f"{run['method']}-0.01-seed{run['seed']}-12345678"
        home = folder / "mlp-digits-test" / name
        home.mkdir(parents=True)
        (home / "summary.json").write_text(json.dumps(run))
        lines = [json.dumps({"epoch": e, "accuracy": 0.1, "val_accuracy": 0.2}) for e in (1, 2)]
        (home / "epochs.jsonl").write_text("\n".join(lines))
    assert compared().seen == "accuracy against the epoch, mean over seeds and range"
    assert compared().figure.startswith(b"\x89PNG")


def test_methods_against_an_option(tmp_path):
    depths = ((2, 0.9), (10, 0.5))
    runs = [
        a_run(method, rate, 0, a - 0.1 * (rate == 1.0), "validation", options={"depth": depth})
        for method in ("SGD", "Adam")
        for depth, a in depths
        for rate in (1.0, 0.1)
    ]
    written(tmp_path, "sweep mlp", runs)
    assert cli.main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "mlp (depth 2, 10) on digits; accuracy on validation examples" in text
    assert "Accuracy in %, by depth (in brackets: the learning rate)" in text
    assert "| SGD, momentum 0.9 | 90.0 (0.1) | 50.0 (0.1) |" in text
    assert "accuracy against depth" in text


def test_a_folder_without_results(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "has written. Received:" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "none")]) == 2
    assert "`DIR` must be a folder. Received:" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The report of the results in this repository."""
    out = tmp_path_factory.mktemp("report")
    assert cli.main(["report", str(RESULTS), "--out", str(out)]) == 0
    return out


def test_the_committed_results(committed):
    text = (committed / "report.md").read_text()
    for path in RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        if "runs" in record or "suggestion" in record:
            assert f"`{record['command']}`" in text
            assert (committed / "report" / f"{path.stem}.png").exists()
        else:
            assert path.name in ("inputs.json", "speed.json")  # of the benchmarks
    for kind in entries.ORDER:
        assert f"({kind})" in text


def test_the_page_is_strict_html_and_needs_no_other_file(committed):
    page = (committed / "report.html").read_text()
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    addresses = [
        element.get(name) for element in tree.iter() for name in ("src", "href", "action", "srcset")
    ]
    assert {a[:5] if a[0] != "#" else "#" for a in addresses if a} == {"data:", "#"}
    ids = {element.get("id") for element in tree.iter("article")}
    assert {a[1:] for a in addresses if a and a[0] == "#"} == ids
    assert "@import" not in page
    assert "url(" not in page


@pytest.fixture
def browser():
    """A headless Chromium: that of playwright, or one on the path."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        path = started.chromium.executable_path
        if not os.path.exists(path):
            path = next(filter(None, map(shutil.which, BROWSERS)), None)
        if path is None:
            pytest.skip("there is no Chromium: playwright install chromium")
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(committed, browser, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((committed / "report.html").as_uri())

    assert {url for url in asked if not url.startswith("data:")} == {page.url}
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, "tables scroll by themselves"
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    table = page.locator("#mlp-mnist table").first

    def column(index):
        return table.locator(f"tbody td:nth-child({index + 1})").all_inner_texts()

    accuracies = [float(cell.split()[0]) for cell in column(3)]
    assert accuracies == sorted(accuracies, reverse=True), "best first"
    table.locator("th button").nth(3).click()
    assert [float(cell.split()[0]) for cell in column(3)] == sorted(accuracies)
    table.locator("th button").nth(3).click()
    assert [float(cell.split()[0]) for cell in column(3)] == accuracies
    table.locator("th button").nth(0).click()
    assert column(0) == sorted(column(0))
    assert table.locator("th[aria-sort=ascending]").count() == 1
    assert said == []
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 24, 26)"}[scheme]
    context.close()
