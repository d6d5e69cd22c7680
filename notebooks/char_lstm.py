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
# # A language model of characters
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tf-blocknorm/tf_blocknorm/blob/main/notebooks/char_lstm.ipynb)
#
# Two layers of LSTM read a text character by character and predict the next one. Long unrolls make
# the gradients of the recurrent weights large or small, now and then: the paper's argument for
# normalising what Adam sees. Bits per character: lower is better.

# %%
import importlib.util
import os

if importlib.util.find_spec("tf_blocknorm") is None:  # on Colab
    source = "git+https://github.com/tf-blocknorm/tf_blocknorm"
    get_ipython().run_line_magic("pip", f"install -q 'tf_blocknorm[experiments] @ {source}'")

from tf_blocknorm_cli import import_tensorflow_quietly

import_tensorflow_quietly()
get_ipython().run_line_magic("matplotlib", "inline")
# True: the source of Python's argparse, some updates: a minute
QUICK = os.environ.get("QUICK") == "1"

# %%
from IPython.display import Image

from tf_blocknorm.experiments.cli import main

if QUICK:
    import argparse
    import shutil

    shutil.copy(argparse.__file__, "argparse.txt")
    DATA, SIZE = "argparse.txt", ["--units", "16", "--epochs", "1", "--seeds", "1"]
else:
    DATA, SIZE = "shakespeare", ["--epochs", "10", "--seeds", "1"]

# %%
methods = ["Adam", "BlockNormAdam", "SGD", "BlockNormSGD"]
command = ["sweep", "char-lstm", "--data", DATA, *SIZE, "--methods", *methods]
rates = ["0.002"] if QUICK else ["0.001", "0.002", "0.005", "0.01"]
assert main([*command, "--rates", *rates]) == 0
Image(f"runs/rates-char-lstm-{DATA.removesuffix('.txt')}.png")
