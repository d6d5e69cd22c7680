"""The quotients of Barzilai and Borwein, computed inside the training step."""

import math
import types

import keras
from keras import ops

from tf_blocknorm import norms
from tf_blocknorm.optimizers import taps
from tf_blocknorm.optimizers.base import BlockNormalized
from tf_blocknorm.optimizers.partition import Partition


class Quotient(taps.Tap):
    """One learning rate for all blocks, of which there is one."""

    name = "barzilai_borwein"
    updates = 1  # per period

    def __init__(self, options):
        self.options = options

    def create(self, add, variables):
        self.partition = Partition(variables, self.options.block)
        labels = (len(self.partition.labels),)

        def like_the_variables(name):
            return [
                add(f"{name}_{i}", dtype=keras.backend.result_type(v.dtype, "float32"), like=v)
                for i, v in enumerate(variables)
            ]

        average_points = self.options.points == "mean"
        return types.SimpleNamespace(
            step=add("step", (), "int32"),
            period=add("period", (), "int32"),
            count=add("count", labels),
            mean_log=add("mean_log", labels),
            factors=add("factors", labels, initializer="ones"),
            gradients=like_the_variables("gradient"),
            last_gradients=like_the_variables("last_gradient"),
            points=like_the_variables("point") if average_points else variables,
            last_points=like_the_variables("last_point"),
        )

    @property
    def factors(self):
        """What the learning rate of each block is multiplied by."""
        return self.state.factors

    def _average(self, averages, values):
        """Move the averages of the period on by one value, in which they add up to weight 1."""
        step = ops.cast(ops.add(self.state.step, 1), "float32")
        beta = self.options.beta
        beta = min(1.0, 10.0 / self.updates) if beta is None else beta
        weight = 1.0 / step
        if beta == 1.0:
            weight = ops.ones_like(step)
        elif beta:
            weight = beta / -ops.expm1(step * math.log1p(-beta))
        first = ops.equal(self.state.step, 0)
        for average, value in zip(averages, values):
            value = ops.cast(value, average.dtype)
            moved = average + ops.cast(weight, average.dtype) * (value - average)
            average.assign(ops.where(first, value, moved))

    def before_step(self, variables):
        if self.options.points == "mean":
            values = [ops.stop_gradient(ops.convert_to_tensor(v)) for v in self.made_for]
            self._average(self.state.points, values)

    def after_step(self, gradients, variables, learning_rate, before):
        state = self.state
        given = dict(zip(self.indices(variables), gradients))
        self._average(
            state.gradients,
            [given[i] if i in given else ops.zeros_like(v) for i, v in enumerate(state.gradients)],
        )
        step, period = ops.add(state.step, 1), ops.add(state.period, 1)
        ends = ops.greater_equal(step, self.updates)
        # The variables of a replica may be read inside of a condition, but not assigned.
        old = [
            ops.cast(learning_rate, "float32"),
            *(ops.convert_to_tensor(v) for v in (state.factors, state.count, state.mean_log)),
        ]
        rate, factors, count, mean_log = ops.cond(
            ops.logical_and(ends, ops.greater_equal(period, 2)),
            lambda: self._change(ops.cast(period, "float32"), *old),
            lambda: tuple(old),
        )
        self.optimizer.learning_rate.assign(rate)
        state.factors.assign(factors)
        state.count.assign(count)
        state.mean_log.assign(mean_log)
        for last, now in zip(
            state.last_gradients + state.last_points, [*state.gradients, *state.points]
        ):
            last.assign(ops.where(ends, ops.cast(now, last.dtype), ops.convert_to_tensor(last)))
        state.step.assign(ops.where(ends, 0, step))
        state.period.assign(ops.where(ends, period, ops.convert_to_tensor(state.period)))

    def _change(self, k, rate, factors, count, mean_log):
        """Rate, factors, and what the smoothing remembers, for period `k`."""
        options = self.options
        step_size = self._step_size(k)
        valid = ops.logical_and(ops.isfinite(step_size), step_size > 0)
        log = ops.log(ops.where(valid, step_size, 1.0))
        if options.phi is not None:
            log_phi = ops.log(options.phi(k))
            count = count + ops.cast(valid, "float32")
            moved = mean_log + (log + log_phi - mean_log) / ops.maximum(count, 1.0)
            mean_log = ops.where(valid, moved, mean_log)
            log = mean_log - log_phi
        old = rate * factors
        new = ops.exp(log) * self._gain()
        valid = ops.logical_and(valid, ops.logical_and(ops.isfinite(new), new > 0))
        if options.max_change is not None:
            new = ops.clip(new, old / options.max_change, old * options.max_change)
        new = ops.maximum(new, options.min_rate)
        if options.max_rate is not None:
            new = ops.minimum(new, options.max_rate)
        new = ops.where(valid, new, old)
        return (*self._shared(new), count, mean_log)

    def _shared(self, rates):
        return ops.reshape(rates, ()), ops.ones_like(rates)

    def _step_size(self, k):
        """The quotient of every block."""
        moved, turned = (
            self._blocks([ops.subtract(a, b) for a, b in zip(now, last)])
            for now, last in (
                (self.state.points, self.state.last_points),
                (self.state.gradients, self.state.last_gradients),
            )
        )
        # |s.y| / |s|^2 and |y|^2 / |s.y| without a square: by lengths and the cosine.
        lengths = [ops.cast(norms.sizes(x, "l2"), "float32") for x in (turned, moved)]
        ratio = lengths[0] / lengths[1]
        units = [
            [block.of(unit) for block, unit in zip(blocks, norms.normalize(blocks, "l2"))]
            for blocks in (moved, turned)
        ]
        cosine = ops.cast(norms.dots(*units), "float32")
        epsilon = self.options.epsilon
        along = ratio * ops.abs(cosine)
        long = along + epsilon
        short = ratio * (ratio / long) + epsilon * ((2.0 * along + epsilon) / long)
        curvature = {
            "long": long,
            "short": short,
            "alternating": ops.where(ops.equal(ops.mod(k, 2.0), 0.0), long, short),
        }[self.options.quotient]
        return ops.where(ratio > 0, 1.0 / (curvature * self.updates), float("nan"))

    def _gain(self):
        """How long a step of gradient descent is, in units of what the optimizer makes of it."""
        optimizer, gain = self.optimizer, 1.0
        if isinstance(optimizer, BlockNormalized):
            plain = [ops.convert_to_tensor(g) for g in self.state.gradients]
            tensors, factors = optimizer._unit(plain, list(self.made_for))
            unit = factors.on(tensors)
            sizes = [norms.sizes(self._blocks(x), "l2") for x in (plain, unit)]
            gain = ops.cast(sizes[0], "float32") / ops.cast(sizes[1], "float32")
            if optimizer.normalize == "update":
                return gain
        return gain * (1.0 - optimizer.momentum)

    def _blocks(self, tensors):
        return self.partition.make(tensors, self.partition.members().values())


class QuotientPerBlock(Quotient):
    """A rate per block: their geometric mean is the learning rate, the rest are factors."""

    def _shared(self, rates):
        shared = ops.exp(ops.mean(ops.log(rates)))
        return shared, rates / shared

    def rate_factors(self, indices):
        factors, places = ops.convert_to_tensor(self.state.factors), self.partition.places
        names = [self.partition.names[index] for index in indices]
        return [None if name is None else factors[places([name])[0]] for name in names]
