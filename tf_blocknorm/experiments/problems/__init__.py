"""What is trained: one problem per file, registered here by its name."""

from tf_blocknorm.experiments.problems.base import Problem
from tf_blocknorm.experiments.problems.mlp import MLP

PROBLEMS = {problem.name: problem for problem in (MLP,)}

__all__ = ["PROBLEMS", "Problem"]
