"""How each method is run: optimizer, callbacks, schedule and tuned rate, as plain data.

A new method is one row of `RECIPES`. The learning rate of every method that does not set its own
falls in the same way over the run, linearly to 0 unless `--schedule` says otherwise, and all get
the same number of rates to be tuned over, so that none has an advantage.
"""

import dataclasses
from collections.abc import Mapping

from tf_blocknorm.experiments.errors import ExperimentError
from tf_blocknorm.experiments.recipe import Recipe
from tf_blocknorm.experiments.schedules import OWN


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The best learning rate of each method, and how it was found."""

    rates: Mapping[str, float]
    effort: str


GRID = (0.005, 0.01, 0.02, 0.05, 0.1)
ANY = (0.01,)
SMALL_GRID = (0.0005, 0.001, 0.002, 0.005, 0.01)
INSGD_GRID = (0.01, 0.02, 0.05, 0.1, 0.2)


def _with_decay(optimizer, decay):
    """AdamW or its block-normalised form with a weight decay of its own."""
    label = f"{optimizer}, decay {decay}"
    return Recipe(optimizer, {"weight_decay": decay}, label, SMALL_GRID)


def _with_callback(name, rate="learning_rate", norm="max", **options):
    """`BlockNormSGD` with a callback that sets its learning rate."""
    told = [norm] if norm != "max" else []
    told += [str(value) for key, value in options.items() if key in _TOLD]
    label = f"BlockNormSGD, {name}" + (f" ({', '.join(told)})" if told else "")
    return Recipe("BlockNormSGD", {"norm": norm}, label, ANY, {name: options}, rate, OWN)


_TOLD = ("signal", "steps")
_MUON_OF_CONVOLUTIONS = {
    "flatten_layers": ["conv"],
    "exclude_layers": ["dense"],
    "weight_decay": 0.05,
    "adam_weight_decay": 0.05,
}
_CODE = {"floor": 0.01, "input_momentum": 0.0, "gain": "code"}

RECIPES = {
    "BlockNormSGD": Recipe("BlockNormSGD", {"norm": "max"}, "BlockNormSGD, max norm", GRID),
    "BlockNormSGD-std": Recipe(
        "BlockNormSGD",
        {"norm": "std"},
        "BlockNormSGD, std norm",
        SMALL_GRID,
    ),
    "BlockNormSGD-momentum": Recipe(
        "BlockNormSGD",
        {"norm": "max", "momentum": 0.9},
        "BlockNormSGD, max norm, momentum 0.9",
        SMALL_GRID,
    ),
    "BlockNormSGD-l2": Recipe(
        "BlockNormSGD",
        {"norm": "l2", "momentum": 0.9},
        "BlockNormSGD, l2 norm, momentum 0.9",
        GRID,
    ),
    "BlockNormSGD-layer": Recipe(
        "BlockNormSGD",
        {"norm": "max", "block": "layer"},
        "BlockNormSGD, max norm per layer",
        GRID,
    ),
    "BlockNormSGD-unit": Recipe(
        "BlockNormSGD",
        {"norm": "rms", "block": "unit", "exclude": ["vectors"]},
        "BlockNormSGD, rms norm per unit",
        SMALL_GRID,
    ),
    "BlockNormSGD-relative": Recipe(
        "BlockNormSGD",
        {"norm": "l2", "momentum": 0.9, "scale": "parameter"},
        "BlockNormSGD, relative, momentum 0.9",
        SMALL_GRID,
    ),
    "BlockNormAdam": Recipe("BlockNormAdam", {}, "BlockNormAdam", SMALL_GRID),
    "BlockNormAdam-layer": Recipe(
        "BlockNormAdam",
        {"norm": "rms", "block": "layer"},
        "BlockNormAdam, rms norm per layer",
        SMALL_GRID,
    ),
    "BlockNormAdamW": Recipe("BlockNormAdamW", {}, "BlockNormAdamW", SMALL_GRID),
    # At Keras's default, the decay of a whole run is a few percent.
    "BlockNormAdamW-0.05": _with_decay("BlockNormAdamW", 0.05),
    "BlockNormAdamW-0.1": _with_decay("BlockNormAdamW", 0.1),
    "BlockNormAdamW-0.2": _with_decay("BlockNormAdamW", 0.2),
    "BlockNormMuon": Recipe(
        "BlockNormMuon",
        {"norm": "rms", "adam_lr_ratio": 0.1, "weight_decay": None, "adam_weight_decay": None},
        "BlockNormMuon",
        SMALL_GRID,
    ),
    "BlockNormMuon-conv": Recipe(
        "BlockNormMuon",
        {"norm": "rms", **_MUON_OF_CONVOLUTIONS},
        "BlockNormMuon of convolutions, decay 0.05",
        SMALL_GRID,
    ),
    # Keras's Muon would take convolution kernels for no matrices.
    "Muon-conv": Recipe(
        "BlockNormMuon",
        {"exclude": ["."], **_MUON_OF_CONVOLUTIONS},
        "Muon of convolutions, not normalised, decay 0.05",
        SMALL_GRID,
    ),
    "BlockNormRMSprop": Recipe("BlockNormRMSprop", {}, "BlockNormRMSprop", SMALL_GRID),
    "Adam": Recipe("Adam", {}, "Adam", GRID),
    "AdamW": Recipe("AdamW", {}, "AdamW", SMALL_GRID),
    "AdamW-0.05": _with_decay("AdamW", 0.05),
    "RMSprop": Recipe("RMSprop", {}, "RMSprop", SMALL_GRID),
    "SGD": Recipe("SGD", {"momentum": 0.9}, "SGD, momentum 0.9", GRID),
    # Keras multiplies the decay by the learning rate, and momentum leaves it alone: what is 0.0001
    # in papers on residual networks, where it is part of the gradient, is 0.0001 / (1 - 0.9) here.
    "SGD-0.001": Recipe(
        "SGD", {"momentum": 0.9, "weight_decay": 0.001}, "SGD, momentum 0.9, decay 0.001", GRID
    ),
    "BlockNormSGD-l2-0.001": Recipe(
        "BlockNormSGD",
        {"norm": "l2", "momentum": 0.9, "weight_decay": 0.001},
        "BlockNormSGD, l2 norm, momentum 0.9, decay 0.001",
        GRID,
    ),
    "AdaptiveBlockNormSGD": Recipe(
        "AdaptiveBlockNormSGD",
        {
            "norm": "max",
            "adapt": "model",
            "target_correlation": -0.01,
            "rate_update": 0.9,
            "max_rate": 1.0,
        },
        "AdaptiveBlockNormSGD, one rate",
        ANY,
        rate="initial_rate",
        shares={"adapt_steps": 1 / 3},
    ),
    "original": Recipe(
        "AdaptiveBlockNormSGD",
        {"norm": "max", "rate_update": 0.005, "max_rate": 1.0},
        "AdaptiveBlockNormSGD, original",
        ANY,
        rate="initial_rate",
        schedule=OWN,
    ),
    "AdaptiveStepSize": _with_callback(
        "AdaptiveStepSize", target_correlation=-0.015, rate_update=0.5
    ),
    "BarzilaiBorwein": _with_callback("BarzilaiBorwein"),
    "BackMatching": Recipe(
        "SGD", {"momentum": 0.9}, "SGD, back-matching", GRID, {"BackMatching": {"inputs": 256}}
    ),
    "BackMatching-static": Recipe(
        "SGD", {"momentum": 0.9}, "SGD, back-matching, static", GRID, {"BackMatching": {}}
    ),
    "BackMatching-min": Recipe(
        "SGD",
        {"momentum": 0.9},
        "SGD, back-matching, pseudo-inverse",
        GRID,
        {"BackMatching": {"inputs": 256, "rank": "min", "relu": "unit"}},
    ),
    "LARS": Recipe("LARS", {}, "LARS", (0.5, 1.0, 2.0, 5.0, 10.0)),
    # Biases take plain steps: without normalisation layers, these allow no rate of 1 and above.
    "LARS-0.02": Recipe(
        "LARS",
        {"trust_coefficient": 0.02},
        "LARS, trust coefficient 0.02",
        (0.02, 0.05, 0.1, 0.2, 0.5),
    ),
    "LAMB": Recipe("LAMB", {"weight_decay": None}, "LAMB", (0.002, 0.005, 0.01, 0.02, 0.05)),
    "LAMBC": Recipe(
        "LAMB",
        {"weight_decay": None, "trust_clip": [0.0, 1.0]},
        "LAMB, ratio clipped to 1",
        (0.002, 0.005, 0.01, 0.02, 0.05),
    ),
    "NovoGrad": Recipe("NovoGrad", {}, "NovoGrad", (0.001, 0.002, 0.005, 0.01, 0.02)),
    "INSGD": Recipe("INSGD", {}, "INSGD", INSGD_GRID, inputs="l2"),
    "INSGD-l1": Recipe("INSGD", {}, "INSGD, l1", INSGD_GRID, inputs="l1"),
    "INSGD-code": Recipe(
        "INSGD", _CODE, "INSGD as in the authors' code", INSGD_GRID, inputs="standardized_l2"
    ),
    "INSGD-code-l1": Recipe(
        "INSGD", _CODE, "INSGD as in the authors' code, l1", INSGD_GRID, inputs="standardized_l1"
    ),
    "INSGD-constant": Recipe(
        "INSGD", _CODE, "SGD, the constant rates of INSGD", INSGD_GRID, inputs="constant"
    ),
    "finder-loss": _with_callback("LearningRateFinder", None, then="train"),
    "finder-loss-1000": _with_callback("LearningRateFinder", None, then="train", steps=1000),
    "finder-std-1000": _with_callback("LearningRateFinder", None, "std", then="train", steps=1000),
    "finder-correlation": _with_callback(
        "LearningRateFinder", None, then="train", signal="correlation"
    ),
}

# The same, with batch normalisation evaluated with statistics of 10 000 examples.
for _name in ("BlockNormSGD-layer", "Adam"):
    RECIPES[f"{_name}-measured"] = dataclasses.replace(
        RECIPES[_name],
        label=f"{RECIPES[_name].label}, measured statistics",
        callbacks={"BatchStatistics": {"inputs": 10_000}},
    )

# What `run` and `sweep` compare, and `run large-batch`, unless told otherwise.
COMPARED = ("BlockNormSGD", "Adam", "SGD")
LARGE_BATCH_METHODS = ("SGD", "Adam", "LARS", "LAMB", "LAMBC", "NovoGrad")

# Key: (problem, data). Source: the sweep recorded in results/sweep-PROBLEM-DATA.json.
TUNED = {
    ("mlp", "digits"): Tuning(
        {"BlockNormSGD": 0.01, "Adam": 0.01, "SGD": 0.005},
        "best of 6 on validation examples (2 seeds, 82 epochs)",
    ),
    ("mlp", "mnist"): Tuning(
        {"BlockNormSGD": 0.01, "Adam": 0.01, "SGD": 0.01},
        "best of 5 on validation examples (1 seed, 9 epochs)",
    ),
}


def tuning(problem, data, options_changed):
    """Return the rates to use on these data and one sentence on where they come from."""
    found = TUNED.get((problem, data))
    if found:
        sentence = f"each method's learning rate is the {found.effort}"
    else:
        found = TUNED.get((problem, "mnist"))
        if found is None:
            raise ExperimentError(
                f"There are no tuned rates for `{problem}`: give one with --learning-rate, or find "
                f"each method's best with `tf-blocknorm sweep {problem}`, and give its file with "
                "--sweep."
            )
        sentence = f"none on {data}; the learning rates were tuned on mnist (see `sweep`)"
    if options_changed:
        sentence += "; not tuned for the options given"
    untuned = {method: recipe.grid[0] for method, recipe in RECIPES.items()}
    return {**untuned, **found.rates}, f"Tuning: {sentence}."
