"""The character model: texts are divided exactly; bits per character are better when lower."""

import doctest
import json
import math
import urllib.request

import keras
import numpy as np
import pytest
from resuming import whole_and_resumed

from tf_blocknorm.experiments import cli, data, runner, tables
from tf_blocknorm.experiments.data import text
from tf_blocknorm.experiments.errors import ExperimentError
from tf_blocknorm.experiments.problems import PROBLEMS, metrics
from tf_blocknorm.experiments.problems.metrics import ACCURACY, BITS, bits_per_character

OPTIONS = {"unroll": 20, "depth": 2, "units": 8}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """3000 characters of 27, some more frequent than others, one beyond the first 2**16."""
    letters = np.array([*"abcdefghijklmnopqrstuvwxyz", "\U0001d11e"])
    drawn = np.random.default_rng(0).zipf(1.6, 3000)
    file = tmp_path_factory.mktemp("data") / "tiny.txt"
    file.write_text("".join(letters[drawn % 27]), encoding="utf-8")
    return str(file)


def a_run(path, **changes):
    settings = {"method": "Adam", "learning_rate": 0.02, "seed": 0, "epochs": 4, **changes}
    return runner.Run("char-lstm", path, options=OPTIONS, batch_size=25, **settings)


def test_a_text_is_divided_into_windows_whose_targets_are_one_character_on(path):
    with open(path, encoding="utf-8") as file:
        whole = file.read()
    loaded = data.text.load(path, unroll=40)
    alphabet = sorted(set(whole))
    assert loaded.num_classes == len(alphabet) == 27
    assert (loaded.name, loaded.input_shape) == ("tiny", (40,))
    validation = loaded.without_test()
    assert validation.x_train is loaded.x_train, "trained on the same characters"
    parts = [
        (loaded.x_train, loaded.y_train, whole[:2700]),
        (validation.x_test, validation.y_test, whole[2700:2850]),
        (loaded.x_test, loaded.y_test, whole[2850:]),
    ]
    for x, y, part in parts:
        used = (len(part) - 1) // 40 * 40
        assert "".join(alphabet[i] for i in x.ravel()) == part[:used]
        assert "".join(alphabet[i] for i in y.ravel()) == part[1 : used + 1]
    assert [x.shape for x, _, _ in parts] == [(67, 40), (3, 40), (3, 40)]


def test_three_files_stay_apart(tmp_path):
    for name, content in (("train", "abcd" * 9), ("valid", "bcb" * 9), ("test", "dad" * 9)):
        (tmp_path / f"penn.{name}.txt").write_text(content)
    loaded = text.load(str(tmp_path) + "/", unroll=9)
    assert loaded.name == tmp_path.name
    assert loaded.x_train.shape == (3, 9)
    assert loaded.x_test[0].tolist() == [3, 0, 3] * 3
    assert loaded.without_test().x_test[0].tolist() == [1, 2, 1] * 3
    (tmp_path / "test.old.txt").write_text("ab")
    with pytest.raises(ExperimentError, match=r"one file `\*test\*.txt`. Received: 2 such files"):
        text.load(str(tmp_path), unroll=9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ab" * 200, r"longer than a window of 20 characters. Received: a part of 20 \("),
        (b"a" * 4000, "two different characters at least. Received: 1"),
        (b"\xff\xfe" * 900, "cannot be read as UTF-8"),
    ],
)
def test_unusable_texts_are_refused(tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ExperimentError, match=message):
        text.load(str(tmp_path / "bad.txt"), unroll=20)


def test_no_text_and_no_network(tmp_path, monkeypatch):
    with pytest.raises(ExperimentError, match=r"must be shakespeare, or the path.*no file `mnist`"):
        text.load("mnist", unroll=20)

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(keras.src.utils.file_utils, "urlretrieve", refuse)
    monkeypatch.setattr(keras.src.utils.file_utils.config, "keras_home", lambda: str(tmp_path))
    with pytest.raises(ExperimentError, match=r"no route to host.*Use `--data PATH`, which may"):
        text.load("shakespeare", unroll=20)


def test_a_download_of_other_content_is_refused(tmp_path, monkeypatch):
    def other(url, path, *_, **__):
        with open(path, "w") as file:
            file.write("not by Shakespeare")

    monkeypatch.setattr(keras.src.utils.file_utils, "urlretrieve", other)
    monkeypatch.setattr(keras.src.utils.file_utils.config, "keras_home", lambda: str(tmp_path))
    with pytest.raises(ExperimentError, match="Incomplete or corrupted file"):
        text.load("shakespeare", unroll=20)


