"""The table of input-normalised SGD, beside `cases.py`: its rows need a model with inputs."""

import dataclasses

import input_problems
import pytest
import reference_inputs
from cases import Inverse

import tf_blocknorm as tfb

KERNELS = tuple(range(0, len(input_problems.PATHS), 2))
ALL = tuple(range(len(input_problems.PATHS)))


@dataclasses.dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        name: what pytest prints.
        like: the name of an implementation.
        arguments: what else the optimizer is given.
        expected: what the reference is given beside what it shares with `arguments`.
        norm: what the model measures.
        decayed: indices of the variables with weight decay.
        plain: indices of kernels that are excluded.
        rates: learning rate of step 0, 1, …
    """

    name: str
    like: str = "paper"
    arguments: dict = dataclasses.field(default_factory=dict)
    expected: dict = dataclasses.field(default_factory=dict)
    norm: str = "l2"
    decayed: tuple = ALL
    plain: tuple = ()
    rates: object = None

    def optimizer(self, **more):
        return tfb.INSGD.like(self.like, **{"learning_rate": 0.02, **self.arguments, **more})

    def history(self, x, y, batch_size=2):
        """Weights after every step."""
        gradients, powers = input_problems.gradients_and_powers(x, y, batch_size, self.norm)
        powers = [[None if i in self.plain else p for i, p in enumerate(ps)] for ps in powers]
        rate = self.rates or (lambda _: self.arguments.get("learning_rate", 0.02))
        code = reference_inputs.insgd.__code__
        known = code.co_varnames[: code.co_argcount]
        options = {k: v for k, v in self.arguments.items() if k in known}
        return reference_inputs.insgd(
            input_problems.start_weights(),
            gradients,
            powers,
            [rate(k) for k in range(len(gradients))],
            self.decayed,
            **{**options, **self.expected},
        )

    def reference(self, x, y, batch_size=2):
        """Weights after the last step."""
        return self.history(x, y, batch_size)[-1]


CODE = {"floor": 0.01, "input_momentum": 0.0, "gain": "code"}
TABLE = [
    Case("paper"),
    Case("paper-l1-decay", arguments={"weight_decay": 0.1, "input_momentum": 0.5}, norm="l1"),
    Case("code-l2", "code", {"weight_decay": 0.05, "learning_rate": 0.01}, CODE, "standardized_l2"),
    Case("code-l1", "code", {"nesterov": True, "learning_rate": 0.01}, CODE, "standardized_l1"),
    Case(
        "code-2023",
        "code_2023",
        {"weight_decay": 0.1, "learning_rate": 0.01, "exclude_from_weight_decay": "vectors"},
        {**CODE, "normalize": "gradient"},
        "standardized_l1",
        decayed=KERNELS,
    ),
    Case(
        "nlms",
        "nlms",
        {"learning_rate": 0.3, "epsilon": 0.2},
        {"momentum": 0.0, "input_momentum": 0.0, "log": False},
    ),
    Case(
        "power-nesterov-schedule",
        arguments={
            "learning_rate": Inverse(),
            "log": False,
            "epsilon": 0.5,
            "gain": 4.0,
            "nesterov": True,
            "normalize": "gradient",
            "clipnorm": 0.8,
            "input_momentum": 0.6,
        },
        rates=lambda k: 0.1 / (1 + 0.5 * k),
    ),
    Case(
        "exclude-ema-compiled",
        arguments={
            "exclude": ["grouped", "einsum/kernel"],
            "use_ema": True,
            "ema_momentum": 0.8,
            "jit_compile": True,
            "floor": 0.5,
            "momentum": 0.5,
        },
        plain=(2, 8),
    ),
]
CASES = pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)

# What takes long runs with the other rows in `make test-all` only.
CORE = {"paper-l1-decay", "code-l2", "power-nesterov-schedule", "exclude-ema-compiled"}
PARTS = {
    "core": [case for case in TABLE if case.name in CORE],
    "rest": [case for case in TABLE if case.name not in CORE],
}
CORE_CASES = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case.name in CORE else pytest.mark.slow) for case in TABLE],
    ids=lambda case: case.name,
)
