"""The report: the one moment at which training metrics are read and named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from trainloop.losses import Metrics
from trainloop.state import reset_window
from trainloop.summing_loop import Ran, SummingLoop


class ReportWindow:
    """What happened since the last report: sums on the device, seconds on the host.

    Args:
      sums: The loops' window.

    Attributes:
      is_empty: Whether no step fell into the window.
    """

    def __init__(self, sums: tf.Variable):
        self._sums = sums
        self._loop: SummingLoop | None = None
        self._steps = 0
        self._seconds = 0.0
        # `numpy()` alone takes two ops, and over the first of each TensorFlow takes some milliseconds.
        self._rows_before = float(sums.value().numpy()[0])
        self.is_empty = self._rows_before == 0.0

    def add(self, loop: SummingLoop, ran: Ran, seconds: float) -> None:
        """Takes in a chunk: the loop that ran it, what it did, and its duration in seconds."""
        self._loop = loop
        self.is_empty = self.is_empty and (ran.left_out or ran.steps == 0)
        self._steps += ran.steps
        self._seconds += seconds

    def read(self, metrics: Metrics, optimizers: Mapping[str, tf_keras.optimizers.Optimizer]) -> dict[str, Any]:
        """Returns the training metrics by name.

        Loss and scalars are means over the window; Keras metrics are as they stand; then the learning rate, and the
        steps and examples per second of training alone.
        """
        sums = self._sums.value().numpy()
        means = self._loop.means(sums) if self._loop is not None else {}
        found = metrics.result(beside=means)
        for key, optimizer in optimizers.items():
            name = "learning_rate" if len(optimizers) == 1 else f"learning_rate/{key}"
            found[name] = float(tf.convert_to_tensor(optimizer.learning_rate))
        if self._seconds > 0:
            found["steps_per_second"] = self._steps / self._seconds
            found["examples_per_second"] = (float(sums[0]) - self._rows_before) / self._seconds
        return found

    def reset(self) -> None:
        """Begins a new window."""
        reset_window(self._sums)
        self._steps, self._seconds, self._rows_before, self.is_empty = 0, 0.0, 0.0, True
