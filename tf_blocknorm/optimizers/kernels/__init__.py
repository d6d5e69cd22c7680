"""How an update is carried out fast. Nothing else knows the operations of a backend.

`FUSED` is the module with the fused operations of the backend that Keras runs on, or None: on JAX
the compiler fuses the rules as they are written. Whether a step can use them is for the hooks to
say (`_scratch.fused`), whether a variable can, for `fits`. They are asked for inside `together()`.
"""

import contextlib

import keras

if keras.backend.backend() == "tensorflow":
    from tf_blocknorm.optimizers.kernels import tensorflow

    FUSED = tensorflow
elif keras.backend.backend() == "torch":
    from tf_blocknorm.optimizers.kernels import torch

    FUSED = torch
else:
    FUSED = None

together = getattr(FUSED, "together", contextlib.nullcontext)
