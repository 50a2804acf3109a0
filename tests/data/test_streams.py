"""What of its data `fit` has read by the time that it trains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Phase, Trainer, data

DEADLINE = 60  # seconds, for what takes a moment


class Waiting(Trainer):
    """Its step is traced only once its data have been asked for."""

    def __init__(self, begun: threading.Event):
        super().__init__(tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(1,))]), "sgd")
        self._begun = begun

    def compute_loss(self, batch: Any, phase: Phase) -> tf.Tensor:
        assert self._begun.wait(DEADLINE), "nobody reads while the step is traced"
        return tf.reduce_mean(phase.call(self.model, batch))


class Rows:
    def __init__(self, begun: threading.Event):
        self._begun = begun

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> np.ndarray:
        if row > 0:  # the first is read to see what a row is
            self._begun.set()
        return np.ones([1], np.float32)


def generated(begun: threading.Event) -> tf.data.Dataset:
    def rows() -> Iterator[np.ndarray]:
        begun.set()
        yield from np.ones([6, 2, 1], np.float32)

    return tf.data.Dataset.from_generator(rows, output_signature=tf.TensorSpec([2, 1])).prefetch(1)


@pytest.mark.parametrize(
    "make",
    [
        generated,
        lambda begun: data.from_dataset(generated(begun), resume="epoch"),
        lambda begun: data.from_source(Rows(begun), batch_size=2),
    ],
    ids=["a dataset", "a dataset whose position is not saved", "a source"],
)
def test_data_are_read_while_the_step_is_traced(make: Callable[[threading.Event], Any]) -> None:
    begun = threading.Event()
    trainer = Waiting(begun)
    trainer.fit(make(begun), steps=2)
    assert trainer.step == 2
