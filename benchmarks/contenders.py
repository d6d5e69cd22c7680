"""Who takes part: the optimizers of Keras and of this package, and what is asked of the latter.

Those of other libraries, which are compared by their rule, are in `jax_.py` and `torch_.py`.
"""

import dataclasses
import types
from collections.abc import Callable

import keras

import tf_blocknorm as bn
from tf_blocknorm.callbacks.back_matching_tap import Multipliers
from tf_blocknorm.optimizers import taps

RATE = 1e-5  # so low that thousands of updates with the same gradients leave the weights sound


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer in the benchmark.

    Attributes:
        name: As it is called in tables.
        make: A function without arguments that returns a new optimizer.
        family: Those of a family take turns. Families follow one another, which bounds the memory.
        rule: Optimizers of other libraries are compared with those of the same rule.
        streams: How many numbers per weight have to be read or written in an update, at least:
            with every number that is needed twice, on either side of a norm, moved twice.
        reference: The name of the optimizer of Keras that it is measured against.
        targets: Highest ratio of their times: for the large network, and for the small one.
        problems: Those that it takes part in; None: all.
    """

    name: str
    make: Callable
    family: str
    rule: str
    streams: int
    reference: str | None = None
    targets: tuple[float, float] | None = None
    problems: tuple[str, ...] | None = None


def _keras(name, make, rule, streams, family=None, **options):
    return Contender(f"Keras {name}", make, family or rule, rule, streams, **options)


def _ours(name, make, rule, streams, reference, targets, family=None):
    return Contender(name, make, family or rule, rule, streams, f"Keras {reference}", targets)


def back_matched(optimizer):
    """Keras's SGD with multipliers in its steps, as in a model that has `BackMatching`."""
    # Not a subclass, which on torch would be without Keras's updates of all variables at once.
    build = optimizer.build

    def build_with_multipliers(variables):
        build(variables)
        model = types.SimpleNamespace(
            optimizer=optimizer, built=True, trainable_variables=variables
        )
        taps.attach(Multipliers(), model)

    optimizer.build = build_with_multipliers
    return optimizer


k = keras.optimizers
CONTENDERS = (
    _keras("SGD", lambda: k.SGD(RATE), "sgd", 3),
    _ours("BlockNormSGD", lambda: bn.BlockNormSGD(RATE), "sgd", 4, "SGD", (0.8, 1.0)),
    _keras("momentum", lambda: k.SGD(RATE, 0.9), "momentum", 5),
    _ours(
        "BlockNormSGD, momentum",
        lambda: bn.BlockNormSGD(RATE, 0.9),
        "momentum",
        6,
        "momentum",
        (0.75, 0.75),
    ),
    _ours("LARS", lambda: bn.LARS(RATE), "lars", 7, "momentum", (0.8, 0.8), "momentum"),
    _ours(
        "AdaptiveBlockNormSGD",
        lambda: bn.AdaptiveBlockNormSGD(RATE),
        "momentum",
        6,
        "momentum",
        (1.0, 1.0),
    ),
    # The update alone: what it costs to measure powers is in `inputs.py`.
    _ours(
        "INSGD, constant powers",
        lambda: bn.INSGD(RATE, powers=[(".", 100.0)]),
        "momentum",
        5,
        "momentum",
        (0.75, 0.75),
    ),
    _ours(
        "BackMatching",
        lambda: back_matched(k.SGD(RATE, 0.9)),
        "momentum",
        5,
        "momentum",
        (0.75, 0.75),
    ),
    _keras("Adam", lambda: k.Adam(RATE), "adam", 7),
    _keras("AdamW", lambda: k.AdamW(RATE), "adamw", 7, "adam"),
    _ours("BlockNormAdam", lambda: bn.BlockNormAdam(RATE), "adam", 8, "Adam", (0.5, 0.5)),
    _ours(
        "BlockNormAdamW", lambda: bn.BlockNormAdamW(RATE), "adamw", 8, "Adam", (0.5, 0.5), "adam"
    ),
    _ours("NovoGrad", lambda: bn.NovoGrad(RATE), "novograd", 6, "Adam", (0.4, 0.4), "adam"),
    _keras("Lamb", lambda: k.Lamb(RATE), "lamb", 10),
    _ours("LAMB", lambda: bn.LAMB(RATE), "lamb", 10, "Lamb", (0.45, 0.45)),
    # On the large network an update is a million million multiplications.
    _keras("Muon", lambda: k.Muon(RATE), "muon", 5, problems=("small", "resnet")),
)
FAMILIES = tuple(dict.fromkeys(contender.family for contender in CONTENDERS))
BY_NAME = {contender.name: contender for contender in CONTENDERS}


def of(family, problem):
    """Return the contenders of a family that take part in a problem."""
    return [
        contender
        for contender in CONTENDERS
        if contender.family == family and problem in (contender.problems or (problem,))
    ]


def family_of(rule, problem):
    """Return the family in which optimizers of a rule take part in a problem, or None."""
    families = [family for family in FAMILIES if rule in {c.rule for c in of(family, problem)}]
    return families[0] if families else None


def streams_of(rule, contender=None):
    """Return the numbers that a contender, or else the first one of its rule, has to move."""
    same = [c for c in CONTENDERS if c.rule == rule]
    return (contender or same[0]).streams
