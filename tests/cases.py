"""The table of all optimizers: every row runs through every test that asks for `CASES`.

A new method is a rule in `reference.py` and rows here.
"""

import dataclasses
import functools

import keras
import numpy as np
import problems
import pytest
import reference
import reference_adaptive
import reference_layerwise
from keras import ops

import tf_blocknorm as tfb

VARIABLE = [[i] for i in range(len(problems.PATHS))]
LAYER = [[0, 1, 2], [3, 4, 5]]
MODEL = [[0, 1, 2, 3, 4, 5]]


@keras.saving.register_keras_serializable(package="tests")
def l3(x):
    return ops.power(ops.sum(ops.power(ops.abs(x), 3.0)), 1.0 / 3.0)


@keras.saving.register_keras_serializable(package="tests")
def by_rank(variable):
    return "vectors" if len(variable.shape) <= 1 else None


@keras.saving.register_keras_serializable(package="tests")
class Inverse(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 / (1.0 + 0.5 * ops.cast(step, "float32"))

    def get_config(self):
        return {}


# Whole runs, by the name of their rule.
RUNS = {
    **{rule: functools.partial(reference.run, rule) for rule in reference.RULES},
    "adaptive": reference_adaptive.run,
    "novograd": reference_layerwise.novograd,
    "lars": reference_layerwise.lars,
    "lamb": reference_layerwise.lamb,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        name: what pytest prints.
        cls: class of the optimizer.
        arguments: those of its constructor.
        rule: key of `RUNS`.
        rule_options: arguments of that run.
        options: the reference's other options.
        groups: the blocks, as lists of indices into `problems.PATHS`.
        decayed: indices of the variables with weight decay.
        rates: learning rate of step 0, 1, …
        cannot: modes that this row is not tested in, with the reason.
    """

    name: str
    cls: type
    arguments: dict
    rule: str
    rule_options: dict = dataclasses.field(default_factory=dict)
    options: dict = dataclasses.field(default_factory=dict)
    groups: list = dataclasses.field(default_factory=lambda: VARIABLE)
    decayed: tuple = ()
    rates: object = None
    cannot: dict = dataclasses.field(default_factory=dict)

    def optimizer(self, **more):
        return self.cls(**self.arguments, **more)

    def reference(self, gradients):
        """Weights after the last step, by `reference.py`."""
        return self.history(gradients)[-1]

    def history(self, gradients):
        """Weights after every step."""
        rate = self.rates or (lambda _: self.arguments["learning_rate"])
        return RUNS[self.rule](
            problems.start_weights(),
            gradients,
            [rate(k) for k in range(len(gradients))],
            self.groups,
            self.decayed,
            self.draws,
            self.options,
            **self.rule_options,
        )

    def draws(self, step, variable):
        """The noise that the generator gives, drawn for the variables of all blocks in turn."""
        order = sorted(i for group in self.groups for i in group)
        number = step * len(order) + order.index(variable)
        kind = self.arguments.get("noise_distribution", "uniform")
        shape = problems.SHAPES[variable]
        return _draw(kind, shape, self.arguments["seed"], number)


def _draw(kind, shape, seed, number):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=(2, *shape) if kind == "normal" else shape,
            key=tf.constant([seed], tf.uint64),
            counter=tf.constant([0, number], tf.uint64),
            alg=1,
            dtype=tf.int32,
        )
        uniform = bits.numpy() / 2.0**31
        if kind == "uniform":
            return uniform
        return np.sqrt(-2 * np.log((1 + uniform[0]) / 2)) * np.cos(np.pi * uniform[1])
    generator = keras.random.SeedGenerator(seed)
    for _ in range(number):
        generator.next()
    function = keras.random.uniform if kind == "uniform" else keras.random.normal
    limits = (-1.0, 1.0) if kind == "uniform" else (0.0, 1.0)
    return np.asarray(ops.convert_to_numpy(function(shape, *limits, seed=generator)))


def row(
    name, cls, rule="sgd", rule_options=None, groups=VARIABLE, decayed=(), rates=None, **arguments
):
    """A row whose arguments are given once: what the reference also knows is handed to it."""
    arguments = {"learning_rate": 0.05, **arguments}
    options = {k: v for k, v in arguments.items() if k in reference.OPTIONS}
    if callable(options.get("norm")):
        options["norm"] = options["norm"].__name__
    if not arguments.get("use_ema"):
        options.pop("ema_momentum", None)
    function = reference.RULES.get(rule) or RUNS[rule]
    code = function.__code__
    names = set(code.co_varnames[: code.co_argcount]) - {"g", "s", "t", "lr"}
    rule_options = {
        **{k: v for k, v in arguments.items() if k in names},
        **(rule_options or {}),
    }
    return Case(name, cls, arguments, rule, rule_options, options, groups, decayed, rates)


SGD, Adam = tfb.BlockNormSGD, tfb.BlockNormAdam
Adaptive = tfb.AdaptiveBlockNormSGD
ORIGINAL = {"rate_update": 0.005, "max_rate": 0.01, "learning_rate": 10.0}
Adamax = tfb.block_normalized(keras.optimizers.Adamax)
MOMENTUM = {"momentum": 0.9}
NOISE = {"noise": 0.3, "seed": 11}
EMA = {"use_ema": True, "ema_momentum": 0.8}
MATRICES = [[0], [3], [4], [5]]
REGEX = [("kernel|bias", "dense"), ("b/.*e", "rest")]

TABLE = [
    row("sgd-l2", SGD),
    row("sgd-l1-momentum", SGD, norm="l1", **MOMENTUM),
    row("sgd-max-nesterov", SGD, norm="max", nesterov=True, **MOMENTUM),
    row("sgd-rms-layer", SGD, norm="rms", block="layer", groups=LAYER, **MOMENTUM),
    row("sgd-avg_l1-model", SGD, norm="avg_l1", block="model", groups=MODEL, **MOMENTUM),
    row("sgd-min_max-unit", SGD, norm="min_max", block="unit", **MOMENTUM),
    row("sgd-std-layer", SGD, norm="std", block="layer", groups=LAYER),
    row("sgd-std-unit", SGD, norm="std", block="unit"),
    row("sgd-min_max-model", SGD, norm="min_max", block="model", groups=MODEL),
    row("sgd-regex", SGD, norm="avg_l2", block=REGEX, groups=[[0, 1], [2], [3, 4, 5]]),
    row("sgd-function", SGD, norm=l3, block=by_rank, groups=[[1, 2], [0], [3], [4], [5]]),
    row("sgd-l3-unit", SGD, norm=l3, block="unit"),
    row("sgd-update-max", SGD, norm="max", normalize="update", **MOMENTUM),
    row(
        "sgd-update-nesterov-layer",
        SGD,
        normalize="update",
        block="layer",
        groups=LAYER,
        nesterov=True,
        **MOMENTUM,
    ),
    row("sgd-scale", SGD, scale="parameter", scale_floor=0.1, **MOMENTUM),
    row(
        "sgd-update-scale-unit-rms",
        SGD,
        normalize="update",
        scale="parameter",
        scale_floor=0.2,
        norm="rms",
        block="unit",
        **MOMENTUM,
    ),
    row("sgd-exclude", SGD, exclude=["bias", "gain"], groups=[[0], [3], [4], [5]], clipvalue=3.0),
    row(
        "sgd-update-exclude",
        SGD,
        exclude=["^a/"],
        groups=[[3, 4, 5]],
        block="model",
        normalize="update",
        clipvalue=0.5,
        **MOMENTUM,
    ),
    row("sgd-epsilon", SGD, norm_epsilon=0.3, norm="max"),
    row("sgd-noise", SGD, norm="max", **NOISE, **MOMENTUM),
    row(
        "saddle-ngd",
        SGD,
        block="model",
        groups=MODEL,
        noise_distribution="normal",
        noise_every=2,
        **NOISE,
    ),
    row(
        "sgd-noise-update-scale-layer",
        SGD,
        normalize="update",
        scale="parameter",
        block="layer",
        groups=LAYER,
        **NOISE,
        **MOMENTUM,
    ),
    row(
        "sgd-decay",
        SGD,
        weight_decay=0.3,
        exclude_from_weight_decay=["bias", "gain"],
        decayed=(0, 3, 4, 5),
        **MOMENTUM,
    ),
    row("sgd-clipnorm", SGD, clipnorm=0.1, norm="max", block="model", groups=MODEL),
    row("sgd-schedule", SGD, learning_rate=Inverse(), rates=lambda k: 0.1 / (1 + 0.5 * k)),
    row("sgd-ema", SGD, use_ema=True, ema_momentum=0.7),
    row("sgd-compiled", SGD, block="layer", groups=LAYER, jit_compile=True, **MOMENTUM),
    # A small rate: Keras's `1 - beta_2**t` in float32 is off by 6e-5 in the first step.
    row("adam", Adam, "adam", learning_rate=0.01),
    row("adam-amsgrad-epsilon", Adam, "adam", amsgrad=True, epsilon=0.05, norm="rms", block="unit"),
    row("adam-update", Adam, "adam", norm="rms", normalize="update", epsilon=0.05),
    row(
        "adam-scale-compiled",
        Adam,
        "adam",
        norm="rms",
        scale="parameter",
        scale_floor=0.1,
        jit_compile=True,
        epsilon=0.05,
    ),
    row(
        "adamw",
        tfb.BlockNormAdamW,
        "adam",
        weight_decay=0.2,
        exclude_from_weight_decay=["^b/"],
        decayed=(0, 1, 2),
        norm="max",
        epsilon=0.05,
    ),
    row("nadam", tfb.BlockNormNadam, "nadam", norm="max", epsilon=0.05),
    row(
        "nadam-update", tfb.BlockNormNadam, "nadam", normalize="update", block="layer", groups=LAYER
    ),
    row("adagrad", tfb.BlockNormAdagrad, "adagrad", norm="rms"),
    row(
        "rmsprop",
        tfb.BlockNormRMSprop,
        "rmsprop",
        norm="rms",
        momentum=0.5,
        centered=True,
        epsilon=0.05,
    ),
    row(
        "rmsprop-update",
        tfb.BlockNormRMSprop,
        "rmsprop",
        norm="max",
        normalize="update",
        momentum=0.5,
    ),
    row("lion", tfb.BlockNormLion, "lion"),
    row("lion-update", tfb.BlockNormLion, "lion", normalize="update", block="model", groups=MODEL),
    row(
        "adaptive",
        Adaptive,
        "adaptive",
        learning_rate=1.0,
        norm="max",
        rate_update=0.9,
        block="layer",
        groups=LAYER,
    ),
    row("adaptive-original-l2", Adaptive, "adaptive", norm="l2", **ORIGINAL),
    row(
        "adaptive-momentum-unit",
        Adaptive,
        "adaptive",
        norm="rms",
        block="unit",
        momentum=0.5,
        momentum_update=0.3,
        average=0.6,
        target_correlation=-0.2,
        relative_floor=0.8,
        rate_update=0.5,
        adapt_steps=5,
    ),
    row(
        "adaptive-model",
        Adaptive,
        "adaptive",
        learning_rate=Inverse(),
        rates=lambda k: 0.1 / (1 + 0.5 * k),
        norm="max",
        initial_rate=0.4,
        adapt="model",
        average=0.5,
        target_correlation=0.3,
        rate_update=0.7,
        momentum_update=0.4,
        scale="parameter",
        scale_floor=0.1,
        weight_decay=0.2,
        exclude_from_weight_decay=["bias"],
        decayed=(0, 2, 3, 4, 5),
    ),
    row(
        "adaptive-noise-compiled",
        Adaptive,
        "adaptive",
        norm="max",
        initial_rate=0.1,
        rate_update=0.6,
        momentum=0.4,
        exclude=["gain"],
        groups=[[0], [1], [3], [4], [5]],
        jit_compile=True,
        **NOISE,
    ),
    row("novograd", tfb.NovoGrad, "novograd"),
    row(
        "novograd-options",
        tfb.NovoGrad,
        "novograd",
        learning_rate=Inverse(),
        rates=lambda k: 0.1 / (1 + 0.5 * k),
        beta_1=0.8,
        beta_2=0.5,
        epsilon=0.02,
        epsilon_inside=True,
        learning_rate_inside=True,
        grad_averaging="after_first",
        amsgrad=True,
        norm="max",
        block="layer",
        groups=LAYER,
        weight_decay=0.3,
        exclude_from_weight_decay="vectors",
        decayed=(0, 3, 4, 5),
    ),
    row(
        "novograd-unit-compiled",
        tfb.NovoGrad,
        "novograd",
        norm="rms",
        block="unit",
        grad_averaging=True,
        epsilon=0.1,
        exclude=["gain"],
        groups=[[0], [1], [3], [4], [5]],
        jit_compile=True,
        **EMA,
    ),
    row(
        "lars",
        tfb.LARS,
        "lars",
        groups=MATRICES,
        trust_coefficient=0.3,
        weight_decay=0.2,
        decayed=(0, 3, 4, 5),
        clipnorm=0.5,
    ),
    row(
        "lars-larc",
        tfb.LARS,
        "lars",
        learning_rate=Inverse(),
        rates=lambda k: 0.1 / (1 + 0.5 * k),
        trust_coefficient=0.2,
        epsilon=0.1,
        larc=True,
        nesterov=True,
        learning_rate_inside=False,
        weight_decay=0.2,
        exclude=None,
        exclude_from_weight_decay=["bias"],
        decayed=(0, 2, 3, 4, 5),
        clipnorm=3.0,
    ),
    row(
        "lars-joint-unit",
        tfb.LARS,
        "lars",
        learning_rate=Inverse(),
        rates=lambda k: 0.1 / (1 + 0.5 * k),
        trust_coefficient=0.5,
        joint_norm=True,
        block="unit",
        norm="rms",
        exclude=None,
        weight_decay=0.2,
        decayed=(0, 3, 4, 5),
        clipnorm=3.0,
        **EMA,
    ),
    row(
        "lars-momentum-ratio",
        tfb.LARS,
        "lars",
        trust_coefficient=0.5,
        classic_momentum=False,
        nesterov=True,
        epsilon=0.1,
        weight_decay=0.2,
        decayed=(0, 3, 4, 5),
        groups=[[0], [3, 4, 5]],
        block="layer",
        clipnorm=3.0,
        jit_compile=True,
    ),
    row("lamb", tfb.LAMB, "lamb", groups=MATRICES, weight_decay=0.1, decayed=(0, 3, 4, 5)),
    row(
        "lamb-clipped",
        tfb.LAMB,
        "lamb",
        trust_clip=(0.5, 1.0),
        phi_bounds=(0.2, 2.0),
        weight_decay=0.1,
        exclude=None,
        exclude_from_weight_decay=None,
        decayed=range(6),
        clipnorm=1.0,
        **EMA,
    ),
    row(
        "lamb-layer-compiled",
        tfb.LAMB,
        "lamb",
        learning_rate=Inverse(),
        rates=lambda k: 0.1 / (1 + 0.5 * k),
        beta_1=0.5,
        beta_2=0.7,
        epsilon=0.1,
        bias_correction=False,
        norm="max",
        block="layer",
        groups=LAYER,
        exclude=None,
        jit_compile=True,
        weight_decay=None,
    ),
    row("adamax", Adamax, "adamax", norm="max", epsilon=0.05),
    row(
        "muon",
        tfb.BlockNormMuon,
        "muon",
        norm="rms",
        adam_lr_ratio=0.5,
        momentum=0.8,
        epsilon=0.05,
        weight_decay=0.2,
        adam_weight_decay=0.2,
        exclude_from_weight_decay=["^b/"],
        decayed=(0, 1, 2),
    ),
    row(
        "muon-layer-rms_rate",
        tfb.BlockNormMuon,
        "muon",
        block="layer",
        groups=LAYER,
        nesterov=False,
        ns_steps=3,
        rms_rate=None,
        epsilon=0.05,
        weight_decay=None,
        adam_weight_decay=None,
    ),
    row(
        "muon-flatten",
        tfb.BlockNormMuon,
        "muon",
        {"flatten": True},
        norm="max",
        flatten_layers=["wide", "filters|volume"],
        momentum=0.8,
        epsilon=0.05,
        weight_decay=0.2,
        adam_weight_decay=0.2,
        decayed=range(6),
    ),
    row(
        "muon-update",
        tfb.BlockNormMuon,
        "muon",
        normalize="update",
        epsilon=0.05,
        weight_decay=None,
        adam_weight_decay=None,
    ),
]

# Every class and every option: what takes long runs with the other rows in `make test-all` only.
CORE = {
    "sgd-max-nesterov",
    "sgd-std-unit",
    "sgd-regex",
    "sgd-update-nesterov-layer",
    "sgd-exclude",
    "sgd-noise-update-scale-layer",
    "sgd-decay",
    "sgd-clipnorm",
    "sgd-schedule",
    "sgd-ema",
    "adam-scale-compiled",
    "adamw",
    "nadam-update",
    "adagrad",
    "rmsprop-update",
    "lion",
    "adaptive-momentum-unit",
    "adaptive-model",
    "adaptive-noise-compiled",
    "novograd-options",
    "novograd-unit-compiled",
    "lars-larc",
    "lars-momentum-ratio",
    "lamb",
    "lamb-clipped",
    "adamax",
    "muon",
    "muon-flatten",
}
PARTS = {
    "core": [case for case in TABLE if case.name in CORE],
    "rest": [case for case in TABLE if case.name not in CORE],
}

CASES = pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
CORE_CASES = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case.name in CORE else pytest.mark.slow) for case in TABLE],
    ids=lambda case: case.name,
)
EACH_PART = pytest.mark.parametrize("part", ["core", pytest.param("rest", marks=pytest.mark.slow)])
