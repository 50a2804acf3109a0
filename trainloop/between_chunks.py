"""What `fit` does between two chunks of steps: the report, the evaluation, the callbacks whose triggers are due."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from trainloop.agenda import Agenda
from trainloop.callbacks import Checkpointing
from trainloop.evaluator import EVAL_EVERY, Data
from trainloop.interrupts import Interrupted, Interrupts
from trainloop.position import Positioned
from trainloop.reporting import ReportWindow
from trainloop.results import History
from trainloop.triggers import Moment

if TYPE_CHECKING:
    from trainloop.trainer import Trainer

REPORT, EVALUATE, CALLBACKS = 0, 1, 2  # positions in a run's agenda


class BetweenChunks(Positioned):
    """What a `Trainer` does between two chunks, always in the same order; and what a signal has kept it from doing.

    A pass over data (an evaluation, a prediction) that finds a signal noted is left between two of its own chunks. What
    it was a part of is then undone, and stands in the checkpoint as still to be done: whoever goes on from there does
    it first.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.history = History()
        self._stop_reason: str | None = None
        self._logged: dict[str, Any] = {}

    def _do_what_is_due(
        self, agenda: Agenda, window: ReportWindow, sets: Mapping[str, Data], moment: Moment, interrupts: Interrupts
    ) -> None:
        due = agenda.due(moment, self.clock())
        if (REPORT in due or moment.ended) and not window.is_empty:
            self._report(window.read(self.metrics, self.optimizers))
            if REPORT in due:  # a window that the end cuts short goes on where the run goes on
                window.reset()
        self._do([position for position in due if position != REPORT], sets, moment, interrupts)

    def _do_what_was_left(self, agenda: Agenda, sets: Mapping[str, Data], interrupts: Interrupts) -> Moment | None:
        """Does what a signal left undone at this step; returns when that was, or None where there is nothing."""
        left, self._unfinished = self._unfinished, None
        if left is None or left["moment"]["step"] != self.step:
            return None
        moment = Moment(**left["moment"])
        agenda.due(moment, self.clock())  # so that nothing is due at this step once more
        self.history.add(self.step, left["reported"])
        self._logged = dict(left["logged"])
        self._stop_reason = self._stop_reason or left["stop_reason"]
        positions = {name: position for position, name in enumerate(self._agenda_names())}
        self._do([positions[name] for name in left["due"] if name in positions], sets, moment, interrupts)
        return moment

    def _has_something_left(self) -> bool:
        return self._unfinished is not None and self._unfinished["moment"]["step"] == self.step

    def _do(self, due: list[int], sets: Mapping[str, Data], moment: Moment, interrupts: Interrupts) -> None:
        saves = [CALLBACKS + n for n, callback in enumerate(self.callbacks) if isinstance(callback, Checkpointing)]
        saving = min(saves, default=CALLBACKS + len(self.callbacks))
        for number, position in enumerate(due):
            with self._undone_on_a_signal(due[number:], moment, interrupts):
                if position == EVALUATE:
                    self.history.add(self.step, self._evaluate(sets, None, EVAL_EVERY, "fit: eval_data"))
                    continue
                callback, averaging = self.callbacks[position - CALLBACKS], self._averaging()
                if position >= saving:  # what is reported after a save is cut away where the run is resumed there
                    self._report_logged()
                if moment.ended and isinstance(callback, Checkpointing) and averaging is not None:
                    averaging.measure(cast("Trainer", self))  # so that the last checkpoint is whole
                callback.on_trigger(cast("Trainer", self))
        self._report_logged()

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
    def _undone_on_a_signal(self, due: list[int], moment: Moment, interrupts: Interrupts) -> Iterator[None]:
        """Lets a signal end the passes in the block, and puts back what the block has done by then."""
        states = {key: json.dumps(callback.get_state()) for key, callback in self._named_callbacks().items()}
        latest, logged, sizes = dict(self.latest_metrics), dict(self._logged), self._measure_logs()
        stop_reason = self._stop_reason
        try:
            with self._left_on(interrupts):
                yield
        except Interrupted:
            for key, callback in self._named_callbacks().items():
                if json.dumps(callback.get_state()) != states[key]:
                    callback.set_state(json.loads(states[key]))
            self.latest_metrics, self._logged, self._stop_reason = latest, {}, stop_reason
            self._cut_log_files(sizes)
            names = self._agenda_names()
            self._unfinished = {
                "moment": dataclasses.asdict(moment) | {"seconds": 0.0},
                "due": [names[position] for position in due],
                "reported": self.history.at(self.step),
                "logged": logged,
                "stop_reason": stop_reason,
            }
            raise

    def _agenda_names(self) -> list[str]:
        return ["report", "evaluation", *self._named_callbacks()]
