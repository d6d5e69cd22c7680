"""A learning rate that follows from the agreement of successive gradients, for any optimizer."""

from keras import ops

from tf_blocknorm import blocks
from tf_blocknorm.callbacks.base import TapCallback, demand_settable_rate
from tf_blocknorm.optimizers import agreement, arguments, taps
from tf_blocknorm.optimizers.partition import Partition


class AdaptiveStepSize(TapCallback):
    r"""Raises the learning rate while successive gradients agree, and lowers it while they do not.

    Any Keras optimizer whose learning rate is a float can be used. The rule runs inside the
    training step, after the optimizer's own. With $g$ the gradient as the optimizer's rule sees it
    (but never normalised), $a_b$ the average of the past unit gradients of block $b$ and $n_b$ its
    number of weights,

    $$c = \frac{\sum_b n_b \cos(g_b, a_b)}{\sum_b n_b}, \qquad a_b \leftarrow \alpha\,a_b +
    (1-\alpha)\,g_b / \lVert g_b \rVert_2$$

    and after every `update_freq` updates, with $\bar c$ the mean of $c$ over them,

    $$\eta \leftarrow \mathrm{clip}(\eta\,(1 + \beta\,(\bar c - \tau)), \eta_{\min}, \eta_{\max})$$

    Why: the derivative of the loss after a step with respect to the length of the step is minus the
    product of the new gradient with the direction of the step. Where the direction is that of the
    gradient, the cosine is this derivative without its scale. An optimizer with momentum steps in
    another direction; the cosine is then still a sign of overshooting, but no derivative. In
    `AdaptiveBlockNormSGD` every block has a rate of its own.

    With minibatches, gradients agree by little more than chance: $\bar c$ is close to 0 as long as
    the rate is small and negative beyond. With `target_correlation=0` the rate sinks, in the end to
    `min_learning_rate`: set a negative target. Which one is right depends on the network and the
    size of the batch, by more than an order of magnitude. `LearningRateFinder` needs no such
    number.

    Args:
        rate_update: Float in (0, 1), $\beta$, how fast the rate changes. Defaults to 0.05.
        update_freq: Integer >= 1, after how many updates the rate changes. Defaults to 1.
        average: Float in [0, 1), $\alpha$: what past directions keep of their weight in a step.
            Defaults to 0, which compares with the last gradient alone.
        target_correlation: Float in (-1, 1), $\tau$: the rate stays where gradients have this
            correlation. Defaults to 0.
        min_learning_rate: Float > 0. Defaults to 1e-7.
        max_learning_rate: Float >= `min_learning_rate`. Defaults to 1.
        block: What $b$ is: see `BlockNormSGD`. Defaults to `"variable"`.

    Slots: one tensor per variable and five numbers, in the optimizer's variables and saved with
    them: a run that is interrupted and resumed with `keras.callbacks.BackupAndRestore` goes on as
    it would have. Cost: two passes over the gradients.

    Whoever else changes the learning rate, such as `keras.callbacks.ReduceLROnPlateau`, changes the
    upper bound by the same factor: after a reduction by 10 the rate goes on from a tenth, and never
    again comes to more than a tenth of `max_learning_rate`.

    `logs["learning_rate"]` at the end of an epoch is the rate then. Where there is no cosine (the
    first step, zero gradients) or it is not a number, a step does not count.

    Raises:
        ValueError: for an argument outside its range, when constructed; in `fit`, if the learning
            rate of the optimizer is a schedule or a function, or if there are several optimizers.

    Example: two gradients that agree, and a learning rate that grows by half of itself.

    >>> inputs = keras.ops.ones((2, 3))
    >>> model = keras.Sequential([keras.layers.Dense(1, use_bias=False)])
    >>> model.compile(keras.optimizers.SGD(0.1), lambda y_true, y: keras.ops.mean(y, axis=-1))
    >>> adaptive = tf_blocknorm.AdaptiveStepSize(rate_update=0.5)
    >>> history = model.fit(inputs, inputs, batch_size=1, verbose=0, callbacks=[adaptive])
    >>> round(float(model.optimizer.learning_rate), 4)
    0.15

    References:
        - Kolasinski (2018), max-normed-optimizer: the rule.
        - Baydin, Cornish, Martinez Rubio, Schmidt, Wood (2018), [Online Learning Rate Adaptation
          with Hypergradient Descent](https://arxiv.org/abs/1703.04782): its derivation.
    """

    def __init__(
        self,
        rate_update=0.05,
        update_freq=1,
        average=0.0,
        target_correlation=0.0,
        min_learning_rate=1e-7,
        max_learning_rate=1.0,
        block="variable",
    ):
        super().__init__()
        self.rate_update = arguments.number(
            "rate_update", rate_update, "a number in (0, 1)", lambda x: 0 < x < 1
        )
        self.update_freq = arguments.number(
            "update_freq", update_freq, "an integer >= 1", lambda x: x >= 1 and x == int(x)
        )
        self.average = arguments.number(
            "average", average, "a number in [0, 1)", lambda x: 0 <= x < 1
        )
        self.target_correlation = arguments.number(
            "target_correlation", target_correlation, "a number in (-1, 1)", lambda x: -1 < x < 1
        )
        self.min_learning_rate = arguments.number(
            "min_learning_rate", min_learning_rate, "a number > 0", lambda x: x > 0
        )
        self.max_learning_rate = arguments.number(
            "max_learning_rate",
            max_learning_rate,
            f"a number >= min_learning_rate={min_learning_rate}",
            lambda x: x >= min_learning_rate,
        )
        self.block = blocks.validate(block)
        self.tap = _Rule(self)

    def set_model(self, model):
        demand_settable_rate(model.optimizer, "AdaptiveStepSize")
        super().set_model(model)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            rate = taps.innermost(self.model.optimizer).learning_rate
            logs["learning_rate"] = float(ops.convert_to_numpy(rate))


