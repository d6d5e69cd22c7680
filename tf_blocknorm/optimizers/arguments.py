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
    """What a class takes: its own parameters, then its Keras parent's and the mixin's by keyword.

    Where it has no constructor of its own the parent's parameters come first, as they are.
    """
    is_parent = (c for c in cls.__mro__ if issubclass(c, keras.optimizers.Optimizer))
    parent = next(c for c in is_parent if not issubclass(c, mixin))
    inits = [c.__init__ for c in parent.__mro__ if "__init__" in vars(c)]
    parents = next(init for init in inits if _named_parameters(init))
    own = [cls.__init__] if "__init__" in vars(cls) else []
    first, *others = [*own, parents, mixin.__init__]
    parameters = _named_parameters(first)
    for function in others:
        for name, parameter in _named_parameters(function).items():
            by_keyword = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters.setdefault(name, by_keyword)
    return inspect.Signature([p for name, p in parameters.items() if name not in fixed])


def _named_parameters(function):
    parameters = list(inspect.signature(function).parameters.values())[1:]
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name: p for p in parameters if p.kind not in variadic}
