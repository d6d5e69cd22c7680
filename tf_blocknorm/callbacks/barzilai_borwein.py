"""The learning rate from the curvature along the way that the weights went."""

import types

import keras
from keras import ops

from tf_blocknorm import blocks
from tf_blocknorm.callbacks.barzilai_borwein_tap import Quotient, QuotientPerBlock
from tf_blocknorm.callbacks.base import TapCallback
from tf_blocknorm.optimizers import arguments, taps
from tf_blocknorm.optimizers.base import BlockNormalized

_PHI = {"constant": ops.ones_like, "linear": lambda k: ops.add(k, 1.0)}


class BarzilaiBorwein(TapCallback):
    r"""Sets the learning rate by the curvature along the way of the weights (SGD-BB).

    Training is divided into periods of $m$ updates. Let $x_k$ be the weights and $\hat
    g_k$ the gradients of the period before period $k = 0, 1, \dots$, each averaged with weights
    that grow towards its end, $s = x_k - x_{k-1}$ and $y = \hat g_k - \hat g_{k-1}$. The step size
    of period $k \ge 2$ (the first two have the optimizer's learning rate) is

    $$\eta_k = \frac1m\,\frac{\lVert s\rVert^2}{|s\cdot y| + \epsilon\lVert s\rVert^2}
    \text{ (long), or } \frac1m\,\frac{|s\cdot y| + \epsilon\lVert s\rVert^2}{\lVert y\rVert^2 +
    2\epsilon|s\cdot y| + \epsilon^2\lVert s\rVert^2} \text{ (short)}, \qquad \tilde\eta_k =
    \frac1{\phi(k)} \Big(\prod_{j=2}^k \eta_j\,\phi(j)\Big)^{1/(k-1)}$$

    ($\epsilon$ acts as if it were added to the curvature.) The learning rate is $\tilde\eta_k$,
    within bounds. The $1/m$ is there because $m$ steps make up $s$.

    **Normalised steps.** The quotient takes raw gradients. Gradient descent would move the weights
    by $\eta\,\hat g$, a normalised step moves them by the learning rate times $u$, what the
    optimizer makes of $\hat g$; so that both have one length, the learning rate is
    $\eta\,\lVert\hat g\rVert_2 / \lVert u\rVert_2$: for a block of its own $\eta$ times the norm of
    $\hat g$ in the optimizer's own norm. Like the gradient, it decays towards a minimum. With a
    momentum $\mu$ a steady step is $1 / (1 - \mu)$ times as long; the learning rate is multiplied
    by $1 - \mu$ (not with `normalize="update"`, whose steps are as long as the learning rate).

    **Where it fails.** The quotient knows the curvature along the way, not the largest one, and
    decays with it: on a network that fits its data the rate of plain SGD can outgrow what is
    stable, and no step size is recovered once the gradients have died (`phi="linear"`, `max_change`
    and `max_rate` are there for this). A first rate at which training diverges is not mended: two
    periods are over before the first quotient. Noise of minibatches lengthens $y$: the short
    quotient goes to 0 unless batches are large, and with few updates per period (below 100, say)
    the long one is noisy, too.

    Args:
        frequency: `"epoch"`, or an integer: the updates of a period, m. An epoch has as many as it
            has steps, divided by `gradient_accumulation_steps` and rounded down. Updates are
            counted, so that a step that a `LossScaleOptimizer` skips delays the change by one.
            Defaults to `"epoch"`.
        quotient: `"long"`, `"short"`, or `"alternating"`, long for even k. Defaults to `"long"`.
        phi: `"constant"`, `"linear"` (k + 1, the paper's), a function of the scalar tensor k, or
            `None` for no smoothing. As the mean runs over `eta * phi`, steady quotients give with
            `"linear"` about 1 / 2.7 of the rate of `"constant"`, which is what kept plain SGD
            stable in our runs; normalised steps end with a lower loss with `"constant"`. Defaults
            to `"linear"`.
        beta: Float in [0, 1], the weight of the newest value in the averages; 0 for plain means,
            `None` for the paper's 10 / m. Defaults to `None`.
        points: `"mean"` averages weights as gradients are averaged. `"end"` takes those at the end
            of the period, as in the paper. Means belong together: on a quadratic the quotient is
            exact for any m, and the noise of a gradient cancels from `s·y`, to which `"end"` adds
            about `-rate * (variance of the gradient)`: a quotient that follows the rate. Defaults
            to `"mean"`.
        epsilon: Float >= 0 in units of a curvature; no step size exceeds `1 / (m * epsilon)`.
            Defaults to 0, as in the paper.
        max_change: Float > 1, the largest factor between one learning rate and the next, either
            way, or `None`. Defaults to 2: larger ones overshoot while a network's first steps are
            on a plateau.
        min_rate: Float >= 0, the smallest learning rate to set. Defaults to 0.
        max_rate: Float, the largest learning rate to set, or `None`. Defaults to `None`.
        block: `"model"` for one quotient, or any other `block` of the optimizers for one each; the
            learning rate is then the geometric mean and each block's own is in `rates`. Defaults to
            `"model"`.

    A quotient that is zero, infinite or no number (no movement, no change of the gradient, a NaN)
    leaves the rate, and the mean, as they are. `logs["learning_rate"]` is the rate that the epoch
    began with.

    State, saved and resumed with the optimizer: four tensors per variable, three with
    `points="end"`, and five small ones.

    Raises:
        ValueError: for an optimizer that is neither `keras.optimizers.SGD`, nor `BlockNormSGD`, nor
            one with `normalize="update"` (the last with `block="model"` only); for a learning rate
            that is a schedule or a function; for `frequency="epoch"` with data of unknown length.

    Differences from the authors' code: averages of weights (`points="end"` for theirs); gradients
    averaged with weights that add up to 1 in every period, theirs to `1 - (1 - beta)**m`, which is
    0.99995; bounds; $\phi(k) = k$ there, $k + 1$ in the paper.

    Example: a quadratic of curvatures 1 and 4. From (1, 1) a step of rate 0.1 leads to (0.9, 0.6):
    `s = (-0.1, -0.4)`, `y = (-0.1, -1.6)`, and the rate is `0.17 / 0.65 = 17 / 65`.

    >>> class Bowl(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.w = self.add_weight(shape=(2,), initializer="ones")
    ...     def call(self, x):
    ...         return x * ops.sum(ops.array([0.5, 2.0]) * ops.square(self.w))
    >>> model = keras.Sequential([keras.Input((1,)), Bowl()])
    >>> model.compile(keras.optimizers.SGD(0.1), loss=lambda _, output: ops.mean(output))
    >>> rule = tf_blocknorm.BarzilaiBorwein(frequency=1, phi="constant", max_change=None)
    >>> history = model.fit(np.ones((2, 1)), np.ones(2), batch_size=1, verbose=0, callbacks=[rule])
    >>> round(rule.rates["model"], 4), round(17 / 65, 4)
    (0.2615, 0.2615)

    References:
        - Tan, Ma, Dai, Qian (2016), [Barzilai-Borwein Step Size for Stochastic Gradient
          Descent](https://arxiv.org/abs/1605.04131): the rule and the smoothing.
        - Barzilai, Borwein (1988), Two-Point Step Size Gradient Methods: the quotients.
        - Ma, Zeng, Xiong, Xu, Cao, Liu, Yao (2018), Stochastic Non-convex Ordinal Embedding with
          Stabilized Barzilai-Borwein Step Size: the denominator with epsilon.
        - Burdakov, Dai, Huang (2019), Stabilized Barzilai-Borwein Method: a length for the step.
    """

    def __init__(
        self,
        frequency="epoch",
        quotient="long",
        phi="linear",
        beta=None,
        points="mean",
        epsilon=0.0,
        max_change=2.0,
        min_rate=0.0,
        max_rate=None,
        block="model",
    ):
        super().__init__()
        if frequency != "epoch" and (
            not isinstance(frequency, int) or isinstance(frequency, bool) or frequency < 1
        ):
            raise ValueError(
                f"`frequency` must be 'epoch' or an integer >= 1. Received: frequency={frequency!r}"
            )
        if not (phi is None or callable(phi) or phi in _PHI):
            raise ValueError(
                f"`phi` must be 'constant', 'linear', None, or a function. Received: phi={phi!r}"
            )
        if beta is not None:
            arguments.number("beta", beta, "None or in [0, 1]", lambda x: 0 <= x <= 1)
        if max_change is not None:
            arguments.number("max_change", max_change, "None or a number > 1", lambda x: x > 1)
        arguments.number("min_rate", min_rate, "a number >= 0")
        if max_rate is not None:
            arguments.number(
                "max_rate",
                max_rate,
                "None or a number > 0 and >= `min_rate`",
                lambda x: x > 0 and x >= min_rate,
            )
        self.frequency = frequency
        options = types.SimpleNamespace(
            quotient=arguments.choice("quotient", quotient, ("long", "short", "alternating")),
            phi=_PHI.get(phi, phi) if isinstance(phi, str) else phi,
            beta=beta,
            points=arguments.choice("points", points, ("mean", "end")),
            epsilon=arguments.number("epsilon", epsilon, "a number >= 0"),
            max_change=max_change,
            min_rate=min_rate,
            max_rate=max_rate,
            block=blocks.validate(block),
        )
        self.tap = (Quotient if block == "model" else QuotientPerBlock)(options)

    def set_model(self, model):
        self.tap.optimizer = _supported(taps.innermost(model.optimizer), self.tap.options.block)
        super().set_model(model)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        updates = self.frequency
        if updates == "epoch":
            steps = self.params.get("steps")
            if steps is None:
                self.detach()
                raise ValueError(
                    "`frequency='epoch'` needs to know how many steps an epoch has, which the "
                    "data do not say. Pass `steps_per_epoch` to `fit`, or give `frequency` as a "
                    "number of updates. Received: frequency='epoch'"
                )
            updates = max(1, steps // (self.tap.optimizer.gradient_accumulation_steps or 1))
        self.tap.updates = updates

    def on_epoch_begin(self, epoch, logs=None):
        # By `self.model`: JAX brings the variables up to date when it is asked for.
        self._rate = _rate(taps.innermost(self.model.optimizer))

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["learning_rate"] = self._rate

    @property
    def rates(self):
        """The learning rate of every block as it is now: a dict from names to floats."""
        rate = _rate(taps.innermost(self.model.optimizer))
        factors = ops.convert_to_numpy(self.tap.factors)
        return {n: rate * float(f) for n, f in zip(self.tap.partition.labels, factors)}


def _rate(optimizer):
    return float(ops.convert_to_numpy(optimizer.learning_rate))


def _supported(optimizer, block):
    """The optimizer, or an error if its learning rate is not what the quotient gives."""
    normalized = isinstance(optimizer, BlockNormalized)
    normalizes_update = normalized and optimizer.normalize == "update"
    if not (isinstance(optimizer, keras.optimizers.SGD) or normalizes_update):
        raise ValueError(
            "`BarzilaiBorwein` finds the step size of gradient descent, which is not the learning "
            "rate of other rules. Use `keras.optimizers.SGD`, `BlockNormSGD`, or a block-normalised"
            f" optimizer with `normalize='update'`. Received: optimizer={optimizer!r}"
        )
    if normalizes_update and block != "model":
        raise ValueError(
            "`block` must be 'model' for an optimizer with `normalize='update'`, whose blocks all "
            f"move by the same learning rate. Received: block={block!r}"
        )
    if not (isinstance(optimizer._learning_rate, keras.Variable) and _rate(optimizer) > 0):
        raise ValueError(
            "`BarzilaiBorwein` sets the learning rate, which must be a float > 0 to begin with. "
            "Construct the optimizer with the float that the schedule or function begins with. "
            f"Received: learning_rate={optimizer._learning_rate!r}"
        )
    return optimizer
