"""`Checkpointing`: saves the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainloop import arguments
from trainloop.callback import Callback
from trainloop.monitor import Mode, Monitor
from trainloop.triggers import AtEnd, Every, Trigger

if TYPE_CHECKING:
    from trainloop.trainer import Trainer

_EVERY_TEN_MINUTES = Every(seconds=600) | AtEnd()
_EVAL_LOSS = "eval/loss"


class Checkpointing(Callback):
    """Saves everything that the future of the run depends on, and keeps the newest checkpoints and the best one.

    Args:
      trigger: When to save; by default every ten minutes and at the end.
      keep: How many of the newest checkpoints to keep.
      monitor: The full name of the metric by which the best checkpoint is kept besides; by default `"eval/loss"` where
        there is an evaluation. `trainer.restore("best")` brings it back. Only what is saved can be the best: save when
        an evaluation is due.
      mode: Whether the smallest (`"min"`) or the largest (`"max"`) value is the best. A loss needs none.

    Raises:
      TypeError: If `trigger` is not a trigger, or `monitor` is not a string.
      ValueError: If `keep` is not positive, or the mode is unknown or missing.

    Example:
      >>> from trainloop import AtEnd, Checkpointing, Every
      >>> saving = Checkpointing(Every(epochs=1) | AtEnd(), keep=2, monitor="eval/accuracy", mode="max")
    """

    def __init__(
        self,
        trigger: Trigger = _EVERY_TEN_MINUTES,
        *,
        keep: int = 3,
        monitor: str | None = None,
        mode: Mode | None = None,
    ):
        if trigger is None:
            raise TypeError("Checkpointing: trigger=None would never save; give Every(...), At(...) or AtEnd()")
        if monitor is None and mode is not None:
            raise ValueError(
                f"Checkpointing: mode={mode!r} says which values are better, but not of what; give monitor="
            )
        self.trigger = arguments.check_trigger(trigger, "Checkpointing: trigger")
        self.keep = arguments.check_positive(keep, "Checkpointing: keep")
        self.monitor = Monitor(_EVAL_LOSS if monitor is None else monitor, mode, "Checkpointing")
        self._is_asked_for = monitor is not None

    def on_trigger(self, trainer: Trainer) -> None:
        assert trainer.checkpoints is not None  # the Trainer takes no Checkpointing without a workdir
        trainer.checkpoints.save(
            trainer.state.checkpoint,
            step=trainer.step,
            metrics=trainer.history.at(trainer.step),  # an older value says nothing about these weights
            keep=self.keep,
            monitor=self.monitor.name,
            mode=self.monitor.mode,
        )
        if self._is_asked_for:  # only now, so that a misspelt name costs nothing that was computed
            self.monitor.check_known(trainer.latest_metrics)
