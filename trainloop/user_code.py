"""Calls of methods that a user wrote: AutoGraph on the way in, the user's own exception on the way out."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import tensorflow as tf
import tf_keras

from trainloop import keras_hooks

_F = TypeVar("_F", bound=Callable[..., Any])

# The state of AutoGraph outside of any function, in which it converts whatever it is given.
_CONVERTING = tf.__internal__.autograph.control_status_ctx()
_LIBRARIES = [pathlib.Path(file).parent for file in (tf.__file__, tf_keras.__file__, __file__)]


def call_user(method: Callable[..., Any], *args: Any) -> Any:
    """Calls a method that a user may have written, with AutoGraph on: `if` and `for` over tensors work in it.

    The framework's own code is traced without AutoGraph, which would slow the trace down and has nothing to convert.
    """
    if tf.executing_eagerly():
        return method(*args)
    with _CONVERTING:  # for what is `seen_through`, which takes the state that it finds
        return tf.__internal__.autograph.tf_convert(method, _CONVERTING)(*args)


def call_as_caller(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a user's function from one of ours that is `seen_through`, with AutoGraph as it is for the caller."""
    if tf.executing_eagerly():
        return function(*args, **kwargs)
    state = tf.__internal__.autograph.control_status_ctx()
    with own_exceptions():  # else an `except Mine` in the caller would meet what AutoGraph has put in its place
        return tf.__internal__.autograph.tf_convert(function, state)(*args, **kwargs)


def seen_through(function: _F) -> _F:
    """Has AutoGraph call a function of ours as it is written, in the state in which it was called.

    `do_not_convert` would switch AutoGraph off for what is called inside, too. This is the mark that TensorFlow sets on
    what AutoGraph made; were it to lose its meaning, the function would be converted, which only takes longer.
    """
    function.autograph_info__ = {"autograph_artifact": True}
    return function


@contextlib.contextmanager
def noted(note: str) -> Iterator[None]:
    """Adds a note to whatever exception leaves the block; the exception stays the one it is."""
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise


_RAISED: collections.OrderedDict[str, Exception] = collections.OrderedDict()  # the last few, by the mark in the message
_MARK = re.compile(r"trainloop exception \d+")
_numbers = itertools.count(1)


def called_by_tensorflow(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a Python function that TensorFlow calls while it runs a graph, with a user's code in it.

    Of an exception TensorFlow keeps the text; `own_exceptions` finds the exception itself by a mark in that. And a
    `StopIteration` would end the data without a word.
    """

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            if isinstance(error, StopIteration):  # no generator and no context manager lets it through
                error = RuntimeError(f"{getattr(function, '__qualname__', function)} raised StopIteration")
            mark = f"trainloop exception {next(_numbers)}"
            _RAISED[mark] = error
            while len(_RAISED) > 8:  # a batch that was read ahead and never asked for leaves its exception here
                _RAISED.popitem(last=False)
            raise RuntimeError(f"{mark}: {type(error).__name__}: {error}") from error

    return wrapped


@contextlib.contextmanager
def own_exceptions() -> Iterator[None]:
    """Lets an exception of user code out as itself where AutoGraph or Keras has put another one in its place.

    What they had to say (the lines of user code as it was written, the call of the layer) goes along as notes.
    """
    try:
        yield
    except Exception as error:
        replacements = list(_replacements(error))
        original = replacements[-1]
        if original is error and not hasattr(error, "ag_error_metadata"):
            raise
        for note in _notes(replacements):
            if note not in getattr(original, "__notes__", ()):
                original.add_note(note)
        context = original.__context__
        try:
            raise original
        except BaseException:
            original.__context__ = context  # else it would be what has replaced it
            raise


def _replacements(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception, the one that it was raised in place of, and so on to that of the user."""
    found: BaseException | None = error
    while found is not None:
        yield found
        mark = _MARK.search(str(found)) if isinstance(found, tf.errors.OpError) else None
        if mark is not None and mark[0] in _RAISED:
            yield _RAISED.pop(mark[0])
            return
        before = found.__context__
        same_cause = before is not None and _cause(found) is not None and _cause(found) is _cause(before)
        found = before if same_cause or keras_hooks.describes_a_call(found) else None


def _cause(error: BaseException) -> str | None:
    """Returns what AutoGraph wrote down of the first exception; its replacements hold the same string."""
    return getattr(getattr(error, "ag_error_metadata", None), "cause_message", None)


def _notes(replacements: list[BaseException]) -> Iterator[str]:
    frames: dict[str | None, Any] = {}  # of each cause the outermost record, which holds those further in
    for error in replacements:
        if (metadata := getattr(error, "ag_error_metadata", None)) is not None:
            frames.setdefault(metadata.cause_message, metadata.translated_stack)
    lines = dict.fromkeys(line for stack in frames.values() for frame in reversed(stack) for line in _spelled(frame))
    if lines:
        yield "raised in user code:\n" + "\n".join(lines)
    for error, before in reversed(list(itertools.pairwise(replacements))):
        if keras_hooks.describes_a_call(error):  # the innermost layer's call
            said = before.args[0] if before.args else ""
            yield str(error).replace(f"\n\n{said}\n\n", "\n")
            break


def _spelled(frame: Any) -> Iterator[str]:
    path = pathlib.Path(frame.filename)
    if not path.name.startswith("__autograph_generated_file") and not any(map(path.is_relative_to, _LIBRARIES)):
        code = (frame.code or "").strip()
        yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.function_name}\n    {code}'
