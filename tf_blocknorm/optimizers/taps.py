"""Code and state that a callback puts into the training step of any Keras optimizer.

A callback sees losses and, at best, weights; gradients never leave the compiled step. A `Tap` runs
inside it, on every backend, with XLA, with several steps per execution, and once per update under
gradient accumulation. What it keeps are variables of the optimizer: that is what JAX carries from
step to step, and what is saved and resumed with the model. They are saved beside the optimizer's
own, so that a model saved in the midst of training loads with and without the callback.
"""

import contextlib

import keras

from tf_blocknorm.optimizers import tapped
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
        paused: whether a step that is traced now is to be without the tap.
        rate_factors: None, or a method that returns a list of what the learning rates of some
            variables are multiplied by: a scalar, a vector for the indices of the variable's last
            axis, or None for 1. It is given their indices in the list that `create` was given.
    """

    name = None
    state = None
    optimizer = None
    made_for = ()
    variables = ()
    attached = False
    saved = True
    paused = False
    rate_factors = None

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


def saved_variables(optimizer):
    """All variables of a model's optimizer that belong into a checkpoint."""
    passing = [tap for tap in _installed(innermost(optimizer)).values() if not tap.saved]
    left_out = {id(variable) for tap in passing for variable in tap.variables}
    return [variable for variable in optimizer.variables if id(variable) not in left_out]


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
        tapped.patch(optimizer, model.optimizer, _create_state)
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
        tapped.unpatch(optimizer)
    _retrace(model, optimizer)


def _installed(optimizer):
    found = getattr(optimizer, tapped.ATTRIBUTE, None)
    return found.taps if found else {}


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


def _scope(optimizer):
    strategy = getattr(optimizer, "_distribution_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()
