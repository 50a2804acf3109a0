"""How far the loop may run before Python is needed, and what is due where it has stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from trainloop.triggers import Moment, Trigger

CHUNK_SECONDS = 0.1
FEW_STEPS, FEW_STEPS_SECONDS = 4, 0.5  # a chunk has so many where they last no longer
_GROWTH = 4


class Pace:
    """The chunk length where no trigger asks for less: as many steps as last about a tenth of a second.

    Slow steps run four at a time, for up to half a second: within a chunk the next one begins while the updates of the
    one before are still going on. The length starts at one step and grows from call to call, so that progress, Ctrl-C
    and SIGTERM stay prompt however long a step turns out to be. It changes no result: a loop's sums do not depend on
    where it was interrupted.
    """

    def __init__(self) -> None:
        self.steps = 1

    def observe(self, steps: int, seconds: float) -> None:
        """Takes in how long a chunk lasted.

        Args:
          steps: The steps of the chunk.
          seconds: Its duration.
        """
        if steps == 0:
            return
        length = self.steps * _GROWTH
        if seconds > 0:
            fitting, few = (int(limit * steps / seconds) for limit in (CHUNK_SECONDS, FEW_STEPS_SECONDS))
            length = min(length, max(fitting, min(few, FEW_STEPS)))
        self.steps = max(1, length)


class Agenda:
    """The triggers of one `fit`, each with the time of its last firing.

    Args:
      triggers: They are known by their position in this list.
      now: The time at which the run begins, in seconds.
      at_each_end: The positions of those that fire at the end although they have fired at its step before.
    """

    def __init__(self, triggers: Sequence[Trigger | None], now: float, at_each_end: Collection[int] = ()):
        self._triggers = list(triggers)
        self._at_each_end = frozenset(at_each_end)
        self._fired = [now] * len(self._triggers)
        self._fired_at: list[int | None] = [None] * len(self._triggers)

    def steps_until(self, step: int) -> int | None:
        """Returns the number of steps after which some trigger may be due, or None where none counts steps."""
        bounds = [trigger.steps_until(step) for trigger in self._triggers if trigger is not None]
        return min((bound for bound in bounds if bound is not None), default=None)

    def due(self, moment: Moment, now: float) -> list[int]:
        """Returns the positions of the triggers that are due, and notes that they have fired.

        At one step a trigger fires once, however often it is asked there (an epoch may turn out to be over only when no
        batch follows), but for one that time makes due again.

        Args:
          moment: Where the run stands; its `seconds` are filled in here, for each trigger its own.
          now: The time, in seconds.
        """
        found = [position for position in range(len(self._triggers)) if self._is_due(position, moment, now)]
        self.note_fired(found, moment.step, now)
        return found

    def note_fired(self, positions: Iterable[int], step: int, now: float) -> None:
        """Notes that triggers have fired at a step, maybe in the process before this one."""
        for position in positions:
            self._fired[position], self._fired_at[position] = now, step

    def fired_at(self, step: int) -> list[int]:
        """Returns the positions of the triggers that have fired at a step, the newest one of theirs."""
        return [position for position, fired_at in enumerate(self._fired_at) if fired_at == step]

    def _is_due(self, position: int, moment: Moment, now: float) -> bool:
        trigger, seconds = self._triggers[position], now - self._fired[position]
        if trigger is None:
            return False
        if self._fired_at[position] == moment.step:
            ended = moment.ended and position in self._at_each_end
            moment = Moment(moment.step, moment.epoch, new_step=False, ended=ended)
        return trigger.is_due(moment._replace(seconds=seconds))


@dataclasses.dataclass(frozen=True)
class RunLength:
    """The total that `fit` was asked for: steps or epochs since the start of the run.

    Args:
      steps: Total of steps, or None.
      epochs: Total of epochs, or None.

    Raises:
      ValueError: If both or neither are given, or the one given is not a positive whole number.
    """

    steps: int | None
    epochs: int | None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            given = "neither" if self.steps is None else f"steps={self.steps!r} and epochs={self.epochs!r}"
            raise ValueError(f"fit takes exactly one of steps= and epochs=, the total of the whole run; given: {given}")
        name, value = ("steps", self.steps) if self.epochs is None else ("epochs", self.epochs)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"fit: {name}={value!r} must be a positive whole number")

    def __str__(self) -> str:
        return f"epochs={self.epochs}" if self.steps is None else f"steps={self.steps}"

    def is_reached(self, step: int, epoch: int) -> bool:
        """Returns whether a run that stands there is at its end."""
        return step >= self.steps if self.steps is not None else epoch >= (self.epochs or 0)

    def steps_left(self, step: int) -> int | None:
        """Returns the steps that are left, or None where the total is in epochs."""
        return None if self.steps is None else self.steps - step
