"""Adam whose steps are as long as the weights say, block by block."""

import collections
import itertools
import math

import keras
import numpy as np
from keras import ops

from tf_blocknorm.light import cast, where
from tf_blocknorm.optimizers import arguments, rows
from tf_blocknorm.optimizers.forms import form
from tf_blocknorm.optimizers.hooks import Visit, split_replicas
from tf_blocknorm.optimizers.kernels import FUSED, ORDERED, after
from tf_blocknorm.optimizers.kernels.shared import parts
from tf_blocknorm.optimizers.rows import times
from tf_blocknorm.optimizers.trust import TrustRatio

# Into how many parts an update is divided at most, and how many weights a part has at least.
_BUNDLES, _LEAST = 8, 2**20


@form
class LAMB(TrustRatio, keras.optimizers.Optimizer):
    r"""Adam whose steps have a length in proportion to the weights, block by block.

    Every block moves by the same fraction of its norm, the learning rate, whatever the size of its
    gradients: made for batches so large that the learning rate has to be, too.

    With $g_b$ the gradient of block $b$ (of any rank), $\lVert\cdot\rVert$ the chosen norm,
    $\lambda$ the weight decay, $\eta$ the learning rate and $t$ the number of the step, one step is

    $$m_b \leftarrow \beta_1 m_b + (1 - \beta_1)\, g_b, \qquad v_b \leftarrow \beta_2 v_b + (1 -
    \beta_2)\, g_b^2$$

    $$u_b = \frac{m_b / (1 - \beta_1^t)}{\sqrt{v_b / (1 - \beta_2^t)} + \epsilon} + \lambda w_b,
    \qquad r_b = \mathrm{clip}\left(\frac{\phi(\lVert w_b \rVert)}{\lVert u_b \rVert}\right), \qquad
    w_b \leftarrow w_b - \eta\, r_b\, u_b$$

    The trust ratio $r_b$ is 1 where one of the norms is 0, and for the variables in `exclude`,
    which so make the step of AdamW.

    - Length: $\lVert \Delta w_b \rVert = \eta\, \phi(\lVert w_b \rVert)$ without `trust_clip`,
      whatever the gradient and its history.
    - Clipped LAMB (LAMBC) is `trust_clip=(0.0, 1.0)`: no step is longer than that of AdamW; choose
      the learning rate accordingly.
    - A gradient with a NaN or an infinity makes its block NaN (use
      `keras.callbacks.TerminateOnNaN`, or Keras's `LossScaleOptimizer`, which skips such steps).

    Arguments; those of `keras.optimizers.Optimizer` (`clipnorm`, `use_ema`, …) and those from
    `block` on by keyword:

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule` or a callable:
            the relative change of the weights in a step. Large batches need a warm-up. Defaults to
            0.001.
        beta_1: Float in [0, 1). Defaults to 0.9.
        beta_2: Float in [0, 1). Defaults to 0.999.
        epsilon: Float >= 0. Defaults to 1e-6.
        weight_decay: Float >= 0 or `None`, $\lambda$: part of the step, so that it changes the
            direction and not the length. Defaults to 0.01, as in the paper.
        trust_clip: `None`, or a pair of numbers `(low, high)` with 0 <= low <= high that bound the
            trust ratio. Defaults to `None`.
        phi_bounds: `None`, or a pair of numbers `(low, high)` with 0 <= low <= high that bound the
            norm of the weights, $\phi(x) = \min(\max(x, low), high)$. Defaults to `None`.
        bias_correction: Whether the averages are divided by $1 - \beta^t$. Without, and with the
            ratio, only $\epsilon$ and the decay feel it. Defaults to `True`.
        exclude: As below. Defaults to `"vectors"`.
        exclude_from_weight_decay: As below. Defaults to `"vectors"`.
        {{block_norm_arguments}}

    `exclude` and `exclude_from_weight_decay` are lists of regular expressions on `variable.path`,
    each of which must match a variable, or `"vectors"`: all variables of rank 0 and 1, the biases
    and the scales and offsets of normalisation layers. `None` stands for no variable.

    Slots: two tensors per variable and one number per block, its ratio: `trust_ratios`, which
    `BlockNormMonitor` shows. During an update the steps stand beside them: on TensorFlow, outside
    XLA, those of an eighth of the weights (or of the largest block) at a time, elsewhere all.

    Differences from other implementations: `keras.optimizers.Lamb` decays the weights before the
    step and outside of the ratio, has a ratio for biases, too, and an epsilon of 1e-7; without
    decay, `LAMB(exclude=None, epsilon=1e-7, weight_decay=None)` makes its steps. optax and
    TensorFlow Addons are the paper's, with a ratio for every variable (`exclude=None`). timm
    gives no ratio to variables without decay, and clips the gradient to a global norm of 1
    (`global_clipnorm=1.0` here, as NVIDIA's); its `trust_clip` is `(0.0, 1.0)`.

    Example: a step of a tenth of the weights' norm.

    >>> weights = keras.Variable([[3.0, 4.0]])
    >>> optimizer = tf_blocknorm.LAMB(learning_rate=0.1, weight_decay=None)
    >>> optimizer.apply([keras.ops.array([[7.0, 7.0]])], [weights])
    >>> keras.ops.convert_to_numpy(weights).round(4)
    array([[2.6464, 3.6464]], dtype=float32)

    References:
        - You, Li, Reddi, Hseu, Kumar, Bhojanapalli, Song, Demmel, Keutzer, Hsieh (2019), [Large
          Batch Optimization for Deep Learning: Training BERT in 76
          minutes](https://arxiv.org/abs/1904.00962): algorithm 2.
        - Fong, Chen, Chen (2020), [Improving Layer-wise Adaptive Rate Methods using Trust Ratio
          Clipping](https://arxiv.org/abs/2011.13584): `trust_clip`.
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        weight_decay=0.01,
        trust_clip=None,
        phi_bounds=None,
        bias_correction=True,
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
        self.beta_1 = arguments.fraction("beta_1", beta_1)
        self.beta_2 = arguments.fraction("beta_2", beta_2)
        self.epsilon = arguments.number("epsilon", epsilon, "a number >= 0")
        self.trust_clip = arguments.bounds("trust_clip", trust_clip)
        self.phi_bounds = arguments.bounds("phi_bounds", phi_bounds)
        self.bias_correction = bool(bias_correction)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momenta = [self.add_variable_from_reference(v, "momentum") for v in variables]
        self._velocities = [self.add_variable_from_reference(v, "velocity") for v in variables]

    def fused_rule(self):
        return self._fused_step

    def _fused_step(self, indices, gradients, variables, learning_rate):
        # Where the order of things can be told, not yet, so that few exist at a time.
        steps = [None] * len(indices)
        if not ORDERED:
            steps = self._fused_directions(indices, gradients, variables)
        self._scratch.visits += map(Visit, indices, variables, steps, gradients)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        g = cast(gradient, self._partition.dtypes[index])
        if self._fit([index], [g]):
            self._fused_step([index], [g], [variable], learning_rate)
            return
        m, v = self._momenta[index], self._velocities[index]
        self.assign(m, ops.add(m * self.beta_1, g * (1.0 - self.beta_1)))
        self.assign(v, ops.add(v * self.beta_2, ops.square(g) * (1.0 - self.beta_2)))
        self._scratch.visits.append(Visit(index, variable, self._direction(index, variable), g))

    def _direction(self, index, variable, late=list):
        tensors = map(rows.values, (self._momenta[index], self._velocities[index], variable))
        m, v, weights = late(tensors)
        if self.bias_correction:
            m, v = m / self._correction(self.beta_1, m), v / self._correction(self.beta_2, v)
        return self._plus_decay(m / (ops.sqrt(v) + self.epsilon), variable, weights=weights)

    def _fused_directions(self, indices, gradients, variables):
        """The steps of variables of one dtype, whose averages are updated."""
        like = gradients[0]

        def make():
            # As the operation sees them, so that averages and corrections belong together.
            dtype = self._partition.dtypes[indices[0]]
            betas = [float(np.asarray(beta, dtype)) for beta in (self.beta_1, self.beta_2)]
            corrections = [ops.ones((), dtype)] * 2
            if self.bias_correction:
                corrections = [self._correction(beta, like) for beta in betas]
            return *betas, *FUSED.adam_scalars(self.epsilon, *corrections)

        decays = list(map(self._decay, variables))
        starts = [
            None if decay is None else times(rows.values(variable), decay)
            for variable, decay in zip(variables, decays)
        ]
        ms, vs = ([slots[i] for i in indices] for slots in (self._momenta, self._velocities))
        scalars = self._once("adam", like.dtype, make)
        return FUSED.adam_directions(ms, vs, gradients, *scalars, starts)

    def _correction(self, beta, like):
        """1 - beta ** t, exact also where that is small."""
        t = ops.cast(self.iterations + 1, like.dtype)
        return -ops.expm1(t * math.log(beta)) if beta else ops.ones_like(t)

    def on_updates(self, visits, learning_rate):
        for replica in split_replicas(visits):
            names, ratios, moves = [], [], []
            for bundle in self._bundles(replica):
                with after(moves):
                    members, found, moves = self._move_bundle(bundle, learning_rate)
                if members:
                    names += members
                    ratios.append(found)
        if visits and names:
            self._keep(names, ops.concatenate(ratios) if len(ratios) > 1 else ratios[0])

    def _bundles(self, visits):
        """The visits in parts of whole blocks: where it saves memory, some eight of them."""
        if not (ORDERED and self._scratch.fused):
            return [visits]
        groups = list(self._members([visit.variable for visit in visits]).values())
        outside = set(range(len(visits))).difference(*groups)
        groups = sorted([*groups, *([position] for position in outside)])
        weights = [math.prod(visit.variable.shape) for visit in visits]
        sizes = [sum(weights[position] for position in group) for group in groups]
        bundles = parts(groups, sizes, max(sum(weights) // _BUNDLES, _LEAST))
        return [[visits[i] for i in itertools.chain(*bundle)] for bundle in bundles]

    def _move_bundle(self, visits, learning_rate):
        variables, steps = [visit.variable for visit in visits], self._steps(visits)
        members = self._members(variables)

        def anew(late):
            return [self._direction(visit.index, visit.variable, late) for visit in visits]

        steps, factors, ratios = self._trusted(steps, variables, members, anew)
        return members, ratios, self._move_all(variables, steps, learning_rate, factors)

    def _steps(self, visits):
        """The directions of visits: those that are not there yet are made now."""
        steps, late = [visit.direction for visit in visits], collections.defaultdict(list)
        for position, visit in enumerate(visits):
            if visit.direction is None:
                late[visit.gradient.dtype].append(position)
        for positions in late.values():
            indices, variables, _, gradients = zip(*(visits[position] for position in positions))
            made = self._fused_directions(indices, gradients, variables)
            for position, step in zip(positions, made):
                steps[position] = step
        return steps

    def _trusted(self, steps, variables, members, anew):
        """The steps, the `Factors` that make them theirs times trust ratios, and these ratios."""
        groups, ratios = list(members.values()), None

        def lengths(size):
            nonlocal ratios
            weight = self._sizes(variables, groups)
            wanted = ops.clip(weight, *self.phi_bounds) if self.phi_bounds else weight
            if self.trust_clip:
                low, high = self.trust_clip
                wanted = ops.clip(wanted, low * size, high * size)
            here = ops.logical_and(weight != 0, size != 0)
            ratios = where(here, wanted / where(here, size, 1.0), 1.0)
            return where(here, wanted, size)

        return *self._unmultiplied(steps, groups, lengths, anew=anew), ratios

    def get_config(self):
        names = ("beta_1", "beta_2", "epsilon", "trust_clip", "phi_bounds", "bias_correction")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
