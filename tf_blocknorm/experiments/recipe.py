"""What a recipe is: how an optimizer and its callbacks are made from plain data."""

import dataclasses
import math
from collections.abc import Mapping

from tf_blocknorm.experiments import schedules
from tf_blocknorm.experiments.schedules import LINEAR


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method.

    Attributes:
        optimizer: Name of a class in `tf_blocknorm` or `keras.optimizers`.
        arguments: What the class takes besides the rate.
        label: What tables and figures call it.
        grid: Rates that `tf-blocknorm sweep` starts from; one for a method that is not tuned.
        callbacks: Names of classes in `tf_blocknorm`, or `"BatchStatistics"`, each with its
            arguments. A number given as `inputs` stands for so many training examples.
        rate: The argument that the rate is given as; None for a method that takes none. If it is
            not `"learning_rate"`, the learning rate falls from 1 and multiplies it.
        schedule: `LINEAR` for one that the run may choose, or `OWN` for a float.
        shares: Arguments that count updates, as fractions of those of the run.
        inputs: What `with_input_statistics` measures in the model; `"constant"` for the powers of
            `constant_powers`; None for neither.
    """

    optimizer: str
    arguments: Mapping
    label: str
    grid: tuple
    callbacks: Mapping = dataclasses.field(default_factory=dict)
    rate: str | None = "learning_rate"
    schedule: str = LINEAR
    shares: Mapping = dataclasses.field(default_factory=dict)
    inputs: str | None = None

    def prepare(self, model):
        """Return the model that the method trains, and what its optimizer is given for it."""
        import tf_blocknorm

        if self.inputs is None:
            return model, {}
        if self.inputs == "constant":
            return model, {"powers": tf_blocknorm.constant_powers(model)}
        return tf_blocknorm.with_input_statistics(model, self.inputs), {}

    def make(self, rate, steps=None, warmup=0.0, schedule=LINEAR, **given):
        """Return the optimizer.

        Args:
            rate: The learning rate, or what else the recipe calls its rate.
            steps: Updates of the run; None for an optimizer without a schedule.
            warmup, schedule: See `schedules.make`.
            **given: What `prepare` returned.
        """
        import keras

        import tf_blocknorm

        cls = getattr(tf_blocknorm, self.optimizer, None)
        cls = cls or getattr(keras.optimizers, self.optimizer)
        arguments = {**self.arguments, **given, **({self.rate: rate} if self.rate else {})}
        if steps is not None:
            arguments |= {name: math.ceil(share * steps) for name, share in self.shares.items()}
        if self.schedule == LINEAR and steps is not None:
            highest = arguments.get("learning_rate", 1.0)
            arguments["learning_rate"] = schedules.make(highest, steps, warmup, schedule)
        return cls(**arguments)

    def make_callbacks(self, examples=()):
        """Return the callbacks; `examples` are those of the training data."""
        import tf_blocknorm
        from tf_blocknorm.experiments import batch_statistics

        made = []
        for name, options in self.callbacks.items():
            shown = {}
            if "inputs" in options:  # from all over the data, which may be in order
                count = options["inputs"]
                shown["inputs"] = examples[:: max(1, len(examples) // count)][:count]
            cls = getattr(tf_blocknorm, name, None) or getattr(batch_statistics, name)
            made.append(cls(**{**options, **shown}))
        return made
