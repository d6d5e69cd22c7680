"""How an update is carried out fast. Nothing else knows the operations of a backend.

`FUSED` is the module with the fused operations of the backend that Keras runs on, or None: on JAX
the compiler fuses the rules as they are written. Whether a step can use them is for `can_fuse` to
say, whether a variable can, for `fits`. They take lists with an entry for each variable, and are
asked for inside `together()`. Where they are `ORDERED`, what is asked for inside
`after(operations)` waits for these.
"""

import contextlib

import keras

from tf_blocknorm.light import in_stateless_scope
from tf_blocknorm.norms import inside_xla

if keras.backend.backend() == "tensorflow":
    from tf_blocknorm.optimizers.kernels import tensorflow

    FUSED = tensorflow
elif keras.backend.backend() == "torch":
    from tf_blocknorm.optimizers.kernels import torch

    FUSED = torch
else:
    FUSED = None

together = getattr(FUSED, "together", contextlib.nullcontext)
ORDERED = hasattr(FUSED, "after")
after = FUSED.after if ORDERED else contextlib.nullcontext


def can_fuse():
    """Whether fused operations can carry out a step that begins now."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return not (tf.distribute.has_strategy() or inside_xla())
    # There, the values are not those of the variables, and nobody's to be changed in place.
    return FUSED is not None and not in_stateless_scope()
