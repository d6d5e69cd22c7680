"""What an update needs beside its slots does not grow with the network (TensorFlow).

How many variables hold a temporary tensor at a time, and LAMB its steps, is measured in a process
of its own; that the numbers stay the same, on networks that are divided although they are small.
"""

import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_blocknorm as tfb

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's order of operations", allow_module_level=True)

import tensorflow as tf

from benchmarks import measure
from tf_blocknorm.optimizers import lamb
from tf_blocknorm.optimizers.kernels import tensorflow as kernels

MEGA = 2**20
RISES = """
import keras, tensorflow as tf
import tf_blocknorm as tfb
from benchmarks import measure

variables = [keras.Variable(tf.ones([512, 512])) for _ in range(40)]
gradients = [tf.fill([512, 512], 1.0 + i) for i in range(40)]
for make in (tfb.LAMB, tfb.BlockNormAdamW, tfb.BlockNormAdam, tfb.BlockNormSGD):
    optimizer = make()
    optimizer.build(variables)
    step = tf.function(lambda: optimizer.apply(gradients, variables), autograph=False)
    step()
    print("rise", min(measure.peak_above(step) for _ in range(3)))
for make in (tfb.BlockNormSGD, tfb.LAMB):
    optimizer = make()
    optimizer.build(variables)
    step = tf.function(lambda g: optimizer.apply(g, variables), autograph=False, jit_compile=True)
    step(gradients)
    print("rise", min(measure.peak_above(lambda: step(gradients)) for _ in range(3)))
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="only on Linux")
def test_few_of_forty_variables_have_a_temporary_tensor_at_a_time():
    printed = subprocess.run(
        [sys.executable, "-c", RISES],
        cwd=pathlib.Path(__file__).parents[1],
        env=measure.returning_memory(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rises = [int(rise) / MEGA for rise in re.findall(r"rise (\d+)", printed)]
    # Of 40 MB: LAMB has an eighth; four variables of 1 MB, or one more.
    assert len(rises) == 6
    # And XLA, which would write all squares, and all steps of LAMB: an eighth of them at most.
    for rise, most in zip(rises, (8, 8, 8, 2, 6, 6)):
        assert rise < most


@pytest.mark.parametrize("make", [tfb.LAMB, tfb.BlockNormAdamW, tfb.BlockNormAdam])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exclude": ["b"]},
        {"block": "model", "exclude": ["a", "d"]},
        {"block": [("a|d", "ends"), ("b|c", "middle")]},
        {"block": "unit"},
    ],
)
def test_an_update_in_parts_is_the_same(make, options, monkeypatch):
    shapes = [(3, 4), (4,), (5, 2), (2, 2, 3), (6,), (4, 3)]

    def trained():
        rng = np.random.default_rng(0)
        variables = [
            keras.Variable(rng.normal(size=shape), name=name)
            for name, shape in zip("abcdef", shapes)
        ]
        optimizer = make(learning_rate=0.1, weight_decay=0.1, **options)
        optimizer.build(variables)
        step = tf.function(lambda gs: optimizer.apply(gs, variables), autograph=False)
        for _ in range(3):
            gradients = [tf.constant(rng.normal(size=s), "float32") for s in shapes]
            step(gradients)
        return [np.array(v) for v in (*variables, *optimizer.variables)]

    whole = trained()
    monkeypatch.setattr(lamb, "_BUNDLES", 100)
    monkeypatch.setattr(lamb, "_LEAST", 1)
    monkeypatch.setattr(kernels._Turns, "_large", 1)
    monkeypatch.setattr(kernels._Turns, "_at_once", 2)
    for one, other in zip(whole, trained(), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-7)
