"""What an optimizer knows during a step, or the trace of one, and no longer."""

import contextlib

from tf_blocknorm.optimizers.factors import Factors


class Scratch:
    """An object of its own, as TensorFlow would try to write a bare list or dict into checkpoints.

    Attributes:
        visits: what `update_step` left for `on_updates`.
        watched: the variable whose step is recorded, and not made.
        compiled: compiled updates, by the variables that they are of. They stay.
        fused: whether this step may use fused operations.
        rate: its learning rate.
        variables, indices: a list of variables, and their indices.
        factors: indices of variables, and what their gradients are still to be multiplied by.
        shared: what is the same for all variables of the step.
    """

    def __init__(self):
        self.visits, self.watched, self.compiled = [], None, {}
        self._begin(False, None)

    def _begin(self, fused, rate):
        self.fused, self.rate, self.shared = fused, rate, {}
        self.variables, self.indices, self.factors = None, None, ([], Factors(0))

    @contextlib.contextmanager
    def fusing(self, possible, rate):
        """Inside, there is what fused operations need; afterwards, nothing."""
        self._begin(possible, rate)
        try:
            yield
        finally:
            self._begin(False, None)

    @contextlib.contextmanager
    def collected_visits(self):
        """Gives the list of visits, which is empty before and afterwards."""
        self.visits = []
        yield self.visits
        self.visits = []
