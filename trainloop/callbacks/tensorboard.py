"""`TensorBoard`: the metrics as curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from trainloop.callback import Callback
from trainloop.phase import Phase

if TYPE_CHECKING:
    from trainloop.trainer import Trainer


class TensorBoard(Callback):
    """Writes every scalar of a report or an evaluation to the workdir's `events/`, in one directory for each phase.

    The curves of `train` and `eval` share a name, so TensorBoard draws them into one chart. Look at them with
    `tensorboard --logdir RUNS`. What happens outside of `fit` is not written.

    Example:
      >>> from trainloop import TensorBoard
      >>> board = TensorBoard()
    """

    def __init__(self) -> None:
        self._writers: dict[Phase, tf.summary.SummaryWriter] | None = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._writers = {}

    def on_fit_end(self, trainer: Trainer) -> None:
        for writer in (self._writers or {}).values():
            writer.close()
        self._writers = None

    def on_report(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        self._write(trainer, Phase.TRAIN, metrics)

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        self._write(trainer, phase, metrics)

    def _write(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        scalars = {name.removeprefix(f"{phase.value}/"): v for name, v in metrics.items() if np.ndim(v) == 0}
        if self._writers is None or trainer.workdir is None or not scalars:
            return
        if phase not in self._writers:
            self._writers[phase] = tf.summary.create_file_writer(str(trainer.workdir.events / phase.value))
        with self._writers[phase].as_default(step=trainer.step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
