"""A device other than the one that reads the data: the second CPU, where ops are placed as they would be on a GPU.

Between two CPUs TensorFlow hands the memory on, so what is tested is that nothing is lost on the way, not the copy.
"""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from trainloop import StepResult, StopOnNaN, Trainer, data, steps

ROWS = 24
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=[ROWS, 4]).astype("float32")
Y = (X[:, :1] > 0).astype("float32")


class OfManyKinds(Trainer):
    """Steps that use a batch of numbers, whole numbers, strings, and rows of different lengths."""

    def compute_loss(self, batch: Any, phase: Any) -> StepResult:
        outputs = phase.call(self.model, batch["x"]) * tf.cast(batch["whole"][:, None], tf.float32)
        errors = tf.square(outputs - tf.strings.to_number(batch["said"])[:, None])
        return StepResult(loss=tf.reduce_mean(errors) + tf.reduce_mean(batch["lengths"].values), outputs=outputs)

    def predict_step(self, batch: Any, phase: Any) -> Any:
        return self.compute_loss(batch, phase).outputs


def of_many_kinds() -> tf.data.Dataset:
    lengths = tf.ragged.constant([[1.0] * (1 + row % 3) for row in range(ROWS)])
    columns = {"x": X, "whole": np.arange(ROWS), "said": np.array([f"{row / 8}" for row in range(ROWS)])}
    return tf.data.Dataset.from_tensor_slices(columns | {"lengths": lengths}).batch(5)


def plain() -> Any:
    return data.from_arrays((X, Y), batch_size=5)


def ran(device: str, kind: type[Trainer], source: Any, **options: Any) -> tuple[Any, ...]:
    tf_keras.utils.set_random_seed(0)
    with tf.device(device):
        model = tf_keras.Sequential([layers.Input([4]), layers.Dense(8), layers.Dropout(0.5), layers.Dense(1)])
        trainer = kind(model, "adam", default_callbacks=False, seed=0, **options)
        history = trainer.fit(source, epochs=3)
        assert all(device in each.device for each in model.variables)
        weights = [each.numpy() for each in model.variables]
        return weights, history["loss"], trainer.evaluate(source), trainer.predict(source)


@pytest.mark.parametrize("callbacks", [[], [StopOnNaN()]], ids=["", "stop_on_nan"])
@pytest.mark.parametrize(
    ("kind", "make", "options"),
    [(Trainer, plain, {"loss": "mse", "metrics": ["mae"]}), (OfManyKinds, of_many_kinds, {})],
    ids=["from_arrays", "of_many_kinds"],
)
def test_a_run_has_the_same_bits_on_another_device(callbacks, kind, make, options):
    here, there = (ran(device, kind, make(), callbacks=callbacks, **options) for device in ("CPU:0", "CPU:1"))
    tf.nest.map_structure(np.testing.assert_array_equal, here, there)


@pytest.mark.parametrize(
    ("devices", "found"),
    [(["CPU:0"], ""), (["CPU:1"], "CPU:1"), (["GPU:0"], "GPU:0"), (["GPU:0", "GPU:1"], ""), (["CPU:1", "CPU:0"], "")],
)
def test_an_accelerator_is_the_only_device_of_a_strategy_and_not_the_host(devices, found):
    strategy = mock.create_autospec(tf.distribute.MirroredStrategy, instance=True)
    names = [f"/job:localhost/replica:0/task:0/device:{device}" for device in devices]
    strategy.extended = mock.Mock(worker_devices=tuple(names))
    assert steps._find_accelerator(strategy).removeprefix("/job:localhost/replica:0/task:0/device:") == found
