"""Momentum whose steps are as long as the weights say, block by block."""

import keras
import numpy as np
from keras import ops

from tf_blocknorm.light import cast, where
from tf_blocknorm.optimizers import arguments
from tf_blocknorm.optimizers.forms import form
from tf_blocknorm.optimizers.hooks import Visit, split_replicas
from tf_blocknorm.optimizers.kernels import FUSED
from tf_blocknorm.optimizers.rows import times
from tf_blocknorm.optimizers.trust import TrustRatio


@form
class LARS(TrustRatio, keras.optimizers.Optimizer):
    r"""Momentum SGD with a learning rate for every block, in proportion to the block's weights.

    With $g_b$ the gradient of block $b$ (of any rank), $\lVert\cdot\rVert$ the chosen norm, $\tau$
    the trust coefficient, $\lambda$ the weight decay, $\mu$ the momentum and $\eta$ the learning
    rate, one step is

    $$r_b = \frac{\tau \lVert w_b \rVert}{\lVert g_b \rVert + \lambda \lVert w_b \rVert +
    \epsilon}, \qquad m_b \leftarrow \mu\, m_b + \eta\, r_b\, (g_b + \lambda w_b), \qquad w_b
    \leftarrow w_b - m_b$$

    (with `nesterov=True`: $w_b \leftarrow w_b - \mu\, m_b - \eta\, r_b\, (g_b + \lambda w_b)$). The
    trust ratio $r_b$ is 1 where one of the norms is 0, and for the variables in `exclude`, which so
    make the step of momentum SGD.

    - Length: $\lVert \eta\, r_b (g_b + \lambda w_b) \rVert \le \eta\, \tau \lVert w_b \rVert$:
      before momentum, a block moves by no more than this fraction of itself. A gradient of any size
      makes about the same step, but excluded variables depend on it.
    - A gradient with a NaN or an infinity makes its block NaN (use
      `keras.callbacks.TerminateOnNaN`, or Keras's `LossScaleOptimizer`, which skips such steps).

    Arguments; those of `keras.optimizers.Optimizer` (`clipnorm`, `use_ema`, …) and those from
    `block` on by keyword:

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule` or a callable.
            It is multiplied by the trust coefficient: 1 to 30 with the default one, rising with the
            batch, after a warm-up. Defaults to 1.
        momentum: Float in [0, 1). Defaults to 0.9.
        nesterov: Whether to take the step from ahead. Defaults to `False`.
        weight_decay: Float >= 0 or `None`, $\lambda$: part of the step, inside the ratio and the
            momentum. It counts in the norm of a block if any of its variables decays. Defaults to
            `None`.
        trust_coefficient: Float > 0, $\tau$. Defaults to 0.001.
        epsilon: Float >= 0. Defaults to 0: no gradient is too small.
        larc: Whether the learning rate is an upper bound: $\min(r_b, \eta)$ takes the place of
            $\eta\, r_b$ (LARC). Defaults to `False`.
        joint_norm: Whether the ratio divides by $\lVert g_b + \lambda w_b \rVert + \epsilon$.
            Defaults to `False`.
        learning_rate_inside: Whether the momentum is one of steps, as above, or one of scaled
            gradients, $m_b \leftarrow \mu\, m_b + r_b (g_b + \lambda w_b)$ and $w_b \leftarrow
            w_b - \eta\, m_b$. They differ where the learning rate changes. Defaults to `True`.
        classic_momentum: `False` gives the ratio to the momentum: $m_b \leftarrow \mu\, m_b + g_b +
            \lambda w_b$ and $w_b \leftarrow w_b - \eta\, (\tau \lVert w_b \rVert / (\lVert m_b
            \rVert + \epsilon))\, m_b$. Defaults to `True`.
        exclude: As below. Defaults to `"vectors"`.
        exclude_from_weight_decay: As below. Defaults to `"vectors"`.
        {{block_norm_arguments}}

    `exclude` and `exclude_from_weight_decay` are lists of regular expressions on `variable.path`,
    each of which must match a variable, or `"vectors"`: all variables of rank 0 and 1, the biases
    and the scales and offsets of normalisation layers. `None` stands for no variable.

    Slots: one tensor per variable if there is momentum ($-m$, as `keras.optimizers.SGD` keeps it),
    and one number per block, its ratio: `trust_ratios`, which `BlockNormMonitor` shows.

    Other implementations, number for number:

    | implementation                | arguments                                               |
    |-------------------------------|---------------------------------------------------------|
    | optax                         | `joint_norm=True`, `exclude=None`,                      |
    |                               | `exclude_from_weight_decay=None`                        |
    | timm                          | `learning_rate_inside=False`, `epsilon=1e-8`            |
    | apex's LARC around SGD        | `larc=True`, `learning_rate_inside=False`,              |
    |                               | `epsilon=1e-8`, `trust_coefficient=0.02`,               |
    |                               | `exclude=None`, `exclude_from_weight_decay=None`        |
    | tf-models                     | `joint_norm=True`                                       |
    | tf-models, not classic        | `classic_momentum=False`                                |

    timm gives no ratio to variables without decay, nor to any if there is no decay at all.

    Example: a step of a tenth of the weights' norm.

    >>> weights = keras.Variable([[3.0, 4.0]])
    >>> optimizer = tf_blocknorm.LARS(learning_rate=1.0, trust_coefficient=0.1)
    >>> optimizer.apply([keras.ops.array([[30.0, 40.0]])], [weights])
    >>> keras.ops.convert_to_numpy(weights).round(4)
    array([[2.7, 3.6]], dtype=float32)

    References:
        - You, Gitman, Ginsburg (2017), [Large Batch Training of Convolutional
          Networks](https://arxiv.org/abs/1708.03888): algorithm 1.
    """

    def __init__(
        self,
        learning_rate=1.0,
        momentum=0.9,
        nesterov=False,
        weight_decay=None,
        trust_coefficient=0.001,
        epsilon=0.0,
        larc=False,
        joint_norm=False,
        learning_rate_inside=True,
        classic_momentum=True,
        exclude="vectors",
        exclude_from_weight_decay="vectors",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=arguments.weight_decay(weight_decay),
            exclude=exclude,
            exclude_from_weight_decay=exclude_from_weight_decay,
            **kwargs,
        )
        self.momentum = arguments.fraction("momentum", momentum)
        self.nesterov = bool(nesterov)
        self.trust_coefficient = arguments.number(
            "trust_coefficient", trust_coefficient, "a number > 0", lambda x: x > 0
        )
        self.epsilon = arguments.number("epsilon", epsilon, "a number >= 0")
        self.larc = bool(larc)
        self.joint_norm = bool(joint_norm)
        self.learning_rate_inside = bool(learning_rate_inside)
        self.classic_momentum = bool(classic_momentum)
        if not classic_momentum and (joint_norm or not learning_rate_inside):
            raise ValueError(
                "`classic_momentum=False` has a norm and a place for the learning rate of its own. "
                f"Received: joint_norm={joint_norm}, learning_rate_inside={learning_rate_inside}"
            )

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momenta = [
            self.add_variable_from_reference(v, "momentum") if self.momentum else None
            for v in variables
        ]

    def on_gradients(self, gradients, variables):
        if self.joint_norm or not self.classic_momentum:
            gradients = self._decayed(gradients, variables)
        self._scratch.ratios = ({}, [])
        if not self.classic_momentum:
            return gradients
        members = self._members(variables)
        gradients, factors, ratios = self._trusted(gradients, variables, members)
        self._scratch.ratios = (members, ratios)
        if not self.joint_norm and self.weight_decay:
            shares = self._spread(ratios, gradients, members.values())
            gradients = factors.on(gradients)
            return self._decayed(gradients, variables, shares)
        return self._leave_factors(gradients, factors, variables)

    def _decayed(self, gradients, variables, factors=None):
        factors = factors or [None] * len(variables)
        triples = zip(gradients, variables, factors)
        return [
            self._plus_decay(ops.convert_to_tensor(g), v, 1.0 if f is None else f)
            for g, v, f in triples
        ]

    def _trusted(self, tensors, variables, members):
        """Tensors, the `Factors` that make them theirs times trust ratios, and these ratios."""
        groups, ratios = list(members.values()), None

        def lengths(size):
            nonlocal ratios
            weight = self._sizes(variables, groups)
            decay = ops.cast(self._decays_in_norm(variables, members), size.dtype)
            below = size + self.epsilon + decay * weight
            here = ops.logical_and(weight != 0, size != 0)
            below = where(here, below, 1.0)
            # Not the ratio times the size: of a tiny gradient, the ratio is out of range.
            length = self.trust_coefficient * weight * (size / below)
            ratio = self.trust_coefficient * weight / below
            if self.larc:
                eta = ops.cast(self.learning_rate, size.dtype)
                positive = where(eta > 0, eta, 1.0)
                length = ops.minimum(length / positive, size)
                ratio = ops.minimum(ratio / positive, 1.0)
            ratios = where(here, ratio, 1.0)
            return where(here, length, size)

        return *self._unmultiplied(tensors, groups, lengths), ratios

    def _decays_in_norm(self, variables, members):
        """What the norms of the weights of these blocks are multiplied by, below the ratio."""
        decays = np.zeros(len(self._partition.labels))
        if self.weight_decay and self.classic_momentum and not self.joint_norm:
            for place, group in zip(self._partition.places(members), members.values()):
                if any(self._use_weight_decay(variables[position]) for position in group):
                    decays[place] = self.weight_decay
        return decays[self._partition.order(members)]

    def fused_rule(self):
        inside = self.learning_rate_inside and self.classic_momentum
        return self._fused_step if self.momentum and inside else None

    def _fused_step(self, indices, gradients, variables, learning_rate):
        slots = [self._momenta[i] for i in indices]
        rates, factors = self.rates_and_factors(indices, learning_rate)
        options = self.momentum, rates, factors, self.nesterov
        FUSED.velocity(variables, slots, gradients, *options)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        if self.fused_rule() and self._fit([index], [gradient], learning_rate):
            self._fused_step([index], [gradient], [variable], learning_rate)
            return
        slot, inside = self._momenta[index], self.learning_rate_inside and self.classic_momentum
        rate = ops.cast(learning_rate, variable.dtype)
        update = cast(times(gradient, self.factor(index)), variable.dtype)
        if inside:
            update, rate = ops.multiply(update, rate), ops.ones_like(rate)
        if slot is not None:
            velocity = ops.subtract(ops.multiply(slot, self.momentum), update)
            self.assign(slot, velocity)
            if self.nesterov:
                update = ops.subtract(update, ops.multiply(velocity, self.momentum))
            else:
                update = ops.negative(velocity)
        if self.classic_momentum:
            self._move(variable, update, rate)
        else:
            self._scratch.visits.append(Visit(index, variable, update, gradient))

    def on_updates(self, visits, learning_rate):
        members, ratios = self._scratch.ratios
        for replica in split_replicas(visits):
            variables = [visit.variable for visit in replica]
            members = self._members(variables)
            updates = [visit.direction for visit in replica]
            updates, factors, ratios = self._trusted(updates, variables, members)
            self._move_all(variables, updates, learning_rate, factors)
        self._keep(members, ratios)
        self._scratch.ratios = None

    def get_config(self):
        names = (
            "momentum",
            "nesterov",
            "trust_coefficient",
            "epsilon",
            "larc",
            "joint_norm",
            "learning_rate_inside",
            "classic_momentum",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
