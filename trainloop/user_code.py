"""Calls of methods that a user wrote: AutoGraph on the way in, the user's own exception on the way out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

# The state of AutoGraph outside of any function, in which it converts whatever it is given.
_CONVERTING = tf.__internal__.autograph.control_status_ctx()


def call_user(method: Callable[..., Any], *args: Any) -> Any:
    """Calls a method that a user may have written, with AutoGraph on: `if` and `for` over tensors work in it.

    The framework's own code is traced without AutoGraph, which would slow the trace down and has nothing to convert.
    """
    if tf.executing_eagerly():
        return method(*args)
    return tf.__internal__.autograph.tf_convert(method, _CONVERTING)(*args)


@contextlib.contextmanager
def own_exceptions() -> Iterator[None]:
    """Lets an exception of user code out as itself where AutoGraph has put another one in its place."""
    try:
        yield
    except Exception as error:
        original = _original(error)
        if original is error:
            raise
        frames = getattr(original, "ag_error_metadata", None)
        if frames is not None:
            original.add_note("raised in user code:\n" + _user_stack(frames))
        raise original from original.__cause__


def _original(error: BaseException) -> BaseException:
    """Follows AutoGraph's replacements (each raised while the one before was handled) back to the user's exception."""
    found = error
    seen: BaseException | None = error.__context__
    while seen is not None and hasattr(seen, "ag_error_metadata"):
        found = seen
        seen = seen.__context__
    return found


def _user_stack(metadata: Any) -> str:
    frames = [frame for frame in reversed(metadata.translated_stack) if not frame.is_allowlisted]
    return "\n".join(f'  File "{f.filename}", line {f.lineno}, in {f.function_name}\n    {f.code}' for f in frames)
