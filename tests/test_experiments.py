"""The experiments: data are checked, runs resume exactly, tables and figures tell the truth."""

import dataclasses
import json
import pathlib
import urllib.request

import keras
import numpy as np
import pytest
from resuming import whole_and_resumed

from tf_blocknorm.experiments import (
    batch_statistics,
    commands,
    data,
    figures,
    recipes,
    runner,
    schedules,
    tables,
    workers,
)
from tf_blocknorm.experiments.errors import ExperimentError
from tf_blocknorm.experiments.problems import PROBLEMS

RESULTS = pathlib.Path(__file__).parent.parent / "results"


def arrays(**changes):
    """Return three easy classes in an 4 x 4 image, as an .npz file should hold them."""
    rng = np.random.default_rng(0)
    y_train, y_test = np.arange(90) % 3, np.arange(30) % 3
    x_train = rng.normal(size=(90, 4, 4)) + y_train[:, None, None]
    x_test = rng.normal(size=(30, 4, 4)) + y_test[:, None, None]
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, **changes}


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **arrays())
    return str(path)


def a_run(source, **changes):
    settings = {"method": "Adam", "learning_rate": 0.01, "seed": 0, "epochs": 4, **changes}
    return runner.Run(problem="mlp", source=source, options={"depth": 2}, **settings)


def without_seconds(path):
    return [{**epoch, "seconds": None} for epoch in map(json.loads, path.open())]


# Data


def test_digits():
    digits = data.load("digits")
    assert digits.x_train.shape == (1437, 8, 8)
    assert digits.x_test.shape == (360, 8, 8)
    assert digits.num_classes == 10
    assert digits.x_train.min() == 0.0
    assert digits.x_train.max() == 1.0
    assert set(np.bincount(digits.y_test)) <= {35, 36, 37}  # Stratified.


def test_npz(npz):
    tiny = data.load(npz)
    assert tiny.name == "tiny"
    assert tiny.input_shape == (4, 4)
    assert tiny.num_classes == 3
    np.testing.assert_allclose(tiny.x_test, arrays()["x_test"], rtol=1e-6)
    np.testing.assert_array_equal(tiny.y_train, arrays()["y_train"])


def test_bytes_are_scaled_and_a_column_of_labels_is_taken(tmp_path):
    pixels = np.full((90, 4, 4), 255, "uint8")
    path = tmp_path / "bytes.npz"
    np.savez(path, **arrays(x_train=pixels, y_train=np.arange(90)[:, None] % 3))
    loaded = data.load(str(path))
    assert loaded.x_train.max() == 1.0
    assert loaded.y_train.shape == (90,)


def test_validation_examples_come_from_the_training_data_alone(npz):
    tiny = data.load(npz)
    split = tiny.without_test()
    assert (len(split.x_train), len(split.x_test)) == (72, 18)
    both = np.concatenate([split.x_train, split.x_test])
    np.testing.assert_array_equal(
        np.sort(both.ravel()), np.sort(tiny.x_train.ravel()), "every example, once"
    )
    np.testing.assert_array_equal(split.x_test, tiny.without_test().x_test, "always the same")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((90, 4, 5))}, r"one shape. Received: \(4, 5\) and \(4, 4\)"),
        ({"y_train": np.zeros(89, int)}, r"y_train.shape=\(89,\)"),
        ({"y_train": np.zeros((90, 3), int)}, r"y_train.shape=\(90, 3\)"),
        ({"x_test": np.zeros((0, 4, 4)), "y_test": np.zeros(0, int)}, r"x_test.shape=\(0, 4, 4\)"),
        ({"y_train": np.arange(90) % 3 / 2}, "y_train.dtype=float64"),
        ({"x_train": np.zeros((90, 4, 4), complex)}, "x_train.dtype=complex128"),
        ({"x_train": np.full((90, 4, 4), np.nan)}, "NaN or infinity"),
        ({"y_train": np.arange(90) % 3 + 1}, "3 different labels from 1 to 3"),
        ({"y_test": np.arange(30) % 4}, "labels from 0 to 3 for 3 classes"),
        ({"y_test": np.array([None] * 30)}, "cannot be read"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, changes, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(ExperimentError, match=message) as error:
        data.load(str(path))
    assert "\n" not in str(error.value)


def test_missing_arrays_are_named(tmp_path):
    path = tmp_path / "half.npz"
    np.savez(path, x_train=np.zeros((3, 2)), y_train=np.zeros(3, int))
    with pytest.raises(ExperimentError, match="Missing: x_test, y_test"):
        data.load(str(path))


def test_a_broken_file_is_refused(tmp_path):
    path = tmp_path / "broken.npz"
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ExperimentError, match="cannot be read as an"):
        data.load(str(path))


