"""Normalised-gradient optimizers for Keras 3.

>>> model = keras.Sequential([keras.layers.Dense(1)])
>>> model.compile(optimizer=tf_blocknorm.BlockNormSGD(learning_rate=0.01, norm="max"), loss="mse")
"""

from tf_blocknorm import back_matching, norms
from tf_blocknorm.callbacks.adaptive_step import AdaptiveStepSize
from tf_blocknorm.callbacks.back_matching import BackMatching
from tf_blocknorm.callbacks.barzilai_borwein import BarzilaiBorwein
from tf_blocknorm.callbacks.learning_rate_finder import LearningRateFinder
from tf_blocknorm.callbacks.monitor import BlockNormMonitor
from tf_blocknorm.optimizers.adaptive import AdaptiveBlockNormSGD
from tf_blocknorm.optimizers.block_norm import (
    BlockNormAdagrad,
    BlockNormAdam,
    BlockNormAdamW,
    BlockNormLion,
    BlockNormNadam,
    BlockNormRMSprop,
    BlockNormSGD,
)
from tf_blocknorm.optimizers.forms import block_normalized, register_the_rest
from tf_blocknorm.optimizers.inputs.attach import with_input_statistics
from tf_blocknorm.optimizers.inputs.constant import constant_powers
from tf_blocknorm.optimizers.inputs.per_sample import per_sample_normalized
from tf_blocknorm.optimizers.insgd import INSGD
from tf_blocknorm.optimizers.lamb import LAMB
from tf_blocknorm.optimizers.lars import LARS
from tf_blocknorm.optimizers.muon import BlockNormMuon
from tf_blocknorm.optimizers.novograd import NovoGrad

register_the_rest()

__version__ = "0.1.0"

__all__ = [
    "INSGD",
    "LAMB",
    "LARS",
    "AdaptiveBlockNormSGD",
    "AdaptiveStepSize",
    "BackMatching",
    "BarzilaiBorwein",
    "BlockNormAdagrad",
    "BlockNormAdam",
    "BlockNormAdamW",
    "BlockNormLion",
    "BlockNormMonitor",
    "BlockNormMuon",
    "BlockNormNadam",
    "BlockNormRMSprop",
    "BlockNormSGD",
    "LearningRateFinder",
    "NovoGrad",
    "__version__",
    "back_matching",
    "block_normalized",
    "constant_powers",
    "norms",
    "per_sample_normalized",
    "with_input_statistics",
]
