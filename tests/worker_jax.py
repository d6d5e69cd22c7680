"""One of two JAX processes that train the table together; started by test_jax.py."""

import sys

import jax
import keras
import numpy as np
import problems
from cases import PARTS

path, steps, address, process = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, num_processes=2, process_id=process)
if len(jax.devices()) != 2 or len(jax.local_devices()) != 1:
    raise SystemExit(f"devices: {jax.devices()}")
devices = keras.distribution.list_devices()
keras.distribution.set_distribution(
    keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
)
# Every process has its own row of each batch.
rows = problems.rows(2 * steps)[process::2]
# Initial values have to be the same in both.
keras.utils.set_random_seed(0)
results = {}
for case in PARTS[sys.argv[5]]:
    model = problems.compiled(case.optimizer(), jit_compile=True)
    for i, weight in enumerate(problems.train(model, rows)):
        results[f"{case.name}:{i}"] = weight
np.savez(path, **results)
