"""What is trained: one problem per file, registered here by its name."""

from tf_blocknorm.experiments.problems.base import Problem
from tf_blocknorm.experiments.problems.cnn import CNN
from tf_blocknorm.experiments.problems.mlp import MLP
from tf_blocknorm.experiments.problems.scaled import SCALED
from tf_blocknorm.experiments.problems.toy import TOY, TOY_PLAIN
from tf_blocknorm.experiments.problems.vgg import VGG

PROBLEMS = {problem.name: problem for problem in (MLP, CNN, TOY, TOY_PLAIN, SCALED, VGG)}

__all__ = ["PROBLEMS", "Problem"]