def test_without_a_network_the_alternative_is_named(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.src.utils.file_utils, "urlretrieve", refuse)
    monkeypatch.setattr(keras.src.utils.file_utils.config, "keras_home", lambda: str(tmp_path))
    with pytest.raises(ExperimentError, match=r"no route to host.*--data digits"):
        data.load("fashion_mnist")


# Runs


def test_the_same_run_gives_the_same_numbers(npz, tmp_path):
    first = runner.train(a_run(npz), tmp_path / "a")
    again = runner.train(a_run(npz), tmp_path / "b")
    other = runner.train(a_run(npz, seed=1), tmp_path / "b")
    assert first["loss"] == again["loss"]
    assert first["loss"] != other["loss"]


@pytest.mark.parametrize("method", ["Adam", "BlockNormSGD"])
def test_an_interrupted_run_resumes_to_the_same_numbers(npz, tmp_path, monkeypatch, method):
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    run = a_run(npz, method=method)
    whole = runner.train(run, tmp_path / "whole")

    def interrupt(epoch, record):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.train(run, tmp_path / "halves", report=interrupt)
    assert runner.finished(run, tmp_path / "halves") is None
    seen = []
    resumed = runner.train(
        run, tmp_path / "halves", report=lambda epoch, record: seen.append(epoch)
    )
    assert seen == [3, 4], "it went on where it was"
    assert {key: resumed[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy")} == {
        key: whole[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy")
    }
    lines = [run.folder(tmp_path / half) / "epochs.jsonl" for half in ("whole", "halves")]
    assert without_seconds(lines[0]) == without_seconds(lines[1])
    assert sorted(path.name for path in run.folder(tmp_path / "halves").iterdir()) == [
        "epochs.jsonl",
        "summary.json",
    ]


def test_epochs_after_the_last_checkpoint_are_not_recorded_twice(npz, tmp_path, monkeypatch):
    run = a_run(npz)

    def interrupt(epoch, record):
        # The first epoch has its checkpoint; the second is recorded but not saved.
        monkeypatch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", 1e9)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        runner.train(run, tmp_path, report=interrupt)
    runner.train(run, tmp_path)
    assert [epoch["epoch"] for epoch in runner.epochs_on_disk(run, tmp_path)] == [1, 2, 3, 4]


def test_the_summary_says_how_it_came_about(npz, tmp_path):
    run = a_run(npz, epochs=1, split="validation")
    summary = runner.train(run, tmp_path, command="tf-blocknorm run mlp")
    assert summary == runner.finished(run, tmp_path)
    assert summary["command"] == "tf-blocknorm run mlp"
    assert summary["versions"]["keras"] == keras.__version__
    assert summary["machine"]["cores"] >= 1
    assert (summary["seed"], summary["split"], summary["source"]) == (0, "validation", "tiny")


def test_nothing_is_reused_that_would_come_out_otherwise(npz, tmp_path):
    folders = {
        a_run(npz).folder(tmp_path),
        a_run(npz, seed=1).folder(tmp_path),
        a_run(npz, epochs=5).folder(tmp_path),
        a_run(npz, learning_rate=0.0100001).folder(tmp_path),
        a_run(npz, split="validation").folder(tmp_path),
        a_run("digits").folder(tmp_path),
    }
    assert len(folders) == 6


def test_a_run_in_mixed_precision_is_another_one(npz, tmp_path):
    before = keras.config.dtype_policy()
    half = a_run(npz, dtype_policy="mixed_bfloat16")
    trained = [runner.train(run, tmp_path) for run in (a_run(npz), half)]
    assert keras.config.dtype_policy() == before
    assert trained[1]["dtype_policy"] == "mixed_bfloat16"
    assert trained[0]["val_loss"] != trained[1]["val_loss"]
    assert trained[0]["val_loss"] == pytest.approx(trained[1]["val_loss"], rel=0.2)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_probabilities_are_never_rounded_to_half_precision(problem):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = problem.build((32, 32, 3), 10, **problem.options)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.outputs[0].dtype == "float32"
    assert {layer.compute_dtype for layer in model.layers} == {"float32", "bfloat16"}


def test_a_run_that_diverges_is_recorded_as_such(npz, tmp_path):
    run = a_run(npz, method="SGD", learning_rate=1e30, epochs=2)
    assert runner.train(run, tmp_path)["epochs"] == 2
    (tmp_path / "again.json").write_text((run.folder(tmp_path) / "summary.json").read_text())
    summary = json.loads((tmp_path / "again.json").read_text(), parse_constant=pytest.fail)
    assert summary["val_loss"] is None


def test_the_order_of_batches_depends_on_seed_and_epoch_only():
    x, y = np.arange(200), np.arange(200)

    def order(seed, *epochs):
        batches = runner.Batches(x, y, 64, seed)
        for epoch in epochs:
            batches.shuffle(epoch)
        return np.concatenate([batches[index][0] for index in range(len(batches))]).tolist()

    assert len(set(order(0, 1))) == 3 * 64, "three whole batches, no example twice"
    assert order(0, 3) == order(0, 1, 2, 3)
    assert order(0, 3) != order(1, 3)
    assert order(0, 3) != order(0, 4)


def test_a_run_on_a_part_of_the_data(npz):
    whole, part = a_run(npz).data(), a_run(npz, examples=60).data()
    found = [np.flatnonzero((whole.x_train == x).all((1, 2))) for x in part.x_train]
    rows = np.concatenate(found)
    assert len(np.unique(rows)) == len(part.x_train) == 60
    assert rows.max() > 80, "not the first ones: data may be in order"
    np.testing.assert_array_equal(whole.y_train[rows], part.y_train)
    np.testing.assert_array_equal(part.x_test, whole.x_test)
    np.testing.assert_array_equal(a_run(npz, examples=60).data().x_train, part.x_train)
    assert len(part.without_test().x_train) == 48
    with pytest.raises(ExperimentError, match="has 90 training examples"):
        a_run(npz, examples=91).data()


def test_a_part_and_a_schedule_are_settings(npz):
    plain, run = a_run(npz), a_run(npz, examples=60, schedule=schedules.STEPS)
    assert "examples" not in plain.settings(), "the folders of runs from before are still found"
    assert plain.settings()["schedule"] == schedules.LINEAR
    assert run.settings()["examples"] == 60
    assert run.settings()["schedule"] == schedules.STEPS
    assert dataclasses.replace(run, method="original").settings()["schedule"] == schedules.OWN
    folders = {dataclasses.replace(plain, examples=n).folder("") for n in (None, 60, 61)}
    assert len({*folders, run.folder("")}) == 4


# Problems and recipes


def test_the_mlp_is_the_published_one():
    model = PROBLEMS["mlp"].build((28, 28), 10, depth=30)
    assert model.count_params() - 30 * 2 * 128 == 588_298
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.2] * 30
    without = PROBLEMS["mlp-no-dropout"].build((28, 28), 10, depth=30)
    assert [w.shape for w in without.weights] == [w.shape for w in model.weights]
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in without.layers)


