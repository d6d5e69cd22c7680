"""Code and state that a callback puts into the training step of any Keras optimizer.

A callback sees losses and, at best, weights; gradients never leave the compiled step. A `Tap` runs
inside it, on every backend, with XLA, with several steps per execution, and once per update under
gradient accumulation. What it keeps are variables of the optimizer: that is what JAX carries from
step to step, and what is saved and resumed with the model. They are saved beside the optimizer's
own, so that a model saved in the midst of training loads with and without the callback.
"""

import contextlib
import threading
import types

import keras
from keras import ops

from tf_blocknorm.optimizers.hooks import Hooks

# Attributes that Keras finds: `optimizer.tap_NAME` holds a tap's state when a model is saved.
_PREFIX = "tap_"


class Tap:
    """What happens in every step beside the optimizer's own rule. To be subclassed.

    Attributes:
        name: word under which the state is saved; one tap of a name per optimizer.
        state: what `create` returned.
        optimizer: the one that it is attached to.
        made_for: the variables of that optimizer.
        variables: all variables of the state.
        attached: whether the state is the optimizer's.
        saved: whether the state is saved with the model.
    """

    name = None
    state = None
    optimizer = None
    made_for = ()
    variables = ()
    attached = False
    saved = True

    def create(self, add, variables):
        """Make the state.

        Args:
            add: function `(name, shape, dtype="float32", initializer="zeros", like=None)` that
                returns a new `keras.Variable`; `like` is a variable whose shape it takes, and
                beside which it lives where a model is spread over devices.
            variables: the variables that the optimizer is built for.

        Returns:
            Anything; it is kept as `self.state`.
        """

    def indices(self, variables):
        """Where variables stand in the list that `create` was given."""
        places = {id(variable): index for index, variable in enumerate(self.made_for)}
        return [places[id(variable)] for variable in variables]

    def before_step(self, variables):
        """Runs before the variables change.

        Args:
            variables: those that have a gradient in this step.

        Returns:
            Anything; `after_step` gets it.
        """

    def after_step(self, gradients, variables, learning_rate, before):
        """Runs after the variables have changed.

        Args:
            gradients: dense tensors: as the optimizer's rule saw them, or before they were
                normalised: summed over replicas, unscaled and clipped.
            variables: list of the variables that they belong to.
            learning_rate: scalar tensor, the rate of this step.
            before: what `before_step` returned.
        """
        raise NotImplementedError

    def rate_factor(self, index):
        """What the learning rate of one variable is multiplied by.

        Args:
            index: of the variable, in the list that `create` was given.

        Returns:
            A scalar, a vector for the indices of the variable's last axis, or None for 1.
        """


class _State(keras.layers.Layer):
    """A tap's variables in the form in which Keras saves what it finds in an optimizer."""

    def __init__(self, variables):
        super().__init__()
        self.kept = variables
        self.built = True

    def save_own_variables(self, store):
        for index, variable in enumerate(self.kept):
            store[str(index)] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        saved = len(store.keys())
        if not saved:  # saved without the callback, which then begins anew
            return
        if saved != len(self.kept):
            raise ValueError(
                "The saved state of a callback must have as many variables as the callback. "
                f"Received: {saved} saved variables for {len(self.kept)}. Its arguments decide "
                "their number: resume with those that the run began with."
            )
        for index, variable in enumerate(self.kept):
            variable.assign(store[str(index)])


