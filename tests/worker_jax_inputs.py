"""One of two JAX processes that train INSGD on a row each; started by test_jax.py."""

import sys

import input_problems as problems
import jax
import keras
import numpy as np
from cases_inputs import PARTS

path, steps, address, process = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, num_processes=2, process_id=process)
keras.distribution.set_distribution(
    keras.distribution.DataParallel(
        devices=keras.distribution.list_devices(), auto_shard_dataset=False
    )
)
x, y = problems.data(2 * steps)
# Initial values have to be the same in both.
keras.utils.set_random_seed(0)
results = {}
for case in PARTS[sys.argv[5]]:
    model = problems.compiled(case.optimizer(), norm=case.norm, jit_compile=True)
    trained = problems.train(model, [part[process::2] for part in x], y[process::2], batch_size=1)
    for i, weight in enumerate(trained):
        results[f"{case.name}:{i}"] = weight
np.savez(path, **results)
