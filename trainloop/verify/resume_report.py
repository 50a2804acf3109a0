"""`ResumeReport`: what `verify_resume` has compared, and what it found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainloop.verify.comparison import UNSAVED, Difference, State, part_of

_POSITION = ("step", "epoch", "epoch_start", "passes")


@dataclasses.dataclass(frozen=True)
class Moment:
    """Two runs compared at one step.

    Attributes:
      name: Which moment: `step 0`, `step 20`, `restored`, `step 21`, `step 40`.
      differences: What was not the same, in the order of the state.
      state: The state of the run that was not killed.
    """

    name: str
    differences: tuple[Difference, ...]
    state: State = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class ResumeReport:
    """What `verify_resume` has compared, and what it found.

    Attributes:
      step: The step at which the run was killed; it was trained to twice as many.
      moments: What was compared, in order of time: before anything was resumed (`step 0` and the step of the kill: the
        run that will be killed), then the resumed run: when it was restored, after one step, and at the end.
      log_lines: How many lines of `metrics.jsonl` were compared.
      log_differences: Where these were not the same.
      suspects: What of the run is known not to be resumable: draws without a key, data without a saved position.
      conditions: What the result holds for: versions, devices and threads, by name.
    """

    step: int
    moments: tuple[Moment, ...]
    log_lines: int
    log_differences: tuple[Difference, ...]
    suspects: tuple[str, ...]
    conditions: Mapping[str, Any]

    @property
    def exact(self) -> bool:
        """Whether everything was the same, bit by bit."""
        return self.first is None

    @property
    def values(self) -> int:
        """How many named values the state had at the end."""
        return len(self.moments[-1].state)

    @property
    def bytes(self) -> int:
        """How many bytes these are."""
        return sum(value.nbytes for value in self.moments[-1].state.values())

    @property
    def first(self) -> Difference | None:
        """The first thing that was not the same, or None."""
        found = self._first_moment.differences if self._first_moment else self.log_differences
        return found[0] if found else None

    @property
    def cause(self) -> str:
        """The likely cause of the first difference; empty where there is none."""
        if self.first is None:
            return ""
        if self.first.name.endswith(UNSAVED):
            return _UNSAVED_CAUSE
        if self._first_moment is None:
            return _LOG_CAUSE
        number = self.moments.index(self._first_moment)
        return "; ".join(self.suspects) if self.suspects and number >= _AFTER_THE_RESUME else _CAUSES[number]

    @property
    def _first_moment(self) -> Moment | None:
        return next((moment for moment in self.moments if moment.differences), None)

    def __str__(self) -> str:
        steps = f"killed at step {self.step} and resumed, against {2 * self.step} steps without a break, bit by bit"
        shown = {name: self.conditions[name] for name in _CONDITIONS if name in self.conditions}
        conditions = "for " + ", ".join(f"{name} {value}" for name, value in shown.items())
        lines = [steps, "", *_table(self), "", conditions]
        if self.first is None:
            size = f"{self.values} values ({self.bytes:,} bytes) and {self.log_lines} lines of metrics.jsonl"
            return "\n".join([*lines, f"exact: {size} are the same to the bit"])
        if self._first_moment is not None:
            first, *others = self._first_moment.differences
            lines.append(f"NOT EXACT: {self._first_moment.name}: {first}")
            lines += [f"    then {each}" for each in others[:_OTHERS]]
            if others[_OTHERS:]:
                lines.append(f"    and {len(others) - _OTHERS} more")
        if self.log_differences:
            lines.append(f"first in the log: {self.log_differences[0]}")
        return "\n".join([*lines, f"likely cause: {self.cause}"])


_CONDITIONS = ("tensorflow", "tf-keras", "devices", "replicas", "intra-op threads", "jit_compile")
_OTHERS = 4
_AFTER_THE_RESUME = 2
_CAUSES = (
    "two runs begin differently, before anything is resumed: initial values or data that no seed decides, such as a "
    "clock, os.urandom, or a generator of your own. Seed them in the function that builds the run",
    "two runs from the same start had gone different ways before anything was resumed: an op that is not deterministic "
    "(tf.config.experimental.enable_op_determinism() names it), data in an order that no seed decides, or a number of "
    "threads that changes",
    "the checkpoint does not bring it back: something changes it after the restore, or was not yet tracked when the "
    "checkpoint was saved",
    "what was restored was the same and the next step was not: another batch (data that cannot save their position), "
    "other random draws (numpy's or Python's own, in the data or in a tf.py_function), or an attribute of the Trainer, "
    "a callback or a layer that no checkpoint holds. What a callback knows belongs in its get_state; a variable in "
    "model=, optimizer= or metrics=",
    "the first step after the resume was the same and a later one not: a callback whose get_state does not return what "
    "it goes by, data that begin an epoch in another order, or an op that is not deterministic",
)
_LOG_CAUSE = "the states are the same and the logs are not: a callback reports what no checkpoint holds"
_UNSAVED_CAUSE = (
    "this variable of the model is in no checkpoint: it stands where TensorFlow does not track it (a plain object, a "
    "closure). Make it an attribute of a layer or a tf.Module"
)


def _table(report: ResumeReport) -> list[str]:
    """Returns a row for each part of the state and a column for each moment."""
    last = report.moments[-1].state
    parts = list(dict.fromkeys(_part_of(name) for moment in report.moments for name in moment.state))
    rows = [["", "values", "bytes", *(moment.name for moment in report.moments)]]
    for part in parts:
        own = [value for name, value in last.items() if _part_of(name) == part]
        differing = [sum(_part_of(each.name) == part for each in moment.differences) for moment in report.moments]
        told = [f"{number} differ" if number else "same" for number in differing]
        rows.append([part, str(len(own)), f"{sum(value.nbytes for value in own):,}", *told])
    of_log = f"{len(report.log_differences)} differ" if report.log_differences else "same"
    rows.append(["metrics.jsonl", str(report.log_lines), *[""] * len(report.moments), of_log])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"  {row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


def _part_of(name: str) -> str:
    part = part_of(name)
    return "position" if part in _POSITION else part
