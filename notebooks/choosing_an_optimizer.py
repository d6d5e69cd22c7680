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
# # Choosing an optimizer
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tf-blocknorm/tf_blocknorm/blob/main/notebooks/choosing_an_optimizer.ipynb)
#
# A model of your own, and four questions: which optimizer, which norm, which learning rate, and is
# it doing what it should?

# %%
import importlib.util
import os

if importlib.util.find_spec("tf_blocknorm") is None:  # on Colab
    source = "git+https://github.com/tf-blocknorm/tf_blocknorm"
    get_ipython().run_line_magic("pip", f"install -q 'tf_blocknorm[experiments] @ {source}'")

from tf_blocknorm_cli import import_tensorflow_quietly

import_tensorflow_quietly()
get_ipython().run_line_magic("matplotlib", "inline")
# True: a short training: a minute
QUICK = os.environ.get("QUICK") == "1"

# %%
import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tf_blocknorm

EPOCHS = 5 if QUICK else 20
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, random_state=0)


def make_model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(64, activation="tanh") for _ in range(8)]
    return keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10, "softmax")])


def train(optimizer, *callbacks):
    model = make_model()
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, batch_size=32, epochs=EPOCHS, verbose=0, callbacks=list(callbacks))
    return model.evaluate(x_test, y_test, verbose=0)[1]


# %% [markdown]
# ## Which optimizer?
#
# | you have | begin with |
# |---|---|
# | a deep network without residual connections, gradients of layers far apart | `BlockNormSGD(norm="max")` |
# | a network that Adam trains, and no memory for Adam's state | `NovoGrad` |
# | recurrent layers, Adam as usual, gradients that jump | `BlockNormAdam` |
# | batches of thousands | `LARS` where momentum SGD works, `LAMB` where Adam does |
# | a Keras optimizer that you trust | `block_normalized(ThatOptimizer)` |
#
# With `norm="max"`, `"rms"` or `"std"` a weight moves by about the learning rate. Steps of constant
# length do not come to rest by themselves: let the rate fall to 0.

# %%
steps = EPOCHS * (len(x_train) // 32)


def falling(rate):
    return keras.optimizers.schedules.PolynomialDecay(rate, steps, end_learning_rate=0.0)


makers = {
    "SGD, momentum": lambda: keras.optimizers.SGD(falling(0.05), momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(falling(0.002)),
    "BlockNormSGD": lambda: tf_blocknorm.BlockNormSGD(falling(0.01), norm="max"),
    "BlockNormAdam": lambda: tf_blocknorm.BlockNormAdam(falling(0.002)),
    "NovoGrad": lambda: tf_blocknorm.NovoGrad(falling(0.01)),
    "LAMB": lambda: tf_blocknorm.LAMB(falling(0.01)),
}
for name, make in makers.items():
    print(f"{name:15} {100 * train(make()):.1f} %")

# %% [markdown]
# One seed, one rate each, an easy task: no ranking. `tf-blocknorm sweep` tunes them alike.
#
# ## Which learning rate?
#
# One short sweep, undone to the last bit, then the training goes on with its suggestion.

# %%
finder = tf_blocknorm.LearningRateFinder(then="train", steps=100 if QUICK else 300)
accuracy = train(tf_blocknorm.BlockNormSGD(norm="max"), finder)
print(f"found {finder.suggestion:.4f}: {100 * accuracy:.1f} %")
finder.plot()

# %% [markdown]
# ## Is it doing what it should?

# %%
monitor = tf_blocknorm.BlockNormMonitor(norm="rms", block="variable", update_freq=5)
train(tf_blocknorm.BlockNormSGD(falling(0.01), norm="max"), monitor)
monitor.plot()
