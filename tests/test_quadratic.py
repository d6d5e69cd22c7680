"""The quadratic: its minimum is one, and what the experiment says of the methods holds."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from tf_blocknorm.experiments import quadratic


def test_the_lowest_value_is_at_the_minimum():
    problem = quadratic.Quadratic(seed=3)
    x = -np.linalg.solve(problem.matrix, problem.vector)
    assert abs(problem.excess(x)) < 1e-12
    steps = np.random.default_rng(0).standard_normal((20, quadratic.DIMENSION))
    assert all(problem.excess(x + 1e-3 * step) > 0 for step in steps)
    assert problem.excess(np.full(quadratic.DIMENSION, np.inf)) != 0


def test_what_keras_trains_is_this_quadratic(monkeypatch):
    monkeypatch.setattr(quadratic, "STEPS", 3)
    problem = quadratic.Quadratic(seed=1)
    x, expected = problem.start, []
    for _ in range(3):
        x = x - 0.001 * (problem.matrix @ x + problem.vector)
        expected.append(problem.excess(x))
    # Momentum SGD's first step is that of SGD.
    run = quadratic.train(1, "SGD", 0.001)
    np.testing.assert_allclose(run["excess"][0], expected[0], rtol=1e-5)
    assert run["rates"] == pytest.approx([0.001] * 3)
    assert run["excess"][1] < run["excess"][0]


@pytest.mark.parametrize("rate", [quadratic.RATES[0], quadratic.RATES[-1]])
@pytest.mark.parametrize("method", ["AdaptiveBlockNormSGD", "BarzilaiBorwein"])
def test_the_adaptive_methods_come_within_1_percent_from_both_ends(method, rate):
    assert quadratic.train(0, method, rate)["excess"][-1] < quadratic.FOUND


@pytest.mark.parametrize(("method", "rate"), [("Adam", 0.1), ("SGD", 0.001), ("SGD", 0.1)])
def test_the_others_do_not(method, rate):
    assert not quadratic.train(0, method, rate)["excess"][-1] < quadratic.FOUND


@pytest.mark.parametrize("quick", [False, True])
def test_the_command_saves_table_figure_and_record(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(quadratic, "STEPS", 20)
    monkeypatch.setattr(quadratic, "KEPT", 10)
    monkeypatch.setattr(quadratic, "RATES", (0.001, 0.1))
    monkeypatch.setattr(quadratic, "QUICK_RATES", (0.001,))
    methods = {name: quadratic.METHODS[name] for name in ("Adam", "SGD")}
    monkeypatch.setattr(quadratic, "METHODS", methods)
    text = io.StringIO()
    arguments = type("Arguments", (), {"seeds": None, "quick": quick, "out": str(tmp_path)})
    assert quadratic.run(arguments, ["run", "quadratic"], Console(file=text, width=200)) == 0
    record = json.loads((tmp_path / "quadratic.json").read_text())
    assert record["command"] == "tf-blocknorm run quadratic"
    seeds, rates = (1, 1) if quick else (3, 2)
    assert len(record["runs"]) == seeds * len(methods) * rates
    assert {len(run["excess"]) for run in record["runs"]} == {20 // quadratic.KEPT}
    assert (tmp_path / "quadratic.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "quadratic.md").read_text().splitlines()
    assert len(lines) == 2 + len(quadratic.METHODS)
    for method in quadratic.METHODS.values():
        assert any(line.startswith(f"| {method.label} |") for line in lines)


def test_the_table_shows_the_worst_problem():
    def run(seed, excess, method="Adam", rate=0.001):
        return {"seed": seed, "method": method, "initial_rate": rate, "excess": [9.0, excess]}

    _, rows = quadratic.table([run(0, 0.5), run(1, 0.02)])
    assert rows == [["Adam", "50"]]
    _, rows = quadratic.table([run(0, 0.5), run(1, float("nan"))])
    assert rows[0][1] == "diverged"
    header, rows = quadratic.table([run(0, 0.5), run(0, 0.1, "SGD", 0.03)])  # interrupted
    assert header[1:] == ["0.001", "0.03"]
    assert rows == [["Adam", "50", ""], ["SGD, momentum 0.9", "", "10"]]
    assert quadratic.percent(2e-5) == "<.01"
