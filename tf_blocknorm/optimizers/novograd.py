"""Momentum over gradients that are divided by a running norm, one number per block."""

import keras
from keras import ops

from tf_blocknorm.light import cast, where
from tf_blocknorm.optimizers import arguments, implementations
from tf_blocknorm.optimizers.blockwise import Blockwise
from tf_blocknorm.optimizers.forms import form
from tf_blocknorm.optimizers.kernels import FUSED
from tf_blocknorm.optimizers.rows import times


@form
class NovoGrad(Blockwise, keras.optimizers.Optimizer):
    r"""Momentum over gradients that are divided by a running average of their norm.

    Adam's second moment, but one number for a whole block instead of one for every weight, and with
    the gradient divided before it enters the momentum: about half of Adam's memory, and steps that
    do not depend on the size of the gradients.

    With $g_b$ the gradient of block $b$ (of any rank), $\lVert\cdot\rVert$ the chosen norm,
    $\lambda$ the weight decay and $\eta$ the learning rate, one step is

    $$v_b \leftarrow \beta_2 v_b + (1 - \beta_2) \lVert g_b \rVert^2, \qquad u_b = \frac{g_b}
    {\sqrt{v_b} + \epsilon} + \lambda w_b, \qquad m_b \leftarrow \beta_1 m_b + u_b, \qquad w_b
    \leftarrow w_b - \eta\, m_b$$

    where $v_b = \lVert g_b \rVert^2$ at the first gradient of the block that is not zero.

    - Length: $\lVert u_b \rVert \le 1 / \sqrt{1 - \beta_2}$ without decay (7 for 0.98). As the
      momentum is a sum, not an average, steps grow to $\eta / (1 - \beta_1)$, twenty times the
      learning rate, over the first $1 / (1 - \beta_1)$ steps: a warm-up.
    - With `"l2"` a whole block moves by that length, and the weights of a small block (a bias) more
      than those of a large one. With `norm="rms"` weights move alike; then a learning rate is
      larger by the root of a block's size.
    - $\beta_2 = 0$ is `BlockNormSGD` with momentum.
    - A step of constant length does not come to rest: let the learning rate decay.
    - A zero gradient adds nothing to the momentum. A NaN or an infinity makes the block NaN for
      good (use `keras.callbacks.TerminateOnNaN`, or Keras's `LossScaleOptimizer`, which skips such
      steps).

    Arguments; those of `keras.optimizers.Optimizer` (`clipnorm`, `use_ema`, …) and those from
    `block` on by keyword:

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule` or a callable.
            The authors' configurations use 0.01 to 0.04. Defaults to 0.01.
        beta_1: Float in [0, 1), momentum. Defaults to 0.95, as in the paper.
        beta_2: Float in [0, 1), what the running norm keeps in a step. Defaults to 0.98, as in the
            paper; later recipes for speech use 0.25 to 0.5.
        epsilon: Float >= 0. Defaults to 1e-8. With 0, steps have full length however small the
            gradients are.
        weight_decay: Float >= 0 or `None`, $\lambda$: added to the normalised gradient, inside the
            momentum, unlike that of Keras's optimizers; in the end weights shrink by $\eta\lambda /
            (1 - \beta_1)$ per step. Defaults to `None`.
        grad_averaging: `True`: $m_b \leftarrow \beta_1 m_b + (1 - \beta_1) u_b$, so that learning
            rates mean what they mean to Adam. `"after_first"`: from the second step on. Defaults to
            `False`.
        amsgrad: Whether to divide by the largest running norm so far. Defaults to `False`.
        epsilon_inside: Whether to divide by $\sqrt{v_b + \epsilon}$, as the authors' code does and
            their documentation does not. Defaults to `False`.
        learning_rate_inside: Whether the momentum is one of steps, $m_b \leftarrow \beta_1 m_b +
            \eta u_b$. It differs where the learning rate changes. Defaults to `False`.
        norm: The norm. `"max"` is the L-infinity form. Defaults to `"l2"`.
        {{block_norm_arguments}}

    Excluded variables get momentum on their plain gradients; by default there are none, as in the
    paper.

    Slots: one tensor per variable, and one number per block (two with `amsgrad`). It is the root of
    $v_b$ that is kept, so that it neither overflows nor underflows before the gradient does.
    `BlockNormMonitor` shows it as `running_norm`.

    Other implementations, number for number, by `NovoGrad.like(name)`:

    | name                  | differs by                                                      |
    |-----------------------|-----------------------------------------------------------------|
    | `"paper"`             |                                                                 |
    | `"openseq2seq"`       | `epsilon_inside=True`                                           |
    | `"tensorflow_addons"` | `learning_rate_inside=True`, betas .9 and .999, epsilon 1e-7;   |
    |                       | its `grad_averaging=True` is `"after_first"`                    |
    | `"nemo"`, `"timm"`    | learning rate 0.001                                             |
    | `"optax"`             | betas .9 and .25, epsilon 1e-6                                  |

    TensorFlow Addons and optax begin every running norm in the optimizer's first step, so that a
    block whose first gradient comes later takes a step $1 / \sqrt{1 - \beta_2}$ times too long; not
    so here. Not to be had: apex's default, which divides the momentum of plain gradients, and a
    bias correction (the running norm begins at its first value).

    Example: the first step has the length of the learning rate.

    >>> weights = keras.Variable([3.0, 4.0])
    >>> optimizer = tf_blocknorm.NovoGrad(learning_rate=1.0)
    >>> optimizer.apply([keras.ops.array([30.0, 40.0])], [weights])
    >>> keras.ops.convert_to_numpy(weights)
    array([2.4, 3.2], dtype=float32)

    References:
        - Ginsburg, Castonguay, Hrinchuk, Kuchaiev, Lavrukhin, Leary, Li, Nguyen, Zhang, Cohen
          (2019), [Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep
          Networks](https://arxiv.org/abs/1905.11286): the rule; the defaults are those of the
          documentation of the authors' OpenSeq2Seq.
    """

    decay_is_inside = True

    def __init__(
        self,
        learning_rate=0.01,
        beta_1=0.95,
        beta_2=0.98,
        epsilon=1e-8,
        weight_decay=None,
        grad_averaging=False,
        amsgrad=False,
        epsilon_inside=False,
        learning_rate_inside=False,
        norm="l2",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=arguments.weight_decay(weight_decay),
            norm=norm,
            **kwargs,
        )
        self.beta_1 = arguments.fraction("beta_1", beta_1)
        self.beta_2 = arguments.fraction("beta_2", beta_2)
        self.epsilon = arguments.number("epsilon", epsilon, "a number >= 0")
        self.grad_averaging = arguments.choice(
            "grad_averaging", grad_averaging, (False, True, "after_first")
        )
        self.amsgrad = bool(amsgrad)
        self.epsilon_inside = bool(epsilon_inside)
        self.learning_rate_inside = bool(learning_rate_inside)

    @classmethod
    def like(cls, implementation, **overrides):
        """NovoGrad as another implementation has it, with that one's defaults.

        Args:
            implementation: One of `"paper"`, `"openseq2seq"`, `"tensorflow_addons"`, `"nemo"`,
                `"timm"`, `"optax"`.
            **overrides: As for the constructor; they override those defaults.

        Returns:
            A `NovoGrad`.

        Example:

        >>> tf_blocknorm.NovoGrad.like("optax", learning_rate=0.003).beta_2
        0.25
        """
        return implementations.like(cls, implementations.NOVOGRAD, implementation, overrides)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momenta = [self.add_variable_from_reference(v, "momentum") for v in variables]
        self._norms = self._add_numbers("running_norms")
        self._highest = self._add_numbers("highest_norms") if self.amsgrad else None

    @property
    def block_statistics(self):
        """The running norms, one number per variable, for `BlockNormMonitor`."""
        return {"running_norm": self._per_variable(self._norms, otherwise=1.0)}

    def on_gradients(self, gradients, variables):
        members = self._members(variables)

        def lengths(sizes):
            size = self._partition.scatter(members, sizes)
            old = ops.cast(self._norms, size.dtype)
            # Of two squares neither of which overflows or underflows alone.
            new = ops.hypot(self.beta_2**0.5 * old, (1.0 - self.beta_2) ** 0.5 * size)
            new = where(old == 0, size, new)
            divisor = new = self._partition.where(members, new, old)
            self._scratch.norms = [(self._norms, new)]
            if self.amsgrad:
                divisor = ops.maximum(ops.cast(self._highest, size.dtype), new)
                # A comparison with NaN may choose either.
                divisor = where(ops.isnan(new), new, divisor)
                self._scratch.norms.append((self._highest, divisor))
            if self.epsilon_inside:
                divisor = ops.hypot(divisor, ops.full_like(divisor, self.epsilon**0.5))
            else:
                divisor = divisor + self.epsilon
            ratio = size / where(size > 0, divisor, 1.0)
            return self._partition.gather(members, ratio)

        self._scratch.norms = []
        pairs = self._unmultiplied(gradients, list(members.values()), lengths)
        return self._leave_factors(*pairs, variables)

    def fused_rule(self):
        return self._fused_step

    def _fused_step(self, indices, gradients, variables, learning_rate):
        share, rate = self._share_and_rate(learning_rate, gradients[0].dtype)
        factors, decays = self.factors(indices), list(map(self._decay, variables))
        if share is not None:
            factors = [share if f is None else f * share for f in factors]
            if self.weight_decay:
                decay = self.weight_decay * share
                decays = [d and decay for d in decays]
        slots, rates = [self._momenta[i] for i in indices], [rate] * len(indices)
        FUSED.heavy_ball(variables, slots, gradients, self.beta_1, rates, factors, decays)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        if self._fit([index], [gradient], learning_rate):
            self._fused_step([index], [gradient], [variable], learning_rate)
            return
        momentum, dtype = self._momenta[index], self._partition.dtypes[index]
        share, rate = self._share_and_rate(learning_rate, dtype)
        factor = self.factor(index)
        if share is not None:
            factor = share if factor is None else ops.multiply(factor, share)
        update = cast(times(gradient, factor), dtype)
        update = self._plus_decay(update, variable, 1.0 if share is None else share)
        update = ops.add(ops.multiply(momentum, self.beta_1), update)
        self.assign(momentum, update)
        self.assign_sub(variable, ops.multiply(ops.cast(rate, dtype), update))

    def _share_and_rate(self, learning_rate, dtype):
        """What an update is multiplied by on its way into the momentum (or None), and after it."""
        share, rate = None, learning_rate
        if self.learning_rate_inside:
            share, rate = ops.cast(learning_rate, dtype), 1.0
        if self.grad_averaging:
            first = ops.ones((), dtype) if share is None else share
            share = first * (1.0 - self.beta_1)
            if self.grad_averaging == "after_first":
                # Not a product of three scalars, which TensorFlow takes in any order: replicas
                # would come to differ by a rounding.
                share = ops.where(ops.equal(self.iterations, 0), first, share)
        return share, rate

    def on_updates(self, visits, learning_rate):
        for variable, value in self._scratch.norms:
            self.assign(variable, ops.cast(value, variable.dtype))
        self._scratch.norms = []

    def get_config(self):
        names = (
            "beta_1",
            "beta_2",
            "epsilon",
            "grad_averaging",
            "amsgrad",
            "epsilon_inside",
            "learning_rate_inside",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
