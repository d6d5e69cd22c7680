"""Speed: the optimizers of this package beside Keras's, optax's and torch's, in one run."""
