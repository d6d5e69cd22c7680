"""The methods of an optimizer that are replaced while taps are attached to it."""

import contextlib
import threading
import types

import keras
from keras import ops

from tf_blocknorm.light import standard
from tf_blocknorm.optimizers.hooks import Hooks, dense
from tf_blocknorm.optimizers.kernels import FUSED, can_fuse, together
from tf_blocknorm.optimizers.kernels.rules import gradient_descent
from tf_blocknorm.optimizers.rows import times

# Of the optimizer: a namespace with `taps`, a dict by name, and what was replaced.
ATTRIBUTE = "_tapped"


def patch(optimizer, outermost, create_state):
    """Let taps run in the steps of an optimizer.

    Methods of this one object are replaced; its class, and so how it is saved, stays what it is.

    Args:
        optimizer: the one that updates the variables.
        outermost: the model's, which may be a `LossScaleOptimizer` around it.
        create_state: function that makes the state of a tap which has none yet.
    """
    tapped = types.SimpleNamespace(taps={}, patched=[])
    seen = _Seen()
    is_sgd = getattr(optimizer.update_step, "__func__", None) is keras.optimizers.SGD.update_step

    def replace(name, make, patched=optimizer):
        tapped.patched.append((patched, name, vars(patched).get(name)))
        setattr(patched, name, make(getattr(patched, name)))

    def keeps_its_gradients(on_gradients):
        def method(gradients, variables):
            seen.gradients = list(gradients)
            return on_gradients(gradients, variables)

        return method

    def keeps_reduced_gradients(reduce):
        def method(grads_and_vars):
            result = list(reduce(grads_and_vars))
            seen.gradients = [gradient for gradient, _ in result]
            return result

        return method

    @contextlib.contextmanager
    def fusing():
        seen.fused = bool(is_sgd and scaling()) and can_fuse()
        try:
            with together() if seen.fused else contextlib.nullcontext():
                yield
        finally:
            seen.fused = False

    def runs_the_taps(step):
        def method(grads, trainable_variables, learning_rate):
            rate = ops.multiply(learning_rate, 1.0)  # a copy, as a tap may change the variable
            seen.gradients = grads
            taps = [tap for tap in tapped.taps.values() if not tap.paused]
            for tap in taps:
                if not tap.attached:
                    create_state(tap)
            before = [tap.before_step(trainable_variables) for tap in taps]
            with fusing():
                step(grads, trainable_variables, learning_rate)
            gradients = [dense(g, v) for g, v in zip(seen.gradients, trainable_variables)]
            seen.gradients = None
            with _without_autograd():
                for tap, result in zip(taps, before):
                    tap.after_step(gradients, trainable_variables, rate, result)

        return method

    def scaling():
        return [tap for tap in tapped.taps.values() if tap.rate_factors]

    def scaled(rate, indices):
        taps = scaling()
        rates = [ops.convert_to_tensor(rate) if taps else rate] * len(indices)
        for tap in taps:
            rates = list(map(times, rates, tap.rate_factors(indices)))
        return rates

    def fused_step(gradients, variables, indices, rates):
        """Returns whether there is one."""
        fits = seen.fused and FUSED.fits([standard(v.dtype) for v in variables], gradients, *rates)
        if fits:
            nones = [None] * len(indices)
            gradient_descent(optimizer, indices, gradients, variables, rates, nones)
        return fits

    def scales_the_rate(update_step):
        def method(gradient, variable, learning_rate):
            indices = [optimizer._get_variable_index(variable)]
            rates = scaled(learning_rate, indices)
            if not fused_step([gradient], [variable], indices, rates):
                update_step(gradient, variable, *rates)

        return method

    def at_once(gradients, variables, learning_rate):
        """Returns whether all could be updated by one call."""
        if not seen.fused or optimizer.update_step is not tapped.update_step:
            return False
        indices = [optimizer._get_variable_index(variable) for variable in variables]
        rate = ops.multiply(learning_rate, 1.0)  # a tensor, as a variable would be read for each
        return fused_step(gradients, variables, indices, scaled(rate, indices))

    def steps_at_once_on_torch(parallel):
        def method(grads, variables, learning_rate):
            if not scaling():
                parallel(grads, variables, learning_rate)
            elif not at_once(grads, variables, learning_rate):
                for gradient, variable in zip(grads, variables):
                    optimizer.update_step(gradient, variable, learning_rate)

        return method

    def steps_at_once_on_tensorflow(one_by_one):
        def method(distribution, grads_and_vars, learning_rate):
            if not at_once(*zip(*grads_and_vars), learning_rate):
                one_by_one(distribution, grads_and_vars, learning_rate)

        return method

    def without_the_taps(save_or_load):
        def method(store):
            kept = [v for tap in tapped.taps.values() for v in tap.variables]
            for variable in kept:
                optimizer._untrack_variable(variable)
            try:
                save_or_load(store)
            finally:
                for variable in kept:
                    optimizer._track_variable(variable)

        return method

    if isinstance(optimizer, Hooks):
        replace("on_gradients", keeps_its_gradients)
        replace("whole_step", runs_the_taps)
    else:
        if keras.backend.backend() == "tensorflow":
            replace("_all_reduce_sum_gradients", keeps_reduced_gradients)
            replace("_distributed_tf_update_step", steps_at_once_on_tensorflow)
        replace("_backend_update_step", runs_the_taps)
    replace("update_step", scales_the_rate)
    tapped.update_step = optimizer.update_step  # which somebody may replace in turn
    if hasattr(optimizer, "_parallel_update_step"):  # several of Keras's on torch
        replace("_parallel_update_step", steps_at_once_on_torch)
    # A LossScaleOptimizer saves the variables of the optimizer inside among its own, too.
    for saved in {id(o): o for o in (optimizer, outermost)}.values():
        replace("save_own_variables", without_the_taps, saved)
        replace("load_own_variables", without_the_taps, saved)
    setattr(optimizer, ATTRIBUTE, tapped)


def unpatch(optimizer):
    """Undo `patch`."""
    for patched, name, before in getattr(optimizer, ATTRIBUTE).patched:
        if before is None:
            delattr(patched, name)
        else:  # one that somebody else had put in the place of the class's
            setattr(patched, name, before)
    delattr(optimizer, ATTRIBUTE)


class _Seen(threading.local):  # as tf.distribute runs every replica in a thread
    """What a step has come to: its gradients, and whether fused operations carry it out."""

    gradients = None
    fused = False


def _without_autograd():
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()
