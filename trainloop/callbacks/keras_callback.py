"""`KerasCallback`: any callback of tf-keras, called as `Model.fit` calls it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tf_keras

from trainloop import arguments, keras_hooks
from trainloop.callback import Callback
from trainloop.phase import Phase
from trainloop.triggers import AtEnd, Every

if TYPE_CHECKING:
    from trainloop.trainer import Trainer


class KerasCallback(Callback):
    """Calls a `tf_keras.callbacks.Callback` at the moments, and with the logs, that `Model.fit` would.

    Put a Keras callback into `callbacks=` as it is; this class is for its options.

    - Batch hooks come once a chunk of steps, as under `steps_per_execution`; `every=1` has them each step. Their logs
      are the newest report's, and `size`, the number of steps since the batch hook before.
    - An epoch is an epoch of the training data. Where the data has none that is known before it ends, it is a report
      window (`report_every`). `on_epoch_end` comes after the evaluation of that step. Its logs are the newest report's
      values, `lr`, and, where there was an evaluation in the epoch, `val_loss` and so on (`val_<set>_loss` for named
      sets).
    - `model.optimizer` is the Trainer's, and what a callback does to its learning rate takes effect.
    - `model.stop_training = True` stops `fit`.
    - Nothing is called outside of `fit`, as callbacks of `Model.fit` hear nothing of `Model.evaluate`.
    - `on_train_end` comes however `fit` ends, so that files are closed.

    The state of a Keras callback (how long `EarlyStopping` has waited) is in no checkpoint: after a restart it begins
    anew, as in Keras. `trainloop.EarlyStopping` has no such gap.

    Args:
      callback: The callback, an instance.
      every: Number of steps after which batch hooks come at the latest; None leaves the pace to the loop.
      model: The key of the model that the callback gets, where the Trainer has a dict of models.

    Raises:
      TypeError: If `callback` is a class, a callback of Keras 3, or no callback.
      ValueError: If it is `BackupAndRestore`, which would restore a second time, or a `TensorBoard` that writes after
        batches, whose count only `Model.fit` keeps; or if `every` is not positive.

    Example:
      >>> import tf_keras
      >>> from trainloop import KerasCallback
      >>> slower = KerasCallback(tf_keras.callbacks.ReduceLROnPlateau("val_loss", patience=3))
    """

    def __init__(self, callback: Any, every: int | None = None, *, model: str | None = None):
        _check(callback)
        if every is not None:
            arguments.check_positive(every, "KerasCallback: every")
        self.callback = callback
        after_each_chunk = Every(seconds=1e-6) | AtEnd()
        self.trigger = after_each_chunk if every is None else Every(steps=every) | after_each_chunk
        self._key = model
        self._model: Any = None
        self._has_epochs = False
        self._windows = 0
        self._epoch: int | None = None
        self._epoch_begun_at = 0
        self._epoch_start = 0
        self._batch_start: int | None = None
        self._train_logs: dict[str, Any] = {}
        self._val_logs: dict[str, Any] = {}
        self._reported_at: int | None = None
        self._failed = False

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._model, optimizer = self._model_and_optimizer(trainer)
        if getattr(self._model, "optimizer", None) is not optimizer:
            # Past Keras's own __setattr__, which would put the optimizer into the model's part of every checkpoint.
            object.__setattr__(self._model, "optimizer", optimizer)
        self._model.stop_training = False
        self._has_epochs = trainer.steps_per_epoch is not None
        self._epoch = self._batch_start = self._reported_at = None
        self._train_logs, self._val_logs, self._failed = {}, {}, False
        self.callback.set_params({"epochs": _epochs(trainer), "steps": trainer.steps_per_epoch, "verbose": 0})
        self.callback.set_model(self._model)
        self._call(trainer, "on_train_begin", {})

    def on_phase_begin(self, trainer: Trainer, phase: Phase) -> None:
        if self._model is None:
            return
        if phase is Phase.TRAIN:
            self._begin(trainer)
        else:
            self._end_batch(trainer)
        if phase is Phase.EVAL:
            self._call(trainer, "on_test_begin", {})
        elif phase is Phase.PREDICT:
            self._call(trainer, "on_predict_begin", {})

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        if self._model is None:
            return
        if phase is Phase.EVAL:
            logs = _logs(metrics, without=f"{phase.value}/")
            self._val_logs |= {f"val_{name}": value for name, value in logs.items()}
            self._call(trainer, "on_test_end", logs)
        elif phase is Phase.PREDICT:
            self._call(trainer, "on_predict_end", {})

    def on_report(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        self._train_logs, self._reported_at = _logs(metrics), trainer.step
        self._end_batch(trainer)

    def on_trigger(self, trainer: Trainer) -> None:
        self._end_batch(trainer)
        if self._epoch is not None and self._is_epoch_over(trainer):
            self._end_epoch(trainer)
        if not self._model.stop_training and (trainer.total_steps is None or trainer.step < trainer.total_steps):
            self._begin(trainer)

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self._failed = True

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._model is None:
            return
        self._end_batch(trainer)
        cut_short = self._epoch is not None and self._epoch_begun_at < trainer.step == self._reported_at
        if cut_short and not self._failed:  # Keras, too, ends the epoch in which it was told to stop
            self._end_epoch(trainer)
        self._call(trainer, "on_train_end", dict(self._train_logs))
        self._model = None

    def get_state(self) -> dict[str, Any]:
        return {"windows": self._windows}

    def set_state(self, state: dict[str, Any]) -> None:
        self._windows = state["windows"]

    def _begin(self, trainer: Trainer) -> None:
        if self._epoch is None:
            self._epoch = trainer.epoch if self._has_epochs else self._windows
            self._epoch_begun_at = trainer.step
            self._epoch_start = trainer.step - (trainer.state.epoch_step if self._has_epochs else 0)
            self._call(trainer, "on_epoch_begin", self._epoch, {})
        if self._batch_start is None:
            self._batch_start = trainer.step
            self._call(trainer, "on_train_batch_begin", trainer.step - self._epoch_start, {})

    def _end_batch(self, trainer: Trainer) -> None:
        """Ends the open batch, if a step was made in it: any of several hooks may be the first one after a chunk."""
        if self._batch_start is None or self._batch_start == trainer.step:
            return
        logs = self._train_logs | {"size": trainer.step - self._batch_start}
        self._batch_start = None
        self._call(trainer, "on_train_batch_end", trainer.step - self._epoch_start - 1, logs)

    def _is_epoch_over(self, trainer: Trainer) -> bool:
        if self._has_epochs:
            return trainer.epoch > self._epoch
        return self._epoch_begun_at < trainer.step == self._reported_at

    def _end_epoch(self, trainer: Trainer) -> None:
        epoch, self._epoch = self._epoch, None
        logs = self._train_logs | self._val_logs
        self._val_logs = {}
        self._windows += 0 if self._has_epochs else 1
        self._call(trainer, "on_epoch_end", epoch, logs)

    def _model_and_optimizer(self, trainer: Trainer) -> tuple[Any, Any]:
        if not isinstance(trainer.model, Mapping):
            if self._key is not None:
                raise ValueError(
                    f"KerasCallback: model={self._key!r} is a key, but the Trainer has a single model; drop it"
                )
            return trainer.model, trainer.optimizer
        if self._key is None or self._key not in trainer.models:
            given = "no model=" if self._key is None else f"model={self._key!r}"
            keys, name = ", ".join(map(repr, trainer.models)), type(self.callback).__name__
            raise ValueError(
                f"KerasCallback has {given}, but the Trainer has the models {keys}, and a Keras callback knows one: "
                f"write KerasCallback({name}(...), model=...) with one of them"
            )
        return trainer.models[self._key], trainer.optimizers.get(self._key)

    def _call(self, trainer: Trainer, hook: str, *args: Any) -> None:
        was_stopped = self._model.stop_training  # by another callback, perhaps, which has given its own reason
        getattr(self.callback, hook)(*args)
        if self._model.stop_training and not was_stopped:
            trainer.request_stop(f"{type(self.callback).__name__} set model.stop_training")


def _check(callback: Any) -> None:
    if isinstance(callback, type):
        raise TypeError(
            f"KerasCallback: callback={callback.__name__} is a class; give an instance: {callback.__name__}(...)"
        )
    if not keras_hooks.is_callback(callback):
        if keras_hooks.is_keras_3(callback):
            raise TypeError(
                f"KerasCallback: callback={type(callback).__name__}(...) is of Keras 3 (tf.keras); use that of "
                "tf_keras.callbacks"
            )
        raise TypeError(f"KerasCallback: callback={callback!r} is no callback; give a tf_keras.callbacks.Callback")
    if isinstance(callback, tf_keras.callbacks.TensorBoard) and callback.update_freq != "epoch":
        raise ValueError(
            f"KerasCallback: callback=TensorBoard(update_freq={callback.update_freq!r}) needs a count of batches that "
            "only Model.fit keeps; leave it at 'epoch', or use trainloop.TensorBoard, which writes at each report"
        )
    if isinstance(callback, tf_keras.callbacks.BackupAndRestore):
        raise ValueError(
            "KerasCallback: callback=BackupAndRestore(...) would restore what the Trainer restores; give the Trainer a "
            "workdir= and call trainer.restore_or_initialize()"
        )


def _logs(metrics: Mapping[str, Any], without: str = "") -> dict[str, Any]:
    """Returns metrics under the names that Keras gives them; rates, which it does not have, are left out."""
    named = {name.removeprefix(without).replace("/", "_"): value for name, value in metrics.items()}
    if "learning_rate" in named:
        named["lr"] = named.pop("learning_rate")
    return {name: value for name, value in named.items() if not name.endswith("_per_second")}


def _epochs(trainer: Trainer) -> int | None:
    if trainer.total_steps is None or trainer.steps_per_epoch is None:
        return None
    return math.ceil(trainer.total_steps / trainer.steps_per_epoch)
