"""Trains every row with a backup, to be killed or to go on; started by test_saving.py."""

import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import problems
from cases import PARTS

EPOCHS = 4


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 2:
            raise InterruptedError

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch


class Count(keras.callbacks.Callback):
    epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1


def train(case, callbacks):
    model = problems.compiled(case.optimizer())
    return problems.train(model, problems.rows(2), epochs=EPOCHS, callbacks=callbacks)


action, folder = sys.argv[1], Path(sys.argv[2])
results = {}
for case in PARTS[sys.argv[3]]:
    backup = keras.callbacks.BackupAndRestore(folder / case.name)
    if action == "interrupt":
        try:
            train(case, [backup, Interrupt()])
        except InterruptedError:
            continue
        raise SystemExit("not interrupted")
    count = Count()
    for i, weight in enumerate(train(case, [backup, count])):
        results[f"{case.name}:resumed:{i}"] = weight
    for i, weight in enumerate(train(case, [])):
        results[f"{case.name}:uninterrupted:{i}"] = weight
    results[f"{case.name}:epochs"] = count.epochs
if action == "interrupt":
    os.kill(os.getpid(), signal.SIGKILL)
np.savez(folder / "results.npz", **results)
