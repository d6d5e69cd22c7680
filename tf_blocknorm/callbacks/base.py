"""What the callbacks of this package share."""

import keras

from tf_blocknorm.optimizers import taps


def demand_settable_rate(optimizer, callback):
    """Raise an error unless the optimizer's learning rate is a variable.

    Args:
        optimizer: that of a model.
        callback: name of the callback that sets the learning rate, for the error.
    """
    rate = getattr(taps.innermost(optimizer), "_learning_rate", None)
    if not isinstance(rate, keras.Variable):
        raise ValueError(
            f"`{callback}` sets the learning rate, which must be a float and not a schedule or a "
            f"function. Received: learning_rate={rate!r} in {optimizer!r}"
        )


class TapCallback(keras.callbacks.Callback):
    """A callback that runs code inside the training step, by the `Tap` in `self.tap`.

    It is in the step from the beginning of `fit` to its end. After a `fit` that ended with an
    exception, `detach()` takes it out.
    """

    tap = None
    _training = False

    def set_model(self, model):
        super().set_model(model)
        # Not at the beginning of training: by then BackupAndRestore may have loaded its file.
        taps.attach(self.tap, model)

    def on_train_begin(self, logs=None):
        self._training = True

    def on_train_end(self, logs=None):
        self._training = False
        self.detach()

    def on_test_end(self, logs=None):
        if not self._training:  # `evaluate` was given the callback
            self.detach()

    def detach(self):
        """Take the callback out of the model's training step; what it knows is kept."""
        taps.detach(self.tap, self.model)
