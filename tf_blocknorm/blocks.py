"""Which variables are normalised together.

| `block=`             | variables measured as one                                            |
|----------------------|----------------------------------------------------------------------|
| `"variable"`         | every variable by itself                                             |
| `"layer"`            | the variables of one layer: kernel and bias, the three of an LSTM    |
| `"unit"`             | every index of the last axis (an output unit, a filter) by itself; a |
|                      | vector or a scalar as a whole                                        |
| `"model"`            | all variables                                                        |
| `[(regex, name), …]` | those whose path a regex finds, first match first; others alone      |
| a function           | those for which `function(variable)` is the same name; `None`: alone |

This is the only file that reads the paths of variables, and it does so when an optimizer is built:
in a training step TensorFlow passes variables that have none.
"""

import re

from tf_blocknorm.saving import is_registered

NAMES = ("variable", "layer", "unit", "model")
VECTORS = "vectors"  # Among patterns: all variables of rank 0 and 1.


def path(variable):
    """`variable.path`, such as `"sequential/dense/kernel"`; of a `tf.Variable` its name."""
    return getattr(variable, "path", None) or variable.name.split(":")[0]


def validate(block):
    """The `block` argument in the form that is kept, or an error."""
    if (isinstance(block, str) and block in NAMES) or is_registered(block):
        return block
    if isinstance(block, (list, tuple)) and block:
        pairs = [tuple(pair) for pair in block if isinstance(pair, (list, tuple))]
        words = all(len(pair) == 2 and all(isinstance(w, str) for w in pair) for pair in pairs)
        if words and len(pairs) == len(block):
            for pattern, _ in pairs:
                _compile(pattern, "block")
            return tuple(pairs)
    raise ValueError(
        f"`block` must be one of {', '.join(map(repr, NAMES))}, a list of `(regex, name)` pairs, "
        "or a function registered with `keras.saving.register_keras_serializable`. "
        f"Received: block={block!r}"
    )


def validate_patterns(patterns, argument):
    """A list of regular expressions as a tuple, or an error that names the argument.

    `"vectors"` stands for all variables of rank 0 and 1, alone or in the list.
    """
    if patterns is None:
        return ()
    if patterns == VECTORS:
        return (VECTORS,)
    if isinstance(patterns, str) or not all(isinstance(p, str) for p in patterns):
        raise ValueError(
            f"`{argument}` must be a list of regular expressions for the paths of variables, "
            f"or 'vectors'. Received: {argument}={patterns!r}"
        )
    for pattern in patterns:
        _compile(pattern, argument)
    return tuple(patterns)


def _compile(pattern, argument):
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"`{argument}` must hold valid regular expressions, but {pattern!r}: {error}. "
            f"Received: {argument}={pattern!r}"
        ) from None


def _demand_matches(patterns, paths, argument):
    for pattern in patterns:
        if not any(re.search(pattern, p) for p in paths):
            raise ValueError(
                f"Every pattern of `{argument}` must match the path of a variable. "
                f"Received: {argument} with {pattern!r}, which matches none of {paths}"
            )


def matches(variables, patterns, argument):
    """For every variable, whether one of the patterns is found in its path.

    Args:
        variables: list of variables.
        patterns: regular expressions, used with `re.search`, and `"vectors"`.
        argument: name of the argument they came from, for the error.

    Returns:
        A tuple of bools.

    Raises:
        ValueError: if a pattern matches no variable at all, as it then says something that does not
        happen.
    """
    paths = [path(v) for v in variables]
    vectors = VECTORS in patterns
    patterns = [pattern for pattern in patterns if pattern != VECTORS]
    _demand_matches(patterns, paths, argument)
    return tuple(
        (vectors and len(v.shape) <= 1) or any(re.search(pattern, p) for pattern in patterns)
        for v, p in zip(variables, paths)
    )


def assign(variables, block):
    """The name of the block of every variable.

    Args:
        variables: list of variables.
        block: see the table above, as `validate` returned it.

    Returns:
        A tuple of strings. Variables in one block have the same name; a variable that is a block of
        its own has its path, made unique where two variables share one.
    """
    paths = _unique([path(v) for v in variables])
    if block in ("variable", "unit"):
        return tuple(paths)
    if block == "model":
        return ("model",) * len(paths)
    if block == "layer":
        return tuple(path(v).rpartition("/")[0] or p for v, p in zip(variables, paths))
    if callable(block):
        names = [block(v) for v in variables]
        for name in names:
            if not isinstance(name, (str, type(None))):
                raise ValueError(
                    "The function given as `block` must return a string or None. "
                    f"Received: {block.__name__}(variable)={name!r}"
                )
    else:
        _demand_matches([pattern for pattern, _ in block], paths, "block")
        names = [next((n for regex, n in block if re.search(regex, p)), None) for p in paths]
    return tuple(p if name is None else name for name, p in zip(names, paths))


def _unique(paths):
    seen, result = {}, []
    for p in paths:
        seen[p] = seen.get(p, 0) + 1
        result.append(p if seen[p] == 1 else f"{p} ({seen[p]})")
    return result
