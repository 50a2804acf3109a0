"""`MetricsLog`: the run as JSON lines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from trainloop.callback import Callback
from trainloop.phase import Phase
from trainloop.workdir import Workdir

if TYPE_CHECKING:
    from trainloop.trainer import Trainer


class MetricsLog(Callback):
    """Writes `metrics.jsonl`, a line a report or evaluation, and `phases.jsonl`, a line for each phase entered or left.

        {"step": 1200, "phase": "eval", "time": 1764230400.5, "metrics": {"loss": 0.25, "accuracy": 0.97}}
        {"step": 1200, "phase": "eval", "event": "entered", "time": 1764230398.1, "why": "..."}

    A metric's name is the one it has within its phase: `"eval/test/loss"` is `"test/loss"` of phase `"eval"`. A value
    that is not finite is written as `null`, because JSON has no NaN. What happens outside of `fit` is not written.

    Args:
      clock: Returns the wall time, in seconds since 1970.

    Example:
      >>> from trainloop import MetricsLog
      >>> log = MetricsLog()
    """

    def __init__(self, *, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._workdir: Workdir | None = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._workdir = trainer.workdir

    def on_fit_end(self, trainer: Trainer) -> None:
        self._workdir = None

    def on_report(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        self._write_metrics(trainer.step, Phase.TRAIN, metrics)

    def on_phase_begin(self, trainer: Trainer, phase: Phase) -> None:
        self._write_phase(trainer, phase, "entered")

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        self._write_phase(trainer, phase, "left")
        if metrics:
            self._write_metrics(trainer.step, phase, metrics)

    def _write_metrics(self, step: int, phase: Phase, metrics: Mapping[str, Any]) -> None:
        if self._workdir is None:
            return
        prefix = f"{phase.value}/"
        values = {name.removeprefix(prefix): _finite(np.asarray(value).tolist()) for name, value in metrics.items()}
        record = {"step": step, "phase": phase.value, "time": self._clock(), "metrics": values}
        self._workdir.append_jsonl(self._workdir.metrics, record)

    def _write_phase(self, trainer: Trainer, phase: Phase, event: str) -> None:
        if self._workdir is None:
            return
        record = {
            "step": trainer.step,
            "phase": phase.value,
            "event": event,
            "time": self._clock(),
            "why": trainer.phase_reason,
        }
        self._workdir.append_jsonl(self._workdir.phases, record)


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
