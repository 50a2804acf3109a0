"""Puts every test into the same TensorFlow: two logical CPU devices, the same seed, nothing left by the test before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest
import xdist

if TYPE_CHECKING:
    import tensorflow as tf

# Read when TensorFlow is imported, which no plugin has done yet, and inherited by the programs that tests launch.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"  # bits depend on it, and tiny models are faster so

SEED = 7

# The same examples in every run, and no deadline: the first call of a step traces it.
hypothesis.settings.register_profile("trainloop", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("trainloop")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Divides the CPU in two, before a test module can use it: after that TensorFlow refuses."""
    if xdist.is_xdist_controller(session):
        return  # it runs no test, and is spared the seconds that TensorFlow's import takes
    import tensorflow as tf

    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def two_replicas() -> tf.distribute.MirroredStrategy:
    """Two replicas on the two logical CPUs. Make no other: TensorFlow breaks on a second such strategy in a process."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(autouse=True)
def _fresh_keras() -> Iterator[None]:
    """Seeds Python, NumPy and TensorFlow, and drops what Keras keeps for the whole process."""
    import tf_keras

    tf_keras.backend.clear_session()
    tf_keras.mixed_precision.set_global_policy("float32")
    tf_keras.utils.set_random_seed(SEED)
    yield
    tf_keras.mixed_precision.set_global_policy("float32")  # a fixture of wider scope comes before this one
