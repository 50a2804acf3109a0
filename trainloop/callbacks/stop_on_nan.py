"""`StopOnNaN`: ends a run at its first loss that is not finite, or goes back and on without the batch at fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from trainloop import numerics
from trainloop.callback import Callback
from trainloop.manifest import CheckpointDamaged

if TYPE_CHECKING:
    from trainloop.trainer import Trainer


class NonFiniteLossError(ArithmeticError):
    """A training loss was NaN or infinite.

    Attributes:
      step: The step of that loss, counted from 1.
      origin: The step in which the first number that is not finite arose: the same one, or an earlier one whose update
        spoilt the weights; None where that is not known.
      checkpoint: The step of the newest checkpoint of this `fit` that is good, or None.
    """

    def __init__(self, step: int, message: str, origin: int | None = None, checkpoint: int | None = None):
        super().__init__(message)
        self.step = step
        self.origin = origin
        self.checkpoint = checkpoint


class WayBack(NamedTuple):
    """How a run goes on after a loss that was not finite.

    Attributes:
      checkpoint: The step of the checkpoint to go back to.
      why: What happened and what is left out, in one line.
    """

    checkpoint: int
    why: str


class StopOnNaN(Callback):
    """Stops at once when a training loss is NaN or infinite, before anything of it is logged or saved.

    While it is among a Trainer's callbacks the compiled loop tests each step's loss, which costs nothing that could be
    measured, and `fit` raises `NonFiniteLossError`. Its message names the step and, by going back to the newest good
    checkpoint, the first tensor that was not finite and the line of code that made it. Only the step in which it arose
    is run with every tensor checked: what loss scaling has dealt with before is no fault.

    What is tested is the loss, and no other tensor. NaN that the model swallows (a `relu` makes 0 of it) leaves the
    loss finite, though gradients and weights may be spoilt: look at the data before, with `numpy.isfinite`.

    With `rollbacks` the run goes back to that checkpoint instead, and on without the batch at fault. For the callbacks
    that is a `fit` that fails and one that begins, as if the program had been started again: `on_exception`,
    `on_fit_end`, `on_fit_begin`. The logs are cut back; a new line in `phases.jsonl`, and a warning, say why. There is
    always a checkpoint to go back to: one is saved when `fit` begins. The data have to be addressed by step
    (`from_arrays`, `from_source`, `zip`): a `tf.data.Dataset` may shuffle anew.

    A batch that is left out still counts as a step: totals, triggers, epochs and the draws of the other steps stay what
    they were. But nothing is computed: it is in no report, and no update is made, so that `optimizer.iterations`, and
    with it a learning rate schedule, stays one behind. Which ones were left out is a part of the run's state.

    Args:
      replay: Whether to make steps again to find that tensor.
      rollbacks: How many times in a run `fit` goes back before it raises.
      skip: How many batches to leave out each time: that of the step at fault and those just before it, as far as the
        checkpoint. 0 leaves out none, for a run that does not repeat to the bit or that `on_fit_begin` changes.

    Raises:
      ValueError: If `rollbacks` or `skip` is no whole number or negative, or `rollbacks` is given with `replay=False`.

    Example:
      >>> from trainloop import StopOnNaN
      >>> stop = StopOnNaN(replay=False)
      >>> go_on = StopOnNaN(rollbacks=3, skip=2)
    """

    def __init__(self, *, replay: bool = True, rollbacks: int = 0, skip: int = 1):
        for name, value in (("rollbacks", rollbacks), ("skip", skip)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"StopOnNaN: {name}={value!r} must be a whole number that is not negative")
        if rollbacks and not replay:
            raise ValueError(
                f"StopOnNaN: rollbacks={rollbacks} needs the replay, which finds the step at fault; drop replay=False"
            )
        self.replay = replay
        self.rollbacks = rollbacks
        self.skip = skip
        self.rolled_back = 0
        self.left_out: list[int] = []

    def find(self, trainer: Trainer, step: int) -> NonFiniteLossError:
        """Returns what is known of a loss that is not finite; the replay leaves the Trainer where it ended.

        Args:
          trainer: The Trainer whose loss it is.
          step: The step of that loss, counted from 1.
        """
        headline = f"the loss of step {step} is NaN or infinite"
        if not self.replay:
            return NonFiniteLossError(
                step, f"{headline}. StopOnNaN(replay=True) would find the tensor it came from", origin=None
            )
        saved = [] if trainer.checkpoints is None else trainer.checkpoints.steps()
        saved = [each for each in saved if trainer.fit_began_at <= each < step]
        if not saved:
            return NonFiniteLossError(
                step,
                f"{headline}. There is no checkpoint of this fit to look for its origin from: give the Trainer a "
                "workdir=, with a Checkpointing trigger that comes before this step, and run again",
            )
        good = self._newest_good(trainer, saved)
        if good is None:
            return NonFiniteLossError(
                step,
                f"{headline}. The checkpoint of step {saved[0]} already holds a number that is not finite: it arose in "
                "an earlier step. Move that checkpoint away and run again, or save more often, to have that step found",
            )
        origin = self._step_at_fault(trainer, good, step)
        spoilt = "" if origin == step else f" The update of step {origin} had spoilt the weights."
        again = f"Run again from the checkpoint of step {good}, with every tensor of step {origin} checked"
        try:
            with numerics.every_tensor_checked():
                trainer.replay(origin, traced_anew=True)
        except tf.errors.InvalidArgumentError as error:
            if not numerics.is_of_a_check(error):
                raise
            message = f"{headline}.{spoilt} {again}, the first one that is not finite is\n{numerics.describe(error)}"
            return NonFiniteLossError(step, message, origin, good)
        message = (
            f"{headline}. {again}, all are finite: this run does not repeat to the bit, so its origin stays unknown"
        )
        return NonFiniteLossError(step, message, None, good)

    def way_back(self, error: NonFiniteLossError) -> WayBack | None:
        """Returns how a run goes on after an error, or None where it does not; what is left out is noted."""
        if error.checkpoint is None or self.rolled_back >= self.rollbacks:
            return None
        self.rolled_back += 1
        last = error.step if error.origin is None else error.origin
        added = range(max(error.checkpoint, last - self.skip) + 1, last + 1)
        self.left_out = sorted({*self.left_out, *added})
        without = f", and on without the batch of step {', '.join(map(str, added))}" if added else ""
        headline = f"the loss of step {error.step} is NaN or infinite"
        count = f"rollback {self.rolled_back} of {self.rollbacks}"
        return WayBack(error.checkpoint, f"{count}: {headline}; back to step {error.checkpoint}{without}")

    def get_state(self) -> dict[str, Any]:
        return {"rolled_back": self.rolled_back, "left_out": list(self.left_out)} if self.rolled_back else {}

    def set_state(self, state: dict[str, Any]) -> None:
        self.rolled_back, self.left_out = state.get("rolled_back", 0), list(state.get("left_out", []))

    def _newest_good(self, trainer: Trainer, saved: list[int]) -> int | None:
        """Puts the run back to the newest checkpoint that is whole and finite, and returns its step."""
        for step in reversed(saved):
            try:
                trainer.replay(step, from_step=step)
            except CheckpointDamaged:
                continue
            if _is_finite(trainer):
                return step
        return None

    def _step_at_fault(self, trainer: Trainer, good: int, step: int) -> int:
        """Returns the first step after which the weights are not finite, and leaves the run just before that."""
        trainer.replay(step - 1)
        if _is_finite(trainer):
            return step
        trainer.replay(good, from_step=good)
        at = good + 1
        while at < step - 1:
            trainer.replay(at)
            if not _is_finite(trainer):
                break
            at += 1
        trainer.replay(at - 1, from_step=good)
        return at


def _is_finite(trainer: Trainer) -> bool:
    """Returns whether what training has computed is finite: the weights, and what optimizers keep of the gradients."""
    kept = [variable for optimizer in trainer.optimizers.values() for variable in optimizer.variables]
    return numerics.all_finite([*(v for key in trainer.optimizers for v in trainer.trainable_variables(key)), *kept])
