"""Statistics among the variables of an optimizer: Keras's methods for them, beside `hooks.py`."""

import keras
from keras import ops


class CarriesStatistics:
    """Mixin for an optimizer among whose variables are statistics, with `overwrite_with_gradient`.

    Keras made that flag for the scales of float8, of which it takes the maximum over the
    micro-batches of one update. Statistics with the attribute `adds_up` are added up instead.
    """

    def build(self, variables):
        statistics = any(getattr(v, "overwrite_with_gradient", False) for v in variables)
        if statistics and self.ema_overwrite_frequency and keras.backend.backend() == "jax":
            raise ValueError(
                "`ema_overwrite_frequency` must be None on JAX with input statistics: there, Keras "
                "fails on variables that have no average. "
                f"Received: ema_overwrite_frequency={self.ema_overwrite_frequency}"
            )
        super().build(variables)

    def _overwrite_variables_directly_with_gradients(self, grads, variables):
        steps = self.gradient_accumulation_steps
        if not steps:
            return super()._overwrite_variables_directly_with_gradients(grads, variables)
        is_last = ops.equal((self._iterations + 1) % steps, 0)
        others = []
        for gradient, variable in zip(grads, variables):
            if not getattr(variable, "adds_up", False):
                others.append((gradient, variable))
                continue
            so_far = self._accumulated_gradients[self._get_variable_index(variable)]
            total = ops.add(so_far, gradient)
            variable.assign(ops.where(is_last, total, ops.convert_to_tensor(variable)))
            so_far.assign(ops.where(is_last, ops.zeros_like(total), total))
        return super()._overwrite_variables_directly_with_gradients(
            [gradient for gradient, _ in others], [variable for _, variable in others]
        )

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        if keras.backend.backend() != "tensorflow":
            super()._overwrite_model_variables_with_average_value(trainable_variables)
            return
        # TensorFlow's version fails on variables that have no average, as these have none.
        for variable, average in zip(trainable_variables, self._model_variables_moving_average):
            if average is not None:
                self._distribution_strategy.extended.update(
                    variable.value, lambda a, b: a.assign(b), args=(average,)
                )
