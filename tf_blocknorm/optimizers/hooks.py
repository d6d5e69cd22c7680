"""Where Keras's optimizers are entered: every private method that this package overrides or calls.

One training step of a Keras optimizer runs, on every backend, through `apply` →
`_backend_apply_gradients` (accumulate → `_clip_gradients` → `_apply_weight_decay` →
`_backend_update_step` → average of the weights) → constraints. A block-normalised optimizer acts at
two points of it:

- `on_gradients(gradients, variables)`, once the gradients are aggregated over replicas, unscaled
  and clipped and before the wrapped rule sees them. (The mean of unit vectors is not the unit mean:
  earlier would be wrong.)
- `on_updates(visits, learning_rate)`, once the wrapped rule has run for all variables.

`Hooks` is the class for the backend that Keras runs on. `tests/test_hooks.py` fails when Keras
moves one of these methods.
"""

import collections
import math

import keras

from tf_blocknorm import norms
from tf_blocknorm.optimizers import rows
from tf_blocknorm.optimizers.kernels import FUSED, can_fuse, together
from tf_blocknorm.optimizers.scratch import Scratch

PRIVATE = (
    "_apply_weight_decay",
    "_backend_update_step",
    "_clip_gradients",
    "_get_variable_index",
    "_overwrite_model_variables_with_average_value",
    "_overwrite_variables_directly_with_gradients",
    "_track_variable",
    "_untrack_variable",
    "_use_weight_decay",
)
PRIVATE_ON_TORCH = ("_parallel_update_step",)
PRIVATE_OF_MUON = ("_should_use_adamw",)
PRIVATE_ON_TENSORFLOW = ("_all_reduce_sum_gradients", "_distributed_tf_update_step")

# What makes Keras unscale, clip or accumulate gradients, which it does with tensors only.
CHANGE_GRADIENTS = (
    "loss_scale_factor",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "gradient_accumulation_steps",
)

Visit = collections.namedtuple("Visit", ["index", "variable", "direction", "gradient"])
Visit.__doc__ = """A variable (or its copy on a replica) that the wrapped rule has been run for.

`direction` is what the rule would have subtracted, and None where it did so itself; `gradient` what
the rule saw.
"""


def split_replicas(visits):
    """The visits of each replica, as a list of lists."""
    replicas = len(visits) // len({visit.index for visit in visits}) if visits else 0
    return [visits[replica::replicas] for replica in range(replicas)]


def dense(gradient, variable):
    """A gradient as a tensor of known shape.

    On TensorFlow, that of a `Dense` on sequences does not know its shape where the size of a batch
    is open.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gradient = tf.convert_to_tensor(gradient)
        gradient.set_shape(variable.shape)
    return gradient


class _CommonHooks:
    decay_is_inside = False  # Whether the rule decays the weights itself, in `update_step`.

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._scratch = Scratch()

    def takes_rows(self):
        """Whether sparse gradients may reach the rule as such (`rows`): on TensorFlow alone."""
        return False

    def on_gradients(self, gradients, variables):
        """What the wrapped rule is to see in place of the gradients."""
        return gradients

    def on_updates(self, visits, learning_rate):
        """What remains to be done to the variables after the wrapped rule.

        Args:
            visits: what `update_step` put into `self._scratch.visits`: one entry per variable and
                replica, in the order of the variables; the replicas of a variable follow one
                another.
            learning_rate: scalar tensor or variable.
        """

    def update_at_once(self, gradients, variables, learning_rate):
        """Does what `update_step` would do for each variable; returns whether it could."""
        return False

    def draw(self, distribution, shape):
        """Float32 numbers of `self.seed_generator`, `"uniform"` on [-1, 1] or `"normal"`."""
        raise NotImplementedError

    def whole_step(self, grads, trainable_variables, learning_rate):
        """All of the update that is compiled as one: from the gradients to the new variables."""
        raise NotImplementedError

    def _apply_weight_decay(self, variables):
        if self.decay_is_inside:
            return
        # torch's version fails on an empty list. Muon has a version, and two decays, of its own.
        decays = self.weight_decay is not None and any(map(self._use_weight_decay, variables))
        if decays or not self._decays_as_all_do():
            super()._apply_weight_decay(variables)

    def _decays_as_all_do(self):
        """Whether the wrapped rule leaves the decay to the base class of Keras's optimizers."""
        own = super()._apply_weight_decay.__func__
        return own is keras.optimizers.Optimizer._apply_weight_decay


class PortableHooks(_CommonHooks):
    """JAX (where `fit` compiles the step anyway) and torch."""

    def draw(self, distribution, shape):
        if distribution == "uniform":
            return keras.random.uniform(shape, -1.0, 1.0, "float32", self.seed_generator)
        return keras.random.normal(shape, 0.0, 1.0, "float32", self.seed_generator)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        self.whole_step(grads, trainable_variables, learning_rate)

    def whole_step(self, grads, trainable_variables, learning_rate):
        learning_rate = keras.ops.convert_to_tensor(learning_rate)  # once for all variables
        with self._scratch.fusing(can_fuse(), learning_rate):
            gradients = self.on_gradients(grads, trainable_variables)
            with self._scratch.collected_visits() as visits:
                with together():
                    if not self.update_at_once(gradients, trainable_variables, learning_rate):
                        super()._backend_update_step(gradients, trainable_variables, learning_rate)
                with together():
                    self.on_updates(visits, learning_rate)


