r"""From the inputs to the outputs for the scalars of each layer, and back for their products.

With $m$ the scalar of a layer's input and $M$ that of its output, the walk back is

$$M_{\text{outputs}} = 1, \qquad M_x = \sum_{\text{consumers } j \text{ of } x} m_j\,M_j, \qquad
c_\theta = \sum_{\text{uses } j \text{ of } \theta} m_{\theta,j}\, M_j$$

and $c_\theta$ the curvature of the loss by one entry of the variable $\theta$, on average, as far
as the recursion sees it.
"""

import dataclasses
import math

from keras import ops

from tf_blocknorm.back_matching.graph import Graph
from tf_blocknorm.back_matching.rules import IN_TRAINING, rule_of
from tf_blocknorm.back_matching.seen import Match, NoRule, Seen, recorded_activation


@dataclasses.dataclass(frozen=True)
class Options:
    """How curvatures are computed, and multipliers made of them: see `BackMatching`."""

    rank: str = "in"
    relu: str = "active"
    unknown: str = "raise"
    normalize: str | None = "mean"
    bounds: tuple | None = (1e-3, 1e3)


def curvatures(model, inputs=None, options=None):
    """The curvature of every trainable variable that a rule speaks of.

    Args:
        model: functional or sequential.
        inputs: a batch of them, or None for what is known without.
        options: `Options`; those by default.

    Returns:
        A list of pairs of a variable and a float, in the order of `model.trainable_variables`.
    """
    graph, options = Graph(model), options or Options()
    factors = dict.fromkeys(graph.outputs, 1.0)
    found = {}
    for use, match in reversed(list(_forward(graph, inputs, options))):
        factor = sum(factors.get(tensor, 0.0) for tensor in use.outputs)
        for variable, m in match.variables:
            found[id(variable)] = found.get(id(variable), 0.0) + m * factor
        each = match.inputs
        each = each if isinstance(each, list) else [each] * len(use.inputs)
        for tensor, m in zip(use.inputs, each, strict=True):
            factors[tensor] = factors.get(tensor, 0.0) + m * factor
    return [(v, found[id(v)]) for v in model.trainable_variables if id(v) in found]


def multipliers(curvatures, options=None):
    """What the learning rate of each variable is multiplied by.

    Args:
        curvatures: list of pairs of a variable and a float.
        options: `Options`; those by default.

    Returns:
        A list of floats. All are NaN if one of the curvatures is no finite number. Where it is 0
        so is the gradient, and the multiplier is 1.
    """
    options = options or Options()
    values = [value for _, value in curvatures]
    if not all(map(math.isfinite, values)):
        return [math.nan] * len(values)
    scale = 1.0
    if options.normalize == "mean":
        counts = [math.prod(variable.shape) for variable, _ in curvatures]
        logs = [n * math.log(c) for n, c in zip(counts, values) if c > 0]
        total = sum(n for n, c in zip(counts, values) if c > 0)
        scale = math.exp(math.fsum(logs) / total) if total else 1.0
    low, high = options.bounds or (0.0, math.inf)
    return [min(max(scale / c, low), high) if c > 0 else 1.0 for c in values]


def _forward(graph, inputs, options):
    """Pairs of a use and its match, inputs first."""
    consumed = {n: k for k, use in enumerate(graph.uses) for n in use.inputs}
    tensors = None
    if inputs is not None:
        tensors = dict(zip(graph.inputs, graph.arguments(inputs)))
    trained = set()  # tensors that a trainable variable has a part in
    for k, use in enumerate(graph.uses):
        own = getattr(use.layer, "trainable_variables", [])
        below = trained.intersection(use.inputs)
        given, recorded = None, []
        if tensors is not None:
            given = [tensors[n] for n in use.inputs]
            has_rule = (own or below) and rule_of(use.layer)
            with recorded_activation(use.layer if has_rule else None) as recorded:
                made = map(ops.stop_gradient, _outputs(use, given))
            tensors.update(zip(use.outputs, made, strict=True))
        if own or below:
            trained.update(use.outputs)
            is_output = use.outputs[0] in graph.outputs and use.outputs[0] not in consumed
            shapes = [use.shapes, use.output_shapes]
            if given is not None:
                made = [tensors[n] for n in use.outputs]
                shapes = [tuple(tuple(t.shape)[1:] for t in ts) for ts in (given, made)]
            seen = Seen(use.layer, *shapes, options, is_output, given, *recorded)
            yield use, _match(seen, own)
        for n in use.inputs if tensors is not None else ():
            if consumed[n] == k:
                tensors.pop(n, None)


def _outputs(use, given):
    if type(use.layer) in IN_TRAINING and use.layer.trainable:
        return [IN_TRAINING[type(use.layer)](use.layer, *given)]
    return use.call(given)


def _match(seen, own):
    """What the rule says, or an error or a guess that was asked for."""
    rule, layer = rule_of(seen.layer), seen.layer
    try:
        if rule is None or len(seen.output_shapes) > 1:
            raise NoRule(f"layers of the class {type(layer).__name__}")
        if any(None in shape for shape in (*seen.shapes, *seen.output_shapes)):
            raise ValueError(
                "`inputs` must be given for a model whose shapes are not all known. Received: "
                f"inputs=None, and the layer {layer.name!r} with inputs of shape {seen.shapes}"
            )
        match = rule(seen)
        missing = {id(v) for v in own} - {id(v) for v, _ in match.variables}
        if missing:
            names = [v.path for v in own if id(v) in missing]
            raise NoRule(f"the variables {names} of a {type(layer).__name__}")
        return match
    except NoRule as error:
        if seen.options.unknown == "identity":
            return Match([1.0] * len(seen.shapes))
        raise ValueError(
            f"Back-matching has no rule for {error}. Give it one by "
            "`tf_blocknorm.back_matching.register_rule`, or pass `unknown='identity'`: such a "
            "layer counts as the identity, and its variables have the multiplier 1. "
            f"Received: layer {layer.name!r}"
        ) from None
