"""The first tensor that is not finite: TensorFlow's `check_numerics` switched on, and what it says made readable."""

from __future__ import annotations

import contextlib
import linecache
import re
import traceback
from collections.abc import Iterable, Iterator

import tensorflow as tf

from trainloop.origins import Frame, innermost_of_user

_UNLIMITED = 10_000


@contextlib.contextmanager
def every_tensor_checked() -> Iterator[None]:
    """Lets what is traced or run in the block raise `tf.errors.InvalidArgumentError` at a tensor that is not finite."""
    tf.debugging.enable_check_numerics(stack_height_limit=_UNLIMITED, path_length_limit=_UNLIMITED)
    try:
        yield
    finally:
        tf.debugging.disable_check_numerics()


def is_of_a_check(error: tf.errors.InvalidArgumentError) -> bool:
    """Returns whether an error is that of a checked tensor."""
    return "Detected Infinity or NaN" in error.message


def all_finite(variables: Iterable[tf.Variable]) -> bool:
    """Returns whether no variable of floating-point numbers holds NaN or an infinity."""
    floating = [variable for variable in variables if variable.dtype.is_floating]
    return all(bool(tf.reduce_all(tf.math.is_finite(variable.read_value()))) for variable in floating)


def describe(error: tf.errors.InvalidArgumentError) -> str:
    """Returns what a checked tensor was: its op, its dtype and shape, and the user's line that the op came from."""
    text = error.message
    op = _found(r'output \d+ of (?:graph|eagerly-executing) op "([^"]+)"', text)
    node = _found(r"Detected at node (?:\S*?while/)?(\S+)/CheckNumericsV2", text)
    name = f"{op} ({node})" if node else op
    way = " in the backward pass" if node.startswith("gradient_tape/") else ""
    dtype, shape = _found(r"dtype: <dtype: '(\w+)'>", text), _found(r"shape: (\(.*\))", text)
    described = f"  the output of {name}{way}, {dtype} of shape {shape}"
    made = re.findall(r"^ *\+ (.+) \(L(\d+)\) (.+)$", text, re.MULTILINE)
    frames = [Frame(file, int(line), function) for file, line, function in made]
    if not frames:  # an eager op was made where it was run
        frames = [Frame(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]
    frame = innermost_of_user(frames)
    if frame is None:
        return described
    file, line, function = frame
    return f'{described}\n  File "{file}", line {line}, in {function}\n    {linecache.getline(file, line).strip()}'


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""
