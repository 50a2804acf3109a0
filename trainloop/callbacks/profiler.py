"""`Profiler`: where the time of a step goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from trainloop.callback import Callback
from trainloop.triggers import At

if TYPE_CHECKING:
    from trainloop.trainer import Trainer


class Profiler(Callback):
    """Traces a range of steps with TensorFlow's profiler into the workdir's `events/`, for TensorBoard's Profile tab.

    TensorBoard shows that tab where its plugin is installed (`pip install tensorboard-plugin-profile`).

    Args:
      steps: The trace begins when the first number of steps is complete and ends when the second is. Leave some steps
        before it, for tracing and warming up.

    Raises:
      ValueError: If `steps` is not a pair of whole numbers, the first positive and less than the second.

    Example:
      >>> from trainloop import Profiler
      >>> profiler = Profiler(steps=(100, 120))
    """

    def __init__(self, steps: tuple[int, int] = (10, 20)):
        whole = isinstance(steps, (tuple, list)) and len(steps) == 2 and all(type(step) is int for step in steps)
        if not whole or not 0 < steps[0] < steps[1]:
            raise ValueError(f"Profiler: steps={steps!r} must be two whole numbers, 0 < first < last, like (10, 20)")
        self.first, self.last = steps
        self.trigger = At(steps=self.first) | At(steps=self.last)
        self._running = False

    def on_fit_begin(self, trainer: Trainer) -> None:
        if trainer.workdir is None:
            raise ValueError("Profiler writes files, but the Trainer has workdir=None; give it a workdir=")

    def on_trigger(self, trainer: Trainer) -> None:
        if trainer.step == self.first and trainer.workdir is not None:
            tf.profiler.experimental.start(str(trainer.workdir.events))
            self._running = True
        else:
            self._stop()

    def on_fit_end(self, trainer: Trainer) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False
