"""Which line of a user's code something goes back to."""

from __future__ import annotations

import contextlib
import inspect
import pathlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
import tf_keras


class Frame(NamedTuple):
    """One call in a stack."""

    file: str
    line: int
    function: str


_OWN = pathlib.Path(__file__).parent
_LIBRARIES = tuple(pathlib.Path(str(module.__file__)).parent for module in (tf, tf_keras))


def innermost_of_user(frames: Sequence[Frame]) -> Frame | None:
    """Returns the innermost frame of user code in a step; None where the step is wholly ours or TensorFlow's own.

    Args:
      frames: The stack, outermost first. What comes before our own first frame is who called us.
    """
    first = next((number for number, frame in enumerate(frames) if _is_in(frame, [_OWN])), 0)
    users = [frame for frame in frames[first:] if not _is_in(frame, [_OWN, *_LIBRARIES])]
    return users[-1] if users else None


def warn_user(message: str) -> None:
    """Warns at the line of user code that has called into this package, however deep the warning comes from."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_back is not None and _is_passed_through(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is_passed_through(file: str) -> bool:
    return file == contextlib.__file__ or _is_in(Frame(file, 0, ""), [_OWN, *_LIBRARIES])


def _is_in(frame: Frame, directories: Sequence[pathlib.Path]) -> bool:
    return any(pathlib.Path(frame.file).is_relative_to(directory) for directory in directories)
