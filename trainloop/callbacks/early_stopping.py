"""`EarlyStopping`: ends a run that no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import logging

from trainloop import arguments
from trainloop.callback import Callback
from trainloop.monitor import Mode, Monitor
from trainloop.origins import warn_user
from trainloop.phase import Phase
from trainloop.triggers import Every

if TYPE_CHECKING:
    from trainloop.trainer import Trainer


class EarlyStopping(Callback):
    """Stops `fit` when a metric has not improved for some time.

    What is counted are the values of the metric: evaluations for `"eval/loss"`, reports for `"loss"`. The count is
    saved with the run, so a resumed one stops where an unbroken one does, and one that had been stopped stays so, until
    it is given a larger `patience` or no `EarlyStopping`. A further `fit` of the same Trainer counts anew.

    The weights stay those of the last step. The best ones are a matter of checkpoints: let `Checkpointing` save when an
    evaluation is due, with the same `monitor`, and call `trainer.restore("best")` after `fit`.

    Args:
      monitor: The metric's full name.
      patience: How many values in a row may fail to improve on the best one before the run is stopped.
      mode: Whether smaller (`"min"`) or larger (`"max"`) is better. A loss needs none.
      min_delta: By how much a value must be better to count as an improvement.

    Raises:
      TypeError: If `monitor` is not a string.
      ValueError: If `patience` is not positive, `min_delta` is negative, or the mode is unknown or missing.

    Example:
      >>> from trainloop import EarlyStopping
      >>> stop = EarlyStopping("eval/accuracy", patience=5, mode="max")
    """

    # After every chunk, and so between an evaluation and the next step: there the names it has reported are known.
    trigger = Every(seconds=1e-6)

    def __init__(self, monitor: str = "eval/loss", *, patience: int, mode: Mode | None = None, min_delta: float = 0.0):
        self.monitor = Monitor(monitor, mode, "EarlyStopping")
        self.patience = arguments.check_positive(patience, "EarlyStopping: patience")
        if not isinstance(min_delta, (int, float)) or not (math.isfinite(min_delta) and min_delta >= 0):
            raise ValueError(f"EarlyStopping: min_delta={min_delta!r} must be a number that is not negative")
        self.min_delta = float(min_delta)
        self._best: float | None = None
        self._best_step = 0
        self._waited = 0
        self._has_stopped_a_fit = False
        self._failed = False

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._failed = False
        if self._has_stopped_a_fit:
            self._best, self._best_step, self._waited, self._has_stopped_a_fit = None, 0, 0, False
        elif self._waited >= self.patience:
            self._stop(trainer)
            logging.warning(
                "EarlyStopping: this run had been stopped already, after %d values of %s without improvement. To go on "
                "all the same, give it a larger patience=, or leave it out",
                self._waited,
                self.monitor.name,
            )

    def on_report(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        self._see(trainer, metrics)

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        if trainer.fitting:
            self._see(trainer, metrics)

    def on_trigger(self, trainer: Trainer) -> None:
        if trainer.step != trainer.total_steps:  # at the end there is nothing left to stop, but a checkpoint to save
            self.monitor.check_known(trainer.latest_metrics)

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self._failed = True

    def on_fit_end(self, trainer: Trainer) -> None:
        left_early = self._failed or trainer.history.stop_reason is not None
        if not left_early and self.monitor.name not in trainer.latest_metrics:
            warn_user(
                f"EarlyStopping: monitor={self.monitor.name!r} never had a value, so nothing could stop this fit; give "
                "it an eval_data=, and an eval_every= that comes before its end"
            )

    def get_state(self) -> dict[str, Any]:
        return {"best": self._best, "best_step": self._best_step, "waited": self._waited}

    def set_state(self, state: dict[str, Any]) -> None:
        self._best, self._best_step, self._waited = state["best"], state["best_step"], state["waited"]

    def _see(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        value = self.monitor.value_in(metrics)
        if value is None:
            return
        if self.monitor.improves(value, on=self._best, by=self.min_delta):
            self._best, self._best_step, self._waited = value, trainer.step, 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        self._has_stopped_a_fit = True
        best = "no finite value" if self._best is None else f"{self._best:.6g} at step {self._best_step}"
        values = "value" if self.patience == 1 else f"{self.patience} values"
        trainer.request_stop(
            f"EarlyStopping: the last {values} of {self.monitor.name} did not improve on the best ({best})"
        )
