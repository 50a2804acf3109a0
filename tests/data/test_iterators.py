"""An iterator is dropped in a thread of its own, since TensorFlow may have whoever drops it wait for a minute."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Trainer, data
from trainloop.data import iterators

DEADLINE = 60  # seconds, for what takes a moment
ROWS = tf.data.Dataset.from_tensor_slices((np.ones([6, 1], np.float32), np.ones([6], np.float32))).batch(2)


def note(iterator: Any, dropped_by: queue.Queue[int]) -> Any:
    """Has the thread noted that drops what an iterator was made of."""
    [resource] = tf.nest.flatten(iterator, expand_composites=True)
    weakref.finalize(resource, lambda: dropped_by.put(threading.get_ident()))
    return iterator


@pytest.mark.parametrize("in_a_cycle", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_whoever_lets_go_of_an_iterator_does_not_wait_for_its_end(in_a_cycle: bool, at_once: bool) -> None:
    dropped_by: queue.Queue[int] = queue.Queue()
    held: list[Any] = [note(iterators.begin(ROWS.prefetch(1), at_once=at_once), dropped_by)]
    next(held[0])
    assert dropped_by.empty()
    if in_a_cycle:
        held.append(held)
    del held
    gc.collect()
    assert dropped_by.get(timeout=DEADLINE) != threading.get_ident()


def test_a_program_that_ends_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would come back from TensorFlow to an interpreter that is being taken down, which aborts the process."""
    dropped_by: queue.Queue[int] = queue.Queue()
    iterator = note(iterators.begin(ROWS), dropped_by)
    monkeypatch.setattr(threading, "main_thread", threading.Thread)  # one that is not alive
    del iterator
    assert dropped_by.get(timeout=DEADLINE) == threading.get_ident()


@pytest.mark.parametrize(
    "source", [ROWS, data.from_arrays((np.ones([6, 1]), np.ones([6])), batch_size=2)], ids=["dataset", "arrays"]
)
def test_no_iterator_of_a_trainer_is_waited_for(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped_by: queue.Queue[int] = queue.Queue()
    begin, made = tf.data.Dataset.__iter__, []

    def noting(dataset: tf.data.Dataset) -> Any:
        made.append(type(dataset))
        return note(begin(dataset), dropped_by)

    monkeypatch.setattr(tf.data.Dataset, "__iter__", noting)
    model = tf_keras.Sequential([tf_keras.layers.BatchNormalization(input_shape=(1,)), tf_keras.layers.Dense(1)])
    trainer = Trainer(model, "sgd", loss="mse", default_callbacks=False)
    trainer.fit(source, epochs=3, eval_data=source)
    trainer.evaluate(source)
    trainer.predict(source)
    trainer.update_bn(source)
    del trainer
    tf_keras.backend.clear_session()
    gc.collect()
    assert len(made) >= 7
    assert threading.get_ident() not in {dropped_by.get(timeout=DEADLINE) for _ in made}
