"""What `fit` does between two chunks of steps: the report, the evaluation, the callbacks whose triggers are due."""

from __future__ import annotations

import contextlib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from trainloop.agenda import Agenda
from trainloop.callback import checked_state, has_state
from trainloop.callbacks import Checkpointing
from trainloop.evaluator import EVAL_EVERY, Data
from trainloop.interrupts import Interrupted, Interrupts
from trainloop.position import Positioned
from trainloop.reporting import ReportWindow
from trainloop.results import History
from trainloop.triggers import Moment, Trigger

if TYPE_CHECKING:
    from trainloop.trainer import Trainer

REPORT, EVALUATE, CALLBACKS = 0, 1, 2  # positions in a run's agenda
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})


class BetweenChunks(Positioned):
    """What a `Trainer` does between two chunks, always in the same order; and how far it has come with that.

    Every checkpoint says what was done at its step and what was still to be done there, so that whoever goes on from it
    does the rest, and nothing twice. A pass over data (an evaluation, a prediction) that finds a signal noted is left
    between two of its own chunks: what it was a part of is undone, and is then still to be done.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.history = History()
        self._stop_reason: str | None = None
        self._logged: dict[str, Any] = {}

    def _new_agenda(self, triggers: Sequence[Trigger | None]) -> Agenda:
        """Returns the agenda of a fit; the checkpoint at the end is to hold all that was done at the last step."""
        return Agenda(triggers, self.clock(), at_each_end=self._saves())

    def _do_what_is_due(
        self, agenda: Agenda, window: ReportWindow, sets: Mapping[str, Data], moment: Moment, interrupts: Interrupts
    ) -> None:
        due = agenda.due(moment, self.clock())
        if (REPORT in due or moment.ended) and not window.is_empty:
            self._report(window.read(self.metrics, self.optimizers))
            if REPORT in due:  # a window that the end cuts short goes on where the run goes on
                window.reset()
        self._do([position for position in due if position != REPORT], agenda, sets, moment.ended, interrupts)

    def _do_what_was_left(self, agenda: Agenda, sets: Mapping[str, Data], interrupts: Interrupts) -> bool:
        """Does what was left undone at this step; returns whether what is due at the end is left too."""
        progress = self._progress
        if progress is None or progress["step"] != self.step:
            return False
        positions = {name: position for position, name in enumerate(self._agenda_names())}
        done, due = ([positions[name] for name in progress[part] if name in positions] for part in ("done", "due"))
        agenda.note_fired(done, self.step, self.clock())
        if not self._has_something_left():
            return False
        self.history.add(self.step, progress["reported"])
        self._logged = dict(progress["logged"])
        self._stop_reason = self._stop_reason or progress["stop_reason"]
        self._do(due, agenda, sets, progress["ended"], interrupts)
        return self._stop_reason is not None and not progress["ended"]

    def _has_something_left(self) -> bool:
        progress = self._progress
        if progress is None or progress["step"] != self.step:
            return False
        return bool(progress["due"]) or (progress["stop_reason"] is not None and not progress["ended"])

    def _do(
        self, due: list[int], agenda: Agenda, sets: Mapping[str, Data], ended: bool, interrupts: Interrupts
    ) -> None:
        saves = self._saves()
        saving = min(saves, default=CALLBACKS + len(self.callbacks))
        for number, position in enumerate(due):
            with self._undone_on_a_signal(due[number:], agenda, ended, interrupts):
                if position == EVALUATE:
                    self.history.add(self.step, self._evaluate(sets, None, EVAL_EVERY, "fit: eval_data"))
                    continue
                callback, averaging = self.callbacks[position - CALLBACKS], self._averaging()
                if position >= saving:  # what is reported after a save is cut away where the run is resumed there
                    self._report_logged()
                if position in saves:
                    if ended and averaging is not None:
                        averaging.measure(cast("Trainer", self))  # so that the last checkpoint is whole
                    self._note_progress(due[number + 1 :], agenda, ended)
                callback.on_trigger(cast("Trainer", self))
        self._report_logged()
        self._note_progress([], agenda, ended)

    def _saves(self) -> list[int]:
        """Returns the positions of what saves checkpoints."""
        return [CALLBACKS + n for n, callback in enumerate(self.callbacks) if isinstance(callback, Checkpointing)]

    def _note_progress(self, due: list[int], agenda: Agenda, ended: bool, logged: Mapping[str, Any] = _NOTHING) -> None:
        """Notes what was done at this step and what is left to do there, for what is saved from now on.

        Args:
          due: The positions of what is still to be done.
          agenda: Knows which triggers have fired.
          ended: Whether that is the work at the end of `fit`.
          logged: What was logged and not yet reported.
        """
        names = self._agenda_names()
        self._progress = {
            "step": self.step,
            "ended": ended,
            "done": [names[position] for position in agenda.fired_at(self.step)],
            "due": [names[position] for position in due],
            "reported": self.history.at(self.step) if due else {},
            "logged": dict(logged),
            "stop_reason": self._stop_reason,
        }

    def _report_logged(self) -> None:
        if self._logged:
            logged, self._logged = self._logged, {}
            self._report(logged)

    def _report(self, metrics: dict[str, Any]) -> None:
        self.latest_metrics |= metrics
        self.history.add(self.step, metrics)
        for callback in self.callbacks:
            callback.on_report(cast("Trainer", self), metrics)

    @contextlib.contextmanager
    def _undone_on_a_signal(
        self, due: list[int], agenda: Agenda, ended: bool, interrupts: Interrupts
    ) -> Iterator[None]:
        """Lets a signal end the passes in the block, and puts back what the block has done by then."""
        stateful = {key: each for key, each in self._named_callbacks().items() if has_state(each)}
        states = {key: json.dumps(checked_state(key, callback.get_state())) for key, callback in stateful.items()}
        latest, logged, sizes = dict(self.latest_metrics), dict(self._logged), self._measure_logs()
        stop_reason = self._stop_reason
        try:
            with self._left_on(interrupts):
                yield
        except Interrupted:
            for key, callback in stateful.items():
                if json.dumps(callback.get_state()) != states[key]:
                    callback.set_state(json.loads(states[key]))
            self.latest_metrics, self._logged, self._stop_reason = latest, {}, stop_reason
            self._cut_log_files(sizes)
            self._note_progress(due, agenda, ended, logged)
            raise

    def _agenda_names(self) -> list[str]:
        return ["report", "evaluation", *self._named_callbacks()]
