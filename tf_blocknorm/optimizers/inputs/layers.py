"""Keras's layers with taps on their inputs: the same layers, names and weights."""

import keras
from keras import layers

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
        (kernel,) = (variable for variable in self.variables if variable.name == "kernel")
        self._no_input(*self.variables)
        self.input_tap = self._add_tap(kernel, geometry.of(self, input_shape), input_shape)

    def call(self, inputs):
        return super().call(self.input_tap(inputs))


for _parent in (layers.Dense, layers.EinsumDense, *geometry.CONVOLUTIONS):
    _name = f"InputTapped{_parent.__name__}"
    _doc = f"`keras.layers.{_parent.__name__}` with a tap on its input."
    _form(type(_name, (_OneKernel, _parent), {"__doc__": _doc, "__module__": __name__}))


class _Cell(_Tapped):
    """Cells: one tap for the input, one for the state; both see every time step."""

    def build(self, input_shape):
        for name in ("dropout", "recurrent_dropout"):
            if getattr(self, name, 0):
                raise ValueError(
                    f"`{name}` inside a recurrent layer must be 0 to measure its inputs: put a "
                    "`Dropout` before it, or exclude the layer. "
                    f"Received: {name}={getattr(self, name)} in layer {self.name!r}"
                )
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
        if isinstance(states, (list, tuple)):
            states = [self.state_tap(states[0]), *states[1:]]
        else:
            states = self.state_tap(states)
        return super().call(self.input_tap(inputs), states, training=training)


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
