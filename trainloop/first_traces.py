"""What is remembered of a `tf.function` that takes no `training`: the phase of its first trace is the one it keeps.

Where `phase.call` gets such a function again, no layer call is seen; what was seen when it was traced tells whether it
may serve in the phase that it is now called in.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

from trainloop import keras_hooks
from trainloop.policy import Family, Policy
from trainloop.tracing import Trace
from trainloop.violations import Violation, phase_error


class _Told(NamedTuple):
    """What a layer was told when a function was traced."""

    path: str
    layer_class: str
    family: Family | None
    training: bool


class _FirstTrace(NamedTuple):
    phase: str
    told: list[_Told]


_first_traces: weakref.WeakKeyDictionary[Any, _FirstTrace] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def heeded(function: Any, phase: str, policy: Policy, trace: Trace) -> Iterator[None]:
    """Calls a function in the block, if its trace fits the phase; remembers the trace if it is made there.

    Anything but a `tf.function` without a parameter `training` is left alone. One that was traced outside of any phase,
    so that nothing is known of it, is warned of.

    Args:
      function: What is called.
      phase: The value of the phase.
      policy: What its layers are to do.
      trace: What records the layer calls.

    Raises:
      PhaseError: If it was traced in a phase in which its layers do something else.
    """
    if not hasattr(function, "experimental_get_tracing_count") or keras_hooks.takes_training(function):
        yield
        return
    name, first = getattr(function, "__name__", "?"), _first_traces.get(function)
    if first is not None:
        _check(name, first, phase, policy)
    traced_before, seen_before = function.experimental_get_tracing_count(), len(trace.calls)
    if first is None and traced_before:
        warnings.warn(
            f"phase {phase!r} does not reach the layers in the tf.function {name!r}: it was traced before, outside of "
            "any phase, and keeps what it was then. Give it a `training` argument that is passed on, or call it in a "
            "phase from the beginning",
            stacklevel=4,  # past this generator, contextlib and Phase.call: who called that
        )
    yield
    if first is None and function.experimental_get_tracing_count() > traced_before:
        _first_traces[function] = _FirstTrace(phase, _told(trace, seen_before, phase))


def _check(name: str, first: _FirstTrace, phase: str, policy: Policy) -> None:
    violations = [
        Violation(
            told.path,
            f"{told.layer_class} has training={told.training} in the tf.function {name!r}, which was traced in phase "
            f"{first.phase!r}; phase {phase!r} expects training={policy.training_for(told.family)}",
            "Give that tf.function a `training` argument that is passed on, or have one tf.function for each phase",
        )
        for told in first.told
        if policy.training_for(told.family) is not told.training
    ]
    if violations:
        raise keras_hooks.as_it_is(phase_error(phase, violations))


def _told(trace: Trace, start: int, phase: str) -> list[_Told]:
    """Returns what each layer was told that depends on it, where the phase has decided it and no pin."""
    found = [
        _Told(call.path, type(call.layer).__name__, call.family, call.training)
        for call in trace.calls[start:]
        if call.phase == phase
        and call.training is not None
        and call.how != "pinned"
        and (call.family is not None or keras_hooks.heeds_training(call.layer))
    ]
    return list(dict.fromkeys(found))
