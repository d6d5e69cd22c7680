"""Arguments of constructors: checked, and shown in the signature."""

import inspect
import math
import numbers

import keras


def choice(argument, value, choices):
    """The value, or an error if it is none of the choices."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{argument}` must be one of {listed}. Received: {argument}={value!r}")
    return value


def number(argument, value, requirement, holds=lambda x: x >= 0):
    """The value, or an error if it is no finite number for which `holds` does."""
    valid = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (valid and math.isfinite(value) and holds(value)):
        raise ValueError(f"`{argument}` must be {requirement}. Received: {argument}={value!r}")
    return value


def fraction(argument, value):
    """The value, or an error if it is not in [0, 1)."""
    return number(argument, value, "a number in [0, 1)", lambda x: 0 <= x < 1)


def weight_decay(value):
    """The value, or an error if it is neither None nor a number >= 0."""
    return value if value is None else number("weight_decay", value, "a number >= 0 or None")


def bounds(argument, value):
    """The value as a list of two numbers, or None; or an error."""
    if value is None:
        return None
    pair = list(value) if isinstance(value, (tuple, list)) else []
    numeric = all(isinstance(x, numbers.Real) and not isinstance(x, bool) for x in pair)
    if len(pair) != 2 or not numeric or not 0 <= pair[0] <= pair[1]:
        raise ValueError(
            f"`{argument}` must be None or a pair (low, high) with 0 <= low <= high. "
            f"Received: {argument}={value!r}"
        )
    return pair


def float_learning_rate(args, kwargs):
    """Keras refuses `learning_rate=1` and NumPy's numbers; there is no reason to."""

    def as_float(value):
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return float(value) if is_number else value

    if args:
        args = (as_float(args[0]), *args[1:])
    elif "learning_rate" in kwargs:
        kwargs["learning_rate"] = as_float(kwargs["learning_rate"])
    return args, kwargs


def signature(cls, mixin, fixed=()):
    """What a class takes: its own parameters, then its Keras parent's and the mixins' by keyword.

    Where it has no constructor of its own the parent's parameters come first, as they are. `mixin`
    is the class that all mixins between `cls` and its Keras parent derive from.
    """
    is_parent = (c for c in cls.__mro__ if issubclass(c, keras.optimizers.Optimizer))
    parent = next(c for c in is_parent if not issubclass(c, mixin))
    inits = [c.__init__ for c in parent.__mro__ if "__init__" in vars(c)]
    parents = next(init for init in inits if _named_parameters(init))
    own = [cls.__init__] if "__init__" in vars(cls) else []
    mixins = [c.__init__ for c in mixins_of(cls, mixin) if "__init__" in vars(c)]
    first, *others = [*own, parents, *mixins]
    parameters = _named_parameters(first)
    for function in others:
        for name, parameter in _named_parameters(function).items():
            by_keyword = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters.setdefault(name, by_keyword)
    return inspect.Signature([p for name, p in parameters.items() if name not in fixed])


def mixins_of(cls, mixin):
    """The mixin and those that derive from it, in this order, among those of an optimizer."""
    optimizer = keras.optimizers.Optimizer
    mro = reversed(cls.__mro__)
    return [c for c in mro if issubclass(c, mixin) and not issubclass(c, optimizer)]


def _named_parameters(function):
    parameters = list(inspect.signature(function).parameters.values())[1:]
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name: p for p in parameters if p.kind not in variadic}
