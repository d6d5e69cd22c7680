"""What an update on TensorFlow is made of: single operations on all gradients of a network.

    python -m benchmarks.pieces [small | large] [--rounds 9] [--out FILE.md]

Times are per pass over all variables. What `tf_blocknorm/optimizers/kernels/` does was chosen by
this table; most rows are ways that were not taken.
"""

import keras
import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.python.eager import context

from benchmarks import single_table
from benchmarks.measure import spread, timed_alone, turns
from benchmarks.models import PROBLEMS, gradients
from tf_blocknorm.norms import Block, fused_tensorflow
from tf_blocknorm.norms.modes import greatest, total
from tf_blocknorm.optimizers.kernels.shared import parts

raw = tf.raw_ops


class Pieces:
    """Gradients, weights and two slots of a network, and functions that make a pass over them."""

    def __init__(self, name):
        problem = PROBLEMS[name]
        self.steps = problem.steps
        shapes = [tuple(v.shape) for v in problem.build().trainable_variables]
        self.g = [tf.constant(g) for g in gradients(shapes, np.random.default_rng(0))]
        self.w, self.m, self.v = ([tf.Variable(tf.zeros_like(g)) for g in self.g] for _ in range(3))
        self.rate = tf.Variable(1e-5)
        self.sink = tf.Variable(0.0)

    def repeated(self, step):
        """A function that makes several passes in one call."""

        def body(i):
            step()
            return i + 1

        @tf.function(autograph=False)
        def loop():
            return tf.while_loop(lambda i: i < self.steps, body, [0], parallel_iterations=1)

        return loop

    def reduced(self, function, jit_compile=None):
        """A pass that computes one number per gradient."""

        def numbers(g):
            return tf.stack([function(x) for x in g])

        if jit_compile:
            numbers = tf.function(numbers, autograph=False, jit_compile=True)
        return lambda: self.sink.assign(tf.reduce_sum(numbers(self.g)))

    def descend(self, factors=None):
        """w -= rate * g, or factor * g."""
        for i, (w, g) in enumerate(zip(self.w, self.g)):
            alpha = self.rate if factors is None else factors[i]
            raw.ResourceApplyGradientDescent(var=w.handle, alpha=alpha, delta=g)

    def momentum(self):
        for w, m, g in zip(self.w, self.m, self.g):
            raw.ResourceApplyKerasMomentum(
                var=w.handle, accum=m.handle, lr=self.rate, grad=g, momentum=0.9
            )

    def adam(self, factor=None):
        for w, m, v, g in zip(self.w, self.m, self.v, self.g):
            self.adam_operation(w.handle, m, v, g if factor is None else g * factor, self.rate)

    def adam_operation(self, handle, m, v, gradient, rate):
        return raw.ResourceApplyAdam(
            var=handle,
            m=m.handle,
            v=v.handle,
            beta1_power=0.9,
            beta2_power=0.99,
            lr=rate,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-7,
            grad=gradient,
        )

    def compiled(self, formula):
        """A pass by a formula of a variable, two slots and a gradient, under XLA."""

        @tf.function(autograph=False, jit_compile=True)
        def step():
            for row in zip(self.w, self.m, self.v, self.g):
                formula(*row)

        return step

    def descent_formula(self, w, m, v, g):
        w.assign_sub(self.rate * g)

    def momentum_formula(self, w, m, v, g):
        m.assign(0.9 * m - self.rate * g)
        w.assign_add(m)

    def adam_formula(self, w, m, v, g):
        m.assign_add((g - m) * 0.1)
        v.assign_add((g * g - v) * 0.001)
        w.assign_sub(self.rate * m / (tf.sqrt(v) + 1e-7))

    def norms(self, norm="l2"):
        return fused_tensorflow.sizes([Block([g]) for g in self.g], norm)

    def heavy_ball(self, factors):
        """m = 0.95 * m + factor * g; w -= rate * m: NovoGrad, once its factors are known."""
        for w, m, g, factor in zip(self.w, self.m, self.g, factors):
            raw.ResourceApplyMomentum(
                var=w.handle, accum=m.handle, lr=self.rate, grad=g * factor, momentum=0.95
            )

    def adamw(self, factors):
        """Decay, then Adam of a multiplied gradient, once its factors are known."""
        for w, m, v, g, factor in zip(self.w, self.m, self.v, self.g, factors):
            with tf.control_dependencies([w.assign(w * 0.999)]):
                self.adam_operation(w.handle, m, v, g * factor, self.rate)

    def adaptive(self):
        """Descent, scalar products with the last directions, and the new ones, by two norms."""
        factors = tf.unstack(1.0 / self.norms("max"))
        inverses = tf.unstack(1.0 / self.norms())
        self.descend(factors)
        dots = fused_tensorflow.dots(zip(self.g, self.m))
        with tf.control_dependencies([self.sink.assign(tf.add_n(dots))]):
            for m, g, inverse in zip(self.m, self.g, inverses):
                m.assign(g * inverse)

    def lamb(self):
        """LAMB without a look at the range of its norms, each variable to the end at once."""
        last = [[], []]
        for i, (w, m, v, g) in enumerate(zip(self.w, self.m, self.v, self.g)):
            axes, name = list(range(len(g.shape))), context.anonymous_name()
            place = raw.VarHandleOp(dtype=g.dtype, shape=g.shape, shared_name=name)
            with tf.control_dependencies(last[i % 2]):
                weights = w.read_value()
                length = raw.EuclideanNorm(input=weights, axis=axes)
                start = raw.AssignVariableOp(resource=place, value=weights * 0.01)
            with tf.control_dependencies([start, length]):
                step = self.adam_operation(place, m, v, g, -1.0)
            with tf.control_dependencies([step]):
                step = raw.ReadVariableOp(resource=place, dtype=g.dtype)
            ratio = length / raw.EuclideanNorm(input=step, axis=axes)
            last[i % 2] = [
                raw.ResourceApplyGradientDescent(var=w.handle, alpha=self.rate * ratio, delta=step)
            ]

    def lanes(self, count, bundle):
        """Norm and descent of some gradients before the next ones, to find them in the cache."""
        sizes = [4 * int(np.prod(g.shape)) for g in self.g]
        bundles = parts(range(len(sizes)), sizes, bundle)
        last = [[] for _ in range(count)]
        for k, members in enumerate(bundles):
            with tf.control_dependencies(last[k % count]):
                last[k % count] = []
                for i in members:
                    g = tf.identity(self.g[i])
                    alpha = self.rate * tf.math.rsqrt(2.0 * tf.nn.l2_loss(g))
                    op = raw.ResourceApplyGradientDescent(
                        var=self.w[i].handle, alpha=alpha, delta=g
                    )
                    last[k % count].append(op)


