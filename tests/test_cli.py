"""The command line as a person meets it: exit codes, one-line errors, interruption."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tf_blocknorm.experiments import cli, large_batch, recipes

COMMAND = str(pathlib.Path(sys.executable).with_name("tf-blocknorm"))


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    x, y = np.random.default_rng(0).normal(size=(128, 8)), np.arange(128) % 2
    x = x + y[:, None]
    np.savez(path, x_train=x, y_train=y, x_test=x[:32], y_test=y[:32])
    return str(path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["run"], "PROBLEM"),
        (["run", "mpl"], "invalid choice: 'mpl'"),
        (["run", "mlp", "--method", "Adam"], "unrecognized arguments: --method"),
        (["run", "mlp", "--methods", "Adan"], "invalid choice: 'Adan'"),
        (["run", "mlp", "--epochs", "0"], "--epochs: must be a whole number, at least 1"),
        (["run", "mlp", "--depth", "2.5"], "--depth: must be a whole number, at least 1"),
        (["run", "mlp", "--learning-rate", "nan"], "must be a positive number. Received: nan"),
        (["sweep", "mlp", "--learning-rate", "1"], "unrecognized arguments: --learning-rate"),
        (["run", "mlp", "--data", "mnits"], "Received: data=mnits"),
        (["run", "mlp", "--data", "nowhere/data.npz"], "There is no file `nowhere/data.npz`."),
        (["run", "mlp", "--out", __file__], "`--out` must be a folder"),
        (["run", "mlp", "--examples", "1438"], "1437 training examples. Received: examples=1438"),
        (["run", "mlp", "--schedule", "cosine"], "--schedule: invalid choice: 'cosine'"),
        (["sweep", "mlp", "--rates", "0"], "must be a positive number. Received: 0"),
        (["run", "mlp", "--epochs", "2", "--updates", "9"], "not allowed with argument --epochs"),
        (["run", "mlp", "--sweep", "f", "--learning-rate", "1"], "not allowed with argument --swe"),
        (["sweep", "quadratic"], "invalid choice: 'quadratic'"),
        (["run", "quadratic", "--data", "mnist"], "`quadratic` has no option --data"),
        (["run", "quadratic", "--learning-rate", "1"], "has no option --learning-rate"),
        (["find", "mlp", "--methods", "Adam"], "unrecognized arguments: --methods"),
        (["find", "mlp", "--method", "Adan"], "invalid choice: 'Adan'"),
        (["find", "mlp", "--seed", "-1"], "--seed: must be a whole number, at least 0"),
        (["find", "mlp", "--steps", "5"], "`steps` must be an integer >= 20. Received: steps=5"),
        (["find", "mlp", "--max-learning-rate", "1e-9"], "Received: max_learning_rate=1e-09"),
        (["find", "mlp", "--data", "mnits"], "Received: data=mnits"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(argv, message, capsys):
    try:
        code = cli.main(argv)
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    assert code == 2
    assert message in output.err
    assert output.err.startswith("tf-blocknorm")
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_help_and_list(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["run", "--help"])
    text = capsys.readouterr().out
    for option in ("--data", "--methods", "--seeds", "--epochs", "--depth", "--quick", "--out"):
        assert option in text
    assert cli.main(["list"]) == 0
    text = capsys.readouterr().out
    for word in ("mlp", "digits", "BlockNormSGD", "Adam", "SGD"):
        assert word in text


def test_run_from_start_to_finish_and_again(npz, tmp_path):
    argv = [COMMAND, "run", "mlp", "--data", npz, "--depth", "1", "--epochs", "2", "--seeds", "2"]
    argv += ["--methods", "BlockNormSGD", "SGD", "--out", str(tmp_path)]
    first = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert first.stderr == "", "no noise"
    assert "\x1b" not in first.stdout, "no control codes where there is no terminal"
    assert "[4/4]" in first.stdout
    assert "Tuning: " in first.stdout
    assert str(tmp_path / "mlp-tiny.png") in first.stdout
    assert (tmp_path / "mlp-tiny.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "mlp-tiny.md").read_text().count("\n") == 4
    record = json.loads((tmp_path / "mlp-tiny.json").read_text())
    assert record["command"].startswith("tf-blocknorm run mlp --data ")
    assert [run["method"] for run in record["runs"]] == ["BlockNormSGD"] * 2 + ["SGD"] * 2

    again = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "4 finished runs found" in again.stdout
    assert json.loads((tmp_path / "mlp-tiny.json").read_text()) == record


@pytest.fixture
def not_trained(monkeypatch):
    """For speed: a run is best at a rate of .2 (SGD) or .02. The true thing is tested above."""
    from tf_blocknorm.experiments import runner, workers

    def train_all(runs, out, jobs, command, progress):
        for run in runs:
            best = 0.2 if run.method == "SGD" else 0.02
            summary = {
                **run.settings(),
                "val_accuracy": 1.0 / (1.0 + abs(np.log(run.learning_rate / best))),
                "val_loss": 1.0,
                "seconds": 1.0,
            }
            runner.records.write_json(run.folder(out) / "summary.json", summary)
            epoch = {"epoch": 1, "accuracy": 0.5, "val_accuracy": summary["val_accuracy"]}
            runner.records.write_lines(run.folder(out) / "epochs.jsonl", [epoch])
            progress.finished(run, summary)

    monkeypatch.setattr(workers, "train_all", train_all)


def test_sweep_widens_every_grid_alike(npz, tmp_path, capsys, not_trained):
    argv = ["sweep", "mlp", "--data", npz, "--depth", "1", "--seeds", "1", "--out", str(tmp_path)]
    assert cli.main(argv) == 0
    runs = json.loads((tmp_path / "sweep-mlp-tiny.json").read_text())["runs"]
    rates = {}
    for run in runs:
        rates.setdefault(run["method"], []).append(run["learning_rate"])
    assert rates["SGD"][-2:] == [0.2, 0.5], "the best rate, .2, is no longer at the edge"
    assert len({len(grid) for grid in rates.values()}) == 1
    assert {run["split"] for run in runs} == {"validation"}
    assert "100.0 *" in capsys.readouterr().out


def test_sweep_over_given_rates(npz, tmp_path, capsys, not_trained):
    argv = ["sweep", "mlp", "--data", npz, "--seeds", "1", "--out", str(tmp_path)]
    argv += ["--methods", "Adam", "finder-loss", "--rates", "1e-3", "10"]
    assert cli.main(argv) == 0
    runs = json.loads((tmp_path / "rates-mlp-tiny.json").read_text())["runs"]
    pairs = [(run["method"], run["learning_rate"]) for run in runs]
    # The finder takes no rate: one run is enough.
    assert pairs == [("Adam", 1e-3), ("Adam", 10.0), ("finder-loss", 1e-3)]
    assert (tmp_path / "rates-mlp-tiny.png").exists()


def test_find(npz, tmp_path, capsys):
    argv = ["find", "mlp", "--data", npz, "--depth", "1", "--method", "Adam", "--out"]
    assert cli.main([*argv, str(tmp_path), "--max-learning-rate", "1", "--steps", "60"]) == 0
    text = capsys.readouterr().out
    assert "60 updates with batches of 64, learning rate from 1e-06 to 1." in text
    record = json.loads((tmp_path / "find-mlp-tiny-Adam.json").read_text())
    assert f"Suggested learning rate: {record['suggestion']:.2g} ({record['rule']})." in text
    assert record["command"].startswith("tf-blocknorm find mlp --data ")
    assert record["learning_rates"][0] == pytest.approx(1e-6)
    assert 20 <= len(record["learning_rates"]) == len(record["losses"]) <= 60
    assert str(tmp_path / "find-mlp-tiny-Adam.png") in text
    assert (tmp_path / "find-mlp-tiny-Adam.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for process groups")
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(npz, tmp_path):
    argv = [COMMAND, "run", "mlp", "--data", npz, "--depth", "1", "--epochs", "20"]
    argv += ["--seeds", "500", "--methods", "SGD", "--jobs", "1", "--out", str(tmp_path)]
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores interrupts, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("*/*/summary.json")):
            assert time.monotonic() < deadline, "no run was finished"
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does: to parent and workers.
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "", "no traceback"
    assert "of 500 runs are finished and kept. Continue with: tf-blocknorm run mlp" in out
    assert "SGD, momentum 0.9" in out
    assert (tmp_path / "mlp-tiny.png").exists()
    finished = len(list(tmp_path.glob("*/*/summary.json")))
    record = json.loads((tmp_path / "mlp-tiny.json").read_text())
    assert 1 <= len(record["runs"]) == finished < 500


def test_large_batch(npz, tmp_path, capsys, monkeypatch, not_trained):
    monkeypatch.setattr(large_batch, "SIZES", (8, 32, 64, 512))
    monkeypatch.setattr(large_batch, "TUNED_AT", 32)
    argv = ["run", "large-batch", "--data", npz, "--methods", "SGD", "LAMB", "--out", str(tmp_path)]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "rises over 10% of the updates" in out
    record = json.loads((tmp_path / "large-batch-mlp-tiny.json").read_text())
    runs = record["runs"]
    assert {run["warmup"] for run in runs} == {0.1}
    assert {run["options"]["depth"] for run in runs} == {6}
    per_method = {
        method: sorted((r["batch_size"], r["learning_rate"]) for r in runs if r["method"] == method)
        for method in ("SGD", "LAMB")
    }
    assert {size for size, _ in per_method["SGD"]} == {8, 32, 64}, "as many as there are examples"
    assert len(per_method["SGD"]) == len(per_method["LAMB"]), "equal effort"
    for method, pairs in per_method.items():
        tuned = [rate for size, rate in pairs if size == 32]
        assert set(recipes.RECIPES[method].grid) <= set(tuned)
        small = [rate for size, rate in pairs if size == 8]
        best = small[1] * 2
        assert small == pytest.approx([best / 4, best / 2], rel=1e-2)
        assert best in tuned
    assert (tmp_path / "large-batch-mlp-tiny.png").exists()
    assert (tmp_path / "large-batch-mlp-tiny-memory.md").read_text().count("\n") == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "large-batch", "--learning-rate", "1"], "no option --learning-rate"),
        (["run", "quadratic", "--updates", "9"], "no option --updates"),
        (["run", "quadratic", "--examples", "9"], "no option --examples"),
        (["run", "large-batch", "--schedule", "steps"], "no option --schedule"),
        (["run", "large-batch", "--depth", "3", "6"], "No option takes several values here. Rec"),
        (["find", "mlp", "--depth", "3", "6"], "Received: depth=[3, 6]"),
        (
            ["sweep", "char-lstm", "--depth", "1", "2", "--unroll", "9", "8"],
            "Only one option takes several values here. Received: depth=[1, 2]; unroll=[8, 9]",
        ),
        (["run", "mlp", "--network", "cnn"], "`mlp` has no option --network"),
        (["run", "large-batch", "--network", "cnn", "--depth", "3"], "no option --depth"),
    ],
)
def test_options_of_other_problems(argv, message, capsys):
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err


def test_a_sweep_and_a_run_over_depths(npz, tmp_path, capsys, not_trained):
    common = ["mlp", "--data", npz, "--depth", "3", "1", "2", "--methods", "SGD", "Adam", "--out"]
    assert cli.main(["sweep", *common, str(tmp_path), "--seeds", "1"]) == 0
    record = json.loads((tmp_path / "sweep-mlp-tiny-depths.json").read_text())
    assert {run["options"]["depth"] for run in record["runs"]} == {1, 2, 3}
    assert {run["split"] for run in record["runs"]} == {"validation"}
    table = (tmp_path / "sweep-mlp-tiny-depths.md").read_text().splitlines()
    assert table[0] == "| method | depth 1 | depth 2 | depth 3 |"
    assert table[2] == "| SGD, momentum 0.9 | 100.0 (0.2) | 100.0 (0.2) | 100.0 (0.2) |"
    assert (tmp_path / "sweep-mlp-tiny-depths.png").exists()

    capsys.readouterr()
    swept = str(tmp_path / "sweep-mlp-tiny-depths.json")
    assert cli.main(["run", *common, str(tmp_path), "--seeds", "2", "--sweep", swept]) == 0
    out = capsys.readouterr().out
    assert out.count("is the best of 7 on validation examples (1 seed, ") == 3
    runs = json.loads((tmp_path / "mlp-tiny-depths.json").read_text())["runs"]
    found = {(run["options"]["depth"], run["method"], run["learning_rate"]) for run in runs}
    methods = (("SGD", 0.2), ("Adam", 0.02))
    assert found == {(depth, *pair) for depth in (1, 2, 3) for pair in methods}
    assert {run["split"] for run in runs} == {"test"}
    assert len(runs) == 12

    argv = ["run", "mlp", "--data", npz, "--depth", "1", "4", "--out", str(tmp_path / "new")]
    assert cli.main([*argv, "--methods", "SGD", "--sweep", swept]) == 2
    assert "there is no sweep of SGD for mlp (depth 4)" in capsys.readouterr().err
    assert not (tmp_path / "new").exists(), "nothing is trained before all rates are known"


def test_a_run_at_the_rates_of_a_sweep(npz, tmp_path, capsys, not_trained):
    common = ["mlp", "--data", npz, "--out", str(tmp_path), "--methods"]
    assert cli.main(["sweep", *common, "SGD", "Adam", "--seeds", "1", "--depth", "2"]) == 0
    swept = str(tmp_path / "sweep-mlp-tiny.json")
    assert cli.main(["run", *common, "SGD", "Adam", "--depth", "2", "--sweep", swept]) == 0
    runs = json.loads((tmp_path / "mlp-tiny.json").read_text())["runs"]
    found = {(run["method"], run["learning_rate"]) for run in runs}
    assert found == {("SGD", 0.2), ("Adam", 0.02)}
    for argv, message in (
        (["SGD", "AdamW", "--depth", "2"], f"In {swept} there is no sweep of AdamW for mlp (depth"),
        (["SGD", "--depth", "3"], f"In {swept} there is no sweep of SGD for mlp (depth 3) on tiny"),
    ):
        assert cli.main(["run", *common, *argv, "--sweep", swept]) == 2
        assert message in capsys.readouterr().err
    for file in ("nowhere.json", __file__):
        assert cli.main(["run", *common, "SGD", "--sweep", file]) == 2
        assert f"`--sweep` must be a file that `sweep` wrote: {file}" in capsys.readouterr().err


@pytest.mark.parametrize(("updates", "epochs"), [("1", 1), ("4", 2), ("7", 4), ("20", 10)])
def test_updates_are_rounded_to_epochs(npz, tmp_path, not_trained, updates, epochs):
    argv = ["run", "mlp", "--data", npz, "--methods", "SGD", "--seeds", "1", "--out", str(tmp_path)]
    assert cli.main([*argv, "--updates", updates]) == 0
    (run,) = json.loads((tmp_path / "mlp-tiny.json").read_text())["runs"]
    assert run["epochs"] == epochs, "of two batches each"


def test_a_run_on_part_of_the_data_with_a_schedule_of_steps(npz, tmp_path, capsys, not_trained):
    argv = ["run", "mlp", "--data", npz, "--methods", "SGD", "--seeds", "1", "--out", str(tmp_path)]
    assert cli.main([*argv, "--examples", "96", "--schedule", "steps"]) == 0
    out = capsys.readouterr().out
    assert "mlp (depth 30) on tiny: 96 training and 32 test examples" in out
    assert "All methods: learning rate is divided by 10 after 1/2 and 3/4 of the updates." in out
    assert "not tuned for the options given" in out
    (run,) = json.loads((tmp_path / "mlp-tiny.json").read_text())["runs"]
    assert (run["examples"], run["schedule"]) == (96, "decay by 10 at 1/2 and 3/4 of the updates")

    assert cli.main(["sweep", *argv[1:], "--examples", "96", "--epochs", "3"]) == 0
    capsys.readouterr()
    assert cli.main([*argv, "--sweep", str(tmp_path / "sweep-mlp-tiny.json")]) == 0
    assert "(1 seed, 3 epochs on 96 examples): " in capsys.readouterr().out
