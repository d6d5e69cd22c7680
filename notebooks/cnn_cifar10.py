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
# # A convolutional network on CIFAR-10
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tf-blocknorm/tf_blocknorm/blob/main/notebooks/cnn_cifar10.ipynb)
#
# The `cifar10_cnn` example that came with Keras 2: 1.25 million weights, dropout, no augmentation.
# On a GPU some 5 minutes, on a CPU half an hour.

# %%
import importlib.util
import os

if importlib.util.find_spec("tf_blocknorm") is None:  # on Colab
    source = "git+https://github.com/tf-blocknorm/tf_blocknorm"
    get_ipython().run_line_magic("pip", f"install -q 'tf_blocknorm[experiments] @ {source}'")

from tf_blocknorm_cli import import_tensorflow_quietly

import_tensorflow_quietly()
get_ipython().run_line_magic("matplotlib", "inline")
# True: digits, enlarged, for one epoch: a minute
QUICK = os.environ.get("QUICK") == "1"

# %%
import numpy as np
from IPython.display import Image

from tf_blocknorm.experiments.cli import main

if QUICK:  # pictures of digits, 32 x 32
    from tf_blocknorm.experiments import data

    digits = data.load("digits")
    x_train, x_test = (np.kron(x, np.ones((4, 4))) for x in (digits.x_train, digits.x_test))
    labels = {"y_train": digits.y_train, "y_test": digits.y_test}
    np.savez("digits32.npz", x_train=x_train, x_test=x_test, **labels)
    DATA, EPOCHS, RATES = "digits32.npz", "1", ["0.001", "0.01"]
else:
    DATA, EPOCHS, RATES = "cifar10", "4", ["0.0005", "0.001", "0.002"]

# %% [markdown]
# ## A rate from one short sweep
#
# `LearningRateFinder` raises the rate over seven decades and undoes what it did. On this network its
# suggestion is far too careful: by a factor of fifteen after these 300 updates, of six after 1000
# ([why](../docs/step_sizes.md)). The figure shows the whole range in which the training takes hold.

# %%
steps = ["--steps", "40"] if QUICK else []
assert main(["find", "cnn", "--data", DATA, "--method", "BlockNormSGD-std", *steps]) == 0
name = DATA.removesuffix(".npz")
Image(f"runs/find-cnn-{name}-BlockNormSGD-std.png")

# %% [markdown]
# ## Normalised SGD and Adam at three rates
#
# The gradient of each variable is divided by its standard deviation, so that weights move by about the
# learning rate.

# %%
methods = ["BlockNormSGD-std", "Adam"]
command = ["sweep", "cnn", "--data", DATA, "--epochs", EPOCHS, "--seeds", "1"]
assert main([*command, "--methods", *methods, "--rates", *RATES]) == 0
Image(f"runs/rates-cnn-{name}.png")

# %% [markdown]
# Both are best at 0.001, where Adam is 1.8 points ahead: one seed and four epochs, too few to tell them
# apart. What normalised Adam comes to in 45 epochs is in [the experiments](../docs/experiments.md).
#
# Change one thing: `--epochs`, other `--methods` (`tf-blocknorm list` names them; `BlockNormMuon-conv`,
# with orthogonal steps of the convolutions, comes further than both in as many epochs), or
# `--dtype-policy mixed_bfloat16`, which takes a quarter less time on this CPU. Finished runs are
# kept in `runs/` and not repeated.
