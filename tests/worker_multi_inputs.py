"""One of two processes that train INSGD on parts of a batch; started by test_insgd_modes.py."""

import sys

import tensorflow as tf

# Before anything else of TensorFlow is used, as it has to be.
strategy = tf.distribute.MultiWorkerMirroredStrategy()

import input_problems as problems  # noqa: E402
import numpy as np  # noqa: E402
from cases_inputs import PARTS  # noqa: E402

# Of each batch of three, the rows of each worker: in the statistics, each row has to count once.
OWN = [[0, 1], [2]]


def train(case, steps):
    x, y = problems.data(3 * steps)
    with strategy.scope():
        model, optimizer = problems.probe(case.norm), case.optimizer()
        optimizer.build(model.trainable_variables)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(problems.linear_loss(y, model(x))) / 3.0
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

    distributed = tf.function(lambda x, y: strategy.run(step, args=(x, y)))
    for first in range(0, 3 * steps, 3):
        rows = [first + row for row in OWN[worker]]
        distributed([tf.constant(part[rows]) for part in x], tf.constant(y[rows]))
    return problems.weights(model)


path, steps = sys.argv[1], int(sys.argv[2])
worker = strategy.cluster_resolver.task_id
results = {}
for case in PARTS[sys.argv[3]]:
    if case.arguments.get("jit_compile"):
        continue
    for i, weight in enumerate(train(case, steps)):
        results[f"{case.name}:{i}"] = weight
np.savez(path, **results)
