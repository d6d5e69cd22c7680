"""Which power belongs to which variable of an optimizer."""

import re

from keras import ops

from tf_blocknorm import blocks
from tf_blocknorm.optimizers.inputs.tap import ATTRIBUTE

_ABSENT = object()


def validate_powers(powers):
    """The `powers` argument as a tuple of pairs, or None; or an error."""
    if powers is None:
        return None
    if isinstance(powers, (list, tuple)):
        pairs = [tuple(p) for p in powers if isinstance(p, (list, tuple)) and len(p) == 2]
        numeric = all(
            isinstance(regex, str)
            and isinstance(power, (int, float))
            and not isinstance(power, bool)
            and 0 <= power < float("inf")
            for regex, power in pairs
        )
        if numeric and len(pairs) == len(powers):
            blocks.validate_patterns([regex for regex, _ in pairs], "powers")
            return tuple((regex, float(power)) for regex, power in pairs)
    raise ValueError(
        "`powers` must be None or a list of `(regex, power)` pairs with powers >= 0. "
        f"Received: powers={powers!r}"
    )


class Powers:
    """The power of each kernel's input: constant, from a tap, or none for a plain step.

    Args:
        variables: all variables that the optimizer is built for.
        plain: for each, whether it has been excluded.
        constants: pairs of a regular expression and a power, or None.

    Attributes:
        constants: the constant powers, by the indices of their variables.
        are_constant: whether none is measured.
    """

    def __init__(self, variables, plain, constants):
        constants = constants or ()
        # Raises for a pattern that matches nothing.
        blocks.matches(variables, [regex for regex, _ in constants], "powers")
        here = {id(variable) for variable in variables}
        sources, missing, foreign = [], [], []
        for variable, excluded in zip(variables, plain):
            path, tap = blocks.path(variable), getattr(variable, ATTRIBUTE, _ABSENT)
            found = [power for regex, power in constants if re.search(regex, path)]
            is_vector = len(variable.shape) <= 1  # also what a tap keeps
            if excluded or is_vector:
                sources.append(None)
            elif found:
                sources.append(found[0])
            elif tap is _ABSENT:
                missing.append(path)
            else:
                sources.append(tap)
                if tap is not None and id(tap.sums) not in here:
                    foreign.append(path)
        if missing:
            raise ValueError(
                "Every kernel must have the power of its input. Received: none for "
                f"{missing}. Measure them with `model = tf_blocknorm.with_input_statistics(model)` "
                "(in the constructor of a subclassed model: of its layers); or leave them out, "
                f"such as with `exclude={[re.escape(path) for path in missing]}`; or give "
                "constants as `powers`."
            )
        if foreign:
            raise ValueError(
                "The optimizer that updates a kernel must be given its input statistics, too. "
                f"Received: kernels without them: {foreign}"
            )
        self._sources = tuple(sources)
        self.constants = {i: s for i, s in enumerate(sources) if isinstance(s, float)}
        self.are_constant = not any(hasattr(s, "sums") for s in sources)

    def measured(self):
        """For each variable, how many powers are measured, and their dtype; (0, None) for none."""
        taps = [s if hasattr(s, "sums") else None for s in self._sources]
        return [(tap.geometry.channels, tap.sums.dtype) if tap else (0, None) for tap in taps]

    def now(self, index):
        """The powers of this batch, a vector; None for a plain step."""
        source = self._sources[index]
        if isinstance(source, float):
            return ops.convert_to_tensor([source], "float32")
        return None if source is None else source.power()

    def spread(self, index, values):
        """A vector of measured powers, in a shape that broadcasts against the kernel."""
        return self._sources[index].geometry.spread(values)
