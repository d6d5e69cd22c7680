"""What is trained: one problem per file, registered here by its name."""

from tf_blocknorm.experiments.problems.base import Problem
from tf_blocknorm.experiments.problems.char_lstm import CHAR_LSTM
from tf_blocknorm.experiments.problems.cnn import CNN
from tf_blocknorm.experiments.problems.mlp import MLP, MLP_NO_DROPOUT
from tf_blocknorm.experiments.problems.resnet import RESNET, RESNET_PLAIN
from tf_blocknorm.experiments.problems.scaled import SCALED
from tf_blocknorm.experiments.problems.sentiment import SENTIMENT
from tf_blocknorm.experiments.problems.toy import TOY, TOY_PLAIN
from tf_blocknorm.experiments.problems.vgg import VGG

_ALL = (
    MLP,
    MLP_NO_DROPOUT,
    CNN,
    TOY,
    TOY_PLAIN,
    SCALED,
    VGG,
    RESNET,
    RESNET_PLAIN,
    CHAR_LSTM,
    SENTIMENT,
)
PROBLEMS = {problem.name: problem for problem in _ALL}

__all__ = ["PROBLEMS", "Problem"]
