"""`TensorBoard`: the metrics as curves."""

from __future__ import annotations

import os
import pathlib
import re
import struct
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from trainloop.callback import Callback
from trainloop.phase import Phase

if TYPE_CHECKING:
    from trainloop.trainer import Trainer

_FILES = "*tfevents*"
_HEADER = struct.Struct("<Q4x")  # the length of the data, and a checksum of it
_CHECKSUM = 4  # bytes


class TensorBoard(Callback):
    """Writes every scalar of a report or an evaluation to the workdir's `events/`, in one directory for each phase.

    The curves of `train` and `eval` share a name, so TensorBoard draws them into one chart. Look at them with
    `tensorboard --logdir RUNS`. What happens outside of `fit` is not written.

    Where a run goes on from a checkpoint, what the files hold of later steps is taken out of them, and a page that has
    shown it already is told to forget it.

    Example:
      >>> from trainloop import TensorBoard
      >>> board = TensorBoard()
    """

    def __init__(self) -> None:
        self._files: dict[Phase, _EventFile] | None = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._files = {}
        if trainer.workdir is None:
            return
        for phase in Phase:  # also one that the run may not enter again
            directory = trainer.workdir.events / phase.value
            if directory.is_dir():
                for path in directory.glob(_FILES):
                    _cut(path, trainer.step)
                self._files[phase] = _EventFile(directory, trainer.step)

    def on_fit_end(self, trainer: Trainer) -> None:
        for file in (self._files or {}).values():
            file.close()
        self._files = None

    def on_report(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        self._write(trainer, Phase.TRAIN, metrics)

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        self._write(trainer, phase, metrics)

    def _write(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        scalars = {name.removeprefix(f"{phase.value}/"): v for name, v in metrics.items() if np.ndim(v) == 0}
        if self._files is None or trainer.workdir is None or not scalars:
            return
        if phase not in self._files:
            self._files[phase] = _EventFile(trainer.workdir.events / phase.value, trainer.step)
        self._files[phase].write(trainer.step, scalars)


class _EventFile:
    """A file of events that begins with the start of a session.

    At such a start a TensorBoard that is running forgets what it has read of the same step and later ones, unless it is
    the first start that it meets: so each file has one. A `tf.summary` writer cannot write it.

    Args:
      directory: Where the file is made. TensorBoard reads the files there in the order of their names.
      step: The step at which the run stands.
    """

    def __init__(self, directory: pathlib.Path, step: int):
        directory.mkdir(parents=True, exist_ok=True)
        newest = max((_seconds(path) for path in directory.glob(_FILES)), default=0)
        seconds = max(int(time.time()), newest + 1)  # the clock may have been put back since, or hardly have moved
        path = directory / f"events.out.tfevents.{seconds:010d}.trainloop"
        self._file = tf.io.TFRecordWriter(str(path))
        start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        self._add(file_version="brain.Event:2")
        self._add(step=step + 1, session_log=start)
        self._file.flush()

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds scalars, and hands them to the operating system."""
        event = tf.compat.v1.Event(wall_time=time.time(), step=step)
        for name, value in scalars.items():
            entry = event.summary.value.add(tag=name)
            entry.metadata.plugin_data.plugin_name = "scalars"
            entry.tensor.dtype = tf.float32.as_datatype_enum  # a scalar's shape has no dimension, so it is left empty
            entry.tensor.tensor_shape.SetInParent()
            entry.tensor.float_val.append(float(value))
        self._file.write(event.SerializeToString())
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _add(self, **content: Any) -> None:
        self._file.write(tf.compat.v1.Event(wall_time=time.time(), **content).SerializeToString())


def _seconds(path: pathlib.Path) -> int:
    match = re.search(r"tfevents\.(\d{10})", path.name)
    return int(match[1]) if match else 0


def _cut(path: pathlib.Path, step: int) -> None:
    """Takes the values of later steps out of a file, in one atomic step; so too a record that a crash has torn."""
    content = path.read_bytes()
    kept = b"".join(record for record, event in _records(content) if not event.summary.value or event.step <= step)
    if kept != content:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(kept)
        os.replace(temporary, path)


def _records(content: bytes) -> Iterator[tuple[bytes, Any]]:
    """Yields each whole record of a TFRecord file (length, checksum, data, checksum), and the event in it."""
    start = 0
    while start + _HEADER.size <= len(content):
        begin = start + _HEADER.size
        end = begin + _HEADER.unpack_from(content, start)[0]
        if end + _CHECKSUM > len(content):
            return
        yield content[start : end + _CHECKSUM], tf.compat.v1.Event.FromString(content[begin:end])
        start = end + _CHECKSUM
