"""Reviews: words are cut, filled up and counted as Keras does, and a network learns from them."""

import urllib.request

import keras
import numpy as np
import pytest
from resuming import whole_and_resumed

from tf_blocknorm.experiments import cli, runner
from tf_blocknorm.experiments.data import reviews
from tf_blocknorm.experiments.errors import ExperimentError
from tf_blocknorm.experiments.problems import PROBLEMS

OPTIONS = {"vocabulary": 30, "length": 10}


def arrays(**changes):
    """Return reviews of 12 words, good ones with a 7 in them."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(8, 40, (160, 12)), np.arange(160) % 2
    x[:, 5] = np.where(y, 7, x[:, 5])
    parts = {"x_train": x[:120], "y_train": y[:120], "x_test": x[120:], "y_test": y[120:]}
    return {**parts, **changes}


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reviews.npz"
    np.savez(path, **arrays())
    return str(path)


def test_imdb_is_cut_and_filled_up_as_keras_does(monkeypatch):
    words = [[1, 5, 6, 99, 7], [1, 8], [1, 31, 32, 4, 3, 9, 9]]

    def load_data():
        lists = np.array([*words, None], dtype=object)[:-1]
        return (lists, np.array([0, 1, 1])), (lists, np.array([1, 0, 1]))

    monkeypatch.setattr(keras.datasets.imdb, "load_data", load_data)
    reviews.load.cache_clear()
    loaded = reviews.load("imdb", vocabulary=32, length=5)
    reviews.load.cache_clear()
    known = [[1, 5, 6, 2, 7], [1, 8], [1, 31, 2, 4, 3, 9, 9]]
    np.testing.assert_array_equal(loaded.x_train, keras.utils.pad_sequences(known, 5))
    assert (loaded.x_test.dtype, loaded.num_classes, loaded.name) == (np.int32, 2, "imdb")


def test_npz(npz):
    loaded = reviews.load(npz, vocabulary=30, length=14)
    x = arrays()["x_train"]
    assert loaded.x_train[:, :2].tolist() == [[0, 0]] * 120
    np.testing.assert_array_equal(loaded.x_train[:, 2:], np.where(x < 30, x, 2))
    np.testing.assert_array_equal(reviews.load(npz, 40, 8).x_train, x[:, -8:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((120, 12))}, "x_train.dtype=float64"),
        ({"x_test": np.zeros((40, 3, 4), int)}, r"x_test.shape=\(40, 3, 4\)"),
        ({"x_train": np.full((120, 12), -1)}, "whole numbers from 0 up"),
        ({"y_train": np.zeros(120, int)}, "1 different labels from 0 to 0"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, changes, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(ExperimentError, match=message):
        reviews.load(str(path), 30, 10)


def test_no_reviews_and_no_network(tmp_path, monkeypatch):
    with pytest.raises(ExperimentError, match=r"must be imdb, or .*Received: data=mnist"):
        reviews.load("mnist", 30, 10)

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(keras.src.utils.file_utils, "urlretrieve", refuse)
    monkeypatch.setattr(keras.src.utils.file_utils.config, "keras_home", lambda: str(tmp_path))
    with pytest.raises(ExperimentError, match=r"no route to host.*Use `--data PATH.npz`, with"):
        reviews.load("imdb", 31, 10)


def test_the_network():
    model = PROBLEMS["sentiment"].build((10,), 2, **OPTIONS)
    assert model.count_params() == 30 * 64 + (5 * 64 * 64 + 64) + (64 * 2 + 2)
    with pytest.raises(ExperimentError, match=r"must be 5 at least. Received: length=4"):
        PROBLEMS["sentiment"].build((4,), 2, vocabulary=30, length=4)


@pytest.mark.parametrize("method", ["BlockNormAdam", "BlockNormSGD", "RMSprop", "INSGD"])
def test_a_run_that_is_killed_and_resumed(npz, tmp_path, monkeypatch, method):
    run = runner.Run("sentiment", npz, method, 0.01, 0, 8, OPTIONS, "validation", batch_size=16)
    whole, resumed = whole_and_resumed(run, tmp_path, monkeypatch, epoch=3)
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert resumed[key] == whole[key]
    if method == "BlockNormAdam":
        assert whole["val_accuracy"] > 0.9


def test_the_command_line(npz, tmp_path, capsys):
    argv = ["find", "sentiment", "--data", npz, "--vocabulary", "30", "--length", "10"]
    assert cli.main([*argv, "--out", str(tmp_path), "--steps", "30"]) == 0
    assert "sentiment (vocabulary 30, length 10) on reviews" in capsys.readouterr().out
