"""The block-normalised forms of Keras's optimizers that come with names and descriptions."""

import keras

from tf_blocknorm.optimizers.base import BlockNormalized
from tf_blocknorm.optimizers.forms import form


@form
class BlockNormSGD(BlockNormalized, keras.optimizers.SGD):
    r"""Gradient descent whose steps have a length that you choose, block by block.

    Every block of variables moves by the learning rate, in the direction of its gradient, however
    large or small the gradient is. Layers whose gradients vanish or explode train at the same pace
    as all others.

    With $g_b$ the gradient of block $b$ (of any rank), $\lVert\cdot\rVert$ the chosen norm, $\eta$
    the learning rate and $\mu$ the momentum, one step is

    $$u_b = g_b / \lVert g_b \rVert, \qquad v_b \leftarrow \mu v_b - \eta u_b, \qquad w_b \leftarrow
    w_b + v_b$$

    (with `nesterov=True`: $w_b \leftarrow w_b + \mu v_b - \eta u_b$).
    With `normalize="update"` it is

    $$v_b \leftarrow \mu v_b - g_b, \qquad w_b \leftarrow w_b + \eta\, v_b / \lVert v_b \rVert$$

    - Step: without momentum, $\lVert\Delta w_b\rVert = \eta$ exactly (of the dtype's precision);
      with it, up to $\eta / (1 - \mu)$. With `normalize="update"` always $\eta$.
    - Multiplying the loss by a constant changes nothing. A zero gradient moves nothing. A gradient
      with a NaN or an infinity makes its block NaN (use `keras.callbacks.TerminateOnNaN`, or
      Keras's `LossScaleOptimizer`, which skips such steps).
    - A constant step length never comes to rest: let the learning rate decay, best linearly to 0.
    - Of a large embedding on TensorFlow, only the rows that were looked up are read and moved (or
      become NaN): without momentum, noise, `scale`, `norm_epsilon`, clipping, loss scaling,
      accumulation, units, distribution strategies, and the norms `"std"` and `"min_max"`.

    Arguments of `keras.optimizers.SGD`, in its order, and then by keyword:

    Args:
        learning_rate: The length of a step in the chosen norm: a float, a
            `keras.optimizers.schedules.LearningRateSchedule` or a callable. About 0.01 with
            `norm="max"`, 0.1 with `"l2"`, 0.001 with `"std"` are places to begin. Defaults to 0.01.
        momentum: Float in [0, 1]. Defaults to 0.
        nesterov: Whether to take the step from ahead. Defaults to `False`.
        {{block_norm_arguments}}

    Slots: none; with momentum one tensor per variable (like `keras.optimizers.SGD`); with noise two
    integers.

    Differences from other implementations: optax's `normalize_by_update_norm` uses one norm for the
    whole model (`block="model"` here); Keras's `clipnorm` only shortens; the add-ons for Keras 2
    normalised before the gradients of replicas were summed, and added an epsilon that stops small
    gradients.

    Example:

    >>> weights = keras.Variable([3.0, 4.0])
    >>> optimizer = tf_blocknorm.BlockNormSGD(learning_rate=1.0)
    >>> optimizer.apply([keras.ops.array([30.0, 40.0])], [weights])
    >>> keras.ops.convert_to_numpy(weights)
    array([2.4, 3.2], dtype=float32)

    References:
        - Yu, Huang, Lin, Salakhutdinov, Carbonell (2017), [Block-Normalized Gradient Method: An
          Empirical Study for Training Deep Neural Network](https://arxiv.org/abs/1707.04822): the
          rule.
        - Levy (2016), [The Power of Normalization: Faster Evasion of Saddle
          Points](https://arxiv.org/abs/1611.04831): `block="model"` with `noise`,
          `noise_distribution="normal"` and `noise_every` is its Saddle-NGD.
        - Kolasinski (2018), max-normed-optimizer: the norms `max`, `min_max`, `std`;
          `normalize="update"`; uniform noise.
    """


