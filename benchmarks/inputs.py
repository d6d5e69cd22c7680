"""What it costs to measure the inputs of layers: training steps with INSGD beside momentum SGD.

    python -m benchmarks.inputs [mlp toy char-lstm] [--seconds 25] [--out results/inputs]

Writes OUT.json and OUT.md. All who take part train a model of their own, the same one, on one batch
over and over (TensorFlow, not compiled), and take turns; "SGD again" tells what the ratios are good
for. Run it on a machine that does nothing else.
"""

import argparse
import pathlib
import sys

import keras
import numpy as np
from keras import layers

import tf_blocknorm as bn
from benchmarks import measure
from tf_blocknorm.experiments import records, tables
from tf_blocknorm.experiments.problems import PROBLEMS

RATE = 1e-5  # so low that thousands of updates with the same batch leave the weights sound
# The second one is the first once more.
REFERENCE, AGAIN = "SGD, momentum", "SGD again"
TARGET = 1.10
ROUNDS = 400  # of steps, or fewer if they take long


def _labels(rng, shape):
    return rng.integers(0, 10, shape)


def mlp(rng):
    """30 times [Dense 128 → BatchNormalization → Dropout] on 784 inputs, batches of 64."""
    model = PROBLEMS["mlp"].build((784,), 10, depth=30)
    return model, rng.random((64, 784), "float32"), _labels(rng, 64)


def toy(rng):
    """Five convolutions on CIFAR-10's size of pictures, batches of 128."""
    model = PROBLEMS["toy"].build((32, 32, 3), 10)
    return model, rng.random((128, 32, 32, 3), "float32"), _labels(rng, 128)


def char_lstm(rng):
    """Two LSTM layers of 128 on 50 characters of 65, batches of 50."""
    model = keras.Sequential([keras.Input((50,), dtype="int32"), layers.Embedding(65, 64)])
    for _ in range(2):  # as with statistics, so that nothing else is compared
        model.add(layers.LSTM(128, return_sequences=True, use_cudnn=False))
    model.add(layers.Dense(65, activation="softmax"))
    return model, rng.integers(0, 65, (50, 50)), rng.integers(0, 65, (50, 50))


MODELS = {"mlp": mlp, "toy": toy, "char-lstm": char_lstm}


def _sgd(model):
    return model, keras.optimizers.SGD(RATE, momentum=0.9)


def _insgd(norm, like):
    def prepare(model):
        return bn.with_input_statistics(model, norm), bn.INSGD.like(like, learning_rate=RATE)

    return prepare


CONTENDERS = {
    REFERENCE: _sgd,
    AGAIN: _sgd,
    "INSGD": _insgd("l2", "paper"),
    "INSGD, l1": _insgd("l1", "paper"),
    'INSGD.like("code")': _insgd("standardized_l2", "code"),
    'INSGD.like("code"), l1': _insgd("standardized_l1", "code"),
}


def main(argv=None):
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inputs", description=__doc__[:93])
    parser.add_argument("models", nargs="*", default=[*MODELS], metavar="MODEL")
    parser.add_argument("--seconds", type=float, default=25.0, help="per model (default: 25)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs", "inputs"))
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.models) - set(MODELS):
        parser.error(f"MODEL must be one of {', '.join(MODELS)}. Received: {', '.join(unknown)}")
    result = {"command": " ".join(["python -m benchmarks.inputs", *(argv or sys.argv[1:])])}
    result |= {"when": records.now(), "versions": records.versions(), "machine": records.machine()}
    result["models"] = {name: measured(name, arguments.seconds) for name in arguments.models}
    text = report(result)
    records.write_json(arguments.out.with_suffix(".json"), result)
    records.write_text(arguments.out.with_suffix(".md"), text)
    print(text)


def measured(name, seconds):
    """Return milliseconds of a training step, and their ratios to those of the reference."""
    times = measure.turns(
        {who: _step(name, prepare) for who, prepare in CONTENDERS.items()}, ROUNDS, seconds
    )
    return {
        who: {
            "rounds": len(taken),
            "milliseconds": measure.spread([1e3 * s for s in taken]),
            "ratio": measure.ratio(taken, times[REFERENCE]),
        }
        for who, taken in times.items()
    }


def _step(name, prepare):
    """A training step as `fit` calls it."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model, x, y = MODELS[name](np.random.default_rng(0))
    model, optimizer = prepare(model)
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
    optimizer.build(model.trainable_variables)
    model.make_train_function()
    step = model.train_function
    batches = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    return lambda: float(step(batches)["loss"])


def report(result):
    """Return the table in Markdown."""
    header = ["model", "optimizer", "ms per step", f"ratio to {REFERENCE}", f"≤ {TARGET:.2f}"]
    rows = []
    for model, entries in result["models"].items():
        for who, found in entries.items():
            ratio, time = found["ratio"], found["milliseconds"]
            told = f"{ratio['median']:.2f} {measure.quartiles(ratio)}"
            holds = "" if who in (REFERENCE, AGAIN) else ["no", "yes"][ratio["median"] <= TARGET]
            rows.append([model, who, f"{time['median']:.1f}", told, holds])
    return "\n".join(
        [
            tables.markdown(header, rows),
            "Half of the rounds are within the brackets. One training step on TensorFlow, not "
            f"compiled; {result['machine']['processor']}, {result['machine']['cores']} cores.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
