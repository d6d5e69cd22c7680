"""The methods of Keras that this package stands on are there, and come in the order it needs."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocknorm as tfb
from tf_blocknorm.optimizers import hooks


@pytest.mark.parametrize("name", [*hooks.PRIVATE, *hooks.PRIVATE_ON_TENSORFLOW])
def test_keras_still_has(name):
    assert callable(getattr(keras.optimizers.Optimizer, name))


@pytest.mark.parametrize(
    "name", [*hooks.PRIVATE_OF_MUON, "zeropower_via_newtonschulz5", "lr_adjust"]
)
def test_keras_muon_still_has(name):
    assert callable(getattr(keras.optimizers.Muon, name))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_backend_update_step", ["grads", "trainable_variables", "learning_rate"]),
        ("_all_reduce_sum_gradients", ["grads_and_vars"]),
        ("_distributed_tf_update_step", ["distribution", "grads_and_vars", "learning_rate"]),
        ("_clip_gradients", ["grads"]),
        ("_apply_weight_decay", ["variables"]),
        ("_use_weight_decay", ["variable"]),
        ("_track_variable", ["variable"]),
        ("_get_variable_index", ["variable"]),
    ],
)
def test_with_these_parameters(name, parameters):
    method = getattr(keras.optimizers.Optimizer, name)
    assert list(inspect.signature(method).parameters)[1:] == parameters


def test_every_private_method_in_use_is_listed():
    own = {n for cls in tfb.BlockNormSGD.__mro__[:5] for n in vars(cls)}
    theirs = {n for n in dir(keras.optimizers.SGD) if n.startswith("_") and not n.startswith("__")}
    listed = {*hooks.PRIVATE, *hooks.PRIVATE_ON_TENSORFLOW}
    assert own & theirs <= listed | {"_saved_model_inputs_spec"}


def test_the_order_of_a_step():
    """Clip, decay, normalise, the rule, constraint; then the count goes up."""
    seen = []

    class Rule(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            seen.append(
                ("rule", np.round(gradient.numpy().tolist(), 6).tolist(), int(self.iterations))
            )
            super().update_step(gradient, variable, learning_rate)

    class Spy(tfb.block_normalized(Rule)):
        def _clip_gradients(self, grads):
            seen.append("clip")
            return super()._clip_gradients(grads)

        def _apply_weight_decay(self, variables):
            seen.append("decay")
            super()._apply_weight_decay(variables)

        def on_gradients(self, gradients, variables):
            seen.append(("normalise", gradients[0].numpy().tolist()))
            return super().on_gradients(gradients, variables)

    weight = keras.Variable([3.0, 4.0])
    optimizer = Spy(1.0, clipvalue=4.0, weight_decay=0.0, loss_scale_factor=10.0)
    optimizer.apply([tf.constant([30.0, 500.0])], [weight])
    assert seen == [
        "clip",
        "decay",
        ("normalise", [3.0, 4.0]),
        ("rule", [0.6, 0.8], 0),
    ]
    assert int(optimizer.iterations) == 1
    np.testing.assert_allclose(weight.numpy(), [2.4, 3.2], rtol=1e-6)
