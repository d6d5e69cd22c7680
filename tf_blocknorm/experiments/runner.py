"""One training run: started, recorded epoch by epoch, resumed where it was interrupted."""

import dataclasses
import hashlib
import json
import pathlib
import re
import time
from collections.abc import Mapping

import keras
import numpy as np

from tf_blocknorm.callbacks.learning_rate_finder import LearningRateFinder
from tf_blocknorm.experiments import records
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.recipes import RECIPES
from tf_blocknorm.experiments.schedules import LINEAR, OWN
from tf_blocknorm.optimizers import taps

# A checkpoint of a deep network costs as much time as an epoch on a small data set.
SECONDS_BETWEEN_CHECKPOINTS = 5.0

# Updates between two returns to Python, which take a third of the time of a small network.
STEPS_PER_EXECUTION = 25


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that decides the numbers of a run.

    Attributes:
        problem, method: Names in `PROBLEMS` and `RECIPES`.
        source: Data, as the problem's `load` takes them.
        learning_rate, seed, epochs: Numbers.
        options: What the problem's `build` and `load` take.
        split: Evaluated on the `"test"` examples, or on `"validation"` examples taken from the
            training data.
        batch_size: Examples per update; None for the problem's own.
        warmup: The fraction of the updates in which the learning rate rises from 0. If there is
            one, it falls along a cosine after that.
        dtype_policy: Keras's name of what the layers compute in; the last one stays in float32.
        examples: How many of the training examples are used; None for all.
        schedule: A value of `SCHEDULES`, for a method that does not set its own rate.
    """

    problem: str
    source: str
    method: str
    learning_rate: float
    seed: int
    epochs: int
    options: Mapping[str, int]
    split: str = "test"
    batch_size: int | None = None
    warmup: float = 0.0
    dtype_policy: str = "float32"
    examples: int | None = None
    schedule: str = LINEAR

    def data(self):
        """Return the data, of which those for validation may not yet be set aside."""
        return self._whole().part(self.examples)

    def _whole(self):
        return PROBLEMS[self.problem].load(self.source, **self.options)

    def settings(self):
        """Return as plain data whatever the numbers depend on, also the versions in use."""
        # Asked for several times in a run: not worth copying a part of the data for its name.
        problem, recipe, dataset = PROBLEMS[self.problem], RECIPES[self.method], self._whole()
        given = dataclasses.asdict(self)
        if self.examples is None:
            del given["examples"]
        return {
            **given,
            "source": dataset.name,
            "data_digest": dataset.digest,
            "optimizer": recipe.optimizer,
            "arguments": dict(recipe.arguments),
            "callbacks": {name: dict(options) for name, options in recipe.callbacks.items()},
            "schedule": OWN if recipe.schedule == OWN else self.schedule,
            "shares": dict(recipe.shares),
            **({"inputs": recipe.inputs} if recipe.inputs else {}),
            "batch_size": self.batch_size or problem.batch_size,
            "versions": records.versions(),
        }

    def folder(self, out):
        """Return the folder under `out` that belongs to this run and to no other."""
        settings = self.settings()
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        name = f"{self.method}-{self.learning_rate:g}-seed{self.seed}-{digest}"
        return pathlib.Path(out, f"{self.problem}-{settings['source']}-{self.split}", name)

    def batches(self, dataset):
        """Return the batches of these data."""
        size = self.batch_size or PROBLEMS[self.problem].batch_size
        return Batches(dataset.x_train, dataset.y_train, size, self.seed)


def finished(run, out):
    """Return the summary of a run if it is finished, else None."""
    return records.read_json(run.folder(out) / "summary.json")


def epochs_on_disk(run, out):
    """Return what was recorded at the end of each epoch."""
    return records.read_lines(run.folder(out) / "epochs.jsonl")


def train(run, out, command="", report=lambda epoch, logs: None):
    """Train, or go on training, and return the summary.

    Args:
        run: A `Run`.
        out: The folder of all runs.
        command: The command line, for the record.
        report: Called after every epoch with the number of finished epochs and its record.
    """
    folder = run.folder(out)
    dataset = run.data()
    if run.split == "validation":
        dataset = dataset.without_test()
    problem = PROBLEMS[run.problem]

    keras.utils.clear_session()
    keras.utils.set_random_seed(run.seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(run.dtype_policy)
    try:
        model = problem.build(dataset.input_shape, dataset.num_classes, **run.options)
    finally:
        keras.config.set_dtype_policy(before)
    model, given = RECIPES[run.method].prepare(model)
    batches = run.batches(dataset)
    steps = run.epochs * len(batches)
    optimizer = RECIPES[run.method].make(
        run.learning_rate, steps, run.warmup, run.schedule, **given
    )
    callbacks = RECIPES[run.method].make_callbacks(dataset.x_train)
    model.compile(
        optimizer,
        loss=problem.loss,
        metrics=[problem.metric.make()],
        # Compiling a network of 30 layers by XLA takes longer than it saves in a short run.
        jit_compile=False,
        steps_per_execution=1 if _need_every_loss(callbacks) else STEPS_PER_EXECUTION,
    )

    checkpoint = Checkpoint(folder, report)
    model.fit(
        batches,
        shuffle=False,  # `Batches` does it.
        validation_data=(dataset.x_test, dataset.y_test),
        validation_batch_size=1000,
        initial_epoch=checkpoint.epochs_done(),
        epochs=run.epochs,
        callbacks=[*callbacks, batches.reshuffle(), checkpoint],
        verbose=0,
    )
    last = checkpoint.epochs[-1]
    metrics = {key: value for key, value in last.items() if key not in ("epoch", "seconds")}
    if "learning_rate" in metrics:  # Callbacks that set it report it. The run's is the first one.
        metrics["last_learning_rate"] = metrics.pop("learning_rate")
    summary = {
        **run.settings(),
        **metrics,
        "seconds": round(sum(epoch["seconds"] for epoch in checkpoint.epochs), 2),
        "finished": records.now(),
        "machine": records.machine(),
        "command": command,
    }
    records.write_json(folder / "summary.json", summary)
    checkpoint.remove()
    return summary


def _need_every_loss(callbacks):
    return any(isinstance(callback, LearningRateFinder) for callback in callbacks)


class Batches(keras.utils.PyDataset):
    """Whole batches in an order that depends on nothing but the seed and the epoch.

    Keras's own shuffling goes on from its last state, which no checkpoint holds. Examples left
    over, others in each epoch, are not used: BatchNormalization in 30 layers makes a poor gradient
    of a small batch, and a normalised step is as long as any other.
    """

    def __init__(self, x, y, batch_size, seed):
        super().__init__()
        self.x, self.y, self.seed, self.batch_size = x, y, seed, batch_size
        self.count = max(1, len(x) // batch_size)
        self.shuffle(epoch=0)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.x[rows], self.y[rows]

    def shuffle(self, epoch):
        """Draw the order of an epoch."""
        self.order = np.random.default_rng([self.seed, epoch]).permutation(len(self.x))

    def reshuffle(self):
        """Return the callback that draws a new order for each epoch."""
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: self.shuffle(epoch))


class Checkpoint(keras.callbacks.Callback):
    """Records each epoch and keeps what is needed to go on after an interruption.

    `keras.callbacks.BackupAndRestore` loses the state of dropout's random numbers, so that a
    resumed run differs; saves at every epoch, however short; and writes weights and epoch number
    one after the other: killed in between, it repeats an epoch. Here every variable is saved, and
    the file's name is the epoch number.
    """

    def __init__(self, folder, report):
        super().__init__()
        self.folder, self.report, self.epochs = folder, report, []

    def epochs_done(self):
        """Return the number of epochs that the last checkpoint has seen."""
        return max(self._files(), default=0)

    def remove(self):
        """Delete the checkpoints: the run is finished."""
        for path in self._files().values():
            path.unlink()

    def on_train_begin(self, logs=None):
        # Now, and not before `fit`: what other callbacks keep is there, too.
        found, done = self._files(), self.epochs_done()
        if done:
            self.model.optimizer.build(self.model.trainable_variables)
            with np.load(found[done]) as values:
                for index, variable in enumerate(_variables(self.model)):
                    variable.assign(values[str(index)])
        # A record too many was written before a checkpoint that was not.
        self.epochs = records.read_lines(self.folder / "epochs.jsonl")[:done]
        self.saved = self.began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        record = {"epoch": epoch + 1, **{key: float(value) for key, value in logs.items()}}
        self.epochs.append({**record, "seconds": round(now - self.began, 3)})
        self.began = now
        # First the record, then the checkpoint: a record too many is cut off above.
        records.write_lines(self.folder / "epochs.jsonl", self.epochs)
        if now - self.saved > SECONDS_BETWEEN_CHECKPOINTS:
            self._save(epoch + 1)
            self.saved = time.monotonic()
        self.report(epoch + 1, self.epochs[-1])

    def _save(self, done):
        older = self._files()
        partial = self.folder / "partial.npz"
        values = map(keras.ops.convert_to_numpy, _variables(self.model))
        np.savez(partial, **{str(index): value for index, value in enumerate(values)})
        partial.replace(self.folder / f"epoch-{done}.npz")
        for path in older.values():
            path.unlink()

    def _files(self):
        paths = self.folder.glob("epoch-*.npz")
        return {int(re.search(r"epoch-(\d+)", path.name)[1]): path for path in paths}


def _variables(model):
    return [*model.variables, *taps.saved_variables(model.optimizer)]
