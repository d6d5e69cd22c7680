"""One of two processes under MultiWorkerMirroredStrategy; started by test_distribution.py."""

import sys

import tensorflow as tf

# Before anything else of TensorFlow is used, as it has to be.
strategy = tf.distribute.MultiWorkerMirroredStrategy()

import numpy as np  # noqa: E402
import problems  # noqa: E402
from cases import PARTS  # noqa: E402


def train(case, steps):
    rows = problems.rows(2 * steps).reshape(steps, 2, 1, problems.TOTAL)
    with strategy.scope():
        model, optimizer = problems.probe(), case.optimizer()
        optimizer.build(model.trainable_variables)

    def step(row):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(row)) / strategy.num_replicas_in_sync
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply(gradients, variables)

    distributed = tf.function(lambda row: strategy.run(step, args=(row,)))
    for pair in rows:
        distributed(tf.constant(pair[worker]))
    if optimizer.use_ema:
        # In a replica's context: `fit` does the same after the last epoch.
        optimizer.finalize_variable_values(model.trainable_variables)
    return model.get_weights()


path, steps = sys.argv[1], int(sys.argv[2])
worker = strategy.cluster_resolver.task_id
results = {}
for case in PARTS[sys.argv[3]]:
    if case.arguments.get("jit_compile"):
        continue
    for i, weight in enumerate(train(case, steps)):
        results[f"{case.name}:{i}"] = weight
np.savez(path, **results)
