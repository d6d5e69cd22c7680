"""How much slower training is with `BlockNormMonitor` at its default frequency.

    python benchmarks/monitor.py [--jit-compile] [--repeats 15]

Models of 30 layers take turns, an epoch of 150 updates each: one with the monitor, two without. The
ratio of the times of the last two tells what the measurement is good for.
"""

import argparse
import statistics
import threading
import time

import keras
import numpy as np

import tf_blocknorm
from tf_blocknorm.experiments.problems import PROBLEMS

UPDATES, BATCH = 150, 64


class Turns(keras.callbacks.Callback):
    """Lets the trainings go on one at a time, each for an epoch, and times those."""

    queue, changed = [], threading.Condition()

    def __init__(self):
        super().__init__()
        self.queue.append(self)
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        with self.changed:
            self.changed.wait_for(lambda: self.queue[0] is self)
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.began)
        with self.changed:
            self.queue.append(self.queue.pop(0))
            self.changed.notify_all()


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jit-compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.random((UPDATES * BATCH, 64), "float32")
    y = rng.integers(0, 10, UPDATES * BATCH)

    def start(*callbacks):
        model = PROBLEMS["mlp"].build((64,), 10, depth=30)
        optimizer, loss = keras.optimizers.SGD(0.01, 0.9), "sparse_categorical_crossentropy"
        model.compile(optimizer, loss, jit_compile=arguments.jit_compile)
        turns = Turns()
        options = {"batch_size": BATCH, "epochs": arguments.repeats + 1, "verbose": 0}
        options |= {"shuffle": False, "callbacks": [*callbacks, turns]}
        thread = threading.Thread(target=model.fit, args=(x, y), kwargs=options)
        thread.start()
        return thread, turns

    runs = [start(tf_blocknorm.BlockNormMonitor()), start(), start()]
    for thread, _ in runs:
        thread.join()
    # The first epoch traces and compiles.
    monitored, plain, again = (turns.seconds[1:] for _, turns in runs)
    for name, seconds in (("with the monitor", monitored), ("without, again", again)):
        ratio = statistics.median(a / b for a, b in zip(seconds, plain, strict=True))
        print(f"{name} / without: {ratio:.3f}")


if __name__ == "__main__":
    main()
