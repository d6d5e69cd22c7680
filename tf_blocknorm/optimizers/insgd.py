"""Momentum SGD whose steps are divided by the power of what the layers see."""

import math

import keras
from keras import ops

from tf_blocknorm import blocks
from tf_blocknorm.light import cast
from tf_blocknorm.optimizers import arguments, implementations
from tf_blocknorm.optimizers.blockwise import Blockwise
from tf_blocknorm.optimizers.forms import form
from tf_blocknorm.optimizers.inputs.matching import Powers, validate_powers
from tf_blocknorm.optimizers.inputs.quotient import quotient
from tf_blocknorm.optimizers.kernels import FUSED
from tf_blocknorm.optimizers.rows import times
from tf_blocknorm.optimizers.statistics import CarriesStatistics


@form
class INSGD(CarriesStatistics, Blockwise, keras.optimizers.Optimizer):
    r"""Input-normalised SGD: the step of every kernel is divided by the power of its input.

    The gradient of a kernel is a product with the layer's input, so that a layer whose inputs are
    large makes large steps. For a linear neuron and one sample, normalised least mean squares
    (NLMS) divides by the input's power and with that fits the sample exactly; this is the same
    division for every layer of a network.

    With $g$ the gradient of a kernel $w$ (of any rank), $S$ the power of the layer's input in this
    batch, as `with_input_statistics` measures it (for a convolution one number for each input
    channel, which divides that channel's slice of the kernel), $\beta$ the input momentum, $\mu$
    the momentum, $\lambda$ the weight decay, $K$ the gain and $\eta$ the learning rate, one step is

    $$P \leftarrow \beta P + (1 - \beta) S, \qquad N = \max(\log P, f) \quad \text{or, without the
    logarithm,} \quad N = P + \epsilon$$

    $$m \leftarrow \mu\, m + g + \lambda w, \qquad w \leftarrow w - \eta\, \frac{K}{N}\, m$$

    where $P = S$ at first. Biases, the scales and offsets of normalisation layers, embeddings and
    what is in `exclude` have $K / N = 1$: momentum SGD.

    - With the logarithm, an input of power 10 000 makes steps half as long as one of power 100.
      Without it they are a hundredth as long, and the outputs of the layer change alike: halving
      all inputs and doubling the kernel changes nothing, but for $\epsilon$. Rates are then larger.
    - Where $\log P \le f$ the step is that of SGD, divided by $f$. With a floor below 1, as in the
      authors' code, layers with small inputs make steps of up to $1 / f$ times their gradient.
    - An input of power 0 has no gradient. With $\epsilon = 0$ its slice makes no step.
    - A power that is not finite makes the kernel NaN, as does such a gradient (use
      `keras.callbacks.TerminateOnNaN`, or Keras's `LossScaleOptimizer`, which skips such steps).

    The powers come from a model that was given to `tf_blocknorm.with_input_statistics`, or, with
    `powers`, are constant. A kernel without a power is an error, never a guess.

    Arguments; those of `keras.optimizers.Optimizer` (`clipnorm`, `use_ema`, …) and those from
    `exclude` on by keyword:

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule` or a callable.
            Defaults to 0.1, as in most of the paper's experiments.
        momentum: Float in [0, 1), $\mu$. Defaults to 0.9.
        nesterov: Whether to take the step from ahead, $\mu\, m + g + \lambda w$ in place of $m$.
            Defaults to `False`.
        weight_decay: Float >= 0 or `None`, $\lambda$, added to the gradient, and so inside the
            momentum and divided by $N$. The paper's experiments have 5e-4. Defaults to `None`.
        input_momentum: Float in [0, 1), $\beta$: what the power keeps in a step. 0 is the power of
            this batch alone. The paper's formula has one and does not say which (in what of it we
            could read); in none of the authors' programs has it an effect. Defaults to 0.9.
        log: Whether to divide by the logarithm of the power. Defaults to `True`, as in the paper.
        floor: Float > 0, $f$, the least logarithm. The authors' code has 0.01. Defaults to 1, with
            which no step is longer than that of SGD.
        epsilon: Float >= 0, $\epsilon$; without the logarithm only. Defaults to 1e-6.
        gain: Float > 0, $K$, or `"code"`: $\sqrt{1 + 10^{-6}} / (\sqrt{1 - \mu} + 10^{-6})$, which
            the authors' code multiplies every step of a kernel by: 3.162 for a momentum of 0.9.
            Defaults to 1.
        normalize: `"update"`: the momentum is one of plain gradients, and the step is divided, as
            above. `"gradient"`: the gradient is divided, $m \leftarrow \mu\, m + (K / N)\, g +
            \lambda w$ and $w \leftarrow w - \eta\, m$: the decay is the same for all layers, and
            old gradients keep the power of their own step. Defaults to `"update"`.
        powers: `None`, or a list of `(regex, power)` pairs, such as `tf_blocknorm.constant_powers`
            returns: the kernels whose path a regex finds, first match first, have this constant
            power, and need no statistics. Each regex must match a variable. Defaults to `None`.
        {{block_norm_arguments}}

    Of `exclude` and `exclude_from_weight_decay`, lists of regular expressions on `variable.path`,
    each must match a variable; `"vectors"` are all variables of rank 0 and 1, which get the plain
    step anyway.

    Slots: one tensor per variable if there is momentum, and with an input momentum as many numbers
    per kernel as its layer has powers. `BlockNormMonitor` shows $K / N$ as `input_multiplier`.

    Other implementations, by `INSGD.like(name)`:

    | name          | is                                                                      |
    |---------------|-------------------------------------------------------------------------|
    | `"paper"`     | the defaults                                                            |
    | `"code"`      | the authors' `insgd.py` (2024), number for number, on a model with      |
    |               | `norm="standardized_l2"` or `"standardized_l1"`                         |
    | `"code_2023"` | the same with the decay and the momentum outside of the division, as in |
    |               | their `nisgd_v2.py` (from its description; not compared with it)        |
    | `"nlms"`      | NLMS: rate 1, no momentum, no logarithm, no epsilon                     |

    The paper's pseudocode adds the gradient's term; all programs subtract it, as here. Not followed
    from the code, as they are defects: grouped convolutions raise an error there; of a layer that
    is called several times, the last call counts (here their mean); inputs of one pixel, which
    standardise to zero and make steps of 316 times the gradient (here an error).

    The code standardises the inputs first, so that with `"standardized_l2"` the power is the number
    of pixels (or features) less one, whatever the inputs are: the method is then momentum SGD with
    a constant rate for each layer, and `tf_blocknorm.constant_powers` gives these without measuring
    anything.

    Example: one step of NLMS fits a sample, here 10 for the input (3, 4): 3 * 1.2 + 4 * 1.6 = 10.

    >>> kernel = keras.Variable([[0.0], [0.0]], name="kernel")
    >>> optimizer = tf_blocknorm.INSGD.like("nlms", powers=[("kernel", 3.0**2 + 4.0**2)])
    >>> error = 0.0 - 10.0
    >>> optimizer.apply([error * keras.ops.array([[3.0], [4.0]])], [kernel])
    >>> keras.ops.convert_to_numpy(kernel).round(4)
    array([[1.2],
           [1.6]], dtype=float32)

    References:
        - Atici, Pan, Cetin (2022 to 2024), [Input Normalized Stochastic Gradient Descent Training
          for Deep Neural Networks](https://arxiv.org/abs/2212.09921). Its formulas as the authors'
          repository and slides restate them, and their programs; the paper's text was not read.
    """

    decay_is_inside = True
    fixed = ("norm", "block")

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=False,
        weight_decay=None,
        input_momentum=0.9,
        log=True,
        floor=1.0,
        epsilon=1e-6,
        gain=1.0,
        normalize="update",
        powers=None,
        **kwargs,
    ):
        for name in self.fixed:
            if name in kwargs:
                raise ValueError(
                    f"`{name}` must not be given: what is measured is an argument of "
                    "`tf_blocknorm.with_input_statistics`, and every kernel has a power of its "
                    f"own. Received: {name}={kwargs[name]!r}"
                )
        super().__init__(
            learning_rate=learning_rate, weight_decay=arguments.weight_decay(weight_decay), **kwargs
        )
        self.momentum = arguments.fraction("momentum", momentum)
        self.nesterov = bool(nesterov)
        self.input_momentum = arguments.fraction("input_momentum", input_momentum)
        self.log = bool(log)
        self.floor = arguments.number("floor", floor, "a number > 0", lambda x: x > 0)
        self.epsilon = arguments.number("epsilon", epsilon, "a number >= 0")
        if gain != "code":
            arguments.number("gain", gain, "a number > 0 or 'code'", lambda x: x > 0)
        self.gain = gain
        self.normalize = arguments.choice("normalize", normalize, ("gradient", "update"))
        self.powers = validate_powers(powers)

    @classmethod
    def like(cls, implementation, **overrides):
        """INSGD as another implementation has it, with that one's defaults.

        Args:
            implementation: One of `"paper"`, `"code"`, `"code_2023"`, `"nlms"`.
            **overrides: As for the constructor; they override those defaults.

        Returns:
            An `INSGD`.

        Example:

        >>> tf_blocknorm.INSGD.like("code", learning_rate=0.05).floor
        0.01
        """
        return implementations.like(cls, implementations.INSGD, implementation, overrides)

    def build(self, variables):
        if self.built:
            return
        plain = blocks.matches(variables, self.exclude, "exclude")
        inputs = Powers(variables, plain, self.powers)
        super().build(variables)
        self._inputs = inputs
        self._momenta = [None] * len(variables)
        if self.momentum:
            self._momenta = self.add_optimizer_variables(variables, "momentum")
        self._averages = [
            # Powers are not negative: a number below zero stands for none so far.
            self.add_variable((n,), keras.initializers.Constant(-1.0), dtype, name="power")
            if n and self.input_momentum
            else None
            for n, dtype in inputs.measured()
        ]

    @property
    def block_statistics(self):
        """What the steps are multiplied by, for `BlockNormMonitor`: of several channels, the mean.

        That of the last step.
        """
        multipliers = []
        for index, average in enumerate(self._averages):
            power = self._inputs.now(index) if average is None else average
            factor = ops.ones(()) if power is None else self._quotient(power)
            multipliers.append(ops.cast(ops.mean(factor), "float32"))
        return {"input_multiplier": ops.stack(multipliers)}

    def fused_rule(self):
        # Rates are scalars; what is measured may be a number per channel.
        fits = self.normalize == "gradient" or self._inputs.are_constant
        return self._fused_step if self.momentum and fits else None

    def _fused_step(self, indices, gradients, variables, learning_rate, multipliers=None):
        dtype = self._partition.dtypes[indices[0]]
        multipliers = multipliers or [self._multiplier(index, dtype) for index in indices]
        rates, factors = [ops.cast(learning_rate, dtype)] * len(indices), multipliers
        if self.normalize == "update":
            rates, factors = list(map(times, rates, multipliers)), [None] * len(indices)
        slots = [self._momenta[index] for index in indices]
        options = self.momentum, rates, factors, list(map(self._decay, variables)), self.nesterov
        FUSED.heavy_ball(variables, slots, gradients, *options)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        multiplier = self._multiplier(index, variable.dtype)
        on_gradient = multiplier if self.normalize == "gradient" else None
        on_update = multiplier if self.normalize == "update" else None

        momentum = self._momenta[index]
        if momentum is not None and self._fit([index], [gradient], on_update):
            self._fused_step([index], [gradient], [variable], learning_rate, [multiplier])
            return
        step = times(cast(gradient, variable.dtype), on_gradient)
        step = self._plus_decay(step, variable)
        if momentum is not None:
            total = ops.add(ops.multiply(momentum, self.momentum), step)
            self.assign(momentum, total)
            step = ops.add(ops.multiply(total, self.momentum), step) if self.nesterov else total
        self._move(variable, step, learning_rate, on_update)

    def _multiplier(self, index, dtype):
        """K / N of this step, in a shape that the kernel can be multiplied by; None for 1."""
        if index in self._inputs.constants:
            return self._once("multipliers", dtype, lambda: self._constant(dtype))[index]
        power, average = self._inputs.now(index), self._averages[index]
        if power is None:
            return None
        if average is not None:
            mixed = self.input_momentum * average + (1.0 - self.input_momentum) * power
            power = ops.where(average < 0, power, mixed)
            self.assign(average, power)
        return self._inputs.spread(index, ops.cast(self._quotient(power), dtype))

    def _constant(self, dtype):
        """The multipliers of all kernels whose powers are constant, by their indices."""
        constants = self._inputs.constants
        powers = ops.convert_to_tensor(list(constants.values()), "float32")
        multipliers = ops.cast(self._quotient(powers), dtype)
        return dict(zip(constants, ops.unstack(multipliers, len(constants))))

    def _quotient(self, power):
        gain = self.gain
        if gain == "code":
            gain = math.sqrt(1 + 1e-6) / (math.sqrt(1 - self.momentum) + 1e-6)
        return quotient(power, gain, self.floor if self.log else None, self.epsilon)

    def get_config(self):
        config = super().get_config()
        for name in self.fixed:
            del config[name]
        names = (
            "momentum",
            "nesterov",
            "input_momentum",
            "log",
            "floor",
            "epsilon",
            "gain",
            "normalize",
        )
        config.update({name: getattr(self, name) for name in names})
        return {**config, "powers": self.powers and [list(pair) for pair in self.powers]}
