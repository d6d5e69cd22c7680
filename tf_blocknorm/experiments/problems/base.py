"""What a problem consists of."""

import dataclasses
from collections.abc import Callable, Mapping

from tf_blocknorm.experiments import data
from tf_blocknorm.experiments.problems.metrics import Metric


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network and how it is trained, but for the data and the optimizer.

    Attributes:
        name: The word by which the command line knows it.
        title: What figures call it.
        summary: One line for `tf-blocknorm list`.
        build: Function `(input_shape, num_classes, **options)` that returns a Keras model.
        loss: As for `model.compile`.
        metric: A `Metric`, which tables and figures show.
        batch_size: Examples per update.
        updates: About how many updates a run makes unless the number of epochs is given.
        data: The data that it is trained on unless others are given.
        options: What `build` and `load` take, with default values.
        load: Function `(source, **options)` that returns the `Data` to train on.
    """

    name: str
    title: str
    summary: str
    build: Callable
    loss: str
    metric: Metric
    batch_size: int
    updates: int
    data: str
    options: Mapping[str, int]
    load: Callable = lambda source, **_: data.load(source)

    def described(self, options):
        """Return the name with the options, as in `mlp (depth 30)`."""
        listed = ", ".join(f"{name} {value}" for name, value in options.items())
        return f"{self.name} ({listed})" if listed else self.name

    def epochs(self, examples):
        """Return the number of epochs that make about `updates` updates, but at least 9."""
        return max(9, self.updates // max(1, examples // self.batch_size))