@form
class BlockNormAdam(BlockNormalized, keras.optimizers.Adam):
    r"""Adam on unit gradients: its averages forget the size of the gradients, block by block.

    With $u_b = g_b / \lVert g_b \rVert$ for each block of variables (of any rank), Adam runs on
    $u$:

    $$m \leftarrow \beta_1 m + (1-\beta_1)\,u, \qquad v \leftarrow \beta_2 v + (1-\beta_2)\,u^2,
    \qquad w \leftarrow w -
    \eta\,\frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\,\frac{m}{\sqrt{v}+\epsilon}$$

    Adam already undoes a constant factor; the difference shows where the size of the gradients
    changes from step to step: a few large gradients no longer fill `v` for the next thousand steps.
    With `normalize="update"`, Adam's averages see the plain gradients and its step is divided by
    its norm.

    Arguments of `keras.optimizers.Adam`, in its order, and then by keyword:

    Args:
        learning_rate: A float, a schedule or a callable; about the change of a weight per step.
            Defaults to 0.001.
        beta_1: Float in [0, 1), decay of the first average. Defaults to 0.9.
        beta_2: Float in [0, 1), decay of the second average. Defaults to 0.999.
        epsilon: Added to the root of the second average, beside unit gradients, whose entries
            are about `1 / sqrt(n)` with `norm="l2"` and 1 with `"rms"`. Defaults to 1e-7.
        amsgrad: Whether to keep the maximum of the second average. Defaults to `False`.
        {{block_norm_arguments}}

    Slots: as `keras.optimizers.Adam`: two tensors per variable, three with `amsgrad`.

    Example: the first step of Adam is the learning rate in every entry.

    >>> weights = keras.Variable([3.0, 4.0])
    >>> optimizer = tf_blocknorm.BlockNormAdam(learning_rate=0.5)
    >>> optimizer.apply([keras.ops.array([3e-30, -4e-30])], [weights])
    >>> keras.ops.convert_to_numpy(weights).round(4)
    array([2.5, 4.5], dtype=float32)

    References:
        - Yu, Huang, Lin, Salakhutdinov, Carbonell (2017), [Block-Normalized Gradient
          Method](https://arxiv.org/abs/1707.04822), which finds it the best form for recurrent
          networks.
        - Kingma, Ba (2014), [Adam](https://arxiv.org/abs/1412.6980).
    """


@form
class BlockNormAdamW(BlockNormalized, keras.optimizers.AdamW):
    """`BlockNormAdam` with decoupled weight decay.

    Before the step of `BlockNormAdam`, every weight is multiplied by `1 - learning_rate *
    weight_decay`. The decay is Keras's and stays outside the normalisation: it never enters a norm.

    Arguments of `keras.optimizers.AdamW`, in its order, and then by keyword:

    Args:
        learning_rate: A float, a schedule or a callable. Defaults to 0.001.
        weight_decay: Float, the decay in units of the learning rate. Defaults to 0.004.
        beta_1: Float in [0, 1), decay of the first average. Defaults to 0.9.
        beta_2: Float in [0, 1), decay of the second average. Defaults to 0.999.
        epsilon: Added to the root of the second average. Defaults to 1e-7.
        amsgrad: Whether to keep the maximum of the second average. Defaults to `False`.
        {{block_norm_arguments}}

    Slots: as `keras.optimizers.AdamW`: two tensors per variable, three with `amsgrad`.

    Example: 4 decays to 4 * (1 - 0.5 * 0.1) = 3.8 and moves by the first step of Adam, 0.5.

    >>> weights = keras.Variable([4.0])
    >>> optimizer = tf_blocknorm.BlockNormAdamW(learning_rate=0.5, weight_decay=0.1)
    >>> optimizer.apply([keras.ops.array([7.0])], [weights])
    >>> keras.ops.convert_to_numpy(weights).round(4)
    array([3.3], dtype=float32)

    References:
        - Yu et al. (2017), [Block-Normalized Gradient Method](https://arxiv.org/abs/1707.04822).
        - Loshchilov, Hutter (2017), [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101).
    """


@form
class BlockNormNadam(BlockNormalized, keras.optimizers.Nadam):
    """Nadam (Adam with Nesterov's look ahead) on unit gradients.

    The gradient of every block is divided by its norm, and `keras.optimizers.Nadam` runs on the
    result.

    Arguments of `keras.optimizers.Nadam`, in its order, and then by keyword:

    Args:
        learning_rate: A float, a schedule or a callable. Defaults to 0.001.
        beta_1: Float in [0, 1), decay of the first average. Defaults to 0.9.
        beta_2: Float in [0, 1), decay of the second average. Defaults to 0.999.
        epsilon: Added to the root of the second average. Defaults to 1e-7.
        {{block_norm_arguments}}

    Slots: as `keras.optimizers.Nadam`: two tensors per variable and one scalar.

    Example: with `normalize="update"`, the step has the length of the learning rate.

    >>> weights = keras.Variable([3.0, 4.0])
    >>> optimizer = tf_blocknorm.BlockNormNadam(1.0, normalize="update", norm="max")
    >>> optimizer.apply([keras.ops.array([5.0, -5.0])], [weights])
    >>> keras.ops.convert_to_numpy(weights).round(4)
    array([2., 5.], dtype=float32)

    References:
        - Yu et al. (2017), [Block-Normalized Gradient Method](https://arxiv.org/abs/1707.04822).
        - Dozat (2016), Incorporating Nesterov Momentum into Adam.
    """


