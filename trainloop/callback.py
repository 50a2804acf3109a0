"""The base of all callbacks: what is done, and (through `trigger`) when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from trainloop.phase import Phase
from trainloop.triggers import Trigger

if TYPE_CHECKING:
    from trainloop.trainer import Trainer


class Callback:
    """Does something at certain moments of a run. Override the hooks you need; each does nothing by default.

    The hooks of one `fit`, in order:

        on_fit_begin
          on_phase_begin(TRAIN)
            on_report                 when `report_every` is due
            on_phase_begin(EVAL)      when `eval_every` is due
            on_phase_end(EVAL)
            on_trigger                when this callback's `trigger` is due
          on_phase_end(TRAIN)
        on_fit_end                    also after an exception, then preceded by on_exception

    At one step all `on_report` come first, then the evaluation, then every `on_trigger`; within each, callbacks are
    called in this order: `StopOnNaN`, the callbacks of `callbacks=` as listed, `ProgressBar`, `MetricsLog`,
    `TensorBoard`, and last `Checkpointing`, so that a checkpoint holds what all others have done at that step.
    A hook may call `trainer.evaluate`, `trainer.predict`, `trainer.log` and `trainer.request_stop`.

    Attributes:
      trigger: When `on_trigger` is called; None for never.

    Example:
      >>> import trainloop
      >>> class PrintStep(trainloop.Callback):
      ...     trigger = trainloop.Every(steps=100)
      ...
      ...     def on_trigger(self, trainer):
      ...         print("step", trainer.step)
    """

    trigger: Trigger | None = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Called once when `fit` begins, after a restore and before the first step."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Called once when `fit` ends, in whatever way."""

    def on_phase_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Called when a phase is entered; `trainer.phase` is that phase already."""

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        """Called when a phase is left; of each callback whose `on_phase_begin` was called, also after an exception.

        `metrics` holds the metrics of the fit's own evaluations by full name (`"eval/loss"`), and is empty otherwise:
        what a hook evaluates with `trainer.evaluate` is returned there, and is not the run's `eval/loss`.
        """

    def on_report(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        """Called with the training metrics of the report window (`"loss"`, `"accuracy"`, `"learning_rate"`, ...)."""

    def on_trigger(self, trainer: Trainer) -> None:
        """Called between two steps whenever `trigger` is due."""

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        """Called when an exception ends `fit`, which it leaves afterwards, or has it go back to a checkpoint and on.

        The latter is `StopOnNaN(rollbacks=)`; `on_fit_begin` follows then.
        """

    def get_state(self) -> dict[str, Any]:
        """Returns what a resumed run needs to know, as JSON values; saved in every checkpoint."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes back what `get_state` returned."""
        if state:
            raise NotImplementedError(f"{type(self).__name__} returns a state from get_state but has no set_state")


def has_state(callback: Callback) -> bool:
    """Returns whether a callback has something to save."""
    return type(callback).get_state is not Callback.get_state


def checked_state(name: str, state: Any) -> dict[str, Any]:
    """Returns what a callback's `get_state` has returned.

    Args:
      name: The callback's name.
      state: Its state.

    Raises:
      TypeError: If it is no dict, or holds what JSON has no value for; the message says what to write.
    """
    if not isinstance(state, dict):
        raise TypeError(f"{name}.get_state() returned {state!r}; it must return a dict of JSON values")
    for key, value in state.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name}.get_state() returned {key}={value!r}, which is no JSON value; {_hint(value)}"
            ) from error
    return state


def _hint(value: Any) -> str:
    if getattr(value, "shape", None) == () and hasattr(value, "dtype"):  # of NumPy or TensorFlow
        kinds = {"f": "float", "b": "bool"}
        return f"write {kinds.get(np.asarray(value).dtype.kind, 'int')}(...)"
    if hasattr(value, "__array__"):
        return "write numpy.asarray(...).tolist()"
    return "give numbers, strings, booleans, None, or lists and dicts of them"
