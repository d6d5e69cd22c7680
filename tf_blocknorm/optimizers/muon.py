"""The block-normalised form of Muon, which takes one step for matrices and another for the rest."""

import itertools
import types

import keras
from keras import ops

from tf_blocknorm import blocks
from tf_blocknorm.optimizers.base import BlockNormalized
from tf_blocknorm.optimizers.forms import form


def _of_matrix(function, x):
    """A function of a matrix, of a tensor with a column for each index of its last axis."""
    if len(x.shape) == 2:
        return function(x)
    return ops.reshape(function(ops.reshape(x, (-1, x.shape[-1]))), x.shape)


class FlattensKernels(BlockNormalized):
    """Mixin that lets Keras's Muon take convolution kernels for matrices.

    Arguments beside those of `BlockNormalized`:

    Args:
        flatten_layers: List of regular expressions on `variable.path`, for convolutions: variables
            of rank 3 and more that match take Muon's step as matrices with all axes but the last in
            one, a column for each filter. Each must match such a variable. `exclude_layers` goes
            before. Defaults to `None`: they take Adam's step, as in Keras.
    """

    def __init__(self, *args, flatten_layers=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.flatten_layers = blocks.validate_patterns(flatten_layers, "flatten_layers")
        if blocks.VECTORS in self.flatten_layers:
            raise ValueError(
                "`flatten_layers` must hold regular expressions, not 'vectors', which are no "
                f"matrices. Received: flatten_layers={flatten_layers!r}"
            )

    def build(self, variables):
        if self.built:
            return
        indices = [i for i, v in enumerate(variables) if len(v.shape) > 2]
        kernels = [variables[i] for i in indices]
        flat = blocks.matches(kernels, self.flatten_layers, "flatten_layers")
        self._flat = frozenset(itertools.compress(indices, flat))
        super().build(variables)

    def _should_use_adamw(self, variable):
        index = self._get_variable_index(variable)
        if index in self._flat:  # Keras is asked about the matrix
            path = self._partition.paths[index]
            variable = types.SimpleNamespace(shape=(None, None), path=path)
        return super()._should_use_adamw(variable)

    def zeropower_via_newtonschulz5(self, x, steps):
        iterate = super().zeropower_via_newtonschulz5
        return _of_matrix(lambda matrix: iterate(matrix, steps), x)

    def lr_adjust(self, x):
        return _of_matrix(super().lr_adjust, x)

    def get_config(self):
        return {**super().get_config(), "flatten_layers": list(self.flatten_layers)}


@form
class BlockNormMuon(FlattensKernels, keras.optimizers.Muon):
    r"""Muon, momentum made orthogonal, on unit gradients: the momentum is a vote of directions.

    With $u_b = g_b / \lVert g_b \rVert$ for each block of variables, a matrix $w$ of shape $(r, c)$
    takes the step

    $$m \leftarrow \mu m + u, \qquad w \leftarrow w - 0.2\,\eta \sqrt{\max(r, c)}\;
    \mathrm{orth}(u + \mu m)$$

    where $\mathrm{orth}$ brings all singular values near 1: it divides a matrix by its Frobenius
    norm, and repeats $X \leftarrow a X + b\,(X X^\top) X + c\,(X X^\top)^2 X$ five times.
    Variables of any other rank, embeddings, and what `exclude_layers` names take the step of
    `BlockNormAdam`, at the learning rate times `adam_lr_ratio`. So do convolution kernels, unless
    `flatten_layers` names them, which is worth it: Keras's `cifar10_cnn` then comes further in 20
    epochs than with AdamW in 45.

    Muon forgets how large its momentum is, but not how much every gradient adds to it: a few large
    ones decide on the direction of the next $1 / (1 - \mu)$ steps. Here each has one voice.

    Arguments of `keras.optimizers.Muon`, in its order, and then by keyword:

    Args:
        learning_rate: A float, a schedule or a callable. The weights of a matrix change by about a
            fifth of it per step (root mean square), with `rms_rate=0.2`. Defaults to 0.001.
        adam_beta_1: Float in [0, 1), decay of Adam's first average. Defaults to 0.9.
        adam_beta_2: Float in [0, 1), decay of Adam's second average. Defaults to 0.999.
        adam_weight_decay: Float or `None`, the decay of what takes Adam's step, in units of the
            learning rate. Defaults to 0.004.
        epsilon: Added to the root of Adam's second average. Defaults to 1e-7.
        weight_decay: Float or `None`, the decay of what takes Muon's step, in units of the learning
            rate. Defaults to 0.004.
        exclude_layers: List of regular expressions on `variable.path`; what matches takes Adam's
            step. The output layer is usually one of them. (`exclude` is another matter: what
            matches that is not normalised.) Defaults to `None`.
        exclude_embeddings: Whether embeddings take Adam's step. Defaults to `True`.
        muon_a: Float, $a$ of the iteration. Defaults to 3.4445.
        muon_b: Float, $b$ of the iteration. Defaults to -4.775.
        muon_c: Float, $c$ of the iteration. Defaults to 2.0315.
        adam_lr_ratio: Float, Adam's learning rate in units of Muon's. Defaults to 1.
        momentum: Float in [0, 1], $\mu$. Defaults to 0.95.
        ns_steps: Integer, how often the iteration is repeated. Defaults to 5.
        nesterov: Whether to take the step from ahead, $u + \mu m$ in place of $m$. Defaults to
            `True`.
        rms_rate: Float or `None`: the factor 0.2, with which entries of a step are about as large
            as Adam's; with `None`, it and the root are left out. Defaults to 0.2.
        {{block_norm_arguments}}

    Slots: as `keras.optimizers.Muon`: one tensor per variable that takes Muon's step, two per
    other.

    Example: a matrix of rank 1, whose singular value of 1 five iterations bring to 0.6964.

    >>> weights = keras.Variable([[1.0, 2.0], [3.0, 4.0]])
    >>> optimizer = tf_blocknorm.BlockNormMuon(1.0, rms_rate=None, weight_decay=None)
    >>> optimizer.apply([keras.ops.array([[0.0, 3e-30], [0.0, 0.0]])], [weights])
    >>> keras.ops.convert_to_numpy(weights).round(4)
    array([[1.    , 1.3036],
           [3.    , 4.    ]], dtype=float32)

    References:
        - Yu et al. (2017), [Block-Normalized Gradient Method](https://arxiv.org/abs/1707.04822).
        - Jordan et al. (2024), [Muon: An optimizer for hidden layers in neural
          networks](https://kellerjordan.github.io/posts/muon/): the iteration.
        - Liu et al. (2025), [Muon is Scalable for LLM Training](https://arxiv.org/abs/2502.16982):
          the factor $0.2 \sqrt{\max(r, c)}$.
    """
