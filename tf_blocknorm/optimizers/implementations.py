"""Other implementations of the optimizers: for each the arguments that make ours like it."""

from tf_blocknorm.optimizers import arguments

INSGD = {
    "paper": {},
    "code": {"floor": 0.01, "input_momentum": 0.0, "gain": "code"},
    "code_2023": {
        "floor": 0.01,
        "input_momentum": 0.0,
        "gain": "code",
        "normalize": "gradient",
    },
    "nlms": {
        "learning_rate": 1.0,
        "momentum": 0.0,
        "input_momentum": 0.0,
        "log": False,
        "epsilon": 0.0,
    },
}

NOVOGRAD = {
    "paper": {},
    "openseq2seq": {"learning_rate": 1.0, "epsilon_inside": True},
    "tensorflow_addons": {
        "learning_rate": 0.001,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-7,
        "learning_rate_inside": True,
    },
    "nemo": {"learning_rate": 0.001},
    "timm": {"learning_rate": 0.001},
    "optax": {"beta_1": 0.9, "beta_2": 0.25, "epsilon": 1e-6},
}


def like(cls, table, implementation, overrides):
    """An optimizer with the arguments of a row of its table, but for the overrides."""
    arguments.choice("implementation", implementation, tuple(table))
    return cls(**{**table[implementation], **overrides})