@form
class BlockNormAdagrad(BlockNormalized, keras.optimizers.Adagrad):
    r"""AdaGrad on unit gradients, for which the paper proves convergence on convex problems.

    With $u_b = g_b / \lVert g_b \rVert$ for each block of variables (of any rank):

    $$a \leftarrow a + u^2, \qquad w \leftarrow w - \eta\,u / \sqrt{a + \epsilon}$$

    Arguments of `keras.optimizers.Adagrad`, in its order, and then by keyword:

    Args:
        learning_rate: A float, a schedule or a callable. Defaults to 0.001.
        initial_accumulator_value: Float, where the sum begins. The squares of unit gradients are
            about `1 / n` with `norm="l2"`, so that Keras's default 0.1 outweighs many steps of a
            large kernel: take 0 for the rule of the paper, or `norm="rms"`. Defaults to 0.1.
        epsilon: Added to the sum under the root. Defaults to 1e-7.
        {{block_norm_arguments}}

    Slots: as `keras.optimizers.Adagrad`: one tensor per variable.

    Example: from an empty sum the first step is the learning rate in every entry.

    >>> weights = keras.Variable([3.0, 4.0])
    >>> optimizer = tf_blocknorm.BlockNormAdagrad(0.5, initial_accumulator_value=0.0)
    >>> optimizer.apply([keras.ops.array([0.03, -0.04])], [weights])
    >>> keras.ops.convert_to_numpy(weights).round(4)
    array([2.5, 4.5], dtype=float32)

    References:
        - Yu et al. (2017), [Block-Normalized Gradient Method](https://arxiv.org/abs/1707.04822),
          appendix.
        - Duchi, Hazan, Singer (2011), Adaptive Subgradient Methods for Online Learning and
          Stochastic Optimization.
    """


@form
class BlockNormRMSprop(BlockNormalized, keras.optimizers.RMSprop):
    r"""RMSprop on unit gradients.

    With $u_b = g_b / \lVert g_b \rVert$ for each block of variables (of any rank):

    $$v \leftarrow \rho v + (1-\rho)\,u^2, \qquad w \leftarrow w - \eta\,u / \sqrt{v + \epsilon}$$

    and with a momentum, the steps are summed as by `keras.optimizers.RMSprop`.

    Arguments of `keras.optimizers.RMSprop`, in its order, and then by keyword:

    Args:
        learning_rate: A float, a schedule or a callable. Defaults to 0.001.
        rho: Float in [0, 1), decay of the average of squares. Defaults to 0.9.
        momentum: Float >= 0. Defaults to 0.
        epsilon: Added under the root, where the squares of unit gradients are about `1 / n` with
            `norm="l2"`: for kernels of more than a million weights it counts. Defaults to 1e-7.
        centered: Whether to divide by the standard deviation instead. Defaults to `False`.
        {{block_norm_arguments}}

    Slots: as `keras.optimizers.RMSprop`: one tensor per variable, one more with a momentum, one
    more if `centered`.

    Example: with `rho=0.75` the first step is twice the learning rate in every entry.

    >>> weights = keras.Variable([3.0, 4.0])
    >>> optimizer = tf_blocknorm.BlockNormRMSprop(0.5, rho=0.75)
    >>> optimizer.apply([keras.ops.array([300.0, -400.0])], [weights])
    >>> keras.ops.convert_to_numpy(weights).round(4)
    array([2., 5.], dtype=float32)

    References:
        - Yu et al. (2017), [Block-Normalized Gradient Method](https://arxiv.org/abs/1707.04822).
        - Tieleman, Hinton (2012), Lecture 6.5 of Neural Networks for Machine Learning.
    """


@form
class BlockNormLion(BlockNormalized, keras.optimizers.Lion):
    r"""Lion, the sign of an average, on unit gradients.

    With $u_b = g_b / \lVert g_b \rVert$ for each block of variables (of any rank):

    $$w \leftarrow w - \eta\,\mathrm{sign}(\beta_1 m + (1-\beta_1)\,u), \qquad m \leftarrow \beta_2
    m + (1-\beta_2)\,u$$

    The sign is blind to the size of one gradient; normalising makes the average a vote of
    directions with one voice per step.

    Arguments of `keras.optimizers.Lion`, in its order, and then by keyword:

    Args:
        learning_rate: A float, a schedule or a callable: the change of every weight per step.
            Defaults to 0.001.
        beta_1: Float in (0, 1], weight of the average against the current gradient. Defaults to
            0.9.
        beta_2: Float in [0, 1), decay of the average. Defaults to 0.99.
        {{block_norm_arguments}}

    Slots: as `keras.optimizers.Lion`: one tensor per variable.

    Example:

    >>> weights = keras.Variable([3.0, 4.0])
    >>> optimizer = tf_blocknorm.BlockNormLion(learning_rate=0.5)
    >>> optimizer.apply([keras.ops.array([300.0, -0.04])], [weights])
    >>> keras.ops.convert_to_numpy(weights)
    array([2.5, 4.5], dtype=float32)

    References:
        - Yu et al. (2017), [Block-Normalized Gradient Method](https://arxiv.org/abs/1707.04822).
        - Chen et al. (2023), [Symbolic Discovery of Optimization Algorithms](https://arxiv.org/abs/2302.06675).
    """
