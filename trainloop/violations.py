"""`PhaseError`: what is raised where a layer, or a compiled step, is not in the phase it should be in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Violation(NamedTuple):
    """One thing that is not as the phase has it.

    Attributes:
      path: The layer's path in its model, or the name of the variable or op; what an error is looked up by.
      what: What is wrong there and what was expected, with the layer's class and the value.
      fix: What to do.
    """

    path: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}. {self.fix}"


class PhaseError(Exception):
    """Some layers, or the effects of a step, contradict the phase they run in; nothing has been run yet."""

    # AutoGraph replaces an exception that leaves a tf.function by another one: of the same class only where that is a
    # plain Exception without an `__init__`, and made from the message alone. The facts are then those of the original.

    @property
    def phase(self) -> str:
        """The value of the phase (`"train"`)."""
        return self._original.__dict__["_phase"]

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What contradicts it, in the order in which it was met; of each path the outermost cause."""
        return self._original.__dict__["_violations"]

    @property
    def _original(self) -> BaseException:
        found: BaseException = self
        while "_violations" not in found.__dict__ and found.__context__ is not None:
            found = found.__context__
        return found


def phase_error(phase: str, violations: Sequence[Violation]) -> PhaseError:
    """Returns the error that lists some violations of a phase."""
    number = "1 violation" if len(violations) == 1 else f"{len(violations)} violations"
    error = PhaseError("\n  ".join([f"{number} of phase {phase!r}:", *map(str, violations)]))
    vars(error).update(_phase=phase, _violations=tuple(violations))
    return error


def short(value: Any) -> str:
    """Returns what a wrong argument was, in a few words: an array or tensor by its kind and shape."""
    if (shape := getattr(value, "shape", None)) is not None:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    return repr(value)