@pytest.mark.parametrize("method", recipes.RECIPES)
def test_recipes(method):
    recipe = recipes.RECIPES[method]
    optimizer = recipe.make(0.5, steps=10)
    assert type(optimizer).__name__ == recipe.optimizer
    if recipe.schedule == schedules.LINEAR:
        highest = 0.5 if recipe.rate == "learning_rate" else 1.0
        rates = [float(optimizer._learning_rate(step)) for step in (0, 5, 10)]
        assert rates == [highest, highest / 2, 0.0]
    if recipe.rate:
        plain = recipe.make(0.5)
        assert float(np.asarray(getattr(plain, recipe.rate))) == 0.5
    for name, value in recipe.arguments.items():
        assert optimizer.get_config()[name] == value
    names = [type(callback).__name__ for callback in recipe.make_callbacks()]
    assert names == list(recipe.callbacks)


def test_a_schedule_of_steps():
    for name, highest in (("SGD", 0.5), ("AdaptiveBlockNormSGD", 1.0)):
        optimizer = recipes.RECIPES[name].make(0.5, steps=8, schedule=schedules.STEPS)
        rates = [float(optimizer._learning_rate(step)) for step in range(8)]
        expected = [highest] * 4 + [highest / 10] * 2 + [highest / 100] * 2
        np.testing.assert_allclose(rates, expected, rtol=1e-6)
    own = recipes.RECIPES["original"].make(0.5, steps=8, schedule=schedules.STEPS)
    assert own.get_config()["learning_rate"] == recipes.RECIPES["original"].make(0.5).learning_rate


