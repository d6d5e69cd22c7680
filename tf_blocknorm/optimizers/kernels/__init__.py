"""How an update is carried out fast. Nothing else knows the operations of a backend.

`FUSED` is the module with the fused operations of the backend that Keras runs on, or None: on JAX
the compiler fuses the rules as they are written. Whether a step can use them is for the hooks to
say (`_scratch.fused`), whether a variable can, for `fits`. They are asked for inside `together()`.
Where they are `ORDERED`, what is asked for inside `after(operations)` waits for these.
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
ORDERED = hasattr(FUSED, "after")
after = FUSED.after if ORDERED else contextlib.nullcontext
