"""The examples in the docstrings run and print what they say."""

import doctest
import inspect

import keras
import numpy as np
import pytest
from keras import ops

import tf_blocknorm

OBJECTS = [tf_blocknorm, tf_blocknorm.norms.norm, tf_blocknorm.norms.unit]
PUBLIC = [getattr(tf_blocknorm, n) for n in tf_blocknorm.__all__]
OBJECTS += [thing for thing in PUBLIC if callable(thing)]
CLASSES = [thing for thing in PUBLIC if isinstance(thing, type)]


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda o: o.__name__)
def test_examples(thing):
    globs = {"keras": keras, "np": np, "ops": ops, "tf_blocknorm": tf_blocknorm}
    (test,) = [
        t for t in doctest.DocTestFinder(recurse=False).find(thing, globs=globs) if t.examples
    ]
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("cls", CLASSES)
def test_every_argument_is_documented(cls):
    assert "{{" not in cls.__doc__
    inits = [c.__init__ for c in keras.optimizers.Optimizer.__mro__ if "__init__" in vars(c)]
    everywhere = {name for init in inits for name in inspect.signature(init).parameters}
    for name in inspect.signature(cls).parameters:
        if name not in everywhere - {"learning_rate"}:
            assert f"        {name}: " in cls.__doc__, name
