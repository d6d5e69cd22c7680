"""How each method is run: optimizer, schedule and tuned learning rate, as plain data.

A new method is one row of `RECIPES`. All methods share the schedule (linear decay to 0 over the
run) and get the same number of learning rates to be tuned over, so that none has an advantage.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method.

    Attributes:
        optimizer: Name of a class in `tf_blocknorm` or `keras.optimizers`.
        arguments: What the class takes besides the learning rate.
        label: What tables and figures call it.
        grid: Learning rates that `tf-blocknorm sweep` starts from.
    """

    optimizer: str
    arguments: Mapping
    label: str
    grid: tuple

    def make(self, learning_rate, steps):
        """Return the optimizer, its learning rate falling linearly to 0 over `steps` updates."""
        import keras

        import tf_blocknorm

        cls = getattr(tf_blocknorm, self.optimizer, None)
        cls = cls or getattr(keras.optimizers, self.optimizer)
        schedule = keras.optimizers.schedules.PolynomialDecay(
            learning_rate, decay_steps=steps, end_learning_rate=0.0
        )
        return cls(schedule, **self.arguments)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The best learning rate of each method, and how it was found."""

    rates: Mapping[str, float]
    effort: str


GRID = (0.005, 0.01, 0.02, 0.05, 0.1)

RECIPES = {
    "BlockNormSGD": Recipe("BlockNormSGD", {"norm": "max"}, "BlockNormSGD, max norm", GRID),
    "Adam": Recipe("Adam", {}, "Adam", GRID),
    "SGD": Recipe("SGD", {"momentum": 0.9}, "SGD, momentum 0.9", GRID),
}

# Key: (problem, data). Source: the sweep recorded in results/sweep-PROBLEM-DATA.json.
TUNED = {
    ("mlp", "digits"): Tuning(
        {"BlockNormSGD": 0.01, "Adam": 0.01, "SGD": 0.005},
        "best of 6 on validation examples (2 seeds, 82 epochs)",
    ),
    ("mlp", "mnist"): Tuning(
        {"BlockNormSGD": 0.01, "Adam": 0.02, "SGD": 0.01},
        "best of 5 on validation examples (1 seed, 3 epochs)",
    ),
}


def tuning(problem, data, options_changed):
    """Return the rates to use on these data and one sentence on where they come from."""
    found = TUNED.get((problem, data))
    if found:
        sentence = f"each method's learning rate is the {found.effort}"
    else:
        found = TUNED[problem, "mnist"]
        sentence = f"none on {data}; the learning rates were tuned on mnist (see `sweep`)"
    if options_changed:
        sentence += "; not tuned for the options given"
    return found.rates, f"Tuning: {sentence}."
