"""Iterators that nobody has to wait for once they are done with.

An iterator has a thread that tunes what is `AUTOTUNE` in its dataset, at times that lie ever further apart, up to a
minute. It is woken when the iterator is dropped, but may look whether it is to end a moment too early, and sleep on,
and TensorFlow waits for it: at the end of a pass of ten seconds perhaps another eight. So iterators are dropped in
threads of their own. Only the end of the program waits for these, as TensorFlow cannot stand to be left in the middle.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from typing import Any

import tensorflow as tf

_PATIENCE = 1000  # milliseconds


def begin(dataset: tf.data.Dataset, *, at_once: bool = False) -> Any:
    """Returns an iterator.

    Args:
      dataset: What it iterates over.
      at_once: Whether it begins to read now, in threads of its own, and not when it is first asked for a batch: what a
        `shuffle` or a `prefetch` has to read first is there when the step has been traced. Nothing else changes.
    """
    if at_once:
        options = tf.data.Options()
        options.experimental_warm_start = True
        dataset = dataset.with_options(options)
    iterator = iter(dataset)
    [resource] = tf.nest.flatten(iterator, expand_composites=True)
    weakref.finalize(iterator, _drop_aside, [resource]).atexit = False
    return iterator


def _drop_aside(held: list[tf.Tensor]) -> None:
    if threading.main_thread().is_alive():  # else the program ends, and waits for no other thread any more
        threading.Thread(target=_drop, args=[held], name="drops an iterator").start()


def _drop(held: list[tf.Tensor]) -> None:
    """Drops what an iterator was made of; the interpreter's lock is not held meanwhile."""
    for _ in range(_PATIENCE):
        if sys.getrefcount(held[0]) == 2:  # the list's reference, and that of the call
            break
        time.sleep(1e-3)  # the iterator itself is not quite gone yet
    held.clear()
