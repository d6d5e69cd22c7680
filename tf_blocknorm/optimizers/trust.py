"""What LARS and LAMB share: steps in proportion to the norm of the weights they are taken with."""

from keras import ops

from tf_blocknorm.optimizers.blockwise import Blockwise


class TrustRatio(Blockwise):
    """Mixin for an optimizer whose blocks have trust ratios."""

    decay_is_inside = True

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._ratios = self._add_numbers("trust_ratios", 1.0)

    @property
    def trust_ratios(self):
        """The trust ratio of each block in its last step, by the block's name."""
        ratios = ops.convert_to_numpy(self._ratios)
        return dict(zip(self._partition.labels, ratios.tolist()))

    @property
    def block_statistics(self):
        """The trust ratios, one number per variable, for `BlockNormMonitor`."""
        return {"trust_ratio": self._per_variable(self._ratios, otherwise=1.0)}

    def _plus_decay(self, direction, variable, factor=1.0):
        """A direction plus the weights times their decay, and a factor."""
        if not (self.weight_decay and self._use_weight_decay(variable)):
            return direction
        weights = ops.cast(variable, direction.dtype)
        factor = ops.cast(self.weight_decay * factor, direction.dtype)
        return ops.add(direction, ops.multiply(weights, factor))

    def _keep(self, members, ratios):
        """Remember the ratios of these blocks; those of others stay."""
        if members:
            new = self._partition.join(members, ratios)
            new = ops.where(self._partition.mask(members), new, ops.cast(self._ratios, new.dtype))
            self.assign(self._ratios, ops.cast(new, self._ratios.dtype))


def split_replicas(visits):
    """The visits of each replica, as a list of lists."""
    replicas = len(visits) // len({visit.index for visit in visits}) if visits else 0
    return [visits[replica::replicas] for replica in range(replicas)]


def divide(a, b):
    """`a / b`, and 1 where one of them is 0. A NaN stays one."""
    zero = ops.logical_or(ops.equal(a, 0), ops.equal(b, 0))
    ones = ops.ones_like(b)
    return ops.where(zero, ones, ops.divide(a, ops.where(zero, ones, b)))