def table(p):
    """The rows: name and function."""

    def flat():
        parts = [tf.reshape(g, [-1]) for g in p.g]
        pieces = tf.split(tf.concat(parts, 0), [int(x.shape[0]) for x in parts])
        for w, piece in zip(p.w, pieces):
            w.assign_sub(tf.reshape(piece, w.shape))

    def keras_update(optimizer):
        variables = [keras.Variable(tf.zeros_like(w)) for w in p.w]
        optimizer.build(variables)
        return lambda: optimizer.apply(p.g, variables)

    def rows(x):
        return tf.reduce_sum(tf.reshape(x * x, [-1, x.shape[-1]]), axis=1)

    def by_rows(x):
        return tf.reduce_sum(rows(x))

    def by_rows_apart(x):
        return tf.reduce_sum(xla.optimization_barrier(rows(x))[0])

    def units(x):
        return tf.reduce_sum(tf.reshape(x * x, [-1, x.shape[-1]]), axis=0)

    def by_columns(x):
        return tf.reduce_sum(units(x))

    def by_columns_apart(x):
        return tf.reduce_sum(xla.optimization_barrier(units(x))[0])

    def by_columns_in_eights(x):
        x, rest = tf.reshape(x * x, [-1, x.shape[-1]]), []
        while x.shape[0] > 32:
            whole = x.shape[0] - x.shape[0] % 8
            rest.append(tf.reduce_sum(x[whole:], axis=0))
            eights = tf.reduce_sum(tf.reshape(x[:whole], [-1, 8, x.shape[-1]]), axis=1)
            (x,) = xla.optimization_barrier(eights)
        found = tf.add_n([tf.reduce_sum(x, axis=0), *rest])
        return tf.reduce_sum(xla.optimization_barrier(found)[0])

    def by_product(x):
        row = tf.reshape(x, [1, -1])
        return tf.matmul(row, row, transpose_b=True)[0, 0]

    def unit(formula):
        return lambda w, m, v, g: formula(w, m, v, tf.math.rsqrt(total(g * g)) * g)

    def keras_update_compiled(optimizer):
        return tf.function(keras_update(optimizer), autograph=False, jit_compile=True)

    def by_extremes(x):
        return tf.maximum(tf.reduce_max(x), -tf.reduce_min(x))

    return {
        "sum of squares: reduce_sum(square)": p.reduced(lambda x: tf.reduce_sum(x * x)),
        "sum of squares: l2_loss": p.reduced(tf.nn.l2_loss),
        "sum of squares: EuclideanNorm": p.reduced(
            lambda x: raw.EuclideanNorm(input=tf.reshape(x, [-1]), axis=[0])
        ),
        "sum of squares: matrix product": p.reduced(by_product),
        "sum of squares, XLA": p.reduced(lambda x: tf.reduce_sum(x * x), True),
        "sum of squares, XLA: rows first": p.reduced(by_rows, True),
        "sum of squares, XLA: columns first": p.reduced(by_columns, True),
        "sum of squares, XLA: matrix product": p.reduced(by_product, True),
        "sum of squares, XLA: rows first, kept apart": p.reduced(by_rows_apart, True),
        "sum of squares, XLA: in eights": p.reduced(lambda x: total(x * x), True),
        "sums of squares of units": p.reduced(by_columns),
        "sums of squares of units, XLA": p.reduced(by_columns_apart, True),
        "sums of squares of units, XLA: in eights": p.reduced(by_columns_in_eights, True),
        "largest, XLA: reduce_max(abs)": p.reduced(lambda x: tf.reduce_max(tf.abs(x)), True),
        "largest, XLA: reduce_max, reduce_min": p.reduced(by_extremes, True),
        "largest, XLA: abs in eights, no NaN lost": p.reduced(lambda x: greatest(tf.abs(x)), True),
        "largest: reduce_max(abs)": p.reduced(lambda x: tf.reduce_max(tf.abs(x))),
        "largest: reduce_max, reduce_min": p.reduced(by_extremes),
        "scalar products, in stretches": p.reduced(lambda x: fused_tensorflow.dots([(x, x)])[0]),
        "scalar products, each in one": p.reduced(
            lambda x: tf.matmul(*[tf.reshape(x, [1, -1])] * 2, transpose_b=True)[0, 0]
        ),
        "descent": p.descend,
        "norms as they are taken": lambda: p.sink.assign(tf.reduce_sum(p.norms())),
        "descent, with norm": lambda: p.descend(tf.unstack(p.rate / p.norms())),
        "descent, with norm, a product for each": lambda: p.descend(
            [p.rate * factor for factor in tf.unstack(1.0 / p.norms())]
        ),
        "descent, with norm, 2 lanes of 8 MB": lambda: p.lanes(2, 8e6),
        "descent by one flat buffer": flat,
        "momentum": p.momentum,
        "NovoGrad's, with norm": lambda: p.heavy_ball(tf.unstack(1.0 / p.norms())),
        "LAMB's, with norms": p.lamb,
        "Adam": p.adam,
        "Adam of a multiplied gradient": lambda: p.adam(p.rate),
        "AdamW's, with norm": lambda: p.adamw(tf.unstack(1.0 / p.norms())),
        "AdaptiveBlockNormSGD's, with both norms": p.adaptive,
        "descent, XLA": p.compiled(p.descent_formula),
        "descent, with norm, XLA": p.compiled(unit(p.descent_formula)),
        "momentum, XLA": p.compiled(p.momentum_formula),
        "momentum, with norm, XLA": p.compiled(unit(p.momentum_formula)),
        "Adam, XLA": p.compiled(p.adam_formula),
        "Adam, with norm, XLA": p.compiled(unit(p.adam_formula)),
        "Keras SGD": keras_update(keras.optimizers.SGD(1e-5)),
        "Keras momentum": keras_update(keras.optimizers.SGD(1e-5, 0.9)),
        "Keras Adam": keras_update(keras.optimizers.Adam(1e-5)),
        "Keras Lamb": keras_update(keras.optimizers.Lamb(1e-5)),
        "Keras SGD, XLA": keras_update_compiled(keras.optimizers.SGD(1e-5)),
        "Keras momentum, XLA": keras_update_compiled(keras.optimizers.SGD(1e-5, 0.9)),
        "Keras Adam, XLA": keras_update_compiled(keras.optimizers.Adam(1e-5)),
    }


def main():
    """Measure and print."""
    arguments = single_table.parsed(__doc__, 9)
    pieces = Pieces(arguments.network)
    runs = {name: pieces.repeated(step) for name, step in table(pieces).items()}
    # The first trace of a process pays for what the others find there.
    pieces.repeated(pieces.momentum).get_concrete_function()
    traces = {name: timed_alone(run.get_concrete_function) for name, run in runs.items()}
    rows = []
    for name, times in turns(runs, arguments.rounds, seconds=600).items():
        found = spread([1e3 * t / pieces.steps for t in times])
        quartiles = f"{found['low']:.3g}-{found['high']:.3g}"
        rows.append([name, f"{found['median']:.3g}", quartiles, f"{1e3 * traces[name]:.0f}"])
    header = ["operation", "ms", "quartiles", "ms to trace"]
    single_table.show(header, rows, arguments.out)


if __name__ == "__main__":
    main()
