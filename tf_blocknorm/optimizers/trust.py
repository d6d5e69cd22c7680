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

    def _keep(self, members, ratios):
        """Remember the ratios of these blocks, a vector; those of others stay."""
        if members:
            new = self._partition.scatter(members, ratios)
            new = self._partition.where(members, new, ops.cast(self._ratios, new.dtype))
            self.assign(self._ratios, ops.cast(new, self._ratios.dtype))
