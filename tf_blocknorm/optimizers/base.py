"""The common part of all block-normalised optimizers.

`BlockNormalized` is mixed in before a Keras optimizer. The wrapped rule stays what it is: Keras's
own code, slots, arguments and order of state. What it sees as the gradient, or what becomes of its
step, changes.
"""

import re

import keras
from keras import ops

from tf_blocknorm import blocks, norms, saving
from tf_blocknorm.optimizers import arguments
from tf_blocknorm.optimizers.hooks import Hooks, Visit
from tf_blocknorm.optimizers.partition import Partition
from tf_blocknorm.optimizers.recorder import RecordsDirection


class BlockNormalized(RecordsDirection, Hooks):
    """Mixin that block-normalises the Keras optimizer behind it in the order of inheritance.

    Arguments that every block-normalised optimizer adds to those of its Keras parent, all by
    keyword:

    Args:
        norm: The size that each block is divided by: `"l1"`, `"l2"`, `"rms"` (alias `"avg_l2"`),
            `"avg_l1"`, `"max"`, `"min_max"`, `"std"`, or a function registered with
            `keras.saving.register_keras_serializable` that maps a tensor to a scalar. With `"max"`,
            `"rms"`, `"avg_l1"` and `"std"` a step changes weights by about the learning rate,
            however large the layer; with `"l2"` and `"l1"` the whole block moves by the learning
            rate. Defaults to `"l2"`, the norm of the paper.
        block: What is measured together: `"variable"`, `"layer"`, `"unit"`, `"model"`, a list of
            `(regex on variable.path, block name)` pairs, or a registered function from a variable
            to a block name. Defaults to `"variable"`.
        exclude: List of regular expressions on `variable.path`; the variables that match get the
            plain step of the Keras optimizer. Each must match a variable. Defaults to `None`.
        norm_epsilon: Float >= 0 added to the norm, as some papers do. It shortens the steps of
            gradients of its own size and below. Defaults to 0: every step has full length.
        scale: `None`: blocks get norm 1. `"parameter"`: they get the norm of the block's weights,
            so that the learning rate is a relative change. Defaults to `None`.
        scale_floor: Float > 0. With `scale="parameter"`, a block's weights count as at least as
            large as if every one had this magnitude, so that zero-initialised blocks can leave
            zero. Defaults to 1e-3.
        normalize: `"gradient"`: the rule, with its averages, sees unit gradients, as in the paper.
            `"update"`: the rule sees the plain gradients and its step is normalised: the update
            is the learning rate times a unit vector. Defaults to `"gradient"`.
        noise: Float >= 0. Adds `learning_rate * noise * xi` to the variables, `xi` being drawn anew
            for every weight; relative to the weights' norm where `scale="parameter"`. Excluded
            variables stay free of it. Defaults to 0.
        noise_distribution: `"uniform"` on [-1, 1] or `"normal"` with standard deviation 1. Defaults
            to `"uniform"`.
        noise_every: Integer >= 1. Adds the noise at every so many steps only. Defaults to 1.
        seed: Integer seed of the noise. The generator's state belongs to the optimizer's
            variables. Defaults to `None`: a random seed.
        exclude_from_weight_decay: List of regular expressions on `variable.path` for variables
            without weight decay; each must match a variable. Unlike Keras's method of the same
            name, which still works and adds to this list, it is saved with the model. Defaults to
            `None`.
        jit_compile: `True` compiles the whole update with XLA on TensorFlow, also in a model that
            is not compiled. It has no effect on JAX, where `fit` compiles the step anyway, and on
            torch. `False` and `None` leave it to how the model is compiled. Defaults to `None`.

    Raises:
        ValueError: for an argument outside its range, when constructed; for a pattern that matches
            no variable, when built.
    """

    fixed = ()  # The arguments above that a subclass decides itself.

    def __init__(
        self,
        *args,
        norm="l2",
        block="variable",
        exclude=None,
        norm_epsilon=0.0,
        scale=None,
        scale_floor=1e-3,
        normalize="gradient",
        noise=0.0,
        noise_distribution="uniform",
        noise_every=1,
        seed=None,
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
        self.norm_epsilon = arguments.number("norm_epsilon", norm_epsilon, "a number >= 0")
        self.scale = arguments.choice("scale", scale, (None, "parameter"))
        self.scale_floor = arguments.number(
            "scale_floor", scale_floor, "a number > 0", lambda x: x > 0
        )
        self.normalize = arguments.choice("normalize", normalize, ("gradient", "update"))
        self.noise = arguments.number("noise", noise, "a number >= 0")
        self.noise_distribution = arguments.choice(
            "noise_distribution", noise_distribution, ("uniform", "normal")
        )
        self.noise_every = arguments.number(
            "noise_every", noise_every, "an integer >= 1", lambda x: x >= 1 and x == int(x)
        )
        if seed is not None and not isinstance(seed, int):
            raise ValueError(f"`seed` must be an integer or None. Received: seed={seed!r}")
        self.seed = seed
        self.jit_compile = arguments.choice("jit_compile", jit_compile, (None, True, False))
        self._no_decay = blocks.validate_patterns(
            exclude_from_weight_decay, "exclude_from_weight_decay"
        )
        if self.noise:
            self.seed_generator = keras.random.SeedGenerator(seed)
            self._track_variable(self.seed_generator.state)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.__signature__ = arguments.signature(cls, BlockNormalized, cls.fixed)

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

    def on_gradients(self, gradients, variables):
        if self.normalize == "update":
            return gradients
        return self._unit(gradients, variables)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        if self._partition.names[index] is None:
            super().update_step(gradient, variable, learning_rate)
            return
        direction = None
        if self.normalize == "update":
            direction = self.direction(gradient, variable)
        else:
            super().update_step(gradient, variable, learning_rate)
        if direction is not None or self.noise:
            self._scratch.visits.append(Visit(index, variable, direction, gradient))

    def on_updates(self, visits, learning_rate):
        if not visits:
            return
        replicas = len(visits) // len({visit.index for visit in visits})
        # Drawn once, as every replica has to make the same step.
        noises = (
            [self._noise(visit.variable) for visit in visits[::replicas]] if self.noise else None
        )
        for replica in range(replicas):
            self._finish(visits[replica::replicas], noises, learning_rate)

    def _finish(self, visits, noises, learning_rate):
        variables = [visit.variable for visit in visits]
        directions = [visit.direction for visit in visits]
        if self.normalize == "update":
            directions = self._unit(directions, variables)
        if self.noise:
            noises = self._at_scale(noises, variables)
            directions = [n if d is None else ops.add(d, n) for d, n in zip(directions, noises)]
        for variable, direction in zip(variables, directions):
            step = ops.multiply(ops.cast(learning_rate, direction.dtype), direction)
            self.assign_sub(variable, ops.cast(step, variable.dtype))

    def _groups(self, variables):
        """The blocks among these variables: lists of positions in the list."""
        indices = [self._get_variable_index(v) for v in variables]
        return list(self._partition.members(indices).values())

    def _lengths(self, variables, groups):
        """The norms that the blocks are to have; None for 1."""
        if self.scale is None:
            return None
        weights = self._partition.make(variables, groups)
        floors = [self.scale_floor * norms.of_ones(self.norm, block) for block in weights]
        return [ops.maximum(n, f) for n, f in zip(norms.sizes(weights, self.norm), floors)]

    def _unit(self, tensors, variables):
        """The tensors with every block at its length; what is in no block as it came."""
        tensors = list(tensors)
        groups = self._groups(variables)
        if groups:
            blocks_ = self._partition.make(tensors, groups)
            lengths = self._lengths(variables, groups)
            units = norms.normalize(blocks_, self.norm, self.norm_epsilon, lengths)
            for group, unit in zip(groups, units):
                for position, tensor in zip(group, unit):
                    tensors[position] = tensor
        return tensors

    def _noise(self, variable):
        noise = self.draw(self.noise_distribution, tuple(variable.shape))
        due = ops.equal(ops.mod(self.iterations + 1, self.noise_every), 0)
        return ops.multiply(noise, self.noise * ops.cast(due, noise.dtype))

    def _at_scale(self, noises, variables):
        """The noise relative to the same lengths as the step."""
        groups = self._groups(variables)
        lengths = self._lengths(variables, groups)
        if lengths is None:
            return noises
        scaled = list(noises)
        for group, length in zip(groups, lengths):
            for position in group:
                scaled[position] = ops.multiply(noises[position], length)
        return scaled

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
                "norm_epsilon": self.norm_epsilon,
                "scale": self.scale,
                "scale_floor": self.scale_floor,
                "normalize": self.normalize,
                "noise": self.noise,
                "noise_distribution": self.noise_distribution,
                "noise_every": self.noise_every,
                "seed": self.seed,
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
