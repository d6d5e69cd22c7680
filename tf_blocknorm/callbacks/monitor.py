"""A view of every block's gradient, weights and step, while any Keras optimizer trains."""

import csv
import os

import keras
import numpy as np
from keras import ops

from tf_blocknorm import blocks, norms
from tf_blocknorm.callbacks.base import TapCallback
from tf_blocknorm.callbacks.monitor_tap import Measure
from tf_blocknorm.optimizers import arguments, taps

_NEVER_AGAIN = 2**31 - 1


class BlockNormMonitor(TapCallback):
    r"""Shows how large gradient, weights and step of every block are, with any Keras optimizer.

    Every so many updates, it measures inside the training step, for each block $b$ (of any rank):

    $$\lVert g_b\rVert, \qquad \lVert w_b\rVert, \qquad \lVert\Delta w_b\rVert, \qquad
    \lVert\Delta w_b\rVert / \lVert w_b\rVert$$

    as `grad_norm`, `param_norm`, `update_norm` and `update_ratio`: $g$ the gradient as the
    optimizer's rule gets it (summed over replicas, accumulated, unscaled and clipped) and before it
    is normalised, $w$ the weights before the step, $\Delta w$ what the rule changes in them,
    without decoupled weight decay, constraints and averages of the weights. And the
    `learning_rate`. The numbers of training stay what they are, to the last bit.

    - A NaN or an infinity is recorded as it is. A step that `LossScaleOptimizer` skips is none. A
      variable without a gradient counts as one whose gradient is zero.
    - `records`: all samples since the monitor was made, as a dict of arrays: `"update"` (of
      `optimizer.iterations`, 1 for the first), `"epoch"` and `"learning_rate"` of shape
      `(samples,)`, the others `(samples, blocks)`; `blocks` has the names of the blocks, without
      that of the model. A second `fit` adds to them; a model with other blocks begins anew.
    - `History` gets the mean over the samples of each epoch under names like `grad_norm/dense`,
      and `learning_rate/all`; NaN for an epoch without an update.
    - `plot()` draws them.

    Args:
        update_freq: Integer >= 1, or `"epoch"`. Measures the first update of every epoch, so that
            no epoch is empty, and from there every so many updates. Defaults to 100.
        norm: The size, as in `BlockNormSGD`. Defaults to `"rms"`, about the size of one entry,
            which can be compared between blocks of different sizes.
        block: What is measured together, as in `BlockNormSGD`. Defaults to `"layer"`.
        to_logs: Whether the means of an epoch also go into `logs`, where callbacks further down in
            the list, such as `CSVLogger` or `EarlyStopping`, see them. The progress line then
            prints them all. Defaults to `False`.
        filename: CSV file to write every sample to as it is read: one row per sample and block.
            Defaults to `None`: no file.
        separator: String between the columns. Defaults to `","`.
        append: Whether to keep what is in the file, for training that is continued. Defaults to
            `False`: the file begins anew with each monitor (and goes on with each `fit`).
        log_dir: Directory for TensorBoard, the same as for `keras.callbacks.TensorBoard`: every
            sample becomes scalars such as `grad_norm/dense` under `log_dir/train`, at the number
            of its update. Takes tensorflow, on all backends. Defaults to `None`.

    An optimizer may show numbers of its own, such as a trust ratio: it then has an attribute
    `block_statistics`, a dict from a name to a vector, variable or tensor, with one number per
    variable that the optimizer was built for, and holds there what the last step used. A block has
    the number of its first variable. The name becomes one of the statistics.

    Memory: `4 * blocks` numbers, times the samples within one `steps_per_execution`; during a
    measured update a copy of the weights (with XLA and JAX, in every update). Time: that of the
    measured updates, a few percent more on every update with XLA and JAX, and on a TensorFlow graph
    a second tracing (`benchmarks/monitor.py`). Nothing of it is saved with the model. A resumed
    run's monitor begins with its first update; with `append=True` the file has the earlier ones,
    and those twice that were made twice.

    Raises:
        ValueError: for an argument outside its range, and for a model with several optimizers.
        ImportError: with `log_dir` but without tensorflow; by `plot` without matplotlib.

    Example: one step of 0.1 against a gradient of (3, 4), from (6, 8).

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile(keras.optimizers.SGD(0.1), lambda _, outputs: outputs)
    >>> model.set_weights([np.array([[6.0], [8.0]])])
    >>> monitor = tf_blocknorm.BlockNormMonitor(norm="l2", block="variable")
    >>> history = model.fit(np.array([[3.0, 4.0]]), np.zeros(1), verbose=0, callbacks=[monitor])
    >>> {name: float(values[0, 0].round(4)) for name, values in monitor.records.items()
    ...  if values.ndim == 2}
    {'grad_norm': 5.0, 'param_norm': 10.0, 'update_norm': 0.5, 'update_ratio': 0.05}
    >>> history.history["grad_norm/" + monitor.blocks[0]]
    [5.0]

    Differences from others: `keras.callbacks.TensorBoard` shows histograms of weights, but no
    gradients, once per epoch.
    """

    def __init__(
        self,
        update_freq=100,
        norm="rms",
        block="layer",
        to_logs=False,
        filename=None,
        separator=",",
        append=False,
        log_dir=None,
    ):
        super().__init__()
        if update_freq != "epoch":
            requirement = 'an integer >= 1 or "epoch"'
            arguments.number(
                "update_freq", update_freq, requirement, lambda x: x >= 1 and x == int(x)
            )
        norms.get(norm)  # raises for an unknown one
        self.update_freq = update_freq
        self.norm = norm
        self.block = blocks.validate(block)
        self.to_logs = arguments.choice("to_logs", to_logs, (False, True))
        self.filename = None if filename is None else os.fspath(filename)
        if not (isinstance(separator, str) and len(separator) == 1):
            requirement = f"`separator` must be one character. Received: separator={separator!r}"
            raise ValueError(requirement)
        self.separator = separator
        self.append = arguments.choice("append", append, (False, True))
        self.log_dir = None if log_dir is None else os.fspath(log_dir)
        if log_dir is not None:
            _tensorflow()
        self.blocks = ()
        self._samples = []
        self._in_file = False
        self._writer = None

    def set_model(self, model):
        every = _NEVER_AGAIN if self.update_freq == "epoch" else int(self.update_freq)
        self._per_call = model.steps_per_execution
        # Between two reads no more updates than one call makes, and one sample more than they hold.
        capacity = -(-self._per_call // every)
        self.tap = Measure(self.norm, self.block, every, capacity)
        super().set_model(model)
        compiled = model.run_eagerly or model.jit_compile
        self._has_two_steps = keras.backend.backend() == "tensorflow" and not compiled
        self._steps = {}

    @property
    def records(self):
        """All samples: a dict of arrays."""
        samples = self._samples
        return (
            {name: np.stack([s[name] for s in samples]) for name in samples[0]} if samples else {}
        )

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._epoch_start = epoch, len(self._samples)
        self.tap.begin(self._iterations())
        self._start = self._known = self._iterations()
        self._batches = 0

    # Not at the end of a batch: Keras would wait for every batch on JAX and torch.
    def on_train_batch_begin(self, batch, logs=None):
        # At most: with accumulated gradients and skipped steps there are fewer.
        updates = self._known - self._start + self._batches
        if self._batches and updates > self._next_sample():
            self._read()
            updates = self._known - self._start
        self._batches += self._per_call
        if self._has_two_steps:
            self._choose_step(self._next_sample() < updates + self._per_call)

    def _choose_step(self, measures):
        """Train with the step that measures, or with one that is as fast as without the monitor.

        In a TensorFlow graph the step that measures is the slower one also where nothing is due.
        Compiled by XLA it is not, and a second compilation would take long.
        """
        model = self.model
        if model.train_function not in self._steps.values():
            self._steps = {True: model.train_function}
            model.make_train_function(force=True)
            self._steps[False] = model.train_function
        self.tap.paused = not measures  # as the first call of either traces it
        model.train_function = self._steps[measures]

    def on_epoch_end(self, epoch, logs=None):
        self._read()
        samples = self._samples[self._epoch_start :]
        means = {}
        for name in self.tap.statistics:
            values = [s[name] for s in samples] or [np.full(len(self.blocks), np.nan)]
            mean = np.mean(values, axis=0)
            keys = ["all"] if name == "learning_rate" else self.blocks
            means.update(zip([f"{name}/{key}" for key in keys], np.atleast_1d(mean).tolist()))
        history = getattr(self.model, "history", None)
        if self.to_logs and logs is not None:
            logs.update(means)
        elif history is not None:
            for name, value in means.items():
                history.history.setdefault(name, []).append(value)
        if self._writer:
            self._writer.flush()

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if self._writer:
            self._writer.close()
            self._writer = None

    def _iterations(self):
        return int(ops.convert_to_numpy(taps.innermost(self.model.optimizer).iterations))

    def _next_sample(self):
        every = self.tap.every
        return -(-(self._known - self._start) // every) * every

    def _read(self):
        """Take over what the step has measured since the last time."""
        self._known, self._batches = self._iterations(), 0
        model = f"{self.model.name}/"
        names = tuple(label.removeprefix(model) for label in self.tap.partition.labels)
        if names != self.blocks:
            self.blocks, self._samples, self._epoch_start = names, [], 0
        fresh = self.tap.take()
        for update, sample in fresh:
            with np.errstate(divide="ignore", invalid="ignore"):
                sample["update_ratio"] = sample["update_norm"] / sample["param_norm"]
            sample["learning_rate"] = sample["learning_rate"][0]
            self._samples.append({"update": update, "epoch": self._epoch, **sample})
        if fresh and self.filename:
            self._write_rows(self._samples[-len(fresh) :])
        if fresh and self.log_dir:
            self._write_events(self._samples[-len(fresh) :])

    def _write_rows(self, samples):
        os.makedirs(os.path.dirname(self.filename) or ".", exist_ok=True)
        with open(self.filename, "a" if self.append or self._in_file else "w", newline="") as file:
            writer = csv.writer(file, delimiter=self.separator)
            columns = ("update", "epoch", "learning_rate")
            vectors = [name for name in samples[0] if name not in columns]
            if not file.tell():
                writer.writerow([*columns, "block", *vectors])
            for sample in samples:
                for block, *values in zip(self.blocks, *(sample[name] for name in vectors)):
                    writer.writerow([*(sample[name] for name in columns), block, *values])
        self._in_file = True

    def _write_events(self, samples):
        tf = _tensorflow()
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(os.path.join(self.log_dir, "train"))
        # One event for all: hundreds of `tf.summary.scalar` take longer than training does.
        for sample in samples:
            event = tf.compat.v1.Summary()
            for name in self.tap.statistics:
                keys = ["all"] if name == "learning_rate" else self.blocks
                for key, value in zip(keys, np.atleast_1d(sample[name])):
                    event.value.add(tag=f"{name}/{key}", simple_value=value)
            with self._writer.as_default():
                tf.summary.experimental.write_raw_pb(event.SerializeToString(), sample["update"])

    def plot(self, path=None):
        """Draw gradient and step of every block, relative to its weights, over the updates.

        Both panels have the same number of decades; white is the panel's median, black what is no
        number. A plain step is the learning rate times the gradient: where the left panel shows
        blocks in different colours, one learning rate moves some of them far and others hardly.

        Args:
            path: Of the image file. Defaults to `None`: none is written.

        Returns:
            A `matplotlib.figure.Figure`.
        """
        if not self._samples:
            raise ValueError("`plot()` needs a sample: pass the monitor to `fit` first.")
        from tf_blocknorm.callbacks import monitor_figure

        records = self.records
        with np.errstate(divide="ignore", invalid="ignore"):
            asked = np.log10(records["grad_norm"] / records["param_norm"]).T
            made = np.log10(records["update_ratio"]).T
        return monitor_figure.draw(asked, made, self.blocks, records["update"], path)


def _tensorflow():
    try:
        import tensorflow as tf
    except ImportError:
        raise ImportError("`log_dir` needs tensorflow: pip install tensorflow") from None
    return tf
