"""Runs something outside of the traces and strategy scopes that are open here."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

Made = TypeVar("Made")


def run_aside(make: Callable[[], Made]) -> Made:
    """Returns what `make` returns in a thread of its own.

    Traces and strategy scopes belong to a thread. A variable made aside is no part of the function that is being traced
    (which TensorFlow would trace a second time for it), and is not copied to every replica.

    Args:
      make: Takes nothing; an exception of it comes out here.
    """
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(make).result()