def test_every_method_gets_as_many_learning_rates():
    tuned = [recipe for recipe in recipes.RECIPES.values() if recipe.grid != recipes.ANY]
    assert len({len(recipe.grid) for recipe in tuned}) == 1
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "BlockNormSGD", "BlockNormAdam"):
        assert recipes.RECIPES[name] in tuned


@pytest.mark.parametrize("method", ["AdaptiveStepSize", "BarzilaiBorwein", "finder-loss"])
def test_a_run_with_callbacks_that_is_killed_and_resumed(method, npz, tmp_path, monkeypatch):
    monkeypatch.setitem(
        recipes.RECIPES,
        "finder-loss",
        dataclasses.replace(
            recipes.RECIPES["finder-loss"],
            callbacks={"LearningRateFinder": {"then": "train", "steps": 20}},
        ),
    )
    run = a_run(npz, method=method, epochs=30)
    whole, resumed = whole_and_resumed(run, tmp_path, monkeypatch, epoch=25)
    assert resumed["val_loss"] == whole["val_loss"]
    assert resumed["learning_rate"] == run.learning_rate
    assert ("last_learning_rate" in resumed) == (method != "finder-loss")


def test_callbacks_are_shown_examples_from_all_over_the_data():
    (callback,) = recipes.RECIPES["BackMatching"].make_callbacks(np.arange(1000))
    assert callback.inputs.tolist() == list(range(0, 3 * 256, 3))
    (callback,) = recipes.RECIPES["BackMatching"].make_callbacks(np.arange(90))
    assert callback.inputs.tolist() == list(range(90))
    (callback,) = recipes.RECIPES["BackMatching-static"].make_callbacks(np.arange(90))
    assert callback.inputs is None


def test_statistics_of_batch_normalisation_are_those_of_the_examples():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(1.0, 2.0, size=(60, 3)).astype("float32"), rng.integers(2, size=60)
    shown, layers = x[::2], []
    for _ in range(3):
        layers.append(keras.layers.Dense(4, "relu"))
        layers.append(keras.layers.BatchNormalization(momentum=0.75))
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss=loss)
    callback = batch_statistics.BatchStatistics(shown)
    model.fit(x, y, 10, 4, verbose=0, validation_data=(x, y), callbacks=[callback])

    found = shown.astype("float64")
    for dense, norm in zip(layers[::2], layers[1::2]):
        kernel, bias = dense.get_weights()
        found = np.maximum(found @ kernel + bias, 0.0)
        gamma, beta, mean, variance = norm.get_weights()
        np.testing.assert_allclose(mean, found.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, found.var(0), rtol=1e-4, atol=1e-5)
        found = (found - found.mean(0)) / np.sqrt(found.var(0) + norm.epsilon) * gamma + beta
        assert norm.momentum == 0.75


@pytest.mark.parametrize("method", ["BackMatching", "BackMatching-min"])
def test_a_run_with_back_matching_that_is_killed_and_resumed(method, npz, tmp_path, monkeypatch):
    recipe = recipes.RECIPES[method]
    often = {"BackMatching": {**recipe.callbacks["BackMatching"], "update_freq": 5}}
    monkeypatch.setitem(recipes.RECIPES, method, dataclasses.replace(recipe, callbacks=often))
    options = {"depth": 3, "scale": 2}
    run = dataclasses.replace(a_run(npz, method=method, epochs=12), problem="scaled")
    run = dataclasses.replace(run, options=options)
    whole, resumed = whole_and_resumed(run, tmp_path, monkeypatch, epoch=7)
    assert resumed["val_loss"] == whole["val_loss"]
    plain = runner.train(dataclasses.replace(run, method="SGD"), tmp_path / "plain")
    assert plain["val_loss"] != whole["val_loss"]


@pytest.mark.parametrize("depth", [4, 5])
def test_the_badly_scaled_network_is_another_one_in_its_weights_only(depth):
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    outputs, sizes = [], []
    for scale in (1, 8):
        keras.utils.set_random_seed(0)
        model = PROBLEMS["scaled"].build((6,), 3, depth, scale)
        outputs.append(model.predict(x, verbose=0))
        sizes.append([np.linalg.norm(w) for w in model.get_weights()[:-2:2]])
    np.testing.assert_allclose(*outputs, rtol=1e-5)
    expected = [8.0, 1 / 8, 8.0, 1 / 8, 1.0][:depth]
    np.testing.assert_allclose(np.divide(sizes[1], sizes[0]), expected, rtol=1e-5)


