"""Where a norm is computed: which reductions there are, and how a condition is decided there."""

import functools

import keras
from keras import ops

# Entries from which on XLA is helped with a sum or a maximum.
_LONG = 2**12


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


def _inside_xla_of_tensorflow():
    return keras.backend.backend() == "tensorflow" and inside_xla()


def in_graph_of_tensorflow():
    """Whether what is computed now becomes part of a graph that is not compiled by XLA."""
    if keras.backend.backend() != "tensorflow" or inside_xla():
        return False
    import tensorflow as tf

    return not tf.executing_eagerly()


def total(x, axis=None):
    """The sum of a tensor's entries over some axes, or all."""
    if axis is None and _inside_xla_of_tensorflow():
        return _in_eights(x, ops.sum, ops.add)
    return ops.sum(x, axis=axis)


def greatest(x, axis=None):
    """The largest entry over some axes, or all. See `maxima_drop_nans`."""
    if not _inside_xla_of_tensorflow():
        return ops.max(x, axis=axis)
    x = ops.where(ops.isnan(x), ops.full((), float("inf"), x.dtype), x)
    return ops.max(x, axis=axis) if axis is not None else _in_eights(x, ops.max, ops.maximum)


def maxima_drop_nans():
    """Whether `greatest` may overlook what is not a number; else that makes it infinite or NaN."""
    return not _inside_xla_of_tensorflow()


def _in_eights(x, reduce, join):
    """A sum or maximum of all entries as TensorFlow's XLA computes it fast on processors.

    That of more than 32 numbers becomes one over windows there, for which it writes to memory what
    they are computed from. Those of eight neighbours are computed on the way, as fast as TensorFlow
    does without XLA. The barrier keeps XLA from making one of them all again.
    """
    x, rest = ops.reshape(x, (-1,)), []
    while x.shape[0] >= _LONG:
        whole = x.shape[0] - x.shape[0] % 128
        if whole < x.shape[0]:
            rest.append(reduce(x[whole:]))
        eights = reduce(ops.reshape(x[:whole], (-1, 16, 8)), axis=-1)
        (x,) = _barrier(ops.reshape(eights, (-1,)))
    return functools.reduce(join, rest, reduce(x))


def once_known(token, tensors):
    """The tensors, in XLA, which knows them no sooner than a scalar.

    What is computed from them stays in the loop that the scalar changes in; else XLA does it once
    before, and keeps the result.
    """
    return _barrier(*tensors, token)[:-1]


def _barrier(*tensors):
    """The tensors, which XLA neither moves nor merges anything across."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.optimization_barrier(tensors)
    from tensorflow.compiler.tf2xla.python import xla

    return xla.optimization_barrier(*tensors)


def cond(condition, true, false):
    """`keras.ops.cond`, which JAX, of values that are known, would compile anew at every call.

    On torch it looks through all results first, as long as some of the norms take.
    """
    if keras.backend.backend() == "torch" or on_jax_at_once():
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
