"""Every sample's part of a gradient divided by the power of its own input."""

from keras import layers, ops

from tf_blocknorm.optimizers import arguments
from tf_blocknorm.optimizers.inputs import geometry, measures
from tf_blocknorm.optimizers.inputs.attach import rebuilt
from tf_blocknorm.optimizers.inputs.layers import register
from tf_blocknorm.optimizers.inputs.quotient import quotient
from tf_blocknorm.optimizers.inputs.tap import ATTRIBUTE

_FORMS = {}


def per_sample_normalized(model, norm="l2", log=False, floor=1.0, epsilon=1e-6, exclude=None):
    r"""A copy of a model whose kernels get the gradient of NLMS from every sample.

    `INSGD` divides the gradient of a batch by the mean power of the batch. Here the part $g_k$ that
    sample $k$ adds to the gradient of a kernel is divided by the power $P_k$ of its own input:

    $$\tilde g = \sum_k \frac{g_k}{N_k}, \qquad N_k = P_k + \epsilon \quad \text{or, with the
    logarithm,} \quad N_k = \max(\log P_k, f)$$

    with $P_k$ as `with_input_statistics` measures it, before its mean over the samples. That is
    exact, and not an estimate from averages: a kernel is used linearly, $g_k$ is a product with the
    input, and the division is one of the input that the product is made with. Outputs, the loss and
    the gradients of inputs and biases stay what they are. For one sample, both are the same.

    As the gradient is normalised within the layers, any optimizer can train the model, and nothing
    is added to its weights; `INSGD` makes plain steps for these kernels. It costs one more forward
    pass through these layers in training.

    Args:
        model: A `keras.Model`, or a layer for the constructor of a subclassed model: as for
            `with_input_statistics`.
        norm: As there. Defaults to `"l2"`.
        log: Whether to divide by the logarithm. Defaults to `False`: NLMS.
        floor: Float > 0, $f$, the least logarithm. Defaults to 1.
        epsilon: Float >= 0, $\epsilon$; without the logarithm only. A sample without power has no
            part in the gradient, also with 0. Defaults to 1e-6.
        exclude: As there. Defaults to `None`.

    Returns:
        A new model with weights of its own, equal to those of `model`; not compiled.

    Raises:
        ValueError: for arguments outside these ranges, and if no layer has such a form.

    Layers with such a form: `Dense`, `EinsumDense`, `Conv1D`, `Conv2D`, `Conv3D`. All others stay
    as they are, with their plain gradients.

    Example: two samples, each of which alone would be fitted by a step of rate 1; the loss is a
    mean, so that the rate is 2.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    >>> model = tf_blocknorm.per_sample_normalized(model, epsilon=0.0)
    >>> model.compile(keras.optimizers.SGD(2.0), loss=lambda y, p: 0.5 * (y - p) ** 2)
    >>> x, y = np.array([[3.0, 4.0], [0.8, -0.6]]), np.array([[10.0], [1.0]])
    >>> _ = model.fit(x, y, verbose=0)
    >>> model.predict(x, verbose=0).round(3).T
    array([[10.,  1.]], dtype=float32)
    """
    options = _validated(norm, log, floor, epsilon)
    return rebuilt(model, _FORMS, {"per_sample": options}, exclude)


def _validated(norm, log, floor, epsilon):
    arguments.choice("norm", norm, measures.NORMS)
    arguments.number("floor", floor, "a number > 0", lambda x: x > 0)
    arguments.number("epsilon", epsilon, "a number >= 0")
    return {"norm": norm, "log": bool(log), "floor": floor, "epsilon": epsilon}


class _PerSample:
    """Mixin: `linear` is what the kernel does, before bias and activation."""

    def __init__(self, *args, per_sample=None, **kwargs):
        self.per_sample = _validated(
            **{"norm": "l2", "log": False, "floor": 1.0, "epsilon": 1e-6, **(per_sample or {})}
        )
        super().__init__(*args, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)
        self._geometry = geometry.of(self, input_shape)
        geometry.demand_spread(self, self._geometry, input_shape, self.per_sample["norm"])
        for variable in self.variables:
            setattr(variable, ATTRIBUTE, None)

    def get_config(self):
        return {**super().get_config(), "per_sample": dict(self.per_sample)}

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        # The same twice: the first for the gradient of the inputs, the second, which adds zero, for
        # that of the kernel, which is a product with what the second is made of.
        outputs = self.linear(inputs, ops.stop_gradient(self.kernel))
        divided = ops.multiply(ops.stop_gradient(inputs), self._factors(inputs))
        parts = self.linear(divided, self.kernel)
        outputs = ops.add(outputs, ops.subtract(parts, ops.stop_gradient(parts)))
        if self.bias is not None:
            bias = self.bias
            if getattr(self, "data_format", None) == "channels_first":
                bias = ops.reshape(bias, (-1,) + (1,) * self.rank)
            outputs = ops.add(outputs, bias)
        return outputs if self.activation is None else self.activation(outputs)

    def _factors(self, inputs):
        """One over N for each sample and channel; 0 for a sample without power."""
        o = self.per_sample
        power = ops.stop_gradient(measures.powers(inputs, self._geometry, o["norm"]))
        factors = quotient(power, 1.0, o["floor"] if o["log"] else None, o["epsilon"])
        return ops.cast(ops.where(ops.equal(power, 0), 0.0, factors), inputs.dtype)


class _Dense(_PerSample):
    def linear(self, inputs, kernel):
        return ops.matmul(inputs, kernel)


class _Einsum(_PerSample):
    def linear(self, inputs, kernel):
        return ops.einsum(self.equation, inputs, kernel)


class _Convolution(_PerSample):
    def linear(self, inputs, kernel):
        return self.convolution_op(inputs, kernel)


_MIXINS = {layers.Dense: _Dense, layers.EinsumDense: _Einsum}
_MIXINS.update(dict.fromkeys(geometry.PLAIN, _Convolution))
for _parent, _mixin in _MIXINS.items():
    _name = f"PerSample{_parent.__name__}"
    _doc = f"`keras.layers.{_parent.__name__}` whose kernel's gradient is normalised by sample."
    register(type(_name, (_mixin, _parent), {"__doc__": _doc, "__module__": __name__}), _FORMS)
