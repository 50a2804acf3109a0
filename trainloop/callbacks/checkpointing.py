"""`Checkpointing`: saves the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from absl import logging

from trainloop import arguments
from trainloop.callback import Callback
from trainloop.checkpoint import CheckpointNotSaved
from trainloop.monitor import Mode, Monitor
from trainloop.triggers import AtEnd, Every, Moment, Trigger

if TYPE_CHECKING:
    from trainloop.trainer import Trainer

_EVERY_TEN_MINUTES = Every(seconds=600) | AtEnd()
_EVAL_LOSS = "eval/loss"
OnFailure = Literal["warn", "raise"]


class Checkpointing(Callback):
    """Saves everything that the future of the run depends on, and keeps the newest checkpoints and the best one.

    Training waits only while the values are copied in memory; the files are written beside it. The end of `fit` waits
    until the last checkpoint is on the disk.

    Args:
      trigger: When to save; by default every ten minutes and at the end.
      keep: How many of the newest checkpoints to keep.
      monitor: The full name of the metric by which the best checkpoint is kept besides; by default `"eval/loss"` where
        there is an evaluation. `trainer.restore("best")` brings it back. Only what is saved can be the best: save when
        an evaluation is due.
      mode: Whether the smallest (`"min"`) or the largest (`"max"`) value is the best. A loss needs none.
      keep_every: `Every(steps=...)` or `Every(epochs=...)`: what is saved then is kept for good, and it is saved then
        whatever `trigger` says.
      on_failure: What becomes of a run that cannot save: with `"warn"` it goes on, and tries again when the next
        checkpoint is due; with `"raise"` it ends there. Either way `fit` raises `CheckpointNotSaved` at its end where
        its last checkpoint is missing.

    Raises:
      TypeError: If `trigger` or `keep_every` is not a trigger, or `monitor` is not a string.
      ValueError: If `keep` is not positive, the mode is unknown or missing, `keep_every` counts no steps and no
        epochs, or `on_failure` is unknown.

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
        keep_every: Every | None = None,
        on_failure: OnFailure = "warn",
    ):
        if trigger is None:
            raise TypeError("Checkpointing: trigger=None would never save; give Every(...), At(...) or AtEnd()")
        if monitor is None and mode is not None:
            raise ValueError(
                f"Checkpointing: mode={mode!r} says which values are better, but not of what; give monitor="
            )
        if on_failure not in get_args(OnFailure):
            raise ValueError(f"Checkpointing: on_failure={on_failure!r} is unknown; it must be 'warn' or 'raise'")
        self.trigger = arguments.check_trigger(trigger, "Checkpointing: trigger")
        self.keep_every = arguments.check_trigger(keep_every, "Checkpointing: keep_every")
        if keep_every is not None:
            if not isinstance(keep_every, Every) or keep_every.seconds is not None:
                raise ValueError(
                    f"Checkpointing: keep_every={keep_every} must be Every(steps=...) or Every(epochs=...): what is "
                    "kept must not depend on how fast the run was"
                )
            self.trigger = trigger | keep_every
        self.keep = arguments.check_positive(keep, "Checkpointing: keep")
        self.monitor = Monitor(_EVAL_LOSS if monitor is None else monitor, mode, "Checkpointing")
        self.on_failure = on_failure
        self._is_asked_for = monitor is not None

    def on_trigger(self, trainer: Trainer) -> None:
        assert trainer.checkpoints is not None  # the Trainer takes no Checkpointing without a workdir
        try:
            trainer.checkpoints.wait()
        except CheckpointNotSaved as error:
            if self.on_failure == "raise":
                raise
            logging.warning("%s", error)
        moment = Moment(trainer.step, trainer.epoch, epoch_ended=trainer.state.epoch_step == 0)
        trainer.checkpoints.save(
            trainer.state.checkpoint,
            step=trainer.step,
            metrics=trainer.history.at(trainer.step),  # an older value says nothing about these weights
            keep=self.keep,
            monitor=self.monitor.name,
            mode=self.monitor.mode,
            for_good=self.keep_every is not None and self.keep_every.is_due(moment),
            environment=trainer.environment(),
        )
        if self._is_asked_for:  # only now, so that a misspelt name costs nothing that was computed
            self.monitor.check_known(trainer.latest_metrics)

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self.on_fit_end(trainer)  # here already, so that a save that failed is a note on what went wrong first

    def on_fit_end(self, trainer: Trainer) -> None:
        assert trainer.checkpoints is not None
        trainer.checkpoints.wait()