def test_bits_per_character():
    assert doctest.testmod(metrics) == (0, 2)
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 5, (4, 7)), rng.dirichlet(np.ones(5), (4, 7))
    expected = -np.log2(np.take_along_axis(p, y[..., None], -1))[..., 0]
    np.testing.assert_allclose(bits_per_character(y, p), expected, rtol=1e-5)
    metric = BITS.make()
    metric.update_state(y, p)
    assert metric.name == BITS.name
    assert float(metric.result()) == pytest.approx(expected.mean(), rel=1e-5)


def test_how_metrics_are_written_and_compared():
    assert (ACCURACY.text(0.8125), BITS.text(2.5)) == ("81.2%", "2.500")
    assert ACCURACY.text(None) == BITS.text(float("nan")) == "diverged"
    assert ACCURACY.merit(0.9) > ACCURACY.merit(0.8) > ACCURACY.merit(None)
    assert BITS.merit(1.9) > BITS.merit(2.0) > BITS.merit(None)


def test_the_best_rate_has_the_fewest_bits_and_has_not_diverged():
    runs = [
        {
            "problem": "char-lstm", "method": method, "learning_rate": rate, "split": "validation",
            "val_bits_per_character": bits, "val_loss": 1.0, "seconds": 1.0,
        }
        for method, rate, bits in [
            ("Adam", 0.1, 3.0), ("Adam", 0.2, 2.0), ("Adam", 0.5, 2.5),
            ("SGD", 0.1, None), ("SGD", 0.2, 4.0),
        ]
    ]  # fmt: skip
    assert tables.best_rates(runs) == {"Adam": 0.2, "SGD": 0.2}
    header, rows = tables.by_rate(runs)
    assert rows[0] == ["Adam", "3.000", "2.000 *", "2.500"]
    assert rows[1] == ["SGD, momentum 0.9", "diverged", "4.000 *", ""]
    header, rows = tables.by_method(runs[:1])
    assert header[3] == "validation bits per character"
    assert rows[0][3] == "3.000"


def test_the_network():
    model = PROBLEMS["char-lstm"].build((20,), 27, **OPTIONS)
    assert model.output_shape == (None, 20, 27)
    lstm = 4 * ((32 + 8) * 8 + 8) + 4 * ((8 + 8) * 8 + 8)
    assert model.count_params() == 27 * 32 + lstm + 8 * 27 + 27


@pytest.mark.parametrize("method", ["Adam", "BlockNormSGD"])
def test_a_run_that_is_killed_and_resumed(path, tmp_path, monkeypatch, method):
    run = a_run(path, method=method)
    whole, resumed = whole_and_resumed(run, tmp_path, monkeypatch, epoch=2)
    assert whole["val_bits_per_character"] < math.log2(27)
    assert whole["val_bits_per_character"] == pytest.approx(
        whole["val_loss"] / math.log(2), rel=1e-5
    )
    for key in ("loss", "bits_per_character", "val_loss", "val_bits_per_character"):
        assert resumed[key] == whole[key]


def test_the_command_line(path, tmp_path, capsys):
    argv = ["--data", path, "--unroll", "20", "--units", "8", "--depth", "1"]
    argv += ["--out", str(tmp_path)]
    once = ["--seeds", "1", "--epochs", "1", "--jobs", "1", "--methods", "Adam"]
    assert cli.main(["run", "char-lstm", *argv, *once, "--learning-rate", "0.01"]) == 0
    assert cli.main(["sweep", "char-lstm", *argv, *once, "--rates", "0.001", "0.01"]) == 0
    assert cli.main(["find", "char-lstm", *argv, "--steps", "30"]) == 0
    out = capsys.readouterr().out
    assert "char-lstm (unroll 20, depth 1, units 8) on tiny: 134 training and 7 test" in out
    assert "Rates as given; bits per character on examples taken" in out
    (run,) = json.loads((tmp_path / "char-lstm-tiny.json").read_text())["runs"]
    assert f"test bits per character   {run['val_bits_per_character']:.3f}" in out
    assert (tmp_path / "char-lstm-tiny.png").exists()
    assert (tmp_path / "rates-char-lstm-tiny.png").exists()
    assert (tmp_path / "find-char-lstm-tiny-BlockNormSGD.json").exists()
    assert cli.main(["run", "mlp", "--unroll", "20"]) == 2
    assert "`mlp` has no option --unroll" in capsys.readouterr().err
