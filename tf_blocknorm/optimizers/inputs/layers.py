"""Keras's layers with taps on their inputs: the same layers, names and weights."""

import keras
from keras import layers, ops

from tf_blocknorm.optimizers import arguments
from tf_blocknorm.optimizers.inputs import geometry, measures
from tf_blocknorm.optimizers.inputs.tap import ATTRIBUTE, InputTap

# From a Keras class to its form with taps.
FORMS = {}


def _form(cls):
    """Registers a class as the form of its Keras parent."""
    return register(cls, FORMS)


def register(cls, forms):
    """Registers a form of the Keras layer that a class derives from.

    Its name is that of the layer from then on, as files of weights say of what class a layer is:
    so they can be exchanged.
    """
    parent = cls.__bases__[-1]
    forms[parent] = keras.saving.register_keras_serializable("tf_blocknorm", cls.__name__)(cls)
    cls.__name__ = parent.__name__
    return cls


class _Tapped:
    """Mixin that adds the argument `input_norm` to a Keras layer."""

    def __init__(self, *args, input_norm="l2", **kwargs):
        # First, as layers of layers make their parts in their constructors.
        self.input_norm = arguments.choice("input_norm", input_norm, measures.NORMS)
        super().__init__(*args, **kwargs)

    def get_config(self):
        return {**super().get_config(), "input_norm": self.input_norm}

    def _add_tap(self, kernel, where, shape, name="input_tap"):
        geometry.demand_spread(self, where, shape, self.input_norm)
        tap = InputTap(where, self.input_norm, name=name, dtype=self.dtype_policy)
        tap.build()
        setattr(kernel, ATTRIBUTE, tap)
        return tap

    def _no_input(self, *variables):
        """Tell the optimizer that these make plain steps: biases, of which some are matrices."""
        for variable in variables:
            setattr(variable, ATTRIBUTE, None)


class _OneKernel(_Tapped):
    def build(self, input_shape):
        super().build(input_shape)
        self._no_input(*self.variables)
        ((kernel, where, shape),) = geometry.kernels(self, input_shape)
        self.input_tap = self._add_tap(kernel, where, shape)

    def call(self, inputs):
        return super().call(self.input_tap(inputs))


for _parent in (layers.Dense, layers.EinsumDense, *geometry.CONVOLUTIONS):
    _name = f"InputTapped{_parent.__name__}"
    _doc = f"`keras.layers.{_parent.__name__}` with a tap on its input."
    _form(type(_name, (_OneKernel, _parent), {"__doc__": _doc, "__module__": __name__}))


class _Separable(_Tapped):
    """A tap on the input, and one between the two convolutions, which Keras calls as one."""

    def build(self, input_shape):
        super().build(input_shape)
        self._no_input(*self.variables)
        depthwise, pointwise = geometry.kernels(self, input_shape)
        self.input_tap = self._add_tap(*depthwise)
        self.pointwise_tap = self._add_tap(*pointwise, name="pointwise_tap")

    def call(self, inputs):
        between = ops.depthwise_conv(
            self.input_tap(inputs),
            self.depthwise_kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        outputs = ops.conv(
            self.pointwise_tap(between), self.pointwise_kernel, data_format=self.data_format
        )
        if self.use_bias:
            first = self.data_format == "channels_first"
            shape = (-1, *(1,) * self.rank) if first else (-1,)
            outputs = ops.add(outputs, ops.reshape(self.bias, shape))
        return outputs if self.activation is None else self.activation(outputs)


@_form
class InputTappedSeparableConv1D(_Separable, layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` with taps on the inputs of both kernels."""


@_form
class InputTappedSeparableConv2D(_Separable, layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` with taps on the inputs of both kernels."""


class _Cell(_Tapped):
    """Cells: one tap for the input, one for the state; both see every time step.

    What is measured is what the kernels see, after the dropout inside.
    """

    def build(self, input_shape):
        if not getattr(self, "reset_after", True):
            raise ValueError(
                "`reset_after` must be True to measure the input of a recurrent kernel. "
                f"Received: reset_after=False in layer {self.name!r}"
            )
        super().build(input_shape)
        self._no_input(*self.variables)
        self.input_tap = self._add_tap(self.kernel, geometry.DENSE, input_shape)
        states = (None, self.units)
        self.state_tap = self._add_tap(
            self.recurrent_kernel, geometry.DENSE, states, name="state_tap"
        )

    def call(self, inputs, states, training=False):
        nested = isinstance(states, (list, tuple))
        state, *others = states if nested else [states]
        if training:
            factors = self._masks(self.dropout, self.get_dropout_mask, inputs)
            of_state = self._masks(self.recurrent_dropout, self.get_recurrent_dropout_mask, state)
        else:
            factors = of_state = None
        inputs, state = self.input_tap(inputs, factors), self.state_tap(state, of_state)
        return super().call(inputs, [state, *others] if nested else state, training=training)

    def _masks(self, rate, get_mask, x):
        """What dropout multiplies x by, which the cell keeps for all steps: of each gate, or one.

        Without dropout, None.
        """
        if not 0 < rate < 1:
            return None
        masks = get_mask(x)
        return ops.stack(masks) if isinstance(masks, (list, tuple)) else masks


@_form
class InputTappedSimpleRNNCell(_Cell, layers.SimpleRNNCell):
    """`keras.layers.SimpleRNNCell` with taps on its input and its state."""


@_form
class InputTappedGRUCell(_Cell, layers.GRUCell):
    """`keras.layers.GRUCell` with taps on its input and its state."""


@_form
class InputTappedLSTMCell(_Cell, layers.LSTMCell):
    """`keras.layers.LSTMCell` with taps on its input and its state."""


class _OfLayers(_Tapped):
    """Layers that make layers of their own: those get the taps."""

    def __setattr__(self, name, value):
        form = FORMS.get(type(value))
        if form is not None:
            value = form.from_config({**value.get_config(), "input_norm": self.input_norm})
        super().__setattr__(name, value)


class _Fused(_OfLayers):
    """Step by step, as cuDNN does not show the states in between."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "use_cudnn": False})


@_form
class InputTappedSimpleRNN(_OfLayers, layers.SimpleRNN):
    """`keras.layers.SimpleRNN` with taps in its cell."""


@_form
class InputTappedGRU(_Fused, layers.GRU):
    """`keras.layers.GRU` with taps in its cell."""


@_form
class InputTappedLSTM(_Fused, layers.LSTM):
    """`keras.layers.LSTM` with taps in its cell."""


@_form
class InputTappedMultiHeadAttention(_OfLayers, layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` with taps on the inputs of its projections."""


@_form
class InputTappedGroupedQueryAttention(_OfLayers, layers.GroupQueryAttention):
    """`keras.layers.GroupQueryAttention` with taps on the inputs of its projections."""


@_form
class InputTappedEmbedding(_Tapped, layers.Embedding):
    """`keras.layers.Embedding`: a row is looked up, so that there is no input to be measured."""

    def build(self, input_shape=None):
        super().build(input_shape)
        self._no_input(*self.variables)
