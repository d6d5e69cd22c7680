"""A model with taps from a model without."""

import re

import keras

from tf_blocknorm.optimizers import arguments
from tf_blocknorm.optimizers.inputs import layers, measures
from tf_blocknorm.optimizers.inputs.tap import without_taps


def with_input_statistics(model, norm="l2", exclude=None):
    r"""A copy of a model, or of a layer, that measures the inputs of its layers in training.

    Every layer with a kernel is replaced by the same layer with a tap on its input. Names, weights
    and outputs stay the same, and so does the model's structure; each layer has one more small
    weight, which holds its statistic of the last training step (a float for every input channel of
    a convolution, a float for any other layer, and the number of samples). Any optimizer can train
    the copy; `INSGD` divides by the statistic.

    The power $P$ of an input $x$ is, with $p$ 2 or 1,

    $$P = \operatorname{mean}_\text{samples} \sum_i |x_i|^p$$

    over the features $i$ that a `Dense` layer (an `EinsumDense`, a projection of
    `MultiHeadAttention`, the kernels of a recurrent cell) contracts, and over the pixels $i$ of
    each channel for a convolution. Positions of a sequence count as samples, also those that are
    masked. The output of a layer with dropout or zero padding is what the next layer sees, and what
    is measured.

    Args:
        model: A `keras.Model`, `Sequential` or functional, whose parts may be nested models,
            `Bidirectional`, `RNN` of cells, and others that keep their layers in their
            configuration; or one layer, to be used within the constructor of a subclassed model,
            whose layers cannot be replaced from outside.
        norm: What is measured. `"l2"`: squares. `"l1"`: magnitudes. `"standardized_l2"` and
            `"standardized_l1"`: those of the input less its mean, divided by its standard
            deviation (over the same features or pixels of each sample, at least 0.01), and 0.1
            added unless it is a convolution: the numbers of the authors' code. Defaults to `"l2"`.
        exclude: List of regular expressions, used with `re.search` on the names of layers, for
            those to be left as they are; each must match. The optimizer has to leave out their
            kernels, too. Defaults to `None`.

    Returns:
        A new model with weights of its own, equal to those of `model`; not compiled. It saves and
        loads as any, with `import tf_blocknorm` in the loading program; weights that were saved
        with taps load without, and the other way round.

    Raises:
        ValueError: for arguments outside these ranges, and if there is nothing to attach to. A
            layer that has no rule stays as it is, and `INSGD` raises an error that names it.

    Layers with a rule: `Dense`, `EinsumDense`, `Conv1D`, `Conv2D`, `Conv3D` (groups, too),
    `DepthwiseConv1D`, `DepthwiseConv2D`, `SeparableConv1D`, `SeparableConv2D` (the pointwise kernel
    by what the depthwise one makes), `Conv1DTranspose` to `Conv3DTranspose`, `MultiHeadAttention`,
    `GroupQueryAttention`, `SimpleRNN`, `GRU`, `LSTM` and their cells (what dropout inside leaves;
    never by cuDNN, which hides the states). An `Embedding` is looked up and has no input to speak
    of: it is known to be left out.

    Example: four inputs with the sum of squares 30, and the optimizer's division by it.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    >>> model = tf_blocknorm.with_input_statistics(model)
    >>> model.compile(tf_blocknorm.INSGD.like("nlms"), loss=lambda y, p: 0.5 * (y - p) ** 2)
    >>> x, y = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[5.0]])
    >>> _ = model.fit(x, y, verbose=0)
    >>> model.predict(x, verbose=0).round(3)
    array([[5.]], dtype=float32)
    """
    arguments.choice("norm", norm, measures.NORMS)
    return rebuilt(model, layers.FORMS, {"input_norm": norm}, exclude)


def rebuilt(model, forms, arguments, exclude=None):
    """A copy of a model, or a layer, in which layers have been replaced by forms of theirs.

    Args:
        model: a model or a layer.
        forms: dict from classes to those that take their place.
        arguments: what these take in addition.
        exclude: patterns for names of layers that stay.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            f"`model` must be a Keras model or layer. Received: model={model!r} "
            f"(of type {type(model)})"
        )
    if isinstance(exclude, str) or not all(isinstance(p, str) for p in exclude or ()):
        raise ValueError(
            "`exclude` must be a list of regular expressions for the names of layers. "
            f"Received: exclude={exclude!r}"
        )
    unmatched, replaced = set(exclude or ()), []

    def rewrite(config):
        if isinstance(config, (list, tuple)):
            return type(config)([rewrite(entry) for entry in config])
        if not isinstance(config, dict):
            return config
        form = _form_of(config, forms)
        if form is not None:
            name = config["config"].get("name", "")
            found = {pattern for pattern in exclude or () if re.search(pattern, name)}
            unmatched.difference_update(found)
            if found:
                return config
            replaced.append(name)
            return {
                **config,
                "module": form.__module__,
                "class_name": form.__name__,
                "registered_name": keras.saving.get_registered_name(form),
                "config": {**config["config"], **arguments},
            }
        return {key: rewrite(value) for key, value in config.items() if key != "compile_config"}

    config = rewrite(keras.saving.serialize_keras_object(model))
    if unmatched:
        raise ValueError(
            "Every pattern of `exclude` must match the name of a layer that has a rule. "
            f"Received: exclude={list(exclude)}, of which {sorted(unmatched)} match none"
        )
    if not replaced:
        raise ValueError(
            f"There must be a layer with a rule in the configuration of `model`. Received: {model},"
            " which has none. A subclassed model makes its layers itself: there, use "
            "`self.dense = tf_blocknorm.with_input_statistics(keras.layers.Dense(…))`. "
            f"Layers with a rule: {', '.join(sorted(cls.__name__ for cls in forms))}"
        )
    copy = keras.saving.deserialize_keras_object(config, safe_mode=False)
    if model.built:
        _copy_weights(model, copy)
    return copy


def _form_of(config, forms):
    names = {"module", "class_name", "config"}
    if not names <= set(config) or not isinstance(config["config"], dict):
        return None
    if config["module"] != "keras.layers":
        return None
    return forms.get(getattr(keras.layers, config["class_name"], None))


def _copy_weights(model, copy):
    given, made = without_taps(model.weights), without_taps(copy.weights)
    shapes = [[tuple(variable.shape) for variable in each] for each in (given, made)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The configuration of {model.name!r} must give a model with the same weights. "
            f"Received: weights of shapes {shapes[0]}, but {shapes[1]} from the configuration"
        )
    for old, new in zip(given, made):
        # By NumPy, as JAX would let both have one array, and `fit` of one delete it.
        new.assign(keras.ops.convert_to_numpy(old))
