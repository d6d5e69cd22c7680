"""The `tf-blocknorm` command.

It stands outside the package because importing anything of `tf_blocknorm` imports TensorFlow, whose
C++ start-up messages can only be kept off the screen from before that on. A library must not do so;
a command may.
"""

import os
import sys


def main():
    """Run the command line; see `tf-blocknorm --help`."""
    try:
        import_tensorflow_quietly()
        from tf_blocknorm.experiments.cli import main

        return main()
    except KeyboardInterrupt:
        return 130


def import_tensorflow_quietly():
    """Import TensorFlow without its start-up messages; errors are raised as ever."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # What TensorFlow 2.21 says before its logging is initialised heeds no variable.
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()  # Says so where there is no GPU.
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def start_worker(initialize, *arguments):
    """Start a worker process: it, too, must import TensorFlow quietly before anything else."""
    import_tensorflow_quietly()
    import importlib

    module, function = initialize.split(":")
    getattr(importlib.import_module(module), function)(*arguments)
