"""`PhaseError`: what is raised where a layer, or a compiled step, is not in the phase it should be in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Violation:
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


class PhaseError(Exception):  # directly: AutoGraph raises another class in the place of most others
    """Some layers, or the effects of a step, contradict the phase they run in; nothing has been run yet.

    Attributes:
      phase: The value of the phase (`"train"`).
      violations: All of them, in the order in which they were met; the outermost cause on each path.
    """

    def __init__(self, phase: str, violations: Sequence[Violation]):
        self.phase = phase
        self.violations = tuple(violations)
        number = "1 violation" if len(self.violations) == 1 else f"{len(self.violations)} violations"
        super().__init__("\n  ".join([f"{number} of phase {phase!r}:", *map(str, self.violations)]))

    def __reduce__(self) -> tuple[type, tuple[str, tuple[Violation, ...]]]:
        return type(self), (self.phase, self.violations)
