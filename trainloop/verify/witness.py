"""One of the runs that `verify_resume` compares: made as its user would make it, watched, and killed where it is to be.

This is what happens in the processes; `verify.py` starts them, and needs no TensorFlow for it.
"""

from __future__ import annotations

import os
import pathlib
import signal
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tf_keras

from trainloop.callback import Callback
from trainloop.callbacks import Checkpointing, ProgressBar
from trainloop.launch.task import Task
from trainloop.phase import Phase
from trainloop.trainer import Trainer
from trainloop.triggers import At
from trainloop.verify.comparison import leave, state_of, take

_SEED = 0


class Witness(Callback):
    """Leaves the state of a run behind at the moments that are compared, and ends the run.

    Args:
      steps: The step of the kill; the run ends after twice as many.
      kills: Whether this run is the one that is killed.
      leave: Called with the step, and with the state there.
    """

    def __init__(self, steps: int, *, kills: bool, leave: Callable[[str, Any], None]):
        self.trigger = At(steps=steps) | At(steps=steps + 1) | At(steps=2 * steps)
        self.last_step = 2 * steps
        self._kills = kills
        self._leave = leave

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Looks at the run before its first step: the initial values, or what was restored."""
        self._leave(f"begin {trainer.step}", state_of(trainer))

    def on_trigger(self, trainer: Trainer) -> None:
        """Looks at the run, and kills its process or asks for the end."""
        self._leave(f"step {trainer.step}", state_of(trainer))
        if trainer.step == self.last_step:
            trainer.request_stop(f"verify_resume asked for {self.last_step} steps")
        elif self._kills:
            assert trainer.checkpoints is not None
            trainer.checkpoints.wait()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Looks at the run after everything that is due at its end."""
        self._leave("end", state_of(trainer))


def run_part(
    build: Callable[..., Task], *, steps: int, workdir: pathlib.Path, place: pathlib.Path, kills: bool, resumes: bool
) -> None:
    """Makes a run, or goes on with it where it was killed.

    Args:
      build: Builds the run.
      steps: The step of the kill; the run ends after twice as many.
      workdir: The directory of the run.
      place: Where the states are left, and notes on the run; beside it lies what all runs share.
      kills: Whether the process is killed at `steps`; then this does not return.
      resumes: Whether the run was killed there before.

    Raises:
      TypeError: If `build` does not return a Task.
      ValueError: If its Trainer has another workdir or no `Checkpointing`, or the run ends too early.
      RuntimeError: If the run is not restored at the step where it was killed.
    """
    tf_keras.utils.set_random_seed(_SEED)
    task = build(workdir=str(workdir))
    if not isinstance(task, Task):
        raise TypeError(f"verify_resume: build= returned {task!r}; expected a trainloop.launch.Task")
    trainer = task.trainer
    saving = _checked(trainer, workdir)
    # In all three runs, since a run knows what it has done at a step, and that it has saved there.
    saving.trigger = At(steps=steps) if saving.trigger is None else saving.trigger | At(steps=steps)
    place.mkdir(exist_ok=True)
    seed = place.parent / "seed"
    if seed.exists():
        trainer.seed = take(seed)  # it may have been drawn, and a run that was killed begins like one that was not
    else:
        leave(seed, trainer.seed)
    witness = Witness(steps, kills=kills, leave=lambda name, state: leave(place / name, state))
    # The witness comes last, when the checkpoint of its step has been made.
    trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, ProgressBar)] + [witness]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        restored = trainer.restore_or_initialize()
        if restored != (steps if resumes else 0):
            raise RuntimeError(f"verify_resume: the run was restored at step {restored}, and killed at step {steps}")
        trainer.fit(task.train_data, eval_data=task.eval_data, **task.fit)
    if trainer.step != witness.last_step:
        reason = f", {trainer.history.stop_reason}" if trainer.history.stop_reason else ""
        raise ValueError(
            f"verify_resume: steps={steps} needs a run of {witness.last_step} steps, and that of build= ends at step "
            f"{trainer.step}{reason}. Give steps={max(1, trainer.step // 2)}, or a longer run"
        )
    if resumes:
        leave(place / "suspects", _suspects(trainer, told))
        leave(place / "conditions", trainer.environment())


def _checked(trainer: Trainer, workdir: pathlib.Path) -> Checkpointing:
    if trainer.workdir is None or trainer.workdir.path != workdir:
        given = None if trainer.workdir is None else str(trainer.workdir)
        raise ValueError(
            f"verify_resume: build= made a Trainer with workdir={given!r}; hand it the workdir that build is called "
            f"with, {str(workdir)!r}"
        )
    saving = next((callback for callback in trainer.callbacks if isinstance(callback, Checkpointing)), None)
    if saving is None:
        raise ValueError(
            "verify_resume: the Trainer of build= has no Checkpointing, so its runs cannot be resumed; add one to "
            "callbacks=, or leave default_callbacks=True"
        )
    return saving


def _suspects(trainer: Trainer, told: Sequence[warnings.WarningMessage]) -> list[str]:
    """Returns what the run itself says of its resume: data without a saved position, draws without a key."""
    of_data = [str(each.message) for each in told if str(each.message).startswith("fit: train_data=")]
    return [*of_data, *trainer.contract(Phase.TRAIN).not_resumable]
