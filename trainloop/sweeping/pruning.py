"""`Pruning`: tells Optuna how a run is doing, and stops it where that says that it is not worth going on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainloop.callback import Callback
from trainloop.monitor import Monitor
from trainloop.phase import Phase

if TYPE_CHECKING:
    import optuna

    from trainloop.trainer import Trainer

WARM_UP = 0.25  # Of the run's steps, before which nothing is stopped: some runs learn slowly and end best.


class Pruning(Callback):
    """Reports each evaluation of `fit` to an Optuna trial, and stops the run where the study's pruner says so.

    It stops as `EarlyStopping` does: between two steps, with a checkpoint at the end. What it has reported is saved
    with the run, so that a trial that takes the place of a killed one has the whole curve.

    Args:
      trial: The trial.
      monitor: The metric by which the trial's study judges.

    Attributes:
      pruned: Whether the run was stopped.
    """

    def __init__(self, trial: optuna.Trial, monitor: Monitor):
        self.pruned = False
        self._trial = trial
        self._monitor = monitor
        self._reported: dict[int, float] = {}

    def on_fit_begin(self, trainer: Trainer) -> None:
        if self.pruned:  # the process was killed before that was booked
            self._stop(trainer)

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        value = self._monitor.value_in(metrics)
        if value is None:
            return
        self._report(trainer.step, value)
        total = trainer.total_steps or 0
        if WARM_UP * total <= trainer.step != total and self._trial.should_prune():
            self.pruned = True
            self._stop(trainer)

    def get_state(self) -> dict[str, Any]:
        return {"pruned": self.pruned, "reported": list(self._reported.items())}

    def set_state(self, state: dict[str, Any]) -> None:
        self.pruned = state["pruned"]
        for step, value in state["reported"]:
            self._report(step, value)

    def _report(self, step: int, value: float) -> None:
        if step not in self._reported:  # an evaluation that a signal had cut short is made again
            self._trial.report(value, step)
            self._reported[step] = value

    def _stop(self, trainer: Trainer) -> None:
        trainer.request_stop(f"Pruning: {self._monitor.name} is worse than that of most trials at the same step")
