"""One backend per run: `KERAS_BACKEND=jax pytest` runs the files that are not about TensorFlow."""

import gc
import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
BACKEND = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if BACKEND == "jax":
    # Two devices on the processor, for the tests with keras.distribution.
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

PORTABLE = {
    "test_adaptive.py",
    "test_adaptive_step.py",
    "test_back_matching.py",
    "test_back_matching_graph.py",
    "test_back_matching_layers.py",
    "test_barzilai_borwein.py",
    "test_blocks.py",
    "test_doctests.py",
    "test_inputs.py",
    "test_insgd.py",
    "test_layerwise.py",
    "test_learning_rate_finder.py",
    "test_monitor.py",
    "test_norms.py",
    "test_optimizers.py",
    "test_parity.py",
    "test_properties.py",
    "test_taps.py",
}
ONLY = {
    "jax": {"test_jax.py", "test_benchmarks_floors.py"},
    "torch": {"test_benchmarks_torch.py", "test_kernels_torch.py"},
}


def pytest_ignore_collect(collection_path):
    name = collection_path.name
    if not name.startswith("test_"):
        return None
    if BACKEND == "tensorflow":
        return name in set().union(*ONLY.values()) or None
    return name not in PORTABLE | ONLY[BACKEND] or None


@pytest.fixture(scope="module", autouse=True)
def nothing_is_looked_at_twice():
    """TensorFlow keeps every graph with a custom gradient; Python would search them all for refuse.

    Again and again, for up to a minute at a time, after some thousand tests.
    """
    yield
    gc.collect()
    gc.freeze()


if BACKEND == "tensorflow":
    import tensorflow as tf

    # Two devices on the processor, for the tests with tf.distribute. Before anything is computed.
    processor = tf.config.list_physical_devices("CPU")[0]
    configuration = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(processor, [configuration] * 2)

    @pytest.fixture(scope="session")
    def strategy():
        """One for all tests: the collectives of two strategies get in each other's way."""
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
