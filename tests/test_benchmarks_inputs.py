"""The benchmark of input statistics: that it runs and reports, and nothing about time."""

import json

import pytest

from benchmarks import inputs


def spread(low, median, high):
    return {"low": low, "median": median, "high": high}


def test_the_table_says_what_holds():
    entries = {
        inputs.REFERENCE: {"milliseconds": spread(4, 5, 6), "ratio": spread(1, 1, 1)},
        "INSGD": {"milliseconds": spread(4, 5.26, 6), "ratio": spread(1.0, 1.05, 1.2)},
        "INSGD, l1": {"milliseconds": spread(4, 6, 6), "ratio": spread(1.1, 1.2, 1.3)},
    }
    machine = {"processor": "P", "cores": 2}
    table = inputs.report({"machine": machine, "models": {"toy": entries}})
    assert "| toy | INSGD | 5.3 | 1.05 [1.00-1.20] | yes |" in table
    assert "| toy | INSGD, l1 | 6.0 | 1.20 [1.10-1.30] | no |" in table
    assert f"| toy | {inputs.REFERENCE} | 5.0 | 1.00 [1.00-1.00] |  |" in table


def test_unknown_models_are_an_error(capsys):
    with pytest.raises(SystemExit):
        inputs.main(["toi"])
    assert "MODEL must be one of mlp, toy, char-lstm. Received: toi" in capsys.readouterr().err


@pytest.mark.slow
def test_everyone_takes_part(tmp_path):
    inputs.main(["toy", "--seconds", "0", "--out", str(tmp_path / "inputs")])
    found = json.loads((tmp_path / "inputs.json").read_text())
    assert found["command"].startswith("python -m benchmarks.inputs toy")
    assert {*found["models"]["toy"]} == {*inputs.CONTENDERS}
    for entry in found["models"]["toy"].values():
        assert entry["rounds"] == 5
        assert entry["milliseconds"]["median"] > 0
    assert "| toy | INSGD, l1 |" in (tmp_path / "inputs.md").read_text()
