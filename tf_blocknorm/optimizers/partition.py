"""The variables of an optimizer, divided into blocks."""

import math

import keras
import numpy as np
from keras import ops

from tf_blocknorm import blocks, norms
from tf_blocknorm.optimizers import rows


def _is_statistic(variable):
    return getattr(variable, "overwrite_with_gradient", False)


class Partition:
    """Which variables are measured together, by their index in the optimizer.

    Args:
        variables: all variables that the optimizer is built for.
        block: see `tf_blocknorm.blocks`, as `validate` returned it.
        skipped: for each variable, whether it belongs to no block. An empty variable never does: it
            has nothing to measure; nor does a statistic, which Keras overwrites with its gradient.

    Attributes:
        names: for each variable the name of its block, or None.
        paths: for each variable its path.
        dtypes: for each variable its dtype, which Keras takes as long to tell as to update it.
        labels: for each entry of a vector with one number per block, its name; with `block="unit"`
            a matrix has one such entry for each index of its last axis.
        counts: array with the number of weights behind each label.
    """

    def __init__(self, variables, block, skipped=None):
        skipped = skipped or (False,) * len(variables)
        self._by_unit = block == "unit"
        self.paths = tuple(blocks.path(v) for v in variables)
        self.dtypes = tuple(keras.backend.standardize_dtype(v.dtype) for v in variables)
        self.names = tuple(
            None if skip or 0 in v.shape or _is_statistic(v) else name
            for name, skip, v in zip(blocks.assign(variables, block), skipped, variables)
        )
        self._places, self._orders, self._members, labels, counts = {}, {}, {}, [], []
        for name, group in self.members().items():
            start, shape = len(labels), variables[group[0]].shape
            entries = sum(math.prod(variables[i].shape) for i in group)
            if self._units(variables[group[0]]):
                self._places[name] = slice(start, start + shape[-1])
                labels += [f"{name}[{i}]" for i in range(shape[-1])]
                counts += [entries / shape[-1]] * shape[-1]
            else:
                self._places[name] = start
                labels.append(name)
                counts.append(entries)
        self.labels, self.counts = tuple(labels), np.array(counts, "float32")

    def _units(self, tensor):
        # A vector has no units to speak of: one number each, they would all become signs.
        return self._by_unit and len(tensor.shape) >= 2

    def members(self, indices=None):
        """The blocks among the variables of these indices (default: all).

        Returns:
            A dict from names to lists of positions in `indices`.
        """
        key = tuple(range(len(self.names)) if indices is None else indices)
        if key not in self._members:
            groups = {}
            for position, index in enumerate(key):
                name = self.names[index]
                if name is not None:
                    groups.setdefault(name, []).append(position)
            self._members[key] = groups
        return self._members[key]

    def make(self, tensors, groups):
        """The blocks of tensors: one `norms.Block` for each list of positions in `groups`."""
        made = []
        for group in groups:
            members, entries = [tensors[i] for i in group], None
            if rows.any_sparse(members):
                entries = sum(math.prod(x.shape) for x in members)
            per_unit = self._by_unit and self._units(members[0])
            made.append(norms.Block(list(map(rows.values, members)), per_unit, entries))
        return made

    def places(self, names):
        """Where the numbers of these blocks stand in a vector with one number per label.

        Returns:
            A list of integers, and of slices for blocks that are measured by unit.
        """
        return [self._places[name] for name in names]

    def order(self, names):
        """The same as positions: an array of integers, one for each number of these blocks."""
        return self._order(names)[0]

    def _order(self, names):
        """Their positions, and whether these are all that there are, in order."""
        key = tuple(names)
        if key not in self._orders:
            places = np.arange(len(self.labels))
            found = [np.atleast_1d(places[place]) for place in self.places(names)]
            order = np.concatenate([places[:0], *found])  # of no blocks, too
            self._orders[key] = order, np.array_equal(order, places)
        return self._orders[key]

    def where(self, names, inside, outside):
        """Of two vectors with one number per label: the first for these blocks, else the second."""
        order, is_all = self._order(names)
        if is_all:
            return inside
        mask = np.zeros(len(self.labels), bool)
        mask[order] = True
        return ops.where(mask, inside, outside)

    def gather(self, names, vector):
        """What these blocks have in a vector with one number per label."""
        order, is_all = self._order(names)
        return vector if is_all else ops.take(vector, order)

    def scatter(self, names, vector):
        """The way back: a vector of what these blocks have, 0 or False for all others."""
        order, is_all = self._order(names)
        if is_all:
            return vector
        source = np.full(len(self.labels), len(order))
        source[order] = np.arange(len(order))
        return ops.take(ops.concatenate([vector, ops.zeros((1,), vector.dtype)]), source)
