"""`Trainer`: the outer loop of a run, and its state."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tf_keras
from absl import logging

from trainloop import arguments, data, keras_hooks
from trainloop.agenda import Agenda, Pace, RunLength
from trainloop.callback import Callback
from trainloop.callbacks import NonFiniteLossError
from trainloop.evaluator import Data, run_all
from trainloop.interrupts import Interrupted, InterruptedReplay, Interrupts
from trainloop.losses import LossSpec
from trainloop.phase import Phase
from trainloop.preparing import Preparing
from trainloop.reporting import ReportWindow
from trainloop.results import History
from trainloop.signatures import names_checked, strict
from trainloop.summing_loop import Ran, SummingLoop
from trainloop.triggers import Moment, Trigger


class Trainer(Preparing):
    """Trains, evaluates and predicts, with the phase as an explicit value of every step.

    The loop of `fit`, in short:

        while the total is not reached:
            run a chunk of compiled steps, as many as may pass before something is due
            report; evaluate; call the callbacks whose triggers are due

    Use it as it is, or subclass it as deep as needed: override `compute_loss`, or whole steps (`train_step`,
    `eval_step`, `predict_step`).

    Args:
      model: A tf-keras model, a `tf.Module`, or a dict of these. Its strategy is the one it was built under.
      optimizer: A tf-keras optimizer or its name, or a dict with the keys of the models to train. Clipping is its own
        (`global_clipnorm=`). Where a model computes in float16 it is wrapped for loss scaling.
      loss: What `Model.compile(loss=)` takes.
      loss_weights: What `Model.compile(loss_weights=)` takes.
      metrics: What `Model.compile(weighted_metrics=)` takes: metrics get the sample weights where there are some.
      unweighted_metrics: What `Model.compile(metrics=)` takes: these get no sample weights.
      seed: The run's seed, for the order of the data and for all draws of a step; drawn where it is None, and kept in
        the checkpoints. What weights begin with is Keras's affair: `tf_keras.utils.set_random_seed`, which `launch`
        calls.
      workdir: The run's directory; None writes nothing.
      callbacks: Further callbacks; one of the same class takes a default's place. Keras callbacks may stand among them.
      default_callbacks: Whether `ProgressBar` and `StopOnNaN` (and, with a workdir, `MetricsLog`, `TensorBoard` and
        `Checkpointing`) are there without being asked for.
      microbatches: Into how many slices a batch is cut for memory's sake; nothing else notices.
      jit_compile: Whether XLA compiles the steps; with several replicas, the part of the Trainer's own training step
        before the update. It draws other random numbers, so choose once for a run.
      report_every: When training metrics are read; by default each epoch, or every 100 steps where there is no epoch.
      report_gradient_norm: Whether `gradient_norm` is among the reported scalars.
      run_eagerly: Whether steps run in Python, for a debugger; may also be set later.

    Raises:
      TypeError: If an argument is not of the kind named above.
      ValueError: If there is nothing to minimise, or arguments contradict each other.
      NotImplementedError: If the model was built under a strategy that is not served.

    Attributes:
      phase: The phase that is running, or None.
      phase_reason: Why it was entered.
      history: Everything reported in the newest `fit`.
      latest_metrics: The newest value of each metric, by full name (`loss`, `eval/loss`).
      total_steps: The total that `fit` was asked for, in steps, where that is known.
      steps_per_epoch: Batches in an epoch of the training data, where that is known.
      fitting: Whether `fit` is running.
      clock: Returns the time in seconds; to be replaced in tests.

    Example:
      >>> import numpy as np, tf_keras
      >>> from trainloop import Trainer, data
      >>> tf_keras.utils.set_random_seed(0)
      >>> x = np.random.normal(size=[64, 4]).astype("float32")
      >>> pairs = data.from_arrays((x, x.sum(axis=1)), batch_size=16)
      >>> model = tf_keras.Sequential([tf_keras.layers.Dense(1)])
      >>> trainer = Trainer(model, tf_keras.optimizers.Adam(0.1), loss="mse", default_callbacks=False)
      >>> history = trainer.fit(pairs, epochs=20)
      >>> trainer.step, history["loss"][-1] < history["loss"][0]
      (80, True)
    """

    @names_checked
    def __init__(
        self,
        model: Any,
        optimizer: Any = None,
        *,
        loss: LossSpec | None = None,
        loss_weights: Any = None,
        metrics: Any = None,
        unweighted_metrics: Any = None,
        seed: int | None = None,
        workdir: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback | tf_keras.callbacks.Callback] = (),
        default_callbacks: bool = True,
        microbatches: int = 1,
        jit_compile: bool = False,
        report_every: Trigger | None = None,
        report_gradient_norm: bool = False,
        run_eagerly: bool = False,
    ):
        super().__init__(
            model,
            optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            unweighted_metrics=unweighted_metrics,
            microbatches=microbatches,
            jit_compile=jit_compile,
            report_gradient_norm=report_gradient_norm,
            seed=seed,
            workdir=workdir,
            callbacks=callbacks,
            default_callbacks=default_callbacks,
        )
        self.report_every = arguments.check_trigger(report_every, "report_every")
        self.run_eagerly = run_eagerly

    @classmethod
    def from_compiled(cls, model: tf_keras.Model, **options: Any) -> Trainer:
        """Takes over a model that was compiled for `Model.fit`, with its optimizer, loss and metrics.

        Args:
          model: A compiled tf-keras model.
          **options: Further arguments of the Trainer; they win over what was compiled.

        Raises:
          ValueError: If the model was not compiled, or its class has steps of its own, which a Trainer does not call.
        """
        arguments.check_models(model)
        if getattr(model, "optimizer", None) is None or getattr(model, "compiled_loss", None) is None:
            raise ValueError(
                f"model={model.name!r} was not compiled; call model.compile(...), or give its parts to Trainer(...)"
            )
        if own := keras_hooks.own_step_methods(model):
            raise ValueError(
                f"model={model.name!r}: {type(model).__name__} overrides {', '.join(own)}, which a Trainer does not "
                "call; move that code into compute_loss or train_step of a Trainer subclass"
            )
        return cls(model, **keras_hooks.compiled_arguments(model) | options)

    def request_stop(self, reason: str) -> None:
        """Asks `fit` to end before the next chunk; what is due at the end is still done.

        Args:
          reason: Why; it is kept in `history.stop_reason`.

        Raises:
          ValueError: If no reason is given.
        """
        if not reason:
            raise ValueError(f"request_stop: reason={reason!r} says nothing; say why the run is to stop")
        self._stop_reason = reason

    def log(self, values: Mapping[str, float]) -> None:
        """Reports values of your own, with the other things that are due at this step."""
        self._logged |= values

    @strict
    def fit(
        self,
        train_data: Data,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        eval_data: Data | Mapping[str, Data] | None = None,
        eval_every: Trigger | None = None,
        restart_data: bool = False,
    ) -> History:
        """Trains until the run has reached a total of steps or epochs.

        The totals count from the start of the run: the same call continues a resumed run, and returns at once where the
        total is reached. The position in the data belongs to the run too. On Ctrl-C or SIGTERM the chunk is finished
        and a checkpoint is saved; then `KeyboardInterrupt` or `SystemExit(143)` is raised.

        Args:
          train_data: What to train on: what `from_arrays`, `from_source`, `zip` or `from_dataset` of `trainloop.data`
            return, or a `tf.data.Dataset` of batches.
          steps: Total of steps; exactly one of `steps` and `epochs` is given.
          epochs: Total of epochs.
          steps_per_epoch: Batches in an epoch, for data without an end.
          eval_data: What to evaluate on, or a dict of several named sets.
          eval_every: When to evaluate; by default after each epoch, and at the end where there are no epochs.
          restart_data: Begin the data again instead of going on where the run stood.

        Returns:
          Everything reported in this call.

        Raises:
          TypeError: If the data are not data, or a trigger is not a trigger.
          ValueError: If an argument does not fit the others or the data, the data are empty, or end before the total.
          RuntimeError: If called inside itself, or the workdir holds checkpoints that were not restored.
          NonFiniteLossError: If a loss is not finite (`StopOnNaN`).
          CheckpointNotSaved: If the last checkpoint could not be written (`Checkpointing`).
          WorkdirLocked: If another run writes to the workdir.
        """
        total = RunLength(steps, epochs)
        data.check_data(train_data, "fit: train_data")
        self._check_can_fit()
        sets = arguments.check_eval_data(eval_data, eval_every)
        arguments.check_microbatches(self.microbatches, train_data)
        if total.is_reached(self.step, self.epoch) and not self._has_something_left():
            self._pass_by(train_data, total, steps_per_epoch)
            logging.warning("fit: nothing to do: the run is at step %d, where %s is reached", self.step, total)
            return History()
        with self._busy(), self.strategy.scope():
            with self._position_kept():
                stream = self._open(train_data, total, steps_per_epoch, restart_data)
                triggers = self._triggers(stream, total, sets, eval_every)
                self._check_can_go_back(stream)
                self._prepare_training(stream, sets)
            self.history, self._stop_reason = History(), None
            self.fit_began_at, self._data_restarted = self.step, restart_data
            with self._locked(), Interrupts() as interrupts:  # nothing was written before this line
                self._check_own_workdir()
                self._cut_logs()
                if self.workdir is not None:
                    self._contracts.write(self.workdir)
                why = "fit"
                while True:
                    try:
                        with self._fit_hooks(), self._in_phase(Phase.TRAIN, why):
                            self._train(stream, total, self._new_agenda(triggers), sets, interrupts)
                        break
                    except NonFiniteLossError as error:
                        stream, why = self._go_on_after(error)
                    except InterruptedReplay:
                        break
        interrupts.act(self._where_it_stands())
        return self.history

    def _train(
        self,
        stream: data.Stream,
        total: RunLength,
        agenda: Agenda,
        sets: Mapping[str, Data],
        interrupts: Interrupts,
    ) -> None:
        """The outer loop: run a chunk of steps, hand over to what is due, again."""
        pace, window = Pace(), ReportWindow(self.state.window)
        try:
            self._make_going_back_possible()
            end_is_left = self._do_what_was_left(agenda, sets, interrupts)
            # A hook may know that the run is over, and data that stood at the end of an epoch have begun the next one.
            ended = self._stop_reason is not None or total.is_reached(self.step, self.epoch)
            if end_is_left:
                self._do_what_is_due(agenda, window, sets, self._end(), interrupts)
            while not ended:
                stream = self._stream or stream  # a hook may have gone back, by `replay`
                if self.state.epoch_step == 0 or (not stream.has_epochs and window.is_empty):
                    self.metrics.reset()
                step, loop, start = self.step, self._training_loop(stream), self.clock()
                self._expect_scalars(loop, window)
                bounds = (pace.steps, agenda.steps_until(step), total.steps_left(step))
                ran = self._run_chunk(loop, stream, min(bound for bound in bounds if bound is not None))
                seconds = self.clock() - start
                pace.observe(ran.steps, seconds)
                window.add(loop, ran, seconds)
                self._check_ran(ran, stream, interrupts)
                epoch_ended = self._count_epoch(ran, stream)

                ended = total.is_reached(self.step, self.epoch)
                moment = Moment(self.step, self.epoch, ran.steps > 0, epoch_ended, ended=ended)
                self._do_what_is_due(agenda, window, sets, moment, interrupts)
                if self._stop_reason and not ended:  # one of the hooks just called has asked for it
                    ended = True
                    self._do_what_is_due(agenda, window, sets, self._end(), interrupts)
                if interrupts.received and not ended:
                    ended = True
                    self._save()
        except InterruptedReplay:
            raise
        except Interrupted:
            self._save()
        by_signal = None if interrupts.received is None else interrupts.received.name
        self.history.stop_reason = self._stop_reason or by_signal

    def _where_it_stands(self) -> str:
        """Says, for whoever has stopped the run, whether it can go on."""
        if self.checkpoints is not None and self.step in self.checkpoints.steps():
            return (
                f"stopped at step {self.step}, whose checkpoint is {self.checkpoints.path(self.step)}; run the same "
                "script again to go on, with trainer.restore_or_initialize() before fit"
            )
        return f"stopped at step {self.step}, and no checkpoint was saved there: that takes workdir= and Checkpointing"

    def _end(self) -> Moment:
        return Moment(self.step, self.epoch, new_step=False, ended=True)

    def _check_ran(self, ran: Ran, stream: data.Stream, interrupts: Interrupts) -> None:
        if not ran.finite:
            stop = self._stop_on_nan()
            assert stop is not None  # nothing else has the loop look at its losses
            with self._left_on(interrupts):
                try:
                    raise stop.find(self, self.step)
                except Interrupted:
                    assert self._restored is not None  # a replay begins by that
                    self._go_back(self._restored.step)  # what was made again was not reported, nor seen by callbacks
                    raise InterruptedReplay from None
        if not ran.out_of_data:
            return
        if self.state.epoch_step == 0 and (stream.restarts or self.step == self.fit_began_at):
            raise ValueError("fit: train_data= is empty: it has no batch")
        if not stream.restarts:
            raise ValueError(
                f"fit: train_data= is exhausted at step {self.step}, before the total was reached; repeat() the "
                "dataset, or give epochs= without steps_per_epoch= to have it iterated again"
            )

    def _expect_scalars(self, loop: SummingLoop, window: ReportWindow) -> None:
        """Begins a new window where the step has come to return other scalars than those that were summed so far."""
        if loop.names and loop.names != self._summed:
            if self._summed is not None and not window.is_empty:
                window.reset()
            self._summed = list(loop.names)

    def _check_own_workdir(self) -> None:
        """Called with the lock held: refuses to go on where another run has written since this one looked."""
        if self.checkpoints is None:
            return
        newest = max(self.checkpoints.steps(), default=0)
        if newest > self._newest_seen:
            raise RuntimeError(
                f"fit: workdir={str(self.workdir)!r} holds a checkpoint of step {newest}, which another run has saved "
                "since this one began. Start anew, and call trainer.restore_or_initialize() before fit"
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self.workdir is None or self.checkpoints is None:
            yield
            return
        with self.workdir.lock():
            try:
                yield
            finally:  # waits for the save in flight, which needs the lock
                self._newest_seen = max(self.checkpoints.steps(), default=0)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        self.fitting = True
        try:
            yield
        finally:
            self.fitting = False

    @contextlib.contextmanager
    def _fit_hooks(self) -> Iterator[None]:
        with contextlib.ExitStack() as ends:  # every callback is told of the end, even if another one raises
            ends.callback(run_all, [functools.partial(callback.on_fit_end, self) for callback in self.callbacks])
            try:
                for callback in self.callbacks:
                    callback.on_fit_begin(self)
                yield
            except BaseException as error:
                for callback in self.callbacks:
                    try:
                        callback.on_exception(self, error)
                    except Exception as another:  # noqa: BLE001 (what went wrong first is what counts)
                        error.add_note(f"{type(callback).__name__}.on_exception raised {another!r}")
                raise
