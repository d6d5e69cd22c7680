"""The examples in the docstrings run and print what they say."""

import doctest

import keras
import numpy as np
import pytest
from keras import ops

import tf_blocknorm
from tf_blocknorm.optimizers import base

OBJECTS = [tf_blocknorm, tf_blocknorm.norms.norm, tf_blocknorm.norms.unit]
OBJECTS += [getattr(tf_blocknorm, n) for n in tf_blocknorm.__all__ if "lock" in n]


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda o: o.__name__)
def test_examples(thing):
    globs = {"keras": keras, "np": np, "ops": ops, "tf_blocknorm": tf_blocknorm}
    (test,) = [
        t for t in doctest.DocTestFinder(recurse=False).find(thing, globs=globs) if t.examples
    ]
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("cls", [o for o in OBJECTS if isinstance(o, type)])
def test_every_argument_is_documented(cls):
    import inspect

    assert "{{" not in cls.__doc__
    own = inspect.signature(base.BlockNormalized.__init__).parameters.values()
    for parameter in own:
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert f"        {parameter.name}: " in cls.__doc__
