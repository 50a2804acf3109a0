"""What of its data `fit` has read by the time that it trains."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Checkpointing, Every, Phase, Trainer, data
from trainloop.data import iterators

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


def test_only_an_iterator_that_a_step_is_traced_for_begins_by_itself(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the epoch after the last would read in vain, and so would one into which a saved position is put."""
    begun: list[Any] = []
    begin = iterators.begin

    def noting(dataset: tf.data.Dataset, *, at_once: bool = False) -> Any:
        if at_once:
            begun.append(dataset)
        return begin(dataset, at_once=at_once)

    monkeypatch.setattr(iterators, "begin", noting)

    def fit(epochs: int) -> Trainer:
        tf_keras.backend.clear_session()
        trainer = Trainer(
            tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(1,))]),
            "sgd",
            loss="mse",
            workdir=tmp_path / "run",
            default_callbacks=False,
            callbacks=[Checkpointing(Every(steps=5))],
        )
        trainer.restore_or_initialize()
        trainer.fit(tf.data.Dataset.from_tensor_slices((np.ones([6, 1]), np.ones([6]))).batch(2), epochs=epochs)
        return trainer

    assert fit(3).step == 9
    assert len(begun) == 1
    assert fit(4).step == 12  # from the checkpoint of step 5, in the middle of an epoch
    assert len(begun) == 1
