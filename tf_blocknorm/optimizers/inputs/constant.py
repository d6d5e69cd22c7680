"""The powers of standardised inputs, which follow from shapes alone."""

import re

from tf_blocknorm import blocks
from tf_blocknorm.optimizers.inputs import geometry
from tf_blocknorm.optimizers.inputs.measures import DENSE_OFFSET


def constant_powers(model, exclude=None):
    """What `norm="standardized_l2"` would measure in a healthy model, from its shapes.

    The squares of n numbers that have been standardised by their own unbiased deviation add up to n
    - 1, whatever the numbers are: with $n$ the number of pixels of a map, or of the features of a
    dense layer (where the authors' code adds 0.1). Measured values are smaller where maps are
    constant: by the share of such maps in a batch.

    Args:
        model: A built `keras.Model`, whose layers may be models. `Dense`, `EinsumDense` and
            convolutions have constants.
        exclude: List of regular expressions, used with `re.search` on the names of layers, for
            those without. Defaults to `None`.

    Returns:
        A list of `(regex, power)` pairs, for the argument `powers` of `INSGD`.

    Raises:
        ValueError: for a model that is not built, and for a layer whose input has one pixel or an
            unknown number of them.

    Example: 8 times 8 pixels, and 10 features.

    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(10, 8, name="c")])
    >>> model.add(keras.layers.Flatten())
    >>> model.add(keras.layers.Dense(1, name="d"))
    >>> [power for _, power in tf_blocknorm.constant_powers(model)]
    [63.0, 9.1]
    >>> optimizer = tf_blocknorm.INSGD.like("code", powers=tf_blocknorm.constant_powers(model))
    """
    if not getattr(model, "built", False):
        raise ValueError(f"`model` must be a built Keras model. Received: model={model!r}")
    patterns = blocks.validate_patterns(exclude, "exclude")
    result = []
    for layer in _layers(model):
        if any(re.search(pattern, layer.name) for pattern in patterns):
            continue
        shape = (layer.get_build_config() or {}).get("input_shape")
        for kernel, where, seen in geometry.kernels(layer, shape) if shape else ():
            geometry.demand_spread(layer, where, seen, "standardized_l2")
            count = geometry.count(where.summed, seen)
            if count is None:
                raise ValueError(
                    "Constant powers must follow from the shape of the input. Received: "
                    f"input_shape={seen} for layer {layer.name!r}; exclude it, or measure its power"
                )
            power = round(count - 1 + (DENSE_OFFSET if where.offset else 0.0), 6)
            result.append((f"^{re.escape(kernel.path)}$", power))
    return result


def _layers(model):
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        else:
            yield layer
