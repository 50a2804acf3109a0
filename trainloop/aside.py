"""Runs something outside of the traces and strategy scopes that are open here."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf

Made = TypeVar("Made")


def run_aside(make: Callable[[], Made]) -> Made:
    """Returns what `make` returns: in a thread of its own where a trace or a strategy's scope is open here.

    Traces and strategy scopes belong to a thread. A variable made aside is no part of the function that is being traced
    (which TensorFlow would trace a second time for it), and is not copied to every replica.

    Args:
      make: Takes nothing; an exception of it comes out here.
    """
    if tf.executing_eagerly() and not tf.distribute.has_strategy():
        return make()  # TensorFlow takes some milliseconds over what a thread does first
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(make).result()
