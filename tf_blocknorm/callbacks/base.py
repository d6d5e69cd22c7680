"""What the callbacks of this package share."""

import keras

from tf_blocknorm.optimizers import taps


class TapCallback(keras.callbacks.Callback):
    """A callback that runs code inside the training step, by the `Tap` in `self.tap`.

    It is in the step from the beginning of `fit` to its end. After a `fit` that ended with an
    exception, `detach()` takes it out.
    """

    tap = None

    def set_model(self, model):
        super().set_model(model)
        # Not at the beginning of training: by then BackupAndRestore may have loaded its file.
        taps.attach(self.tap, model)

    def on_train_end(self, logs=None):
        self.detach()

    def detach(self):
        """Take the callback out of the model's training step; what it knows is kept."""
        taps.detach(self.tap, self.model)
