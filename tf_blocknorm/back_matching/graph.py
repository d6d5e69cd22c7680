"""A model as the list of the uses of its layers: the only place that reads Keras's graphs."""

import dataclasses

import keras
from keras import ops


@dataclasses.dataclass(eq=False)
class Use:
    """One call of a layer or an operation.

    Attributes:
        layer: what is called, a `keras.layers.Layer` or another `keras.Operation`.
        inputs, outputs: numbers of the tensors that go in and come out.
        shapes: of the tensors that go in, without the batch's axis; None where it may vary.
        output_shapes: of those that come out.
        node: Keras's record of the call.
    """

    layer: object
    inputs: tuple
    outputs: tuple
    shapes: tuple
    output_shapes: tuple
    node: object

    def call(self, tensors):
        """What comes out if these tensors go in, as it is without training."""
        given = {id(t): value for t, value in zip(self.node.input_tensors, tensors)}
        args, kwargs = self.node.arguments.fill_in(given)
        if getattr(self.layer, "_call_has_training_arg", False):
            kwargs = {**kwargs, "training": False}
        return keras.tree.flatten(self.layer(*args, **kwargs))


class Graph:
    """The uses of all layers of a functional or sequential model, inputs first.

    Args:
        model: a model made of a graph of layers, and built. Where one of them is such a model
            itself, the uses of its layers take its place.

    Attributes:
        uses: list of `Use`.
        inputs, outputs: numbers of the model's tensors.
    """

    def __init__(self, model):
        functional = _functional(model)
        if functional is None:
            built = "" if model.built else ", which is not built"
            raise ValueError(
                "`model` must be functional or sequential, and know the shape of its input "
                "(`keras.Input`): the layers of other models are in no known order. "
                f"Received: model={model!r} of class {type(model).__name__}{built}"
            )
        self.uses, self._count = [], 0
        self.inputs = self._new(functional.inputs)
        self.outputs = self._walk(functional, self.inputs)
        self._model = functional

    def arguments(self, inputs):
        """The model's inputs, in whatever form `fit` takes them, as a list of tensors."""
        inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
        return list(self._model._standardize_inputs(inputs))

    def _new(self, tensors):
        first, self._count = self._count, self._count + len(tensors)
        return tuple(range(first, self._count))

    def _walk(self, functional, inputs):
        numbers = dict(zip(map(id, functional.inputs), inputs))
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                given = tuple(numbers[id(tensor)] for tensor in node.input_tensors)
                inner = _functional(node.operation)
                if inner is None:
                    made = self._new(node.outputs)
                    shapes = [_shapes(t) for t in (node.input_tensors, node.outputs)]
                    self.uses.append(Use(node.operation, given, made, *shapes, node))
                else:
                    _demand_order(node, inner)
                    made = self._walk(inner, given)
                numbers.update(zip(map(id, node.outputs), made))
        return tuple(numbers[id(tensor)] for tensor in functional.outputs)


def _functional(model):
    """The graph behind a model; None if there is none, or `call` does something else."""
    call = getattr(type(model), "call", None)
    graph = getattr(model, "_functional", model)  # that of a sequential model
    is_keras = getattr(call, "__module__", "").startswith("keras.")
    return graph if is_keras and hasattr(graph, "_nodes_by_depth") else None


def _demand_order(node, inner):
    """By name and by position, the tensors would be matched by guess."""
    if isinstance(node.arguments.args[0], dict) != isinstance(inner._inputs_struct, dict):
        raise ValueError(
            "A model within the model must be called with a dict of tensors if it was made with "
            f"one, and only then. Received: model {node.operation.name!r} called with "
            f"{node.arguments.args[0]}"
        )


def _shapes(tensors):
    return tuple(tuple(tensor.shape[1:]) for tensor in tensors)
