"""A sweep over learning rates at the beginning of `fit`, and the rate that it suggests."""

import math

import numpy as np

from tf_blocknorm.callbacks import learning_rate_finder_tap, learning_rate_rule
from tf_blocknorm.callbacks.base import TapCallback, demand_settable_rate
from tf_blocknorm.optimizers import arguments, taps


class LearningRateFinder(TapCallback):
    r"""Finds a learning rate by a sweep at the beginning of `fit`, and undoes the sweep.

    In the first updates of `fit` the rate rises exponentially, from one end of a range to the
    other, on the real model and data. Then weights, optimizer and statistics are put back, and
    `fit` stops, or goes on with the suggested rate, which decays linearly to 0 over the updates
    that are left: the rate that is searched for is the first one of such a decay.

    The rate of update $k$ of $n$ is $\eta_k = \eta_\min (\eta_\max / \eta_\min)^{k/(n-1)}$. Two
    signals are recorded: the loss of each batch, and the mean over kernels (variables of rank 2 and
    above; all variables if there are none) of the cosine between the raw gradients of this step and
    the last. Both are smoothed over the logarithm of the rate by a bell curve (standard deviation:
    0.15 decades), which unlike a moving average does not lag behind. With the smoothed loss
    $\ell(\eta)$, its level $\ell_0$ at the beginning and the smoothed correlation $c(\eta)$, the
    suggestion is

    $$\eta^* = \min\{\eta : \ell(\eta) \le \ell_0 - \tfrac23 (\ell_0 - \min \ell)\}$$

    where the loss has first made two thirds of its fall. If it falls by less than five standard
    errors, as it does in some networks for hundreds of steps, or if you choose
    `signal="correlation"`, the gradients decide:

    $$\eta^* = \max\{\eta < \arg\min c : c(\eta) > 0\}$$

    where steps begin to overshoot, so that successive gradients oppose one another. With momentum
    this signal is weak. If neither falls, there is no suggestion.

    - A place to begin, not the best rate: below it where the network learns much within the sweep,
      above it where it learns little.
    - Put back bit for bit: all variables of model and optimizer, so also the statistics of
      `BatchNormalization`, the random numbers of `Dropout` (on torch if it has a `seed`), momentum,
      counters, averages. Not the order of the data: the sweep's batches are part of their epoch.
    - `steps_per_execution` works; the updates of one execution share their mean loss. With gradient
      accumulation, what counts is updates.
    - If the sweep is longer than an epoch, what other callbacks see at the end of its epochs
      is the sweep: use `then="stop"` in a `fit` of its own beside `EarlyStopping` and the like. No
      other callback may set the learning rate.
    - The metrics that `fit` reports for an epoch leave the sweep's batches out.
    - A run resumed by `keras.callbacks.BackupAndRestore` does not sweep again.
    - After a `fit` that an exception has ended within the sweep, `detach()` undoes the sweep.

    Args:
        min_learning_rate: Float > 0, the first rate. It should be too small to do anything: the
            loss there is what the rule compares with. Defaults to 1e-6.
        max_learning_rate: Float > `min_learning_rate`, the last rate. It should destroy the
            training; the sweep ends early when it does: where the loss is not finite, or its last
            five on average exceed four times the first, and ten standard deviations. Defaults to
            10, which does for most optimizers.
        steps: Integer >= 20: updates from the first rate to the last. Fewer are quicker, and find
            higher rates, because the network learns less on the way. Defaults to 300, about 40 per
            decade.
        then: `"stop"` ends `fit` after the sweep; `"train"` goes on with the suggestion and
            linear decay to 0 over the epochs given to `fit`. Afterwards the optimizer's learning
            rate is what it was, or the suggestion. Defaults to `"stop"`.
        signal: `"loss"` or `"correlation"`, what decides if it can; the other one is asked if it
            cannot. Defaults to `"loss"`, which did better where we compared them.

    Attributes:
        suggestion: The rate, or None.
        rule: Why this one, in words.
        learning_rates, losses, correlations: NumPy arrays, one entry per update. The first
            correlation is NaN.

    Cost: `steps` updates, and reading the loss after each. Memory: during the sweep one copy of the
    gradients of all kernels where the model trains, and one of all variables in NumPy. On
    TensorFlow and JAX, `then="train"` compiles the step twice.

    Raises:
        ValueError: for an argument outside its range; in `fit` for a learning rate that is a
            schedule, several optimizers, a model not yet built, too few batches, data of unknown
            length with `then="train"`, no suggestion with `then="train"`, and a backup that was
            written in the midst of a sweep.

    Differences from fastai's `lr_find` and its ports to Keras: it runs inside the training step,
    and so with XLA, JAX, loss scaling and several devices; it restores more than the weights; the
    loss is that of single batches, not a running mean; the smoothing has no lag; there is the
    correlation; there is a stated rule. (fastai suggests the steepest point, the valley, or a tenth
    of the rate of the lowest loss.)

    Example:

    >>> x = np.random.default_rng(0).normal(size=(3000, 4))
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(tf_blocknorm.BlockNormSGD(), loss="mse")
    >>> finder = tf_blocknorm.LearningRateFinder()
    >>> _ = model.fit(x, x.sum(axis=1), batch_size=10, verbose=0, callbacks=[finder])
    >>> bool(0.01 < finder.suggestion < 1.0)
    True
    >>> model.optimizer.learning_rate = finder.suggestion

    References:
        - Smith (2015), [Cyclical Learning Rates for Training Neural
          Networks](https://arxiv.org/abs/1506.01186): the range test.
        - Baydin, Cornish, Martinez Rubio, Schmidt, Wood (2018), [Online Learning Rate Adaptation
          with Hypergradient Descent](https://arxiv.org/abs/1703.04782): the product of successive
          gradients tells whether the rate is too low or too high. To read a rate off it in a sweep
          is this package's own idea.
    """

    def __init__(
        self,
        min_learning_rate=1e-6,
        max_learning_rate=10.0,
        steps=300,
        then="stop",
        signal="loss",
    ):
        super().__init__()
        self.min_learning_rate = arguments.number(
            "min_learning_rate", min_learning_rate, "a number > 0", lambda x: x > 0
        )
        self.max_learning_rate = arguments.number(
            "max_learning_rate",
            max_learning_rate,
            f"a number > `min_learning_rate`, {min_learning_rate}",
            lambda x: x > min_learning_rate,
        )
        self.steps = arguments.number(
            "steps",
            steps,
            f"an integer >= {learning_rate_rule.LEAST}",
            lambda x: x >= learning_rate_rule.LEAST and x == int(x),
        )
        self.then = arguments.choice("then", then, ("stop", "train"))
        self.signal = arguments.choice("signal", signal, ("loss", "correlation"))
        self.suggestion = self.rule = None
        self.learning_rates = self.losses = self.correlations = None
        self.tap = learning_rate_finder_tap.Rates(int(steps))
        self._measure = learning_rate_finder_tap.Correlations(int(steps))
        self._phase = None

    def set_model(self, model):
        optimizer = taps.innermost(model.optimizer)
        demand_settable_rate(model.optimizer, type(self).__name__)
        if not model.built:
            raise ValueError(
                "`LearningRateFinder` needs a model that is built, to be able to restore it: call "
                f"`model.build(input_shape)`. Received: model={model!r}"
            )
        self.tap.optimizer = self._measure.optimizer = optimizer
        super().set_model(model)
        taps.attach(self._measure, model)
        self.tap.begin(np.zeros(self.tap.steps), horizon=0)
        self._phase = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        if self._phase is None:  # Not in on_train_begin, where BackupAndRestore loads its file.
            self._begin()

    def on_train_batch_begin(self, batch, logs=None):
        if self._phase == "sweep":
            self.model.reset_metrics()  # so that `logs` has the loss of this batch alone

    def on_train_batch_end(self, batch, logs=None):
        if self._phase != "sweep":
            return
        self._pending.append(float(logs["loss"]))
        model = self.model
        updates = min(int(learning_rate_finder_tap.read(self.tap.state["updates"])), self.tap.steps)
        if updates > len(self._losses):
            mean = float(np.mean(self._pending))
            self._losses += [mean] * (updates - len(self._losses))
            self._pending = []
        if updates == self.tap.steps or learning_rate_rule.diverged(self._losses + self._pending):
            self._finish(model, batch)

    def on_train_end(self, logs=None):
        swept = self._phase
        if swept == "stopped":
            # Again, as `fit` has put the averages of `use_ema` in place of the weights.
            self._kept.restore()
        elif swept == "trained":
            self.model.optimizer.learning_rate = self.suggestion
        super().on_train_end(logs)
        if swept == "sweep":
            raise ValueError(
                f"The data ended before the sweep. Received: steps={self.steps}, and "
                f"{len(self._losses)} updates in `fit`"
            )

    def detach(self):
        """Take the finder out of the training step; in the midst of a sweep, undo the sweep."""
        if self._phase == "sweep":
            self._kept.restore()
        self._phase = self._kept = None
        taps.detach(self._measure, self.model)
        super().detach()

    def plot(self, path=None):
        """Draw loss and correlation against the learning rate.

        Args:
            path: of a file to save the figure in; its ending says in which format.

        Returns:
            The `matplotlib.figure.Figure`.
        """
        from tf_blocknorm.callbacks import learning_rate_finder_figure

        if self.learning_rates is None:
            raise ValueError("There is no sweep to draw: pass the finder to `fit` first.")
        return learning_rate_finder_figure.draw(self, path)

    def _begin(self):
        model = self.model
        horizon = float(learning_rate_finder_tap.read(self.tap.state["horizon"]))
        if math.isinf(horizon):
            raise ValueError(
                "The backup was written in the midst of a sweep, whose beginning is lost. Delete "
                "it, and let `fit` begin anew; with `steps` no larger than an epoch, backups at "
                f"the end of epochs are never within a sweep. Received: steps={self.steps}"
            )
        if horizon > 0:
            self.suggestion = float(learning_rate_finder_tap.read(self.tap.state["rates"])[0])
            self._leave_sweep(model)
            self._phase = "trained"
            return
        self._check_length(model)
        self._keep(model)
        rates = np.geomspace(self.min_learning_rate, self.max_learning_rate, self.tap.steps)
        self.tap.begin(rates, horizon=math.inf)
        self._losses, self._pending = [], []
        self._phase = "sweep"

    def _check_length(self, model):
        batches, epochs = self.params["steps"], self.params["epochs"] - self._epoch
        if batches is None:
            if self.then == "train":
                raise ValueError(
                    '`then="train"` needs to know how long an epoch is, for the decay of the '
                    "learning rate: pass `steps_per_epoch` to `fit`. Received: then='train', and "
                    "data of unknown length"
                )
            return
        updates = self._updates(model, batches * epochs)
        if updates < self.steps + (self.then == "train"):
            raise ValueError(
                "`steps` must be at most the number of updates that `fit` makes"
                + (", and leave some for the training" if self.then == "train" else "")
                + f". Received: steps={self.steps}, and {updates} updates: {epochs} epochs of "
                f"{batches} batches"
            )

    def _updates(self, model, batches):
        """How many updates so many batches make from here on."""
        every = taps.innermost(model.optimizer).gradient_accumulation_steps or 1
        done = int(learning_rate_finder_tap.read(model.optimizer.iterations))
        return (done + batches) // every - done // every

    def _keep(self, model):
        taps_own = {id(v) for tap in (self.tap, self._measure) for v in tap.variables}
        everything = (*model.variables, *model.optimizer.variables)
        self._kept = learning_rate_finder_tap.Snapshot(
            [variable for variable in everything if id(variable) not in taps_own]
        )

    def _leave_sweep(self, model):
        taps.detach(self._measure, model)
        model.make_train_function()

    def _finish(self, model, batch):
        count = len(self._losses)
        self.learning_rates = learning_rate_finder_tap.read(self.tap.state["rates"])[:count]
        self.losses = np.array(self._losses)
        self.correlations = learning_rate_finder_tap.read(self._measure.state["values"])[:count]
        self.correlations[:1] = np.nan  # the first gradient has none before it
        self._kept.restore()
        self._leave_sweep(model)
        model.reset_metrics()
        curves = self.learning_rates, self.losses, self.correlations
        self.suggestion, self.rule = learning_rate_rule.suggest(*curves, self.signal)
        if self.then == "stop":
            self.tap.begin(np.zeros(self.tap.steps), horizon=0)
            self._kept.restore()
            self._phase = "stopped"
            model.stop_training = True
            return
        if self.suggestion is None:
            self.detach()
            raise ValueError(f"The sweep suggests no rate to train with: {self.rule}")
        batches = self.params["steps"]
        left = batches * (self.params["epochs"] - self._epoch) - min(batches, batch + 1)
        updates = max(1, self._updates(model, left))
        self.tap.begin(np.full(self.tap.steps, self.suggestion), horizon=updates)
        self._kept = None
        self._phase = "trained"
