"""Calls of `tf.function`s while a step is traced, and the `training` that each is given.

A graph does not tell: what is called under a tape has no named parameters any more.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from trainloop import tracing

_Function: Any = type(tf.function(lambda: None))
_original = _Function.__call__
_lock = threading.RLock()
_open_blocks: list[None] = []


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Has the trace that is going on note what the functions called in the block are given."""
    with _lock:
        _open_blocks.append(None)
        _Function.__call__ = _noting_call
    try:
        yield
    finally:
        with _lock:
            _open_blocks.pop()
            if not _open_blocks:
                _Function.__call__ = _original


@functools.wraps(_original)
def _noting_call(function: Any, *args: Any, **kwargs: Any) -> Any:
    trace = None if tf.executing_eagerly() else tracing.current()
    training = None if trace is None else _training_in(function, args, kwargs)
    if trace is None or training is None:
        return _original(function, *args, **kwargs)
    with trace.giving(training):
        return _original(function, *args, **kwargs)


def _training_in(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool | None:
    """Returns the bool that is given for a parameter `training`, by name or by position; None where there is none."""
    value = kwargs.get("training")
    if value is None:
        with contextlib.suppress(TypeError, ValueError):  # the call itself will say what is wrong
            bound = inspect.signature(function.python_function).bind(*args, **kwargs)
            value = bound.arguments.get("training")
    return value if isinstance(value, bool) else None
