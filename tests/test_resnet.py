"""ResNet: its shape, its augmentation, and that a killed run ends as an uninterrupted one."""

import keras
import numpy as np
import pytest
from resuming import whole_and_resumed

from tf_blocknorm.experiments import cli, data, recipes, runner
from tf_blocknorm.experiments.errors import ExperimentError
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.problems.augmentation import RandomShift


def weights(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def test_it_has_as_many_weights_as_the_published_one():
    model = PROBLEMS["resnet"].build((32, 32, 3), 10, depth=20)
    assert weights(model) == 272_474
    depth = sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) - 2
    assert depth + 1 == 20, "but for the two shortcuts"
    normalisation = sum(weights(layer) for layer in model.layers if "normalization" in layer.name)
    plain = PROBLEMS["resnet-plain"].build((32, 32, 3), 10, depth=20)
    assert weights(plain) == 272_474 - normalisation
    assert PROBLEMS["resnet"].build((8, 8), 100, depth=8).output_shape == (None, 100)


@pytest.mark.parametrize("depth", [2, 19, 21])
def test_its_depth(depth):
    with pytest.raises(ExperimentError, match=f"must be 8, 14, 20, … Received: depth={depth}"):
        PROBLEMS["resnet"].build((32, 32, 3), 10, depth=depth)


@pytest.mark.parametrize("shape", [(7, 32, 3), (64,)])
def test_it_needs_images(shape):
    with pytest.raises(ExperimentError, match=r"at least 8 x 8 pixels. Received: .*shape \("):
        PROBLEMS["resnet"].build(shape, 10, depth=8)


def test_every_image_is_shifted_by_itself_and_padded_with_zeros():
    images = np.random.default_rng(0).uniform(1, 2, (200, 6, 5, 2)).astype("float32")
    layer = RandomShift(3, seed=0)
    np.testing.assert_array_equal(layer(images), images, "not when it does not train")
    shifted = np.asarray(layer(images, training=True))
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))
    places = []
    for before, after in zip(padded, shifted):
        fits = [
            (top, left)
            for top in range(7)
            for left in range(7)
            if np.array_equal(before[top : top + 6, left : left + 5], after)
        ]
        assert len(fits) == 1
        places += fits
    for places_of_axis in zip(*places):
        assert set(places_of_axis) == set(range(7)), "all places, also the outermost"
    again = np.asarray(layer(images, training=True))
    assert not np.array_equal(again, shifted)
    copy = RandomShift.from_config(layer.get_config())
    np.testing.assert_array_equal(copy(images, training=True), shifted)


def test_images_are_changed_in_training_alone():
    keras.utils.set_random_seed(0)
    model = PROBLEMS["resnet-plain"].build((8, 8, 3), 2, depth=8)
    x = np.random.default_rng(0).random((4, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))
    assert not np.array_equal(model(x, training=True), model(x, training=True))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """64 photographs: bright or dark above."""
    rng = np.random.default_rng(0)
    y = np.arange(64) % 2
    x = rng.uniform(0, 0.5, (64, 32, 32, 3))
    x[:, :16] += 0.5 * y[:, None, None, None]
    path = tmp_path_factory.mktemp("data") / "photographs.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:16], y_test=y[:16])
    return str(path)


def test_cifar100_by_its_name(monkeypatch):
    pixels, labels = np.full((200, 32, 32, 3), 255, "uint8"), np.arange(200)[:, None] % 100
    part = pixels, labels
    monkeypatch.setattr(keras.datasets.cifar100, "load_data", lambda: (part, part))
    data.load.cache_clear()
    loaded = PROBLEMS["resnet"].load("cifar100", depth=20)
    data.load.cache_clear()
    assert (loaded.name, loaded.num_classes, loaded.input_shape) == ("cifar100", 100, (32, 32, 3))
    assert loaded.x_test.max() == 1.0


def a_run(images, problem="resnet", **changes):
    settings = {"method": "SGD", "learning_rate": 0.05, "epochs": 4, "batch_size": 16, **changes}
    return runner.Run(problem, images, seed=0, options={"depth": 8}, **settings)


@pytest.mark.parametrize("method", ["SGD", "BlockNormAdam"])
def test_a_run_that_is_killed_and_resumed(images, tmp_path, monkeypatch, method):
    run = a_run(images, method=method, learning_rate=0.02)
    whole, resumed = whole_and_resumed(run, tmp_path, monkeypatch, epoch=2)
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert resumed[key] == whole[key]


@pytest.mark.parametrize(
    ("problem", "method"), [("resnet", "BackMatching"), ("resnet-plain", "INSGD")]
)
def test_methods_that_look_at_the_layers_train_it(images, tmp_path, problem, method):
    rate = recipes.RECIPES[method].grid[0]
    run = a_run(images, problem, method=method, learning_rate=rate)
    runner.train(run, tmp_path)
    losses = [epoch["loss"] for epoch in runner.epochs_on_disk(run, tmp_path)]
    assert losses[-1] < losses[0]


def test_the_command_line(images, tmp_path, capsys):
    argv = ["--data", images, "--depth", "8", "--out", str(tmp_path)]
    assert cli.main(["find", "resnet", *argv, "--steps", "20", "--method", "AdamW"]) == 0
    assert cli.main(["find", "resnet", *argv[:2], "--depth", "9"]) == 2
    assert "must be 8, 14, 20, … Received: depth=9" in capsys.readouterr().err
