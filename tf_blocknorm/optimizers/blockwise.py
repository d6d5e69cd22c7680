"""The common part of all optimizers of this package: blocks, exclusions, the compiled update."""

import re

import keras
import numpy as np
from keras import ops

from tf_blocknorm import blocks, norms, saving
from tf_blocknorm.light import cast
from tf_blocknorm.optimizers import arguments, rows
from tf_blocknorm.optimizers.factors import Factors
from tf_blocknorm.optimizers.fused import Fused
from tf_blocknorm.optimizers.partition import Partition
from tf_blocknorm.optimizers.rows import times


class Blockwise(Fused):
    """Mixin that divides the variables of the Keras optimizer behind it into blocks.

    Arguments that every optimizer of the package adds to those of its Keras parent, all by keyword:

    Args:
        norm: How the size of a block is measured: `"l1"`, `"l2"`, `"rms"` (alias `"avg_l2"`),
            `"avg_l1"`, `"max"`, `"min_max"`, `"std"`, or a function registered with
            `keras.saving.register_keras_serializable` that maps a tensor to a scalar. Defaults to
            `"l2"`.
        block: What is measured together: `"variable"`, `"layer"`, `"unit"`, `"model"`, a list of
            `(regex on variable.path, block name)` pairs, or a registered function from a variable
            to a block name. Defaults to `"variable"`.
        exclude: List of regular expressions on `variable.path`; the variables that match belong to
            no block and get the plain step of the rule. Each must match a variable. `"vectors"`,
            alone or in the list, stands for all variables of rank 0 and 1: biases, and the scales
            and offsets of normalisation layers. Defaults to `None`.
        exclude_from_weight_decay: List of regular expressions on `variable.path` for variables
            without weight decay; each must match a variable; `"vectors"` as above. Unlike Keras's
            method of the same name, which still works and adds to this list, it is saved with the
            model. Defaults to `None`.
        jit_compile: `True` compiles the whole update with XLA on TensorFlow, also in a model that
            is not compiled. It has no effect on JAX, where `fit` compiles the step anyway, and on
            torch. `False` and `None` leave it to how the model is compiled. Defaults to `None`.

    Raises:
        ValueError: for an argument outside its range, when constructed; for a pattern that matches
            no variable, when built.
    """

    fixed = ()  # The arguments of mixins that a subclass decides itself.

    def __init__(
        self,
        *args,
        norm="l2",
        block="variable",
        exclude=None,
        exclude_from_weight_decay=None,
        jit_compile=None,
        **kwargs,
    ):
        args, kwargs = arguments.float_learning_rate(args, kwargs)
        super().__init__(*args, **kwargs)
        norms.get(norm)  # raises for an unknown one
        self.norm = norm
        self.block = blocks.validate(block)
        self.exclude = blocks.validate_patterns(exclude, "exclude")
        self.jit_compile = arguments.choice("jit_compile", jit_compile, (None, True, False))
        self._no_decay = blocks.validate_patterns(
            exclude_from_weight_decay, "exclude_from_weight_decay"
        )

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if issubclass(cls, keras.optimizers.Optimizer):
            cls.__signature__ = arguments.signature(cls, Blockwise, cls.fixed)

    def build(self, variables):
        if self.built:
            return
        # Before Keras's build, so that a pattern without a match leaves the optimizer unbuilt.
        excluded = blocks.matches(variables, self.exclude, "exclude")
        no_decay = blocks.matches(variables, self._no_decay, "exclude_from_weight_decay")
        self._partition = Partition(variables, self.block, excluded)
        super().build(variables)
        self._decays = tuple(not n for n in no_decay)

    @property
    def blocks(self):
        """The blocks of a built optimizer: their names, with the paths of their variables."""
        paths = self._partition.paths
        return {name: [paths[i] for i in g] for name, g in self._partition.members().items()}

    def _members(self, variables):
        """The blocks among these variables: from their names to lists of positions in the list."""
        return self._partition.members(self._indices(variables))

    def _sizes(self, variables, groups):
        """The norms of the weights of the blocks: a vector."""
        return norms.sizes(self._partition.make(variables, groups), self.norm)

    def _unmultiplied(self, tensors, groups, lengths, epsilon=0.0, anew=None):
        """Tensors, and the `Factors` that bring every block to its length.

        `lengths`: see `norms.unmultiplied`. `anew`: as there, for tensors in place of blocks. What
        is in no block comes as it is.
        """
        if not groups:
            return tensors, Factors(len(tensors))
        tensors = list(tensors)
        made = self._partition.make(tensors, groups)
        again = anew and (lambda late: self._partition.make(anew(late), groups))
        made, inverses = norms.unmultiplied(made, self.norm, epsilon, lengths, again)
        for group, block in zip(groups, made):
            for position, tensor in zip(group, block.tensors):
                if tensor is not tensors[position]:
                    tensors[position] = rows.with_values(tensors[position], tensor)
        return tensors, Factors(len(tensors), groups, made, inverses)

    def _spread(self, vector, tensors, groups):
        """A vector of what blocks have, as a list with one entry per tensor, as of `Factors`."""
        groups = list(groups)
        return Factors(len(tensors), groups, self._partition.make(tensors, groups), vector).each

    def _add_numbers(self, name, value=0.0):
        """A slot with one number per block, in the dtype that blocks are measured in."""
        dtypes = {keras.backend.standardize_dtype(v.dtype) for v in self._trainable_variables}
        return self.add_variable(
            (len(self._partition.labels),),
            keras.initializers.Constant(value),
            "float64" if "float64" in dtypes else "float32",
            name=name,
        )

    def _per_variable(self, numbers, otherwise):
        """A vector with one number per variable; of several units, their mean."""
        share = np.zeros((len(self._partition.names), len(self._partition.labels)))
        for row, name in zip(share, self._partition.names):
            if name is not None:
                (place,) = self._partition.places([name])
                row[place] = 1.0
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1.0)
        outside = np.array([name is None for name in self._partition.names])
        numbers = ops.convert_to_tensor(numbers)
        share = ops.convert_to_tensor(share, numbers.dtype)
        return ops.add(ops.matmul(share, numbers), ops.cast(outside * otherwise, numbers.dtype))

    def _plus_decay(self, direction, variable, factor=1.0, weights=None):
        """A direction plus the weights times their decay, and a factor: for `decay_is_inside`.

        The weights are those of the variable unless they are given.
        """
        decay = self._decay(variable)
        if decay is None:
            return direction
        weights = rows.values(variable) if weights is None else weights
        factor = decay * factor
        if not isinstance(factor, float):
            factor = ops.cast(factor, direction.dtype)
        return direction + times(cast(weights, direction.dtype), factor)

    def _decay(self, variable):
        """The weight decay of a variable; None for none."""
        has_one = self.weight_decay and self._use_weight_decay(variable)
        return self.weight_decay if has_one else None

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Excludes variables from weight decay, before the optimizer is built.

        Adds to the argument of the same name, and is saved with the model as that is.

        Args:
            var_list: list of variables.
            var_names: list of regular expressions on `variable.path`.
        """
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay()` must be called before the optimizer is built."
            )
        exactly = [f"^{re.escape(blocks.path(v))}$" for v in var_list or ()]
        self._no_decay = blocks.validate_patterns(
            [*self._no_decay, *exactly, *(var_names or ())], "exclude_from_weight_decay"
        )

    def _use_weight_decay(self, variable):
        return self._decays[self._get_variable_index(variable)]

    def load_own_variables(self, store):
        saved, own = len(store.keys()), len(self.variables)
        if self.built and saved != own:
            raise ValueError(
                f"The saved state of {self.name!r} must have as many variables as the optimizer. "
                f"Received: {saved} saved variables for {own}. A momentum, an average of the "
                "weights, noise, or a schedule in place of a float rate changes their number."
            )
        super().load_own_variables(store)

    def get_config(self):
        config = super().get_config()
        is_list = isinstance(self.block, tuple)
        config.update(
            {
                "norm": saving.serialize(self.norm),
                "block": [list(p) for p in self.block] if is_list else saving.serialize(self.block),
                "exclude": list(self.exclude),
                "exclude_from_weight_decay": list(self._no_decay),
                "jit_compile": self.jit_compile,
            }
        )
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("norm", "block"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects)
        return super().from_config(config, custom_objects)
