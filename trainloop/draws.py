"""TensorFlow's random draws on their way into a graph, seen and replaced.

While a block is open, each stateful draw, loop and branch is offered to the block's handler. Where it gives a key, the
draw becomes a stateless one; else it is left as it is.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from trainloop import stateless
from trainloop.ambient import Ambient
from trainloop.stateless import Function, Key
from trainloop.versions import built_differently

try:
    from tensorflow.python.ops import cond, control_flow_switch_case, while_loop
    from tensorflow.python.ops.parallel_for import control_flow_ops as parallel_for
except ImportError as error:
    raise ImportError(built_differently(str(error))) from error


class Handler(Protocol):
    """What is asked about each draw, loop and branch of a block."""

    def key(self, op: str) -> Key | None:
        """Returns what a draw is to depend on, or None where it is to be left as it is.

        Args:
          op: The type of the op that would be made (`"RandomUniform"`).
        """
        ...

    def loop(self, condition: Function, body: Function) -> tuple[Function, Function]:
        """Returns what is to be called in place of a loop's condition and body."""
        ...

    def branches(self, functions: Sequence[Function]) -> list[Function]:
        """Returns what is to be called in place of the branches of a conditional."""
        ...

    def vectorized(self) -> contextlib.AbstractContextManager[None]:
        """Is entered around the trace of what then runs for all rows at once (`tf.vectorized_map`, a Jacobian)."""
        ...


class Recomputation(NamedTuple):
    """A call of a function under `tf.recompute_grad`, which calls it again for the gradient.

    Attributes:
      call: The Python frame that makes the call.
      args: The function's arguments; the same object in both calls.
      again: Whether it is the call for the gradient.
    """

    call: types.FrameType
    args: tuple[Any, ...]
    again: bool


_handlers: Ambient[Handler] = Ambient()
_lock = threading.RLock()
_open_blocks = 0
_originals: list[tuple[Any, str, Any]] = []


@contextlib.contextmanager
def intercepted(handler: Handler) -> Iterator[None]:
    """Offers every draw, loop and branch of the block to a handler; those of other threads and graphs stay untouched.

    The making of a variable stays untouched too: what a weight begins with is no draw of a step.
    """
    global _open_blocks  # noqa: PLW0603 (as many blocks may be open as there are threads; the last puts all back)
    with _lock:
        if _open_blocks == 0:
            _replace_all()
        _open_blocks += 1
    try:
        with _handlers.opened(handler), tf.variable_creator_scope(_make_variable):
            yield
    finally:
        with _lock:
            _open_blocks -= 1
            if _open_blocks == 0:
                _put_all_back()


def loop_counter() -> tf.Tensor:
    """Returns the number of the iteration, in the condition or body of a `While` op that is being traced."""
    return tf.compat.v1.get_default_graph().inputs[0]


def recomputations() -> list[Recomputation]:
    """Returns the calls under `tf.recompute_grad` that this one is inside of; the outermost comes first."""
    found = []
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code in (_FORWARD, _BACKWARD):
            found.append(Recomputation(frame, frame.f_locals["args"], frame.f_code is _BACKWARD))
        frame = frame.f_back
    return found[::-1]


def _code_inside(code: types.CodeType, name: str) -> types.CodeType:
    """Returns the code of a function that is defined inside another one."""
    found = [const for const in code.co_consts if inspect.iscode(const) and const.co_name == name]
    if len(found) != 1 or "args" not in found[0].co_freevars + found[0].co_cellvars:
        raise ImportError(built_differently("tf.recompute_grad is another one"))
    return found[0]


_FORWARD = _code_inside(tf.recompute_grad.__code__, "inner")
_BACKWARD = _code_inside(_code_inside(_FORWARD, "grad_wrapper"), "inner_recompute_grad")


class _Untouched:
    """Leaves everything as it is."""

    def key(self, op: str) -> None:
        del op

    def loop(self, condition: Function, body: Function) -> tuple[Function, Function]:
        return condition, body

    def branches(self, functions: Sequence[Function]) -> list[Function]:
        return list(functions)

    def vectorized(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def _make_variable(make: Function, **kwargs: Any) -> Any:
    with _handlers.opened(_Untouched()):
        return make(**kwargs)


def _handler() -> Handler:
    return _handlers.current() or _Untouched()


def _draw(op: str, make: Function, original: Function, /, *args: Any, **kwargs: Any) -> Any:
    key = _handler().key(op)
    return original(*args, **kwargs) if key is None else stateless.draw(make, key, *args, **kwargs)


def _while_loop(original: Function, /, cond: Function, body: Function, *args: Any, **kwargs: Any) -> Any:
    cond, body = _handler().loop(cond, body)
    return original(cond, body, *args, **kwargs)


def _cond(
    original: Function, /, pred: Any, true_fn: Any = None, false_fn: Any = None, *args: Any, **kwargs: Any
) -> Any:
    if callable(true_fn) and callable(false_fn):
        true_fn, false_fn = _handler().branches([true_fn, false_fn])
    return original(pred, true_fn, false_fn, *args, **kwargs)


def _case(original: Function, /, *args: Any, **kwargs: Any) -> Any:
    return _handler().branches(original(*args, **kwargs))


def _pfor(original: Function, /, *args: Any, **kwargs: Any) -> Any:
    with _handler().vectorized():
        return original(*args, **kwargs)


# tf-keras and other libraries hold several copies of `tf.compat.v1`, each with names of its own.
_V1 = list({id(module): module for module in (tf.compat.v1, tf.compat.v1.compat.v1, tf.compat.v2.compat.v1)}.values())

# Where TensorFlow's own code looks a function up, its name there, and what is called in its place.
_REPLACED: list[tuple[Any, str, Function]] = [
    *((holder, name, functools.partial(_draw, op, make)) for holder, name, op, make in stateless.DRAWS),
    *((holder, "while_loop", _while_loop) for holder in (while_loop, *_V1)),
    *((holder, "cond", _cond) for holder in (cond, *_V1)),
    (control_flow_switch_case, "_indexed_case_verify_and_canonicalize_args", _case),
    (parallel_for, "pfor", _pfor),
]
if _missing := [name for holder, name, _ in _REPLACED if not hasattr(holder, name)]:
    raise ImportError(built_differently(f"there is no {', '.join(_missing)}"))


def _replace_all() -> None:
    for holder, name, replacement in _REPLACED:
        _replace(holder, name, replacement)


def _replace(holder: Any, name: str, replacement: Function) -> None:
    original = getattr(holder, name)

    # functools.wraps keeps `__module__`, by which AutoGraph knows TensorFlow and leaves its code alone.
    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    _originals.append((holder, name, original))
    setattr(holder, name, function)


def _put_all_back() -> None:
    while _originals:
        setattr(*_originals.pop())
