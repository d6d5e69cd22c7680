"""Which variables are measured together, on real layers."""

import keras
import numpy as np
import pytest
from cases import by_rank

import tf_blocknorm as tfb
from tf_blocknorm import blocks


@pytest.fixture
def model():
    return keras.Sequential(
        [
            keras.Input((6, 3)),
            keras.layers.LSTM(4, name="rnn"),
            keras.layers.Dense(5, name="dense"),
            keras.layers.BatchNormalization(name="norm"),
        ],
        name="net",
    )


def test_layer_takes_kernel_and_bias_and_all_of_an_lstm_cell(model):
    names = blocks.assign(model.trainable_variables, "layer")
    assert names == ("net/rnn/lstm_cell",) * 3 + ("net/dense",) * 2 + ("net/norm",) * 2


@pytest.mark.parametrize("block", ["variable", "unit"])
def test_variable_and_unit_keep_variables_apart(model, block):
    names = blocks.assign(model.trainable_variables, block)
    assert names == tuple(v.path for v in model.trainable_variables)


def test_model_takes_all(model):
    assert set(blocks.assign(model.trainable_variables, "model")) == {"model"}


def test_regex_pairs_first_match_first(model):
    pairs = [("rnn", "recurrent"), ("kernel|gamma", "kernels")]
    names = blocks.assign(model.trainable_variables, blocks.validate(pairs))
    assert names[:3] == ("recurrent",) * 3
    assert names[3:] == ("kernels", "net/dense/bias", "kernels", "net/norm/beta")


def test_function(model):
    names = blocks.assign(model.trainable_variables, blocks.validate(by_rank))
    assert names[0] == "net/rnn/lstm_cell/kernel"
    assert names[2] == names[4] == "vectors"


def test_a_function_must_return_names(model):
    with pytest.raises(ValueError, match=r"must return a string or None. Received: <lambda>.*=3"):
        blocks.assign(model.trainable_variables, lambda v: 3)


def test_two_variables_of_one_path_stay_apart():
    twins = [keras.Variable(np.ones(2), name="w") for _ in range(2)]
    assert blocks.assign(twins, "variable") == ("w", "w (2)")


def test_the_blocks_of_an_optimizer_can_be_read(model):
    optimizer = tfb.BlockNormSGD(block="layer", exclude=["norm"])
    optimizer.build(model.trainable_variables)
    assert optimizer.blocks == {
        "net/rnn/lstm_cell": [
            f"net/rnn/lstm_cell/{n}" for n in ("kernel", "recurrent_kernel", "bias")
        ],
        "net/dense": ["net/dense/kernel", "net/dense/bias"],
    }


@pytest.mark.parametrize(
    "block", ["layers", None, 3, [], ["kernel"], [("kernel",)], [("kernel", 1)], lambda v: "x"]
)
def test_unknown_block(block):
    with pytest.raises(ValueError, match=r"`block` must be one of 'variable', .* Received: block="):
        tfb.BlockNormSGD(block=block)


@pytest.mark.parametrize("argument", ["exclude", "exclude_from_weight_decay"])
def test_patterns_are_a_list_of_strings(argument):
    with pytest.raises(
        ValueError, match=rf"`{argument}` must be a list .* Received: {argument}='bias'"
    ):
        tfb.BlockNormSGD(**{argument: "bias"})
    with pytest.raises(
        ValueError, match=rf"`{argument}` must hold valid .*Received: {argument}='\('"
    ):
        tfb.BlockNormSGD(**{argument: ["("]})


@pytest.mark.parametrize("argument", ["exclude", "exclude_from_weight_decay", "block"])
def test_a_pattern_without_a_match_is_an_error(model, argument):
    value = [("beta_", "x")] if argument == "block" else ["dense", "beta_"]
    optimizer = tfb.BlockNormSGD(**{argument: value})
    with pytest.raises(
        ValueError, match=rf"`{argument}` must match .*'beta_', which matches none of"
    ):
        optimizer.build(model.trainable_variables)
    assert not optimizer.built
