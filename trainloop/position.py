"""Where a run stands in its training data, and how `fit` gets there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from absl import logging

from trainloop import data
from trainloop.agenda import RunLength
from trainloop.checkpoint import Checkpoints
from trainloop.evaluator import Data
from trainloop.origins import warn_user
from trainloop.resumable import Resumable
from trainloop.summing_loop import Ran


class Positioned(Resumable):
    """What a `Trainer` knows of its training data: the position belongs to the run, and outlives each `fit`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.total_steps: int | None = None
        self.steps_per_epoch: int | None = None
        self._stream: data.Stream | None = None
        self._opened: tuple[Any, ...] = ()
        self._is_torn = False  # an error has ended a compiled chunk, perhaps in the middle of a step

    def _open(self, source: Data, total: RunLength, steps_per_epoch: int | None, restart_data: bool) -> data.Stream:
        """Returns the training data at the position where the run stands."""
        if self._is_torn:
            warn_user(
                "fit: an error ended the last fit in the middle of a step: weights may hold a part of its update, and "
                "batches of a tf.data.Dataset that were taken already are lost. Call trainer.restore(...) before fit"
            )
            self._is_torn = False
        before = self._opened[0] if self._opened else source
        goes_on = data.unwrapped(source) is data.unwrapped(before) and not restart_data
        opened = self._stream if goes_on else None
        needed = total.steps_left(self.step)
        taken = self.state.epoch_step if goes_on else 0
        stream = data.training_stream(
            source, self.seed, steps_per_epoch=steps_per_epoch, steps_needed=needed, taken=taken, opened=opened
        )
        if opened is None and (restart_data or not data.is_same(source, before) or not self._goes_on(stream)):
            if not (self._opened or restart_data) and self.state.epoch_step > 0:
                told = data.what_changed(self._data_shape, stream.shape)
                if told is not None:
                    logging.warning("train_data= is not what the run was saved with (%s): its epoch begins anew", told)
            self.state.set_counts(epoch_start=self.step)
            self._data_since = None
        left = stream.steps_left(self.state.epoch_step)
        if left is not None and left <= 0:  # the position was counted in steps, or in longer epochs
            self._begin_epoch(stream)
        stream.seek(self.epoch, self.state.epoch_step)
        if opened is None and stream.caveat is not None and self.workdir is not None:
            warn_user(f"fit: train_data= {stream.caveat}")
        self._note_position(stream)
        self._stream, self._opened = stream, (source, total, steps_per_epoch)
        self.steps_per_epoch, self.total_steps = stream.steps_per_epoch, total.steps
        if total.epochs is not None and stream.steps_per_epoch is not None:
            epochs_left = total.epochs - self.epoch
            self.total_steps = self.state.counts.epoch_start + epochs_left * stream.steps_per_epoch
        return stream

    def _pass_by(self, source: Data, total: RunLength, steps_per_epoch: int | None) -> None:
        """Notes whose data the run's position is in where a stage is over: the next one may bring other data."""
        stands_at_its_end = (self.step if total.epochs is None else self.epoch) == (total.steps or total.epochs)
        if not self._opened and stands_at_its_end:
            self._opened = (source, total, steps_per_epoch)

    def _restore(self, step: int, checkpoints: Checkpoints) -> int:
        restored = super()._restore(step, checkpoints)  # which changes nothing where it is refused
        self._stream, self._opened, self._is_torn = None, (), False
        return restored

    def _goes_on(self, stream: data.Stream) -> bool:
        """Returns whether newly opened data can be put where the run stands, and puts a dataset there."""
        if isinstance(stream, data.AddressedStream):
            return self.state.epoch_step == 0 or self._data_shape in (None, stream.shape)
        assert isinstance(stream, data.DatasetStream)
        if self._restored is None and self.state.epoch_step == 0:
            self._data_since = None
            return True
        if self._restored is None or self._restored.step != self.step:
            return False
        if data.what_changed(self._data_shape, stream.shape) is not None:
            return False
        taken = self.step - (self.state.counts.epoch_start if self._data_since is None else self._data_since)
        if stream.resume(self.state.counts.passes, taken):
            logging.warning("train_data= is replayed: %d batches that the run has seen are passed over", taken)
            return True
        return stream.saved_iterator is not None and self._restored.restore_iterator(stream.saved_iterator)

    def _begin_epoch(self, stream: data.Stream) -> None:
        self.state.set_counts(epoch=self.epoch + 1, epoch_start=self.step)
        stream.begin_epoch()
        if stream.restarts:
            self._data_since = None

    def _note_position(self, stream: data.Stream) -> None:
        """Notes what the position is counted in: epochs of this shape, and batches since a dataset's iterator began."""
        self.state.set_counts(passes=stream.passes)
        self._data_shape = stream.shape
        if isinstance(stream, data.AddressedStream):
            self._data_since = None
        elif self._data_since is None:
            self._data_since = self.state.counts.epoch_start

    @contextlib.contextmanager
    def _position_kept(self) -> Iterator[None]:
        """Leaves the position in the data as it was where a `fit` is refused in the block."""
        counts, before = self.state.counts, (self._stream, self._opened)
        noted = self._data_shape, self._data_since, self._is_torn
        try:
            yield
        except BaseException:
            self.state.set_counts(epoch=counts.epoch, epoch_start=counts.epoch_start, passes=counts.passes)
            self._stream, self._opened = before
            self._data_shape, self._data_since, self._is_torn = noted
            raise

    def _count_epoch(self, ran: Ran, stream: data.Stream) -> bool:
        """Returns whether an epoch has just ended; the next one begins then."""
        if not ran.out_of_data and stream.steps_left(self.state.epoch_step) != 0:
            return False
        self._begin_epoch(stream)
        self._note_position(stream)
        self.state.track_iterator(stream.saved_iterator)
        return True
