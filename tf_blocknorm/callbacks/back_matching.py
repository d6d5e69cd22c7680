"""A learning rate for every variable from the scalars of back-matching, for SGD."""

import keras
import numpy as np
from keras import ops

from tf_blocknorm.back_matching import Options, curvatures, multipliers
from tf_blocknorm.callbacks.back_matching_tap import Multipliers
from tf_blocknorm.callbacks.base import TapCallback
from tf_blocknorm.optimizers import arguments, taps
from tf_blocknorm.optimizers.base import BlockNormalized

_NEVER_AGAIN = 2**31 - 1


class BackMatching(TapCallback):
    r"""Gives every variable of a network under SGD a learning rate from the layers above it.

    **Experimental, and reconstructed**: of the two papers only abstracts and reviews could be read.
    The structure below follows from them; every scalar is a derivation of this package's authors,
    and the papers' own scalars, normalisation and results may be others.

    Back-matching walks from the output down. Each layer is given the change that its output should
    make; the change of its parameters and that of its input, which is asked of the layer below, are
    two least-squares problems. Backpropagation makes one gradient step on each, as if their
    Hessians $J_\theta^\top J_\theta$ and $J_z^\top J_z$ were the identity. Here they are replaced
    by $m_\theta I$ and $m_z I$, with the average of their eigenvalues: two numbers per layer. The
    wanted change of a tensor $z$ is then $-\eta\,\delta_z / M_z$ with

    $$M_{\text{output}} = 1, \qquad M_x = \sum_{j \text{ that take } x} m_{z,j}\, M_j, \qquad
    \theta \leftarrow \theta - \eta\, r_\theta\, g_\theta, \qquad r_\theta = \frac{s}{m_\theta M}$$

    where $M$ is that of the output of the layer of $\theta$, $s$ makes the geometric mean of all
    $r$ 1 (a weight counts once; so that the learning rate means what it means without), and $r$ is
    kept within bounds. $M$ is an isotropic Gauss-Newton curvature of the loss. The scalars of each
    type of layer are in `docs/back_matching.md`.

    - Invariance (without `s` and bounds): multiply the kernels of a linear or ReLU network without
      biases by $c_l$ with product 1, so that it computes what it did. Then the $r_l$ change by
      $c_l^2$, and training makes the same outputs. Plain SGD does not.
    - On layers that are orthogonal and see white inputs all $r$ are 1: it is SGD. So it nearly is
      where initialisation and normalisation keep the layers alike: then it differs from SGD by a
      constant of the learning rate, if at all.
    - The gradient is multiplied before it enters the momentum. Decoupled weight decay is not.
    - A curvature of 0 has a gradient of 0: multiplier 1. Numbers that are not finite make all
      multipliers NaN, and so the weights (`keras.callbacks.TerminateOnNaN`).

    Works with functional and sequential models, models within them, shared layers and several
    inputs and outputs.

    Args:
        inputs: A batch of training inputs, in any form that `fit` takes `x` in: mean squares of
            what kernels see, slopes of activations and variances are measured on it. A few hundred
            samples; the same at every refresh, so that a run can be repeated and resumed. Dropout
            and its like are left out; batch normalisation uses the batch's moments. `None`: nothing
            is measured; what kernels see counts as having mean square 1 and activations as applied
            to standard normal numbers, and batch normalisation as dividing by its moving variance.
            Defaults to `None`.
        update_freq: The multipliers are computed anew when so many updates have passed (integer
            >= 1); at the beginning of each epoch (`"epoch"`); or only before the first update
            (`None`). Defaults to 100: weights change slowly, and a refresh takes a forward pass
            outside the compiled step.
        rank: What the eigenvalues are averaged over. `"in"`: all, as many as there are inputs,
            which makes $M$ the mean diagonal of the Gauss-Newton matrix. `"min"`: those that need
            not be 0, as the pseudo-inverse of least squares has it. They differ where a layer has
            fewer outputs than inputs. Defaults to `"in"`.
        relu: What a ReLU counts as: `"active"`, the fraction of its outputs that are not 0, or
            `"unit"`, 1. Other activations count with the mean of their squared slope. Defaults to
            `"active"`.
        normalize: `"mean"` for s as above, or `None` for 1: then the learning rate is that of a
            Newton step which all variables make at once, and has to be well below 1 divided by
            their number. Defaults to `"mean"`.
        bounds: Pair of the lowest and the highest multiplier, or `None`. Defaults to
            `(0.001, 1000)`.
        unknown: What becomes of a layer without a rule: `"raise"` an error, or `"identity"`: the
            layer counts as the identity, and its variables have multiplier 1. Defaults to
            `"raise"`.

    State, saved and resumed with the optimizer: one number per variable, and one more.

    `multipliers`: what the learning rates are multiplied by now, as a dict by path.
    `describe(model)` prints what they would be, also without training.

    Raises:
        ValueError: for an argument outside its range; when training begins, for another optimizer
            than `keras.optimizers.SGD`, for a model that is neither functional nor sequential, and
            for a layer without a rule.

    Differences from the papers: unknown, see above. Known differences from the exact least squares:
    one number stands for a whole spectrum, so that directions of high curvature limit the learning
    rate as they do for SGD; nothing links the branches of a network.

    Example: two layers in a row, y = 3 · (2 x), at x = 1: the loss curves 9 times as strongly in
    the first weight, so that the second has a rate 9 times as high.

    >>> first, second = (keras.layers.Dense(1, use_bias=False, name=n) for n in ("first", "second"))
    >>> model = keras.Sequential([keras.Input((1,)), first, second])
    >>> model.set_weights([np.array([[2.0]]), np.array([[3.0]])])
    >>> tf_blocknorm.BackMatching(normalize=None).describe(model)
    variable       weights  curvature  multiplier
    first/kernel         1          9      0.1111
    second/kernel        1          1           1
    >>> tf_blocknorm.BackMatching(np.array([[1.0]]), normalize=None).describe(model)
    variable       weights  curvature  multiplier
    first/kernel         1          9      0.1111
    second/kernel        1          4        0.25

    References:
        - Zhang, Chen, Liu (2018), [Train Feedforward Neural Network with Layer-wise Adaptive Rate
          via Approximating Back-matching Propagation](https://arxiv.org/abs/1802.09750): abstract.
        - Zhang, Chen, Liu (2018), On the Local Hessian in Back-propagation, NeurIPS: [abstract](
          https://papers.neurips.cc/paper/2018/hash/b6d67a24906e8a8541291882f81d31ca-Abstract.html)
          and reviews.
    """

    def __init__(
        self,
        inputs=None,
        update_freq=100,
        rank="in",
        relu="active",
        normalize="mean",
        bounds=(1e-3, 1e3),
        unknown="raise",
    ):
        super().__init__()
        if update_freq not in ("epoch", None):
            requirement = 'an integer >= 1, "epoch" or None'
            arguments.number(
                "update_freq", update_freq, requirement, lambda x: x >= 1 and x == int(x)
            )
        self.inputs, self.update_freq = inputs, update_freq
        self.options = Options(
            rank=arguments.choice("rank", rank, ("in", "min")),
            relu=arguments.choice("relu", relu, ("active", "unit")),
            unknown=arguments.choice("unknown", unknown, ("raise", "identity")),
            normalize=arguments.choice("normalize", normalize, ("mean", None)),
            bounds=arguments.bounds("bounds", bounds),
        )
        self.tap = Multipliers()

    @property
    def multipliers(self):
        """The multipliers as they are now: a dict from the variables' paths to floats."""
        values = ops.convert_to_numpy(self.tap.state["multipliers"]).tolist()
        return {v.path: value for v, value in zip(self.tap.made_for, values)}

    def describe(self, model):
        """Print curvature and multiplier of every variable, as the model's weights are now.

        Args:
            model: functional or sequential, compiled or not.
        """
        found = curvatures(model, self.inputs, self.options)
        rows = [("variable", "weights", "curvature", "multiplier")]
        for (variable, c), r in zip(found, multipliers(found, self.options)):
            path = variable.path.removeprefix(f"{model.name}/")
            rows.append((path, str(int(np.prod(variable.shape))), f"{c:.4g}", f"{r:.4g}"))
        width = max(len(row[0]) for row in rows)
        for path, *numbers in rows:
            print(path.ljust(width), "".join(n.rjust(w) for n, w in zip(numbers, (8, 11, 12))))

    def set_model(self, model):
        optimizer = taps.innermost(model.optimizer)
        if not isinstance(optimizer, keras.optimizers.SGD) or isinstance(
            optimizer, BlockNormalized
        ):
            raise ValueError(
                "`BackMatching` finds the rates of gradient descent: other rules have steps that "
                "do not grow with the gradient. Use `keras.optimizers.SGD`. "
                f"Received: optimizer={optimizer!r}"
            )
        self._compute(model)  # An error leaves the optimizer as it was.
        super().set_model(model)
        self._per_call = model.steps_per_execution

    def on_epoch_begin(self, epoch, logs=None):
        # What a callback further down has restored is there by now.
        self._left = 0
        if self.update_freq == "epoch":
            self._refresh(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        # No more than that were made: JAX waits for the last batch where a variable is read.
        if self._left <= 0 and self.update_freq != "epoch":
            model = self.model
            done = int(ops.convert_to_numpy(taps.innermost(model.optimizer).iterations))
            due = self.tap.state["due"]
            if done >= int(ops.convert_to_numpy(due)):
                self._refresh(model)
                due.assign(done + self.update_freq if self.update_freq else _NEVER_AGAIN)
            self._left = int(ops.convert_to_numpy(due)) - done
        self._left -= self._per_call

    def _refresh(self, model):
        found = self._compute(model)
        values = [found.get(id(variable), 1.0) for variable in self.tap.made_for]
        variable = self.tap.state["multipliers"]
        variable.assign(np.array(values, keras.backend.standardize_dtype(variable.dtype)))

    def _compute(self, model):
        found = curvatures(model, self.inputs, self.options)
        return {id(v): r for (v, _), r in zip(found, multipliers(found, self.options))}
