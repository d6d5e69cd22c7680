"""Where a norm is computed: which reductions there are, and how a condition is decided there."""

import keras
from keras import ops


def inside_xla():
    """Whether what is computed now will be compiled by XLA; on JAX, always."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        from tensorflow.python.ops import control_flow_util

        graph = tf.compat.v1.get_default_graph()
        return control_flow_util.GraphOrParentsInXlaContext(graph)
    return keras.backend.backend() == "jax"


def on_jax_at_once():
    """Whether this is JAX outside of all its transformations."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    # Not a question to a gradient: a constant one may be known also inside a condition.
    return not isinstance(jax.numpy.zeros(()), jax.core.Tracer)


def total(x, axis=None):
    """The sum of a tensor's entries over some axes, or all.

    On TensorFlow, XLA's sum over all axes of what is computed on the way is half as fast as that
    over the last one, and it makes a single one of two unless it is kept from it.
    """
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if axis is None and len(x.shape) > 1 and on_tensorflow and inside_xla():
        from tensorflow.compiler.tf2xla.python import xla

        (x,) = xla.optimization_barrier(ops.sum(x, axis=-1))
    return ops.sum(x, axis=axis)


def cond(condition, true, false):
    """`keras.ops.cond`, which JAX, of values that are known, would compile anew at every call."""
    if on_jax_at_once():
        return true() if condition else false()
    return ops.cond(condition, true, false)


def fused_reductions():
    """The module of fused reductions where they can be used, or None."""
    if keras.backend.backend() == "torch":
        from tf_blocknorm.norms import fused_torch

        return fused_torch
    if inside_xla():
        return None
    from tf_blocknorm.norms import fused_tensorflow

    return fused_tensorflow
