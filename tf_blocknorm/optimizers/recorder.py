"""Running a Keras rule for the step that it would make, without making it."""

import functools

from keras import ops


class RecordsDirection:
    """Mixin over a Keras optimizer.

    Keras's rules change variables by `self.assign_add` and `self.assign_sub`. While a variable is
    watched, what they would do to it is kept instead; their slots are updated as ever.
    """

    def direction(self, gradient, variable):
        """What the wrapped rule would subtract from the variable at learning rate 1."""
        scratch = self._scratch
        scratch.watched, scratch.captured = variable, []
        super().update_step(gradient, variable, ops.ones((), "float32"))
        scratch.watched = None
        return functools.reduce(ops.add, scratch.captured)

    def assign_sub(self, variable, value):
        if self._scratch.watched is variable:
            self._scratch.captured.append(ops.convert_to_tensor(value))
        else:
            super().assign_sub(variable, value)

    def assign_add(self, variable, value):
        if self._scratch.watched is variable:
            self._scratch.captured.append(ops.negative(value))
        else:
            super().assign_add(variable, value)

    def assign(self, variable, value):
        if self._scratch.watched is variable:
            raise ValueError(
                "`normalize='update'` needs a rule that adds a step to its variables. "
                f"{type(self).__name__} overwrites them. Received: normalize='update'"
            )
        super().assign(variable, value)
