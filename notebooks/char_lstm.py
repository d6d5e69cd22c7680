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
# Two layers of LSTM read a text character by character and predict the next one. The longer the
# windows, the more steps back in time a gradient comes from, and the more its size may change from
# one batch to the next: the paper's argument for normalising what Adam sees. Here are both forms of
# Adam, tuned alike, after equally many updates. Bits per character: lower is better.

# %%
import importlib.util
import os

if importlib.util.find_spec("tf_blocknorm") is None:  # on Colab
    source = "git+https://github.com/tf-blocknorm/tf_blocknorm"
    get_ipython().run_line_magic("pip", f"install -q 'tf_blocknorm[experiments] @ {source}'")

from tf_blocknorm_cli import import_tensorflow_quietly

import_tensorflow_quietly()
get_ipython().run_line_magic("matplotlib", "inline")
# True: the source of Python's textwrap, an epoch, two windows: half a minute
QUICK = os.environ.get("QUICK") == "1"

# %%
from IPython.display import Image

from tf_blocknorm.experiments.cli import main

if QUICK:
    import shutil
    import textwrap

    shutil.copy(textwrap.__file__, "textwrap.txt")
    DATA, RATES, SEEDS = "textwrap.txt", ["0.002"], "1"
    SIZE = ["--units", "16", "--unroll", "20", "40", "--epochs", "1"]
else:
    DATA, RATES, SEEDS = "shakespeare", ["0.005", "0.01", "0.02"], "3"
    SIZE = ["--unroll", "50", "100", "400", "--updates", "800"]
NAME = f"char-lstm-{DATA.removesuffix('.txt')}-unrolls"
WHAT = ["char-lstm", "--data", DATA, *SIZE, "--methods", "Adam", "BlockNormAdam"]

# %% [markdown]
# ## Tuning
#
# Both methods at the same learning rates, at each length of the windows, on a part of the text that
# is kept apart for that. The table and the figure show the best one.

# %%
assert main(["sweep", *WHAT, "--rates", *RATES, "--seeds", "1"]) == 0
Image(f"runs/rates-{NAME}.png")

# %% [markdown]
# ## Comparing
#
# With these rates, on the part of the text that nobody has looked at. (Longer windows are easier to
# predict: fewer characters are at the beginning of one, of which little is known. Compare the
# methods, not the lengths.)

# %%
assert main(["run", *WHAT, "--sweep", f"runs/rates-{NAME}.json", "--seeds", SEEDS]) == 0
Image(f"runs/{NAME}.png")

# %% [markdown]
# Change one thing: `--depth 1`, more `--updates`, or other `--methods` (`tf-blocknorm list` names
# them). Finished runs are kept in `runs/` and not repeated.
