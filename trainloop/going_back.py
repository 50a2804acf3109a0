"""How `fit` goes back to a checkpoint: to look for a number that is not finite, or to go on from there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from absl import logging

from trainloop import data
from trainloop.agenda import Pace
from trainloop.between_chunks import BetweenChunks
from trainloop.callbacks import Checkpointing, NonFiniteLossError, StopOnNaN
from trainloop.phase import Phase
from trainloop.summing_loop import Ran, SummingLoop

if TYPE_CHECKING:
    from trainloop.trainer import Trainer


class GoingBack(BetweenChunks):
    """What a `Trainer` can do about a loss that is not finite.

    Attributes:
      fit_began_at: The step at which the newest `fit` began.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fit_began_at = 0
        self._data_restarted = False

    def replay(self, to_step: int, *, from_step: int | None = None, traced_anew: bool = False) -> None:
        """Makes the steps up to `to_step` again, as the newest `fit` has made them; nothing is reported or saved.

        Args:
          to_step: The step to end at.
          from_step: The checkpoint to go back to first; None goes on from where the run stands.
          traced_anew: Whether the steps are traced once more, under whatever watches them, and without XLA, which has
            no kernels for checks.

        Raises:
          ValueError: If no `fit` has been running, or there is no workdir.
        """
        if not self._opened or self.checkpoints is None:
            raise ValueError(
                "replay: there is no fit to make steps of again, or no checkpoint to begin from; call it in a hook of "
                "fit, and give the Trainer a workdir="
            )
        with self.strategy.scope(), self._traced_anew() if traced_anew else contextlib.nullcontext():
            stream = self._stream if from_step is None else self._go_back(from_step)
            assert stream is not None
            loop, pace = self._training_loop(stream), Pace()
            while self.step < to_step:
                self._leave_on_a_signal()
                start = self.clock()
                ran = self._run_chunk(loop, stream, min(pace.steps, to_step - self.step))
                pace.observe(ran.steps, self.clock() - start)
                self._count_epoch(ran, stream)

    @contextlib.contextmanager
    def _traced_anew(self) -> Iterator[None]:
        compiled, self._loops = self._loops, {}
        by_xla, self.jit_compile = self.jit_compile, False
        reports = dict(self._contracts.reports)
        try:
            yield
        finally:
            self._loops, self.jit_compile = compiled, by_xla
            self._contracts.reports = reports  # those of the steps that the run makes
            if self.workdir is not None:
                self._contracts.write(self.workdir)

    def _go_back(self, step: int) -> data.Stream:
        """Puts the run back to a checkpoint of this `fit`; what is known by now of batches to leave out stays known."""
        assert self.checkpoints is not None
        stop, opened = self._stop_on_nan(), self._opened
        known = {} if stop is None else stop.get_state()
        self._restore(self.checkpoints.find(step), self.checkpoints)
        if stop is not None:
            stop.set_state(known)
        stream = self._open(*opened, restart_data=self._data_restarted and step == self.fit_began_at)
        self.state.track_iterator(stream.saved_iterator)
        return stream

    def _go_on_after(self, error: NonFiniteLossError) -> tuple[data.Stream, str]:
        """Goes back to where the run can go on from; returns its data there, and why that was done.

        Raises:
          NonFiniteLossError: If it is not to go on.
        """
        stop = self._stop_on_nan()
        way = None if stop is None else stop.way_back(error)
        if way is None:
            raise error
        stream = self._go_back(way.checkpoint)
        self.history.cut(after=self.step)
        self._stop_reason, self._logged = None, {}
        self._cut_logs()
        logging.warning("%s. %s", way.why, "\n".join([str(error), *getattr(error, "__notes__", [])]))
        return stream, way.why

    def _run_chunk(self, loop: SummingLoop, stream: data.Stream, steps: int) -> Ran:
        """Runs up to `steps` steps, and at most to the end of the epoch; or leaves out the one that comes next."""
        left = stream.steps_left(self.state.epoch_step)
        steps = steps if left is None else min(steps, left)
        if steps == 0:  # an epoch that is over, and was not counted because an error came first
            return Ran(0, finite=True, out_of_data=False)
        stop = self._stop_on_nan()
        ahead = min(
            (step - self.step for step in ([] if stop is None else stop.left_out) if step > self.step), default=None
        )
        if ahead != 1:
            steps = steps if ahead is None else min(steps, ahead - 1)
            self._is_torn = not self.run_eagerly  # where everything is done in the order of the code
            try:
                with self.state.counted_elsewhere() as before:
                    ran = loop.run(stream.iterator, steps, inline=stream.taken_inline)
            except BaseException:
                stream.note_ahead()
                raise
            self._is_torn = False
            if not ran.finite:
                stream.note_ahead()
            self.state.note_steps(before, ran.steps)
            if self.run_eagerly:
                self._track_metrics(loop)
            return ran
        if not stream.iterator.get_next_as_optional().has_value():
            return Ran(0, finite=True, out_of_data=True)
        self.state.set_counts(step=self.step + 1)
        return Ran(1, finite=True, out_of_data=False, left_out=True)

    def _check_can_go_back(self, stream: data.Stream) -> None:
        """Raises where `rollbacks=` asks for what cannot be had, before anything is written."""
        stop = self._stop_on_nan()
        if stop is None or not stop.rollbacks:
            return
        if not any(isinstance(callback, Checkpointing) for callback in self.callbacks):
            raise ValueError(
                f"StopOnNaN: rollbacks={stop.rollbacks} goes back to checkpoints, but this run saves none; give the "
                "Trainer a workdir=, and Checkpointing where default_callbacks=False"
            )
        if not isinstance(stream, data.AddressedStream):
            raise ValueError(
                f"StopOnNaN: rollbacks={stop.rollbacks} has to find the same batches again in the same process, and "
                "train_data= is a tf.data.Dataset, which may shuffle anew. Give trainloop.data.from_arrays(...) or "
                "from_source(...), or drop rollbacks="
            )

    def _make_going_back_possible(self) -> None:
        """Saves where the run stands, if it may have to go back there.

        A checkpoint that is there already may be of another stage: with another learning rate, or weights that were
        loaded since.
        """
        stop = self._stop_on_nan()
        if stop is not None and stop.rollbacks:
            self._save()

    def _save(self) -> None:
        for callback in self.callbacks:
            if isinstance(callback, Checkpointing):
                callback.on_trigger(cast("Trainer", self))

    def _stop_on_nan(self) -> StopOnNaN | None:
        return next((callback for callback in self.callbacks if isinstance(callback, StopOnNaN)), None)

    def _training_loop(self, stream: data.Stream) -> SummingLoop:
        averaging = self._averaging()
        return self._loop(
            Phase.TRAIN,
            stream.iterator,
            "fit: train_data",
            inline=stream.taken_inline,
            stop_on_nonfinite=self._stop_on_nan() is not None,
            after_step=None if averaging is None else averaging.update,
        )

    def _cut_logs(self) -> None:
        """Takes away what a workdir holds of later steps: the run was killed, or put back, and makes them again."""
        if self.workdir is None or self.checkpoints is None:
            return
        restored_here = self._restored is not None and self._restored.step == self.step
        self._cut_log_files(self._log_sizes if restored_here else None)
        self.checkpoints.supersede(after=self.step)
