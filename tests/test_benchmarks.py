"""The speed benchmark on tiny networks: that it runs and reports, and nothing about time."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import contenders, figures, jobs, measure, models, regression, report

ROOT = jobs.ROOT


def bench(out, *arguments):
    command = [sys.executable, "-m", "benchmarks", "--tiny", "--out", str(out), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("speed")
    printed = bench(out, "--only", "*-large", "*-large-graph", "memory-graph", "scaling-variables")
    return out, printed, json.loads((out / "speed.json").read_text())


def names(result, job, what="update"):
    records = result[2]["jobs"][job]["records"]
    failed = [r for r in records if "error" in r]
    assert not failed
    return {r["name"] for r in records if r["what"] == what}


def everyone(problem):
    return {c.name for family in contenders.FAMILIES for c in contenders.of(family, problem)}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["update", "train"])
def test_every_optimizer_of_keras_and_ours_takes_part(result, what):
    assert names(result, "tensorflow-large-graph", what) == everyone("large")


@pytest.mark.slow
@pytest.mark.parametrize(("job", "library"), [("jax-large", "optax"), ("torch-large", "torch")])
def test_other_libraries_take_part_beside_ours(result, job, library):
    found = names(result, job)
    assert everyone("large") < found
    rivals = {name.split()[-1] for name in found - everyone("large") if library in name}
    assert rivals == {"sgd", "momentum", "lars", "adam", "adamw", "novograd", "lamb"}


@pytest.mark.slow
def test_records_have_what_tables_need(result):
    job = result[2]["jobs"]["tensorflow-large-graph"]
    assert {"python", "keras", "tensorflow", "tf_blocknorm"} <= set(job["versions"])
    assert job["weights"] > job["largest"] > 0
    timed = [r for r in job["records"] if r["what"] != "limit"]
    assert len(timed) == 2 * len(everyone("large"))
    for record in timed:
        spread = record["milliseconds"]
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]
        if contenders.BY_NAME[record["name"]].reference:
            assert record["ratio"]["median"] > 0
    tables = report.tables(result[2])
    ratios, rest = (
        next(t for title, t in tables.items() if w in title) for w in ("Keras's: ", "Tra")
    )
    assert [row[0] for row in ratios[1]] == [c.name for c in report.OURS]
    assert ratios[0][3] == "large, graph"
    assert all("≤" in row[3] for row in ratios[1])
    assert all(row[1] and row[4] and row[6] for row in rest[1])
    assert any("other libraries" in title for title in tables)
    assert "| BlockNormSGD | Keras SGD |" in (result[0] / "speed.md").read_text()


@pytest.mark.slow
def test_slots_are_counted(result):
    records = result[2]["jobs"]["memory-graph"]["records"]
    slots = {r["name"]: r["slots"] for r in records}
    weights = 4 * result[2]["jobs"]["memory-graph"]["weights"]
    for name, number in (("Keras SGD", 0), ("NovoGrad", 1), ("BlockNormAdam", 2), ("LAMB", 2)):
        assert number * weights <= slots[name] < (number + 0.5) * weights


@pytest.mark.slow
def test_scaling_has_a_point_for_every_size(result):
    records = result[2]["jobs"]["scaling-variables"]["records"]
    assert [(r["size"], r["name"]) for r in records] == [
        (size, name)
        for size in (2, 4)
        for name in ("Keras SGD", "BlockNormSGD", "Keras Adam", "BlockNormAdam")
    ]


@pytest.mark.slow
def test_figures_are_drawn_and_nothing_is_measured_again(result, tmp_path):
    printed = bench(result[0], "--report", "--figures", str(tmp_path))
    assert "…" not in printed.split("Update alone")[0]
    assert {p.name for p in tmp_path.iterdir()} == {"speed.png", "speed-scaling.png"}


def test_what_each_form_measures():
    full, quick = (set(jobs.chosen(size, ["*"])) for size in ("full", "quick"))
    assert quick < full
    assert {"memory-xla", "scaling-weights", "tensorflow-embedding-xla", "jax-resnet"} <= full
    assert set(jobs.chosen("full", ["torch-*"])) == {f"torch-{p}" for p in models.PROBLEMS}
    with pytest.raises(ValueError, match=r"No job has such a name\. Received: torch-tiny\. Jobs: "):
        jobs.chosen("full", ["torch-*", "torch-tiny"])


def test_a_job_that_fails_is_told_and_the_rest_goes_on(capsys):
    job = jobs.chosen("tiny", ["jax-small"])["jax-small"]
    assert jobs.run(job | {"jit_compile": False}) is None
    assert "On JAX every update is compiled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("problem", "variables", "weights"),
    [("small", 122, 0.59), ("large", 128, 56.7), ("resnet", 61, 0.27), ("embedding", 3, 32.0)],
)
def test_sizes_of_the_networks(problem, variables, weights):
    shapes = [v.shape for v in models.PROBLEMS[problem].build().trainable_variables]
    numbers = [int(math.prod(s)) for s in shapes]
    assert len(shapes) == variables
    assert sum(numbers) / 1e6 == pytest.approx(weights, abs=0.01)


def test_contenders_take_turns():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = measure.turns(runs, rounds=3, seconds=60)
    assert "".join(order) == "ab" * 4  # the first round is not counted
    assert {name: len(t) for name, t in times.items()} == {"a": 3, "b": 3}
    order.clear()
    measure.turns(runs, rounds=1, seconds=60, before={"b": lambda: order.append("-")})
    assert "".join(order) == "a-b" * 2
    assert {len(t) for t in measure.turns(runs, 9, seconds=0).values()} == {measure.LEAST_ROUNDS}


def test_ratios_are_taken_within_rounds():
    assert measure.ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]) == {
        "low": 2.5,
        "median": 3.0,
        "high": 3.5,
    }


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="only on Linux")
def test_peak_is_that_of_the_function_alone():
    import numpy as np

    # Beyond 32 MiB glibc gives back what is freed, whatever has been freed before.
    np.ones(60 * 2**20, "uint8")
    assert 35 * 2**20 < measure.peak_above(lambda: np.ones(40 * 2**20, "uint8")) < 48 * 2**20


def speeds(low, median, high):
    record = {
        "what": "update",
        "name": "LAMB",
        "ratio": {"low": low, "median": median, "high": high},
    }
    return {"machine": {}, "jobs": {"tensorflow-large-graph": {"records": [record]}}}


def test_a_worse_ratio_is_told():
    before = speeds(0.39, 0.4, 0.41)
    told = regression.lines(speeds(0.49, 0.5, 0.51), before)
    assert told == [
        "slower than committed: LAMB (tensorflow-large-graph, update): ratio 0.50, was 0.40",
        "1 of 1 ratios are worse than the committed ones.",
    ]
    assert regression.lines(speeds(0.4, 0.5, 0.6), before)[0].startswith("0 of 1")  # it scatters
    assert regression.lines(speeds(0.41, 0.42, 0.43), before)[0].startswith("0 of 1")
    assert regression.lines(before, None) == ["No committed numbers to compare with."]


def test_no_figures_without_numbers(tmp_path):
    assert figures.draw({"machine": {"processor": "", "cores": 1}, "jobs": {}}, tmp_path) == []
