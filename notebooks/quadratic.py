# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Step sizes on a quadratic
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tf-blocknorm/tf_blocknorm/blob/main/notebooks/quadratic.ipynb)
#
# A loss whose minimum is known: 100 variables, 1000 steps, and initial learning rates two decades
# apart. A method that sets its own step size should end at the minimum from all of them.

# %%
import importlib.util
import os

if importlib.util.find_spec("tf_blocknorm") is None:  # on Colab
    source = "git+https://github.com/tf-blocknorm/tf_blocknorm"
    get_ipython().run_line_magic("pip", f"install -q 'tf_blocknorm[experiments] @ {source}'")

from tf_blocknorm_cli import import_tensorflow_quietly

import_tensorflow_quietly()
get_ipython().run_line_magic("matplotlib", "inline")
# True: one matrix and three rates, half a minute
QUICK = os.environ.get("QUICK") == "1"

# %% [markdown]
# ## One step, by hand
#
# The gradient of `500 * x² + 0.5 * y²` at (3, 4) is (3000, 4). A step of plain SGD is mostly
# `x`; a normalised step has the length of the learning rate, whatever the loss is multiplied by.

# %%
import keras

import tf_blocknorm

gradient = keras.ops.array([3000.0, 4.0])
for factor in (1.0, 1e-6):
    point = keras.Variable([3.0, 4.0])
    tf_blocknorm.BlockNormSGD(learning_rate=0.1, norm="max").apply([factor * gradient], [point])
    print(f"loss times {factor:g}: the point moves to", keras.ops.convert_to_numpy(point))

# %% [markdown]
# ## Six initial rates
#
# The same as `tf-blocknorm run quadratic` in a terminal.

# %%
from IPython.display import Image

from tf_blocknorm.experiments.cli import main

command = ["run", "quadratic", *(["--quick"] if QUICK else [])]
assert main(command) == 0
Image("runs/quadratic.png")

# %% [markdown]
# Above: how far the loss is above its minimum; below: the rates that the methods arrive at. Lines
# of one colour start from the six initial rates.
#
# - Adam and momentum SGD do as well as their rate was chosen.
# - `AdaptiveBlockNormSGD` raises a rate while successive gradients agree, and lowers it while they
#   do not: it arrives from everywhere. With the settings of its author it stays a little above the
#   minimum.
# - `BarzilaiBorwein` measures the curvature along its own path.
#
# A quadratic has no noise. [What remains of this under minibatches](../docs/step_sizes.md) is less.
