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
# # A network of 30 layers
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tf-blocknorm/tf_blocknorm/blob/main/notebooks/mlp_mnist.ipynb)
#
# Gradients of different layers live on different scales, and one learning rate has to suit them
# all. Dividing every layer's gradient by its own norm takes the scales away. How much that is worth
# grows with the depth of the network.

# %%
import importlib.util
import os

if importlib.util.find_spec("tf_blocknorm") is None:  # on Colab
    source = "git+https://github.com/tf-blocknorm/tf_blocknorm"
    get_ipython().run_line_magic("pip", f"install -q 'tf_blocknorm[experiments] @ {source}'")

from tf_blocknorm_cli import import_tensorflow_quietly

import_tensorflow_quietly()
get_ipython().run_line_magic("matplotlib", "inline")
# True: the 1437 digits of scikit-learn, 10 layers, one seed, half a minute
QUICK = os.environ.get("QUICK") == "1"

# %%
from IPython.display import Image

import tf_blocknorm
from tf_blocknorm.experiments import data
from tf_blocknorm.experiments.cli import main
from tf_blocknorm.experiments.problems import PROBLEMS

DATA, DEPTH = ("digits", 10) if QUICK else ("mnist", 30)

# %% [markdown]
# ## How far the scales are apart
#
# `BlockNormMonitor` records the norm of every variable's gradient while plain SGD trains. (`norm`
# and `block` are chosen as an optimizer would: here the root mean square of each variable.)

# %%
import keras

dataset = data.load(DATA)
keras.utils.set_random_seed(0)
model = PROBLEMS["mlp"].build(dataset.input_shape, dataset.num_classes, depth=DEPTH)
model.compile(keras.optimizers.SGD(0.01, 0.9), "sparse_categorical_crossentropy")
monitor = tf_blocknorm.BlockNormMonitor(norm="rms", block="variable", update_freq=5)
model.fit(dataset.x_train, dataset.y_train, batch_size=64, epochs=1, callbacks=[monitor], verbose=0)
monitor.plot()

# %% [markdown]
# ## Three optimizers, tuned alike
#
# The same as `tf-blocknorm run mlp --data mnist` in a terminal: the learning rate of each method is
# the best of as many on validation data, and falls linearly to 0.

# %%
command = ["run", "mlp", "--data", DATA]
if QUICK:
    command += ["--depth", str(DEPTH), "--seeds", "1", "--epochs", "5"]
assert main(command) == 0
Image(f"runs/mlp-{DATA}.png")

# %% [markdown]
# Change one thing: `--depth 6`, other `--methods` (`tf-blocknorm list` names them), or the rate,
# `--learning-rate 0.02`. Finished runs are kept in `runs/` and not repeated.
