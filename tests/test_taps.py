"""What all callbacks inside the step have in common: they come, stay, are saved, and go."""

import keras
import numpy as np
import problems
import pytest
from keras import ops

import tf_blocknorm as tfb
from tf_blocknorm.callbacks.base import TapCallback
from tf_blocknorm.optimizers import taps

BACKEND = keras.backend.backend()
ROWS = problems.rows(6)


class Sums(taps.Tap):
    """Sums up gradients, and counts steps."""

    name = "sums"

    def create(self, add, variables):
        self.count = add("count", ())
        self.sums = [add(f"sum_{i}", like=v) for i, v in enumerate(variables)]

    def after_step(self, gradients, variables, learning_rate, before):
        self.count.assign(self.count + 1)
        for index, gradient in zip(self.indices(variables), gradients):
            self.sums[index].assign(ops.add(self.sums[index], gradient))


class Halves(Sums):
    """Halves the rate of the first variable, and that of each column of the last but one."""

    name = "halves"

    def rate_factors(self, indices):
        factors = {0: ops.convert_to_tensor(0.5), 4: ops.convert_to_tensor([1.0, 2.0, 3.0, 4.0])}
        return [factors.get(index) for index in indices]


class Thirds(Sums):
    """Rates that an update of all variables at once can take."""

    name = "thirds"

    def rate_factors(self, indices):
        return [ops.convert_to_tensor(1.0 / 3.0)] * len(indices)


def callback(tap=None):
    result = TapCallback()
    result.tap = tap or Sums()
    return result


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.01),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "block_norm": lambda: tfb.BlockNormSGD(0.01),
    "block_norm_compiled": lambda: tfb.BlockNormAdam(0.01, jit_compile=True),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=2.0
    ),
}
each = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@each
def test_a_tap_sees_the_raw_gradients_and_changes_nothing(make):
    seen = callback()
    weights = problems.train(problems.compiled(make()), ROWS, callbacks=[seen])
    for kept, gradients in zip(seen.tap.sums, zip(*problems.gradients(ROWS))):
        np.testing.assert_allclose(ops.convert_to_numpy(kept), sum(gradients), rtol=1e-5)
    for a, b in zip(weights, problems.train(problems.compiled(make()), ROWS)):
        np.testing.assert_array_equal(a, b)


@each
def test_afterwards_nothing_of_it_is_left(make):
    model, plain = problems.compiled(make()), problems.compiled(make())
    problems.train(model, ROWS, callbacks=[callback(), tfb.BlockNormMonitor(2)])
    problems.train(plain, ROWS)
    for a, b in zip(
        (model.optimizer, taps.innermost(model.optimizer)),
        (plain.optimizer, taps.innermost(plain.optimizer)),
    ):
        assert vars(a).keys() == vars(b).keys()
        assert [v.path.split("/")[-1] for v in a.variables] == [
            v.path.split("/")[-1] for v in b.variables
        ]


class SaveAndStop(keras.callbacks.Callback):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        self.model.save(f"{self.path}.keras")
        self.model.save_weights(f"{self.path}.weights.h5")


@each
def test_saved_in_mid_training_it_loads_with_the_tap_and_without(make, tmp_path):
    path = str(tmp_path / "model")
    problems.train(problems.compiled(make()), ROWS, callbacks=[callback(), SaveAndStop(path)])
    steps = ops.convert_to_numpy(keras.models.load_model(f"{path}.keras").optimizer.iterations)
    assert steps == len(ROWS)
    model, resumed = problems.compiled(make()), callback()
    resumed.set_model(model)
    model.load_weights(f"{path}.weights.h5")
    assert ops.convert_to_numpy(resumed.tap.count) == len(ROWS)
    problems.train(model, ROWS[:2], callbacks=[resumed])
    assert ops.convert_to_numpy(resumed.tap.count) == len(ROWS) + 2


def test_state_of_other_arguments_is_refused(tmp_path):
    path = str(tmp_path / "model")
    model = problems.compiled(keras.optimizers.SGD(0.01))
    problems.train(model, ROWS, callbacks=[callback(), SaveAndStop(path)])

    class Fewer(Sums):
        def create(self, add, variables):
            super().create(add, variables[:2])

    model = problems.compiled(keras.optimizers.SGD(0.01))
    callback(Fewer()).set_model(model)
    with pytest.raises(ValueError, match="as many variables as the callback"):
        model.load_weights(f"{path}.weights.h5")


