"""`Inference`: train, predict, train on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trainloop import arguments
from trainloop.callback import Callback
from trainloop.data import Data, check_data
from trainloop.phase import Phase, check_phase
from trainloop.triggers import Trigger

if TYPE_CHECKING:
    from trainloop.trainer import Trainer


class Inference(Callback):
    """Predicts in the midst of training and hands the result over; training goes on as if nothing had happened.

    Args:
      data: What to predict: `from_arrays` data or a `tf.data.Dataset`.
      phase: `Phase.PREDICT`, or `Phase.MC_PREDICT` for Monte-Carlo dropout.
      samples: How many samples `Phase.MC_PREDICT` draws; by default what `trainer.predict` draws.
      trigger: When to do it.
      to: Called as `to(trainer, result)` with what `trainer.predict` returned.

    Raises:
      TypeError: If `data` is no data, `phase` no phase, `trigger` no trigger, or `to` cannot be called.
      ValueError: If `phase` is another phase, `samples` is not positive, or is given for `Phase.PREDICT`.

    Example:
      >>> import numpy as np
      >>> from trainloop import Every, Inference, data
      >>> images = data.from_arrays(np.zeros([4, 8, 8, 1], np.float32), batch_size=2)
      >>> shown = []
      >>> watch = Inference(images, trigger=Every(epochs=1), to=lambda trainer, outputs: shown.append(outputs))
    """

    def __init__(
        self,
        data: Data,
        *,
        phase: Phase = Phase.PREDICT,
        samples: int | None = None,
        trigger: Trigger,
        to: Callable[[Trainer, Any], None],
    ):
        check_data(data, "Inference: data")
        check_phase(phase, (Phase.PREDICT, Phase.MC_PREDICT), "Inference: phase")
        if trigger is None:
            raise TypeError("Inference: trigger=None would never predict; give Every(...), At(...) or AtEnd()")
        if not callable(to):
            raise TypeError(f"Inference: to={to!r} must be a function (trainer, result)")
        if samples is not None:
            arguments.check_positive(samples, "Inference: samples")
            if phase is not Phase.MC_PREDICT:
                raise ValueError(
                    f"Inference: samples={samples} with phase={phase}, which draws none; drop samples=, or give "
                    "phase=Phase.MC_PREDICT"
                )
        self.data = data
        self.phase = phase
        self.samples = samples
        self.trigger = arguments.check_trigger(trigger, "Inference: trigger")
        self.to = to

    def on_trigger(self, trainer: Trainer) -> None:
        options: dict[str, Any] = {} if self.samples is None else {"samples": self.samples}
        self.to(trainer, trainer.predict(self.data, phase=self.phase, **options))
