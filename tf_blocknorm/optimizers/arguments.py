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


def signature(cls, mixin):
    """What `cls` takes: its Keras parent's parameters, and then the mixin's keyword-only ones."""
    is_parent = (c for c in cls.__mro__ if issubclass(c, keras.optimizers.Optimizer))
    parent = next(c for c in is_parent if not issubclass(c, mixin))
    given = inspect.signature(parent.__init__).parameters.values()
    own = inspect.signature(mixin.__init__).parameters.values()
    parameters = [p for p in given if p.name != "self" and p.kind is not p.VAR_KEYWORD]
    return inspect.Signature(parameters + [p for p in own if p.kind is p.KEYWORD_ONLY])