@each
def test_rates_of_single_variables(make):
    rows = ROWS[:1]
    start = problems.start_weights()
    weights = [
        problems.train(problems.compiled(make()), rows, callbacks=callbacks)
        for callbacks in ([], [callback(Halves())])
    ]
    plain, changed = ([w - s for w, s in zip(moved, start)] for moved in weights)
    for index, (a, b) in enumerate(zip(plain, changed)):
        factor = {0: 0.5, 4: np.array([1.0, 2.0, 3.0, 4.0])}.get(index, 1.0)
        np.testing.assert_allclose(b, a * factor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", [1, -1], ids=["before", "after"])
def test_an_update_step_of_ones_own_is_not_passed_over(order):
    """Nor is it gone afterwards, if it was there before."""
    optimizer, seen, rows = keras.optimizers.SGD(0.02), [], ROWS[:1]

    class Own(keras.callbacks.Callback):
        def set_model(self, model):
            rule = optimizer.update_step

            def own(gradient, variable, learning_rate):
                seen.append(variable)
                rule(gradient, variable, 0.5 * learning_rate)

            optimizer.update_step = self.step = own

    own = Own()
    callbacks = [own, callback(Thirds())][::order]
    weights = problems.train(problems.compiled(optimizer), rows, callbacks=callbacks)
    assert len(seen) == len(weights)
    if order == 1:
        assert optimizer.update_step is own.step

    expected = problems.compiled(keras.optimizers.SGD(0.01))
    for a, b in zip(weights, problems.train(expected, rows, callbacks=[callback(Thirds())])):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_evaluate_does_not_leave_it_in_the_step():
    model, seen = problems.compiled(keras.optimizers.SGD(0.01)), callback()
    zeros = np.zeros((len(ROWS), 1), "float32")
    model.evaluate(ROWS, zeros, verbose=0, callbacks=[seen])
    problems.train(model, ROWS)
    assert ops.convert_to_numpy(seen.tap.count) == 0


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def test_after_an_exception_detach_takes_it_out():
    model, seen = problems.compiled(keras.optimizers.SGD(0.01)), callback()
    with pytest.raises(KeyboardInterrupt):
        problems.train(model, ROWS, callbacks=[seen, Interrupt()])
    seen.detach()
    count = ops.convert_to_numpy(seen.tap.count)
    problems.train(model, ROWS)
    assert ops.convert_to_numpy(seen.tap.count) == count


def test_two_of_a_name_the_last_stays():
    model, first, second = problems.compiled(keras.optimizers.SGD(0.01)), callback(), callback()
    problems.train(model, ROWS, callbacks=[first, second])
    assert ops.convert_to_numpy(first.tap.count) == 0
    assert ops.convert_to_numpy(second.tap.count) == len(ROWS)


def test_a_model_that_is_built_in_its_first_step():
    """On TensorFlow; elsewhere `fit` builds it before."""
    layer = problems.Linear({"kernel": (4, 3)}, 0)
    model = keras.Sequential([layer])
    model.compile(keras.optimizers.Adam(0.01), problems.mean_output, jit_compile=False)
    seen, monitor = callback(), tfb.BlockNormMonitor(2)
    problems.train(model, ROWS, callbacks=[seen, monitor, tfb.AdaptiveStepSize()])
    total = ROWS[:, :12].astype(float).sum(axis=0).reshape(4, 3)
    np.testing.assert_allclose(ops.convert_to_numpy(seen.tap.sums[0]), total, rtol=1e-5)
    assert list(monitor.records["update"]) == [1, 3, 5]
    problems.train(model, ROWS[:1], callbacks=[seen])
    assert ops.convert_to_numpy(seen.tap.count) == len(ROWS) + 1


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none")
def test_several_optimizers_are_refused():
    model = problems.probe()
    model.compile(
        keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.SGD(0.1)),
        problems.mean_output,
    )
    with pytest.raises(ValueError, match="needs one optimizer for the whole model"):
        callback().set_model(model)
