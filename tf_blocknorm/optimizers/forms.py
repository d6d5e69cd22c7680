"""The block-normalised form of a Keras optimizer: one class for each, registered with Keras."""

import inspect
import re

import keras

from tf_blocknorm.optimizers.arguments import mixins_of
from tf_blocknorm.optimizers.base import BlockNormalized
from tf_blocknorm.optimizers.blockwise import Blockwise

PACKAGE = "tf_blocknorm"
_register = keras.saving.register_keras_serializable(package=PACKAGE)
_forms = {}


def form(cls):
    """Registers a class, and fills what all share, arguments and errors, into its docstring."""
    if cls.__doc__ is not None and Blockwise.__doc__ is not None:
        cls.__doc__ = cls.__doc__.replace(
            "        {{block_norm_arguments}}", _shared_arguments(cls)
        )
    if _has_own_update_step(cls.__bases__[1]):
        _forms[cls.__bases__[1]] = cls
    return _register(cls)


def _shared_arguments(cls):
    """The descriptions of the mixins' arguments but for those `cls` decides, and of their errors.

    Of two descriptions of an argument that of the later mixin.
    """
    own = inspect.signature(cls.__init__).parameters if "__init__" in vars(cls) else ()
    descriptions, errors = {}, ""
    for mixin in mixins_of(cls, Blockwise):
        text = (mixin.__doc__ or "").partition("    Args:\n")[2].rstrip()
        text, _, raised = text.partition("\n\n    Raises:\n")
        errors = errors or raised
        for description in re.split(r"^(?=        \w)", text, flags=re.MULTILINE):
            name = description.strip().partition(":")[0]
            if name and name not in (*own, *cls.fixed):
                descriptions[name] = description.rstrip()
    return "\n".join(descriptions.values()) + f"\n\n    Raises:\n{errors}"


def _is_optimizer_class(value):
    return isinstance(value, type) and issubclass(value, keras.optimizers.Optimizer)


def _has_own_update_step(value):
    abstract = keras.optimizers.Optimizer.update_step
    return _is_optimizer_class(value) and value.update_step is not abstract


def block_normalized(optimizer_class):
    """The block-normalised form of any Keras optimizer.

    Args:
        optimizer_class: A subclass of `keras.optimizers.Optimizer` with its own `update_step` that
            changes variables through `self.assign…`, as all of Keras's do.

    Returns:
        A class that takes the arguments of `optimizer_class` and, by keyword, those of
        `BlockNormSGD` from `norm` on. The same class for the same argument, every time. It is
        registered with Keras; a model saved with the form of an optimizer of your own loads after
        `block_normalized` was called for it in that program, too.

    Raises:
        ValueError: if `optimizer_class` is not such a class.

    Example:

    >>> BlockNormAdamax = tf_blocknorm.block_normalized(keras.optimizers.Adamax)
    >>> BlockNormAdamax(learning_rate=0.01, norm="max").norm
    'max'
    >>> tf_blocknorm.block_normalized(keras.optimizers.SGD)
    <class 'tf_blocknorm.optimizers.block_norm.BlockNormSGD'>
    """
    if not _is_optimizer_class(optimizer_class):
        raise ValueError(
            "`optimizer_class` must be a subclass of `keras.optimizers.Optimizer`. "
            f"Received: optimizer_class={optimizer_class!r}"
        )
    if optimizer_class in _forms:
        return _forms[optimizer_class]
    if issubclass(optimizer_class, BlockNormalized):
        raise ValueError(
            "`optimizer_class` must not be block-normalised already. "
            f"Received: optimizer_class={optimizer_class!r}"
        )
    if not _has_own_update_step(optimizer_class):
        raise ValueError(
            "`optimizer_class` must have an `update_step` of its own; normalise the optimizers "
            f"inside of a wrapper instead. Received: optimizer_class={optimizer_class!r}"
        )
    name = f"BlockNorm{optimizer_class.__name__}"
    doc = f"`{optimizer_class.__name__}` on unit gradients: see `tf_blocknorm.block_normalized`."
    cls = type(name, (BlockNormalized, optimizer_class), {"__doc__": doc, "__module__": __name__})
    origin = keras.saving.get_registered_name(optimizer_class)
    own_name = name if optimizer_class.__module__.startswith("keras.") else f"BlockNorm({origin})"
    keras.saving.register_keras_serializable(PACKAGE, own_name)(cls)
    _forms[optimizer_class] = cls
    return cls


def register_the_rest():
    """Make the forms of all other Keras optimizers: models saved with them then load, too."""
    for value in list(vars(keras.optimizers).values()):
        if _has_own_update_step(value):
            block_normalized(value)
