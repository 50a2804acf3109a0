"""When something happens in a run: frozen values that a callback carries as its `trigger`.

A trigger only compares: it knows neither the run nor the work. The loop asks `steps_until` how far it may run before
Python is needed, and `is_due` whether the moment it has reached is one of the trigger's.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple


class Moment(NamedTuple):
    """Where a run stands when its triggers are asked.

    Attributes:
      step: Steps completed since the start of the run.
      epoch: Epochs completed since the start of the run.
      new_step: Whether a step was made since the triggers were last asked.
      epoch_ended: Whether an epoch was completed since the triggers were last asked.
      seconds: Seconds since the trigger's last firing (or since `fit` began).
      ended: Whether the run stops here.
    """

    step: int
    epoch: int = 0
    new_step: bool = True
    epoch_ended: bool = False
    seconds: float = 0.0
    ended: bool = False


class Trigger:
    """Base of all triggers; join two with `|` for "whichever comes first"."""

    def steps_until(self, step: int) -> int | None:
        """Returns how many steps may run before this trigger may be due, or None where it sets no bound."""
        del step
        return None

    def is_due(self, moment: Moment) -> bool:
        """Returns whether the trigger fires at this moment."""
        raise NotImplementedError

    def __or__(self, other: Trigger) -> Trigger:
        if not isinstance(other, Trigger):
            return NotImplemented
        return AnyOf((self, other))

    def __bool__(self) -> bool:
        raise TypeError(f"{self} is neither true nor false; join triggers with | and not with `or`: {self} | AtEnd()")


@dataclasses.dataclass(frozen=True)
class Every(Trigger):
    """Fires at the multiples of a number of steps, epochs or seconds.

    Steps and epochs count from the start of the run, so that a resumed run fires at the same steps as an unbroken one.
    Seconds count from the last firing; they are looked at between two chunks, about ten times a second.

    Args:
      steps: Number of steps.
      epochs: Number of epochs.
      seconds: Number of seconds of wall time.

    Raises:
      ValueError: If not exactly one of the three is given, or if it is not positive.

    Example:
      >>> from trainloop import Every
      >>> Every(steps=100)
      Every(steps=100)
    """

    steps: int | None = None
    epochs: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = _only(self, "Every", ("steps", "epochs", "seconds"))
        value = getattr(self, given)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (given == "seconds" and isinstance(value, float) and math.isfinite(value))) or value <= 0:
            raise ValueError(f"Every({given}={value!r}): {given} must be a positive {_kind(given)}")

    def __repr__(self) -> str:
        return _spell(self)

    def steps_until(self, step: int) -> int | None:
        return None if self.steps is None else self.steps - step % self.steps

    def is_due(self, moment: Moment) -> bool:
        if self.steps is not None:
            return moment.new_step and moment.step % self.steps == 0
        if self.epochs is not None:
            return moment.epoch_ended and moment.epoch % self.epochs == 0
        return moment.seconds >= (self.seconds or 0.0)


@dataclasses.dataclass(frozen=True)
class At(Trigger):
    """Fires once, when a number of steps or epochs is complete.

    Args:
      steps: Number of steps since the start of the run.
      epochs: Number of epochs since the start of the run.

    Raises:
      ValueError: If not exactly one of the two is given, or if it is not a positive whole number.

    Example:
      >>> from trainloop import At
      >>> At(epochs=3)
      At(epochs=3)
    """

    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        given = _only(self, "At", ("steps", "epochs"))
        value = getattr(self, given)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"At({given}={value!r}): {given} must be a positive whole number")

    def __repr__(self) -> str:
        return _spell(self)

    def steps_until(self, step: int) -> int | None:
        return self.steps - step if self.steps is not None and self.steps > step else None

    def is_due(self, moment: Moment) -> bool:
        if self.steps is not None:
            return moment.new_step and moment.step == self.steps
        return moment.epoch_ended and moment.epoch == self.epochs


@dataclasses.dataclass(frozen=True)
class AtEnd(Trigger):
    """Fires when `fit` ends: its total is reached, or a stop was requested.

    Example:
      >>> from trainloop import AtEnd, Every
      >>> Every(seconds=600) | AtEnd()
      Every(seconds=600) | AtEnd()
    """

    def is_due(self, moment: Moment) -> bool:
        return moment.ended


@dataclasses.dataclass(frozen=True)
class AnyOf(Trigger):
    """Fires when at least one of its triggers does; written `a | b`."""

    triggers: tuple[Trigger, ...]

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.triggers))

    def steps_until(self, step: int) -> int | None:
        bounds = [bound for trigger in self.triggers if (bound := trigger.steps_until(step)) is not None]
        return min(bounds, default=None)

    def is_due(self, moment: Moment) -> bool:
        return any(trigger.is_due(moment) for trigger in self.triggers)


def counts_epochs(trigger: Trigger) -> bool:
    """Returns whether a trigger needs to know where an epoch ends."""
    if isinstance(trigger, AnyOf):
        return any(map(counts_epochs, trigger.triggers))
    return isinstance(trigger, (Every, At)) and trigger.epochs is not None


def _only(trigger: Trigger, name: str, fields: tuple[str, ...]) -> str:
    given = [field for field in fields if getattr(trigger, field) is not None]
    if len(given) != 1:
        what = "none" if not given else " and ".join(f"{field}={getattr(trigger, field)!r}" for field in given)
        raise ValueError(f"{name}(...) takes exactly one of {', '.join(fields)}; given: {what}. Join two with |")
    return given[0]


def _spell(trigger: Every | At) -> str:
    given = [(f.name, getattr(trigger, f.name)) for f in dataclasses.fields(trigger)]
    return f"{type(trigger).__name__}({', '.join(f'{name}={value!r}' for name, value in given if value is not None)})"


def _kind(field: str) -> str:
    return "number" if field == "seconds" else "whole number"