def innermost(optimizer):
    """The optimizer that updates the variables: inside of a `LossScaleOptimizer`, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def attach(tap, model):
    """Let a tap run in every step of the model's optimizer from now on.

    Args:
        tap: a `Tap`; one that was attached to this optimizer before keeps its state.
        model: compiled model with its variables built.
    """
    optimizer = innermost(model.optimizer)
    if hasattr(optimizer, "optimizers"):
        raise ValueError(
            f"The callback behind {tap.name!r} needs one optimizer for the whole model. "
            f"Received: optimizer={optimizer!r}"
        )
    tap.optimizer = optimizer
    installed = _installed(optimizer)
    if installed.get(tap.name) is tap:
        return
    if tap.name in installed:
        detach(installed[tap.name], model)
    # On TensorFlow, a model without input shape is built within its first step; so is the state.
    if model.built:
        with _scope(optimizer):
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            _create_state(tap)
    if not installed:
        _patch(optimizer, model.optimizer)
    _installed(optimizer)[tap.name] = tap
    _retrace(model, optimizer)


def detach(tap, model):
    """Leave the optimizer as it was before `attach`; the tap keeps its state."""
    optimizer = innermost(model.optimizer)
    installed = _installed(optimizer)
    if installed.get(tap.name) is not tap:
        return
    del installed[tap.name]
    if tap.attached:
        for variable in tap.variables:
            optimizer._untrack_variable(variable)
        if tap.saved:
            delattr(optimizer, _PREFIX + tap.name)
        tap.attached = False
    if not installed:
        for patched, name in optimizer._tapped.patched:
            delattr(patched, name)
        del optimizer._tapped
    _retrace(model, optimizer)


def _installed(optimizer):
    tapped = getattr(optimizer, "_tapped", None)
    return tapped.taps if tapped else {}


def _create_state(tap):
    """Make the state, unless there is one for these variables, and make it the optimizer's."""
    optimizer = tap.optimizer
    variables = tuple(optimizer._trainable_variables)

    def add(name, shape=None, dtype="float32", initializer="zeros", like=None):
        variable = keras.Variable(
            shape=tuple(like.shape) if shape is None else shape,
            initializer=initializer,
            dtype=dtype,
            trainable=False,
            # Every replica computes the same.
            aggregation="only_first_replica",
            layout=getattr(like, "_layout", None),
            name=f"{tap.name}_{name}",
        )
        tap.variables.append(variable)
        return variable

    if tuple(map(id, tap.made_for)) != tuple(map(id, variables)):
        tap.made_for, tap.variables = variables, []
        tap.state = tap.create(add, list(variables))
    for variable in tap.variables:
        optimizer._track_variable(variable)
    if tap.saved:
        setattr(optimizer, _PREFIX + tap.name, _State(tap.variables))
    tap.attached = True


def _retrace(model, optimizer):
    # The compiled steps that Keras and the optimizer keep were traced without, or with, the tap.
    model.train_function = None
    if isinstance(optimizer, Hooks):
        optimizer._scratch.compiled.clear()


def _patch(optimizer, outermost):
    """Replace methods of this one object; its class, and so how it is saved, stays what it is."""
    tapped = types.SimpleNamespace(taps={}, patched=[])
    seen = threading.local()  # as tf.distribute runs every replica in a thread

    def replace(name, make, patched=optimizer):
        setattr(patched, name, make(getattr(patched, name)))
        tapped.patched.append((patched, name))

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

    def runs_the_taps(step):
        def method(grads, trainable_variables, learning_rate):
            rate = ops.multiply(learning_rate, 1.0)  # a copy, as a tap may change the variable
            seen.gradients = grads
            taps = list(tapped.taps.values())
            for tap in taps:
                if not tap.attached:
                    _create_state(tap)
            before = [tap.before_step(trainable_variables) for tap in taps]
            step(grads, trainable_variables, learning_rate)
            gradients = [_dense(g) for g in seen.gradients]
            seen.gradients = None
            with _without_autograd():
                for tap, result in zip(taps, before):
                    tap.after_step(gradients, trainable_variables, rate, result)

        return method

    def scales_the_rate(update_step):
        def method(gradient, variable, learning_rate):
            index = optimizer._get_variable_index(variable)
            for tap in tapped.taps.values():
                factor = tap.rate_factor(index)
                if factor is not None:
                    learning_rate = ops.multiply(learning_rate, factor)
            update_step(gradient, variable, learning_rate)

        return method

    def steps_one_by_one(parallel):
        def method(grads, variables, learning_rate):
            if all(type(tap).rate_factor is Tap.rate_factor for tap in tapped.taps.values()):
                parallel(grads, variables, learning_rate)
            else:
                for gradient, variable in zip(grads, variables):
                    optimizer.update_step(gradient, variable, learning_rate)

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
        replace("_backend_update_step", runs_the_taps)
    replace("update_step", scales_the_rate)
    if hasattr(optimizer, "_parallel_update_step"):  # several of Keras's on torch
        replace("_parallel_update_step", steps_one_by_one)
    # A LossScaleOptimizer saves the variables of the optimizer inside among its own, too.
    for saved in {id(o): o for o in (optimizer, outermost)}.values():
        replace("save_own_variables", without_the_taps, saved)
        replace("load_own_variables", without_the_taps, saved)
    optimizer._tapped = tapped


def _scope(optimizer):
    strategy = getattr(optimizer, "_distribution_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()


def _dense(gradient):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(gradient)
    return gradient


def _without_autograd():
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()
