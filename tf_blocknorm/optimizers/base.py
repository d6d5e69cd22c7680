"""The common part of all block-normalised optimizers.

`BlockNormalized` is mixed in before a Keras optimizer. The wrapped rule stays what it is: Keras's
own code, slots, arguments and order of state. What it sees as the gradient, or what becomes of its
step, changes.
"""

import functools

import keras
import numpy as np
from keras import ops

from tf_blocknorm import norms
from tf_blocknorm.optimizers import arguments, rows
from tf_blocknorm.optimizers.blockwise import Blockwise
from tf_blocknorm.optimizers.factors import Factors
from tf_blocknorm.optimizers.hooks import Visit, split_replicas
from tf_blocknorm.optimizers.kernels.rules import KERAS_RULES
from tf_blocknorm.optimizers.recorder import RecordsDirection
from tf_blocknorm.optimizers.rows import times


class BlockNormalized(RecordsDirection, Blockwise):
    """Mixin that block-normalises the Keras optimizer behind it in the order of inheritance.

    Arguments beside those of `Blockwise`:

    Args:
        norm: The size that each block is divided by: `"l1"`, `"l2"`, `"rms"` (alias `"avg_l2"`),
            `"avg_l1"`, `"max"`, `"min_max"`, `"std"`, or a function registered with
            `keras.saving.register_keras_serializable` that maps a tensor to a scalar. With `"max"`,
            `"rms"`, `"avg_l1"` and `"std"` a step changes weights by about the learning rate,
            however large the layer; with `"l2"` and `"l1"` the whole block moves by the learning
            rate. Defaults to `"l2"`, the norm of the paper.
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
    """

    def __init__(
        self,
        *args,
        norm_epsilon=0.0,
        scale=None,
        scale_floor=1e-3,
        normalize="gradient",
        noise=0.0,
        noise_distribution="uniform",
        noise_every=1,
        seed=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
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
        if self.noise:
            self.seed_generator = keras.random.SeedGenerator(seed)
            self._track_variable(self.seed_generator.state)

    def on_gradients(self, gradients, variables):
        if self.normalize == "update":
            return gradients
        return self._leave_factors(*self._unit(gradients, variables), variables)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        inside, direction = self._partition.names[index] is not None, None
        if inside and self.normalize == "update":
            direction = self.direction(gradient, variable)
        else:
            self._wrapped_step(index, gradient, variable, learning_rate)
        if inside and (direction is not None or self.noise):
            self._scratch.visits.append(Visit(index, variable, direction, gradient))

    def takes_rows(self):
        return (
            super().update_step.__func__ is keras.optimizers.SGD.update_step
            and not (self.momentum or self.noise or self.scale or self.norm_epsilon)
            and self.normalize == "gradient"
            and self.norm in norms.WITHOUT_ZEROS
            and self.block != "unit"
        )

    def fused_rule(self):
        if self.normalize == "update" or self.noise:  # There is more to do for each variable.
            return None
        return self._fused_keras_rule(super().update_step)

    def _fused_keras_rule(self, update_step):
        rule = KERAS_RULES.get(update_step.__func__)
        return rule and functools.partial(rule, self)

    def _wrapped_step(self, index, gradient, variable, learning_rate):
        if rows.is_sparse(gradient):
            step = times(times(gradient, learning_rate), self.factor(index))
            self.assign_sub(variable, step)
            return
        if self._fit([index], [gradient], learning_rate):
            rule = self._fused_keras_rule(super().update_step)
            if rule:
                rule([index], [gradient], [variable], learning_rate)
                return
        super().update_step(times(gradient, self.factor(index)), variable, learning_rate)

    def on_updates(self, visits, learning_rate):
        noises = None
        for replica in split_replicas(visits):
            if self.noise and noises is None:  # Once, as every replica has to make the same step.
                noises = [self._noise(visit.variable) for visit in replica]
            self._finish(replica, noises, learning_rate)

    def _finish(self, visits, noises, learning_rate):
        variables = [visit.variable for visit in visits]
        directions, factors = [visit.direction for visit in visits], Factors(len(visits))
        if self.normalize == "update":
            directions, factors = self._unit(directions, variables)
        if self.noise:
            noises = self._at_scale(noises, variables)
            triples = zip(directions, factors.each, noises)
            directions = [n if d is None else ops.add(times(d, f), n) for d, f, n in triples]
            factors = Factors(len(visits))
        self._move_all(variables, directions, learning_rate, factors)

    def _lengths(self, variables, groups):
        """The norms that the blocks are to have, a vector; None for 1."""
        if self.scale is None:
            return None
        weights = self._partition.make(variables, groups)
        ones = [np.full(block.shape, norms.of_ones(self.norm, block)).ravel() for block in weights]
        sizes = norms.sizes(weights, self.norm)
        floors = ops.convert_to_tensor(self.scale_floor * np.concatenate(ones), sizes.dtype)
        return ops.maximum(sizes, floors)

    def _unit(self, tensors, variables):
        """Tensors, and the `Factors` that bring every block to its length."""
        groups = list(self._members(variables).values())
        lengths = self._lengths(variables, groups) if groups else None
        return self._unmultiplied(tensors, groups, lengths, self.norm_epsilon)

    def _noise(self, variable):
        noise = self.draw(self.noise_distribution, tuple(variable.shape))
        due = ops.equal(ops.mod(self.iterations + 1, self.noise_every), 0)
        return ops.multiply(noise, self.noise * ops.cast(due, noise.dtype))

    def _at_scale(self, noises, variables):
        """The noise relative to the same lengths as the step."""
        groups = list(self._members(variables).values())
        lengths = self._lengths(variables, groups)
        if lengths is None:
            return noises
        return [times(*pair) for pair in zip(noises, self._spread(lengths, noises, groups))]

    def get_config(self):
        config = super().get_config()
        names = (
            "norm_epsilon",
            "scale",
            "scale_floor",
            "normalize",
            "noise",
            "noise_distribution",
            "noise_every",
            "seed",
        )
        return {**config, **{name: getattr(self, name) for name in names}}