def test_the_vgg_like_network():
    assert PROBLEMS["vgg"].build((32, 32, 3), 10).count_params() == 308_842
    assert PROBLEMS["vgg"].build((8, 8), 2).output_shape == (None, 2)
    with pytest.raises(ExperimentError, match=r"at least 8 x 8 pixels. Received: .*shape \(7, 8"):
        PROBLEMS["vgg"].build((7, 8), 10)


def test_a_vgg_like_network_trains(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = rng.normal(size=(60, 8, 8)) + y[:, None, None]
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    run = runner.Run(
        "vgg", str(tmp_path / "images.npz"), "BackMatching", 0.02, 0, 12, {}, batch_size=20
    )
    assert runner.train(run, tmp_path / "out")["val_accuracy"] > 0.9


@pytest.mark.parametrize(("problem", "name"), recipes.TUNED)
def test_tuned_rates_are_those_of_the_committed_sweep(problem, name):
    record = json.loads((RESULTS / f"sweep-{problem}-{name}.json").read_text())
    runs = record["runs"]
    assert {run["split"] for run in runs} == {"validation"}
    assert tables.best_rates(runs) == recipes.TUNED[problem, name].rates
    per_method = {(run["learning_rate"], run["seed"]) for run in runs if run["method"] == "Adam"}
    for method, group in tables.grouped(runs, "method").items():
        assert len(group) == len(per_method), f"{method}: as many runs as for Adam"
        rates = sorted({run["learning_rate"] for run in group})
        assert tables.best_rates(group)[method] not in (rates[0], rates[-1])


def test_grids_widen_in_steps_of_1_2_5():
    grid = [0.005, 0.01, 0.02, 0.05, 0.1]
    assert commands.widen(grid, best=0.1) == 0.2
    assert commands.widen(grid, best=0.005) == 0.002
    assert grid == [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]
    assert [commands.neighbour(rate, 1) for rate in (1.0, 2.0, 5.0)] == [2.0, 5.0, 10.0]
    assert [commands.neighbour(rate, -1) for rate in (1.0, 2.0, 5.0)] == [0.5, 1.0, 2.0]
    for recipe in recipes.RECIPES.values():
        pairs = zip(recipe.grid, recipe.grid[1:], strict=False)
        assert all(commands.neighbour(low, 1) == high for low, high in pairs)


# Tables and figures


def summary(method, rate, seed, accuracy, loss=1.0, split="test"):
    return {
        "problem": "mlp", "method": method, "learning_rate": rate, "seed": seed, "split": split,
        "epochs": 2, "val_accuracy": accuracy, "val_loss": loss, "seconds": 10.0,
    }  # fmt: skip


def test_the_table_gives_mean_and_standard_deviation():
    runs = [summary("Adam", 0.01, seed, value) for seed, value in enumerate([0.7, 0.8, 0.9])]
    header, (row,) = tables.by_method([*runs])
    assert header[3:5] == ["test accuracy", "test loss"]
    assert row == ["Adam", "0.01", "3", "80.0 ± 10.0 %", "1.000 ± 0.000", "10 ± 0"]
    assert tables.markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |\n"


def test_the_best_rate_is_that_of_the_best_mean_and_never_one_that_diverged():
    runs = [
        summary("Adam", 0.01, 0, 0.7), summary("Adam", 0.01, 1, 0.7),
        summary("Adam", 0.02, 0, 0.9), summary("Adam", 0.02, 1, 0.4),
        summary("Adam", 0.05, 0, 0.7, loss=0.9), summary("Adam", 0.05, 1, 0.7, loss=0.9),
        summary("SGD", 0.1, 0, 0.1, loss=None), summary("SGD", 0.2, 0, 0.1),
    ]  # fmt: skip
    assert tables.best_rates(runs) == {"Adam": 0.05, "SGD": 0.2}
    header, rows = tables.by_rate(runs)
    assert header == ["method", "0.01", "0.02", "0.05", "0.1", "0.2"]
    assert rows[0] == ["Adam", "70.0 ± 0.0", "65.0 ± 35.4", "70.0 ± 0.0 *", "", ""]


def test_figures_are_drawn_also_of_runs_that_diverged_or_are_missing(tmp_path):
    curve = [{"accuracy": 0.2, "val_accuracy": 0.3}, {"accuracy": 0.4, "val_accuracy": None}]
    runs = [(summary("Adam", 0.01, 0, 0.3), curve), (summary("SGD", 0.01, 0, None), curve)]
    figures.curves(runs, tmp_path / "curves.png", "title", "subtitle")
    sweep = [summary("Adam", 0.01, 0, 0.3), summary("Adam", 0.01, 1, 0.4)]
    sweep.append(summary("Adam", 0.02, 0, None))
    figures.rates(sweep, tmp_path / "rates.png", "title", "subtitle")
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_cnn_is_the_published_one():
    assert PROBLEMS["cnn"].build((32, 32, 3), 10).count_params() == 1_250_858
    assert PROBLEMS["cnn"].build((10, 10), 2).output_shape == (None, 2)


@pytest.mark.parametrize("shape", [(9, 12, 3), (12, 9), (64,)])
def test_the_cnn_needs_images(shape):
    with pytest.raises(ExperimentError, match=r"at least 10 x 10 pixels. Received: .*shape \("):
        PROBLEMS["cnn"].build(shape, 10)


def test_rates_are_not_made_up():
    with pytest.raises(ExperimentError, match="no tuned rates for `cnn`: give one with --learning"):
        recipes.tuning("cnn", "cifar10", False)


def test_processes_begin_anew_after_some_runs(monkeypatch):
    """TensorFlow does not give the memory of a run back."""
    pieces = []
    monkeypatch.setattr(workers, "_train_some", lambda runs, *rest: pieces.append(runs))
    workers.train_all(list(range(27)), "out", 2, "", None)
    assert [run for piece in pieces for run in piece] == list(range(27))
    assert [len(piece) for piece in pieces] == [12, 12, 3]
    workers.train_all([], "out", 2, "", None)
    assert len(pieces) == 3


# Input-normalised SGD


@pytest.mark.parametrize(("name", "parameters"), [("toy", 35_058), ("toy-plain", 34_786)])
def test_the_toy_cnn_has_as_many_weights_as_the_published_one(name, parameters):
    model = PROBLEMS[name].build((32, 32, 3), 10)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == parameters
    assert PROBLEMS[name].build((8, 8), 2).output_shape == (None, 2)
    with pytest.raises(ExperimentError, match=r"at least 8 x 8 pixels. Received: .*\(4, 4\)"):
        PROBLEMS[name].build((4, 4), 2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three classes of 8 x 8 pixels."""
    path, enlarge = tmp_path_factory.mktemp("data") / "images.npz", np.ones((2, 2))
    small = arrays()
    np.savez(path, **{k: np.kron(v, enlarge) if k[0] == "x" else v for k, v in small.items()})
    return str(path)


@pytest.mark.parametrize(
    ("problem", "method"),
    [("toy", "INSGD"), ("toy", "INSGD-constant"), ("toy-plain", "INSGD-code-l1")],
)
def test_insgd_trains_the_toy_cnn(images, tmp_path, problem, method):
    run = runner.Run(
        problem, images, method, 0.02, 0, 4, options={}, batch_size=16, split="validation"
    )
    summary = runner.train(run, tmp_path)
    assert summary["inputs"] == recipes.RECIPES[method].inputs
    losses = [epoch["loss"] for epoch in runner.epochs_on_disk(run, tmp_path)]
    assert losses[-1] < losses[0]


def test_measured_and_constant_rates_of_the_code_agree(images, tmp_path):
    """What the authors' code measures are constants: the control makes all but the same steps."""
    losses = []
    for method in ("INSGD-code", "INSGD-constant", "SGD"):
        run = runner.Run("toy", images, method, 0.01, 0, 1, options={}, batch_size=16)
        dataset = data.load(images)
        keras.utils.set_random_seed(0)
        model = PROBLEMS["toy"].build(dataset.input_shape, dataset.num_classes)
        model, given = recipes.RECIPES[method].prepare(model)
        model.layers[-3].rate = 0.0  # no dropout, whose masks differ between copies
        optimizer = recipes.RECIPES[method].make(0.01, **given)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        history = model.fit(run.batches(dataset), shuffle=False, verbose=0)
        losses.append(history.history["loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert abs(losses[2] - losses[1]) > 2 * abs(losses[0] - losses[1])
