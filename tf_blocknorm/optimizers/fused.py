"""How a step asks for fused operations, for one variable or for all at once."""

from keras import ops

from tf_blocknorm.optimizers.hooks import Hooks
from tf_blocknorm.optimizers.kernels import FUSED
from tf_blocknorm.optimizers.rows import times


class Fused(Hooks):
    """Mixin over a Keras optimizer that has a `Partition` once it is built."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        step, rule = (
            next((base for base in cls.__mro__ if name in vars(base)), None)
            for name in ("update_step", "fused_rule")
        )
        cls._belong_together = step is rule  # else one of them has been replaced without the other

    def _indices(self, variables):
        """The indices of a list of variables, which is the same one several times in a step."""
        scratch = self._scratch
        if variables is scratch.variables:
            return scratch.indices
        indices = [self._get_variable_index(variable) for variable in variables]
        if scratch.fused:
            scratch.variables, scratch.indices = variables, indices
        return indices

    def _leave_factors(self, tensors, factors, variables):
        """What `on_gradients` returns: multiplied here, or by the fused update of the variable."""
        if not self._scratch.fused:
            return factors.on(tensors)
        self._scratch.factors = self._indices(variables), factors
        return tensors

    def factor(self, index):
        """What the gradient of a variable is still to be multiplied by, or None."""
        return self.factors([index])[0] if self._scratch.fused else None

    def factors(self, indices):
        """The same of several variables, in a fused step."""
        return self._picked(indices, self._scratch.factors[1].each, None)

    def rates_and_factors(self, indices, learning_rate):
        """Two lists: what fused updates multiply gradients by, and factors beside it, or None."""
        scratch = self._scratch
        if learning_rate is not scratch.rate:  # A callback gave these variables their own.
            return [learning_rate] * len(indices), self.factors(indices)
        lists = self._once("rates", None, lambda: scratch.factors[1].with_rate(learning_rate))
        return [self._picked(indices, *pair) for pair in zip(lists, (learning_rate, None))]

    def _picked(self, indices, values, otherwise):
        """Of one value per factor of this step, those of some variables."""
        known = self._scratch.factors[0]
        if indices == known:
            return values
        places = self._once("places", None, lambda: {i: place for place, i in enumerate(known)})
        return [values[places[i]] if i in places else otherwise for i in indices]

    def fused_rule(self):
        """The rule by fused operations, for several variables at once; None if there is none.

        A function of the lists of their indices, gradients and variables, and of the learning rate,
        that does what `update_step` of the same class does for each of them.
        """

    def update_at_once(self, gradients, variables, learning_rate):
        """Does what `update_step` would do for each variable; returns whether it could."""
        if "update_step" in vars(self) or not self._belong_together:
            return False
        rule, indices = self.fused_rule(), self._indices(variables)
        if rule is None or not self._fit(indices, gradients, learning_rate):
            return False
        rule(indices, gradients, variables, learning_rate)
        return True

    def _fit(self, indices, tensors, *scalars):
        """Whether one fused operation can update the variables of these indices in this step."""
        dtypes = self._partition.dtypes
        return self._scratch.fused and FUSED.fits([dtypes[i] for i in indices], tensors, *scalars)

    def _move_all(self, variables, directions, learning_rate, factors):
        """The variables minus learning rate times factors times directions.

        Returns the operations that do so, for `after`.
        """
        if self._fit(self._indices(variables), directions, learning_rate):
            return FUSED.descend(variables, directions, *factors.with_rate(learning_rate))
        for variable, direction, factor in zip(variables, directions, factors.each):
            self._move(variable, direction, learning_rate, factor)
        return []

    def _move(self, variable, direction, learning_rate, factor=None):
        """The variable minus learning rate times factor times direction."""
        if self._fit([self._get_variable_index(variable)], [direction], learning_rate):
            FUSED.descend([variable], [direction], [learning_rate], [factor])
            return
        direction = times(direction, factor)
        step = ops.multiply(ops.cast(learning_rate, direction.dtype), direction)
        self.assign_sub(variable, ops.cast(step, variable.dtype))

    def _once(self, name, dtype, make):
        """What `make()` returned for the first variable of this dtype in a fused step."""
        shared = self._scratch.shared
        if (name, dtype) not in shared:
            shared[name, dtype] = make()
        return shared[name, dtype]

    def powers(self, betas, dtype):
        """Betas to the power of the number of this step."""

        def make():
            step = ops.cast(self.iterations + 1, dtype)
            return [ops.power(ops.convert_to_tensor(beta, dtype), step) for beta in betas]

        return self._once("powers", dtype, make)