class _Rule(taps.Tap):
    name = "adaptive_step_size"

    def __init__(self, options):
        self.options = options

    def create(self, add, variables):
        self.partition = Partition(variables, self.options.block)
        self.past = agreement.Past.create(self.partition, variables, add)
        # Sum and number of the cosines since the last change, and updates since then.
        self.total, self.count, self.updates = (
            add("total", ()),
            add("count", ()),
            add("updates", ()),
        )
        # The rate as it was left, to notice who else changes it; and what became of the bound.
        self.left, self.bound_factor = add("left", ()), add("bound_factor", (), initializer="ones")

    def after_step(self, gradients, variables, learning_rate, before):
        o = self.options
        cosines, known = agreement.compare(
            self.partition,
            self.indices(variables),
            gradients,
            self.past,
            o.average,
            lambda slot, value: slot.assign(value),
        )
        cosine, known = agreement.mean(self.partition, cosines, known)
        total, count = self.total + cosine, self.count + ops.cast(known, "float32")
        updates = self.updates + 1.0
        due = updates >= o.update_freq

        rate, left = ops.cast(learning_rate, "float32"), ops.convert_to_tensor(self.left)
        changed = ops.logical_and(left > 0, ops.not_equal(rate, left))
        factor = ops.where(changed, rate / ops.where(changed, left, 1.0), 1.0)
        bound_factor = self.bound_factor * factor
        highest = ops.maximum(o.max_learning_rate * bound_factor, o.min_learning_rate)

        disagreement = total / ops.maximum(count, 1.0) - o.target_correlation
        new = ops.clip(rate * (1.0 + o.rate_update * disagreement), o.min_learning_rate, highest)
        new = ops.where(ops.logical_and(due, count > 0), new, rate)

        self.optimizer.learning_rate.assign(ops.cast(new, self.optimizer.learning_rate.dtype))
        self.left.assign(new)
        self.bound_factor.assign(bound_factor)
        self.total.assign(ops.where(due, 0.0, total))
        self.count.assign(ops.where(due, 0.0, count))
        self.updates.assign(ops.where(due, 0.0, updates))
