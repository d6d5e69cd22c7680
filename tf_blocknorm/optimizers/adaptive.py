"""Normalised gradient descent whose step lengths follow from the gradients' own agreement."""

import inspect

import keras
from keras import initializers, ops

from tf_blocknorm.light import cast, where
from tf_blocknorm.optimizers import agreement, arguments
from tf_blocknorm.optimizers.base import BlockNormalized
from tf_blocknorm.optimizers.forms import form
from tf_blocknorm.optimizers.hooks import Visit, split_replicas
from tf_blocknorm.optimizers.kernels import FUSED


@form
class AdaptiveBlockNormSGD(BlockNormalized, keras.optimizers.Optimizer):
    r"""Normalised gradient descent with a learning rate and a momentum for every block.

    A block's rate grows while its successive gradients point the same way and falls while they
    point against each other; a block that overshoots takes shorter steps until it does not.

    With $g_b$ the gradient of block $b$ (of any rank) in this step, $\lVert\cdot\rVert$ the chosen
    norm, $\eta$ the learning rate and $r_b$, $\mu_b$ the block's own rate and momentum, one step is

    $$v_b \leftarrow \mu_b v_b + g_b, \qquad w_b \leftarrow w_b - \eta\, r_b\, v_b / \lVert v_b
    \rVert$$

    and then, with $a_b$ the average of the block's past unit gradients,

    $$c_b = \cos(g_b, a_b), \qquad r_b \leftarrow \mathrm{clip}(r_b\,(1 + \beta (c_b - \tau)),
    r_{\min}, r_{\max}), \qquad \mu_b \leftarrow \mathrm{clip}(\mu_b (1 - \gamma) - \gamma c_b,
    0, 1)$$

    $$a_b \leftarrow \alpha\, a_b + (1 - \alpha)\, g_b / \lVert g_b \rVert_2$$

    Why: the derivative of the loss after a step with respect to the length of that step is
    $-g_b^{\mathrm{new}} \cdot g_b / \lVert g_b \rVert$. Divided by the length of the new gradient
    it is the cosine, which knows no scale: the hypergradient of Baydin et al. without a rate of
    its own to be tuned to the size of the loss. In the first step, and where a gradient is zero,
    there is no cosine: the rate stays, and $c_b = 0$ for the momentum.

    Under the noise of minibatches, two successive gradients agree by little more than chance, and
    near the end of a training they disagree: the plain rule then lowers its rates for good. Against
    that:

    - `average` ($\alpha$) compares with the mean direction of many steps instead of one;
    - `target_correlation` ($\tau < 0$) is the disagreement that is taken for normal;
    - `adapt="model"` shares one rate: the mean of the blocks' cosines, weighted by their numbers of
      weights, as the cosine of $n$ random directions has variance $1/n$;
    - `relative_floor` keeps a block from falling far behind the others, and so from being frozen
      by its own noise;
    - a schedule as `learning_rate` brings all steps to zero at the end, whatever the rates;
    - `adapt_steps` ends the search, $\beta$ and $\gamma$ falling linearly to 0 until then. With a
      target below 0 it has to end where a schedule is to shorten the steps: shorter steps disagree
      less, and the rates rise to make up for it.

    Arguments; those from `block` on, and those of `keras.optimizers.Optimizer` (`weight_decay`,
    `clipnorm`, `use_ema`, …), by keyword:

    Args:
        learning_rate: What all rates are multiplied by: a float, a
            `keras.optimizers.schedules.LearningRateSchedule` that begins at about 1, or a callable.
            Defaults to 1.
        initial_rate: Float > 0. The length of the first steps in the chosen norm. Defaults to 0.01.
        min_rate: Float > 0, lower bound of every rate. Defaults to 1e-6.
        max_rate: Float >= `initial_rate`, upper bound of every rate. Defaults to 0.5.
        rate_update: Float in [0, 1), $\beta$: how fast rates change: at most by this fraction in a
            step (with no target). Defaults to 0.05.
        momentum: Float in [0, 1], where every block's momentum begins. Defaults to 0.
        momentum_update: Float in [0, 1), $\gamma$: how fast momenta change. They fall while
            gradients agree and rise while they do not. Defaults to 0: they stay.
        average: Float in [0, 1), $\alpha$. Defaults to 0: the gradient of the last step alone.
        target_correlation: Float in (-1, 1), $\tau$: the correlation at which a rate stays.
            Defaults to 0.
        adapt: `"block"`: a rate and a momentum for each block, or `"model"`: the same for all.
            Defaults to `"block"`.
        relative_floor: Float in [0, 1). Keeps every rate above this fraction of the geometric mean
            of all. Defaults to 0.
        adapt_steps: Integer >= 1, in how many steps rates and momenta come to rest; or `None`:
            they never do. Defaults to `None`.
        norm: As for `BlockNormSGD`. Defaults to `"max"`: the largest change of a weight is the
            block's rate.
        {{block_norm_arguments}}

    `normalize` is always `"update"` here. Excluded variables make plain gradient steps at
    `learning_rate * initial_rate`.

    Slots: one tensor per variable ($a_b$), two with momentum, and two numbers per block.

    Differences from other implementations: the original (Kolasinski) adds 1e-6 to the norm; its
    defaults are `AdaptiveBlockNormSGD.original()`.

    Example: two gradients that agree, and a rate that grows by half of itself.

    >>> weights = keras.Variable([3.0, 4.0])
    >>> optimizer = tf_blocknorm.AdaptiveBlockNormSGD(initial_rate=0.1, rate_update=0.5)
    >>> for _ in range(2):
    ...     optimizer.apply([keras.ops.array([30.0, 60.0])], [weights])
    >>> keras.ops.convert_to_numpy(weights).round(4)
    array([2.9, 3.8], dtype=float32)
    >>> [round(rate, 4) for rate in optimizer.block_rates.values()]
    [0.15]

    References:
        - Kolasinski (2018), max-normed-optimizer, "Algorithm 1": the rule.
        - Baydin, Cornish, Martinez Rubio, Schmidt, Wood (2018), [Online Learning Rate Adaptation
          with Hypergradient Descent](https://arxiv.org/abs/1703.04782): its derivation.
    """

    fixed = ("normalize",)

    def __init__(
        self,
        learning_rate=1.0,
        initial_rate=0.01,
        min_rate=1e-6,
        max_rate=0.5,
        rate_update=0.05,
        momentum=0.0,
        momentum_update=0.0,
        average=0.0,
        target_correlation=0.0,
        adapt="block",
        relative_floor=0.0,
        adapt_steps=None,
        norm="max",
        **kwargs,
    ):
        if "normalize" in kwargs:
            raise ValueError(
                "`normalize` cannot be chosen here: the sum of gradients is always normalised. "
                f"Received: normalize={kwargs['normalize']!r}"
            )
        super().__init__(learning_rate=learning_rate, norm=norm, normalize="update", **kwargs)

        def positive(argument, value):
            return arguments.number(argument, value, "a number > 0", lambda x: x > 0)

        self.min_rate = positive("min_rate", min_rate)
        self.initial_rate = arguments.number(
            "initial_rate",
            initial_rate,
            f"a number >= min_rate={min_rate}",
            lambda x: x >= min_rate,
        )
        self.max_rate = arguments.number(
            "max_rate",
            max_rate,
            f"a number >= initial_rate={initial_rate}",
            lambda x: x >= initial_rate,
        )
        self.rate_update = arguments.fraction("rate_update", rate_update)
        self.momentum = arguments.number(
            "momentum", momentum, "a number in [0, 1]", lambda x: 0 <= x <= 1
        )
        self.momentum_update = arguments.fraction("momentum_update", momentum_update)
        self.average = arguments.fraction("average", average)
        self.target_correlation = arguments.number(
            "target_correlation", target_correlation, "a number in (-1, 1)", lambda x: -1 < x < 1
        )
        self.adapt = arguments.choice("adapt", adapt, ("block", "model"))
        self.relative_floor = arguments.fraction("relative_floor", relative_floor)
        self.adapt_steps = adapt_steps
        if adapt_steps is not None:
            self.adapt_steps = arguments.number(
                "adapt_steps",
                adapt_steps,
                "an integer >= 1 or None",
                lambda x: x >= 1 and x == int(x),
            )

    @classmethod
    def original(cls, **arguments):
        """The optimizer with the defaults of its author (Kolasinski, 2018).

        Args:
            **arguments: As for the constructor; they override those defaults.

        Returns:
            An `AdaptiveBlockNormSGD`.

        Example:

        >>> tf_blocknorm.AdaptiveBlockNormSGD.original().max_rate
        0.01
        """
        defaults = {
            "norm": "max",
            "initial_rate": 0.01,
            "min_rate": 1e-6,
            "max_rate": 0.01,
            "rate_update": 0.005,
            "momentum": 0.0,
            "momentum_update": 0.0,
        }
        return cls(**{**defaults, **arguments})

    def build(self, variables):
        if self.built:
            return
        super().build(variables)

        def slots(name):
            pairs = zip(variables, self._partition.names)
            return [n and self.add_variable_from_reference(v, name) for v, n in pairs]

        def numbers(name, value):
            shape = (len(self._partition.labels),)
            return self.add_variable(shape, initializers.Constant(value), "float32", name=name)

        self._past = agreement.Past(slots("average_direction"), numbers("average_length", 0.0))
        self._velocities = None
        if self.momentum or self.momentum_update:
            self._velocities = slots("velocity")
        self._rates = numbers("rates", self.initial_rate)
        self._momenta = numbers("momenta", self.momentum)

    @property
    def block_rates(self):
        """The rate of each block of a built optimizer, by the block's name."""
        return self._by_label(self._rates)

    @property
    def block_momenta(self):
        """The momentum of each block of a built optimizer, by the block's name."""
        return self._by_label(self._momenta)

    def _by_label(self, vector):
        return dict(zip(self._partition.labels, ops.convert_to_numpy(vector).tolist()))

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        name = self._partition.names[index]
        gradient = cast(gradient, variable.dtype)
        if name is None:
            rate = ops.cast(learning_rate, variable.dtype) * self.initial_rate
            self.assign_sub(variable, ops.multiply(rate, gradient))
            return
        direction = gradient
        if self._velocities is not None:
            velocity = self._velocities[index]
            (place,) = self._partition.places([name])
            momentum = ops.cast(ops.convert_to_tensor(self._momenta)[place], variable.dtype)
            direction = ops.add(ops.multiply(momentum, velocity), gradient)
            self.assign(velocity, direction)
        self._scratch.visits.append(Visit(index, variable, direction, gradient))

    def _lengths(self, variables, groups):
        indices = [self._get_variable_index(v) for v in variables]
        rates = ops.convert_to_tensor(self._rates)
        rates = self._partition.gather(self._partition.members(indices), rates)
        lengths = super()._lengths(variables, groups)
        return rates if lengths is None else ops.multiply(lengths, ops.cast(rates, lengths.dtype))

    def on_updates(self, visits, learning_rate):
        super().on_updates(visits, learning_rate)
        if visits:
            # One replica's are enough: the gradients are aggregated, the same on all.
            self._learn(split_replicas(visits)[0])

    def _learn(self, visits):
        """Adapt rates and momenta to the gradients of this step, and remember their directions."""
        cosines, known = agreement.compare(
            self._partition,
            [visit.index for visit in visits],
            [visit.gradient for visit in visits],
            self._past,
            self.average,
            self.assign,
            self._blend,
        )
        if self.adapt == "model":
            cosines, known = agreement.mean(self._partition, cosines, known)
        speed = 1.0
        if self.adapt_steps:
            speed = ops.maximum(0.0, 1.0 - ops.cast(self.iterations, "float32") / self.adapt_steps)
        factors = 1.0 + speed * self.rate_update * (cosines - self.target_correlation)
        rates = self._rates * where(known, factors, 1.0)
        rates = ops.clip(rates, self.min_rate, self.max_rate)
        if self.relative_floor:
            rates = ops.maximum(rates, self.relative_floor * ops.exp(ops.mean(ops.log(rates))))
        self.assign(self._rates, rates)
        if self.momentum_update:
            update = speed * self.momentum_update
            momenta = (1.0 - update) * self._momenta - update * cosines
            self.assign(self._momenta, ops.clip(momenta, 0.0, 1.0))

    def _blend(self, indices, slots, directions, factors, decay):
        if self._fit(indices, directions, *factors):
            FUSED.blend(slots, directions, factors, decay)
        else:
            agreement.blend(self.assign, slots, directions, factors, decay)

    def get_config(self):
        config = super().get_config()
        del config["normalize"]
        named = inspect.signature(AdaptiveBlockNormSGD.__init__).parameters
        own = [name for name in named if name not in ("self", "kwargs", *config)]
        return {**config, **{name: getattr(self, name) for name in own}}