class TensorFlowHooks(_CommonHooks):
    """TensorFlow, with `tf.distribute`, sparse gradients and the compiled update."""

    def build(self, variables):
        import tensorflow as tf

        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if self.jit_compile and replicas > 1:
            raise ValueError(
                "`jit_compile=True` is not possible under a distribution strategy with several "
                "replicas, as XLA cannot compile their communication "
                "(https://github.com/keras-team/keras/issues/19005). "
                f"Received: jit_compile=True, with {replicas} replicas"
            )
        super().build(variables)

    def _apply_weight_decay(self, variables):
        import tensorflow as tf

        plain = self.weight_decay is not None and self._decays_as_all_do()
        if self.decay_is_inside or not plain or tf.distribute.has_strategy():
            super()._apply_weight_decay(variables)
            return
        variables = [v for v in variables if self._use_weight_decay(v)]
        for dtype in dict.fromkeys(v.dtype for v in variables):
            decay = tf.cast(self.learning_rate, dtype) * tf.constant(self.weight_decay, dtype)
            FUSED.shrink([v for v in variables if v.dtype == dtype], 1.0 - decay)

    def draw(self, distribution, shape):
        import tensorflow as tf

        # keras.random's numbers are others under XLA. The bits of Philox for a given key and
        # counter are the same everywhere; what is made of them is written out here.
        seed, draw = tf.unstack(tf.cast(self.seed_generator.next(), tf.uint64))
        bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=(2, *shape) if distribution == "normal" else shape,
            key=[seed],
            counter=[tf.zeros_like(draw), draw],
            alg=1,
            dtype=tf.int32,
        )
        uniform = tf.cast(bits, tf.float32) * 2.0**-31
        if distribution == "uniform":
            return uniform
        radius, angle = tf.unstack(uniform)  # the method of Box and Muller
        radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(0.5 + 0.5 * radius, 2.0**-32)))
        return radius * tf.cos(math.pi * angle)

    def apply(self, grads, trainable_variables=None):
        import tensorflow as tf

        if self.gradient_accumulation_steps and not tf.executing_eagerly():
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            if replicas > 1:
                raise ValueError(
                    "`gradient_accumulation_steps` does not work inside a `tf.function` under a "
                    "distribution strategy (https://github.com/keras-team/keras/issues/20582). "
                    "Accumulate in a custom loop, or use larger batches. Received: "
                    f"gradient_accumulation_steps={self.gradient_accumulation_steps}, "
                    f"with {replicas} replicas"
                )
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        variables = trainable_variables or getattr(self, "_trainable_variables", ())
        if len(grads) == len(variables):  # otherwise Keras has an error to raise
            grads = [g if g is None else self._received(g, v) for g, v in zip(grads, variables)]
        return super().apply(grads, trainable_variables)

    def _received(self, gradient, variable):
        """A gradient as all that follows may see it: as rows where that helps, else dense."""
        import tensorflow as tf

        helps = rows.is_sparse(gradient) and rows.is_large(variable) and self.takes_rows()
        changed = any(getattr(self, name) for name in CHANGE_GRADIENTS)
        if not helps or changed or tf.distribute.has_strategy():
            return dense(gradient, variable)
        compiled = self.jit_compile or norms.inside_xla()
        return rows.each_once(gradient, variable, compiled)

    def _clip_gradients(self, grads):
        # Keras clips the gradient of every replica; the gradient of the batch is their sum, so clip
        # that.
        return grads

    def _all_reduce_sum_gradients(self, grads_and_vars):
        import tensorflow as tf

        if tf.distribute.has_strategy():
            grads_and_vars = super()._all_reduce_sum_gradients(grads_and_vars)
        gradients, variables = zip(*grads_and_vars)
        gradients = super()._clip_gradients(list(gradients))
        return list(zip(self.on_gradients(gradients, variables), variables))

    def _distributed_tf_update_step(self, distribution, grads_and_vars, learning_rate):
        import tensorflow as tf

        with self._scratch.collected_visits() as visits:
            if tf.distribute.has_strategy():
                super()._distributed_tf_update_step(distribution, grads_and_vars, learning_rate)
            elif not self.update_at_once(*zip(*grads_and_vars), learning_rate):
                # Keras's detour over replicas takes long to trace.
                for gradient, variable in grads_and_vars:
                    self.update_step(gradient, variable, learning_rate)
        # That of a schedule was computed by every replica, the same by all.
        self.on_updates(visits, distribution.experimental_local_results(learning_rate)[0])

    def whole_step(self, grads, trainable_variables, learning_rate):
        import tensorflow as tf

        if not tf.distribute.has_strategy():
            learning_rate = tf.convert_to_tensor(learning_rate)  # once for all variables
        with self._scratch.fusing(can_fuse(), learning_rate), together():
            super()._backend_update_step(grads, trainable_variables, learning_rate)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if not self.jit_compile:
            self.whole_step(grads, trainable_variables, learning_rate)
            return

        import tensorflow as tf

        def compiled_step(grads, learning_rate):
            grads = list(map(rows.of_shape_of, trainable_variables, grads))
            self.whole_step(grads, trainable_variables, learning_rate)

        functions = self._scratch.compiled
        key = tuple(self._get_variable_index(v) for v in trainable_variables)
        if key not in functions:
            functions[key] = tf.function(compiled_step, jit_compile=True, autograph=False)
        functions[key](list(grads), tf.convert_to_tensor(learning_rate))


Hooks = TensorFlowHooks if keras.backend.backend() == "tensorflow" else PortableHooks
