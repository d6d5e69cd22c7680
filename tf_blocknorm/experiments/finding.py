"""What `tf-blocknorm find` does once its arguments are known."""

import math
import shlex

import keras

from tf_blocknorm.callbacks.learning_rate_finder import LearningRateFinder
from tf_blocknorm.experiments import records
from tf_blocknorm.experiments.errors import ExperimentError
from tf_blocknorm.experiments.problems import PROBLEMS
from tf_blocknorm.experiments.recipes import RECIPES
from tf_blocknorm.experiments.runner import Batches


def find(arguments, argv, console):
    """Sweep over learning rates, print the suggestion, save figure and record; return 0."""
    problem, recipe = PROBLEMS[arguments.problem], RECIPES[arguments.method]
    try:
        finder = LearningRateFinder(
            arguments.min_learning_rate,
            arguments.max_learning_rate,
            arguments.steps,
            signal=arguments.signal,
        )
    except ValueError as error:
        raise ExperimentError(error) from error
    options = {**problem.options, **arguments.options}
    dataset = problem.load(arguments.data, **options)

    keras.utils.set_random_seed(arguments.seed)
    model, given = recipe.prepare(
        problem.build(dataset.input_shape, dataset.num_classes, **options)
    )
    batches = Batches(dataset.x_train, dataset.y_train, problem.batch_size, arguments.seed)
    optimizer = recipe.make(arguments.min_learning_rate, **given)
    model.compile(optimizer, loss=problem.loss, jit_compile=False)

    console.print(
        f"{problem.described(options)} on {dataset.name}, {recipe.label}, seed {arguments.seed}: "
        f"{finder.steps} updates with batches of {problem.batch_size}, learning rate from "
        f"{finder.min_learning_rate:g} to {finder.max_learning_rate:g}.",
        highlight=False,
    )
    with console.status("Sweeping …"):
        model.fit(
            batches,
            shuffle=False,  # `Batches` does it.
            epochs=math.ceil(finder.steps / len(batches)),
            callbacks=[finder, batches.reshuffle()],
            verbose=0,
        )
    if finder.suggestion is None:
        console.print(f"No suggestion: {finder.rule}.", highlight=False)
    else:
        console.print(
            f"Suggested learning rate: {finder.suggestion:.2g} ({finder.rule}).", highlight=False
        )
    stem = f"{arguments.out}/find-{problem.name}-{dataset.name}-{arguments.method}"
    record = {
        "command": shlex.join(["tf-blocknorm", *argv]),
        "problem": problem.name,
        "options": options,
        "data": dataset.name,
        "method": arguments.method,
        "seed": arguments.seed,
        "signal": arguments.signal,
        "suggestion": finder.suggestion,
        "rule": finder.rule,
        "learning_rates": finder.learning_rates.tolist(),
        "losses": finder.losses.tolist(),
        "correlations": finder.correlations.tolist(),
        "versions": records.versions(),
        "machine": records.machine(),
    }
    records.write_json(f"{stem}.json", record)
    finder.plot(f"{stem}.png")
    console.print(f"Sweep:  {stem}.json\nFigure: {stem}.png", highlight=False)
    return 0
