"""`KerasCallback`: each of tf-keras's callbacks at its job, and called as `Model.fit` calls it."""

import csv
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tf_keras import callbacks as keras
from tqdm.keras import TqdmCallback

from trainloop import Callback, Every, Inference, KerasCallback, Trainer, data

HOOKS = [
    f"on_{what}_{when}" for what in ("train", "epoch", "test", "predict", "train_batch") for when in ("begin", "end")
]


class Recorder(keras.Callback):
    """Writes down every call: hook, epoch or batch, and logs."""

    def __init__(self, hooks=HOOKS):
        super().__init__()
        self.calls = []
        for hook in hooks:
            setattr(self, hook, self.noting(hook))

    def noting(self, hook):
        def note(*args, logs=None):
            numbers = [arg for arg in args if isinstance(arg, int)]
            found = next((arg for arg in args if isinstance(arg, dict)), logs) or {}
            self.calls.append((hook, *numbers, dict(found)))

        return note

    def named(self, hook):
        return [call[1:] for call in self.calls if call[0] == hook]


WITHOUT_BATCHES = [hook for hook in HOOKS if "batch" not in hook]


def test_calls_come_as_from_model_fit(make_model, make_trainer, pairs, inputs):
    theirs, ours = Recorder(WITHOUT_BATCHES), Recorder(WITHOUT_BATCHES)
    targets = inputs.sum(axis=1, keepdims=True)
    model = make_model()
    model.compile(tf_keras.optimizers.SGD(0.05), "mse", metrics=["mae"])
    model.fit(inputs, targets, epochs=3, batch_size=8, validation_data=(inputs, targets), callbacks=[theirs], verbose=0)
    make_trainer(ours, metrics=["mae"]).fit(pairs, epochs=3, eval_data=pairs)

    def shape(calls):
        # Model.fit shuffles in another order, so values are compared by name; lr is what callbacks of Keras add.
        return [(*call[:-1], sorted(set(call[-1]) - {"lr"})) for call in calls if call[0] != "on_train_end"]

    assert shape(ours.calls) == shape(theirs.calls)
    assert ours.calls[-1][0] == theirs.calls[-1][0] == "on_train_end"
    assert set(ours.calls[-1][-1]) >= {"loss", "mae"}


def test_logs_have_the_names_and_values_of_the_report(make_trainer, pairs):
    recorder = Recorder()
    history = make_trainer(recorder, metrics=["mae"]).fit(pairs, epochs=2, eval_data=pairs)
    for number, (epoch, logs) in enumerate(recorder.named("on_epoch_end")):
        assert epoch == number
        assert logs == {
            "loss": history["loss"][number],
            "mae": history["mae"][number],
            "lr": pytest.approx(0.05),
            "val_loss": history["eval/loss"][number],
            "val_mae": history["eval/mae"][number],
        }
        assert recorder.named("on_test_end")[number] == (
            {"loss": history["eval/loss"][number], "mae": history["eval/mae"][number]},
        )


def test_named_sets_stand_in_the_name(make_trainer, pairs):
    recorder = Recorder()
    make_trainer(recorder).fit(pairs, epochs=1, eval_data={"test": pairs, "other": pairs})
    ((_, logs),) = recorder.named("on_epoch_end")
    assert set(logs) == {"loss", "lr", "val_test_loss", "val_other_loss"}


def test_an_epoch_without_an_evaluation_has_no_val_logs(make_trainer, pairs):
    recorder = Recorder()
    make_trainer(recorder).fit(pairs, epochs=4, eval_data=pairs, eval_every=Every(epochs=2))
    assert ["val_loss" in logs for _, logs in recorder.named("on_epoch_end")] == [False, True, False, True]


def test_batch_hooks_once_a_chunk_cover_every_step(make_trainer, pairs):
    recorder = Recorder()
    make_trainer(recorder).fit(pairs, epochs=2)
    begins, ends = recorder.named("on_train_batch_begin"), recorder.named("on_train_batch_end")
    assert len(begins) == len(ends)
    for (first, _), (last, logs) in zip(begins, ends, strict=True):
        assert logs["size"] == last - first + 1
    assert sum(logs["size"] for _, logs in ends) == 8
    assert [last for last, _ in ends if last == 3] == [3, 3]  # a chunk ends where an epoch does


def test_batch_hooks_each_step(make_trainer, pairs):
    recorder = Recorder()
    make_trainer(KerasCallback(recorder, every=1)).fit(pairs, epochs=2)
    assert [batch for batch, _ in recorder.named("on_train_batch_begin")] == [0, 1, 2, 3] * 2
    assert [batch for batch, _ in recorder.named("on_train_batch_end")] == [0, 1, 2, 3] * 2


def test_a_batch_ends_before_an_evaluation_or_a_prediction_begins(make_trainer, pairs):
    recorder = Recorder()
    predict = Inference(pairs, trigger=Every(steps=2), to=lambda trainer, result: None)
    make_trainer(predict, recorder).fit(pairs, steps=4, eval_data=pairs)
    open_batches = 0
    for hook, *_ in recorder.calls:
        open_batches += (hook == "on_train_batch_begin") - (hook == "on_train_batch_end")
        if hook in ("on_test_begin", "on_predict_begin", "on_epoch_end"):
            assert open_batches == 0, recorder.calls
    assert len(recorder.named("on_predict_end")) == 2


def test_without_epochs_a_report_window_is_one(make_trainer, inputs):
    endless = tf.data.Dataset.from_tensors((inputs, inputs.sum(axis=1, keepdims=True))).repeat()
    recorder = Recorder()
    trainer = make_trainer(recorder, report_every=Every(steps=3))
    history = trainer.fit(endless, steps=7, eval_data=endless.take(1), eval_every=Every(steps=6))
    ends = recorder.named("on_epoch_end")
    assert [epoch for epoch, _ in ends] == [0, 1, 2]
    assert [logs["loss"] for _, logs in ends] == history["loss"]
    assert ["val_loss" in logs for _, logs in ends] == [False, True, False]
    assert [epoch for epoch, _ in recorder.named("on_epoch_begin")] == [0, 1, 2]


def test_windows_count_on_in_a_resumed_run():
    first, resumed = KerasCallback(Recorder()), KerasCallback(Recorder())
    first._windows = 5
    resumed.set_state(first.get_state())
    assert resumed.get_state() == {"windows": 5}


def test_a_resumed_run_goes_on_within_its_epoch(make_trainer, pairs):
    trainer = make_trainer()
    trainer.fit(pairs, steps=6)
    recorder = Recorder()
    trainer.callbacks.append(KerasCallback(recorder, every=1))
    trainer.fit(pairs, epochs=3)
    assert [epoch for epoch, _ in recorder.named("on_epoch_begin")] == [1, 2]
    assert [batch for batch, _ in recorder.named("on_train_batch_begin")] == [2, 3, 0, 1, 2, 3]
    assert [batch for batch, _ in recorder.named("on_train_batch_end")] == [2, 3, 0, 1, 2, 3]


class Stopping(keras.Callback):
    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self.stop)
        self.begun = []
        self.on_epoch_begin = lambda epoch, logs=None: self.begun.append(epoch)

    def stop(self, *args, **kwargs):
        self.model.stop_training = True


@pytest.mark.parametrize(("hook", "step"), [("on_epoch_end", 4), ("on_test_end", 4), ("on_train_batch_end", 1)])
def test_stop_training_stops_fit(make_trainer, pairs, hook, step):
    stopping, recorder = Stopping(hook), Recorder()
    trainer = make_trainer(recorder, KerasCallback(stopping, every=1))
    history = trainer.fit(pairs, epochs=3, eval_data=pairs)
    assert trainer.step == step
    assert history.stop_reason == "Stopping set model.stop_training"
    assert stopping.begun == [0]
    assert [epoch for epoch, _ in recorder.named("on_epoch_end")] == [0]
    assert len(recorder.named("on_train_end")) == 1


def test_the_reason_is_the_one_of_the_callback_that_stopped(make_trainer, pairs):
    trainer = make_trainer(Stopping("on_epoch_end"), Recorder(), Recorder())
    assert trainer.fit(pairs, epochs=3).stop_reason == "Stopping set model.stop_training"


def test_a_further_fit_is_not_stopped_by_the_last_one(make_trainer, pairs):
    trainer = make_trainer(KerasCallback(Stopping("on_epoch_end")))
    trainer.fit(pairs, epochs=3)
    trainer.fit(pairs, epochs=3)
    assert trainer.step == 8


class Boom(Callback):
    trigger = Every(steps=2)

    def on_trigger(self, trainer):
        raise ZeroDivisionError


def test_an_exception_ends_the_run_but_not_the_epoch(make_trainer, pairs):
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError):
        make_trainer(recorder, Boom(), report_every=Every(steps=1)).fit(pairs, epochs=3)
    assert recorder.named("on_epoch_end") == []
    assert len(recorder.named("on_train_end")) == 1


def test_hears_nothing_outside_of_fit(make_trainer, pairs):
    recorder = Recorder()
    trainer = make_trainer(recorder)
    trainer.evaluate(pairs)
    trainer.fit(pairs, steps=1)
    heard = len(recorder.calls)
    trainer.evaluate(pairs)
    trainer.predict(pairs)
    assert len(recorder.calls) == heard
    assert recorder.named("on_test_begin") == recorder.named("on_predict_begin") == []


def test_early_stopping(make_trainer, pairs):
    stop = keras.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    trainer = make_trainer(stop, learning_rate=1.0)  # it diverges
    history = trainer.fit(pairs, epochs=10, eval_data=pairs)
    assert trainer.step == 12
    assert history.stop_reason == "EarlyStopping set model.stop_training"
    assert trainer.evaluate(pairs)["loss"] == pytest.approx(history["eval/loss"][0])


def test_reduce_lr_on_plateau(make_trainer, pairs):
    plateau = keras.ReduceLROnPlateau("val_loss", factor=0.1, patience=1, min_delta=100.0)
    trainer = make_trainer(plateau)
    history = trainer.fit(pairs, epochs=3, eval_data=pairs)
    np.testing.assert_allclose(history["learning_rate"], [0.05, 0.05, 0.005], rtol=1e-5)
    assert float(trainer.optimizer.learning_rate) == pytest.approx(0.0005)


def test_learning_rate_scheduler(make_trainer, pairs):
    trainer = make_trainer(keras.LearningRateScheduler(lambda epoch, rate: 0.1 / (epoch + 1)))
    history = trainer.fit(pairs, epochs=3)
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.05, 0.1 / 3], rtol=1e-5)
    assert float(trainer.optimizer.learning_rate) == pytest.approx(0.1 / 3)


def test_what_a_callback_sets_reaches_the_compiled_step(make_trainer, pairs):
    weights = []
    keep = keras.LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(trainer.model.get_weights()))
    trainer = make_trainer(keras.LearningRateScheduler(lambda epoch: 0.1 * (epoch != 1)), keep)
    trainer.fit(pairs, epochs=3)
    for first, second, third in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(second, third)


@pytest.mark.parametrize("name", ["best.keras", "best.weights.h5", "best"])
def test_model_checkpoint(make_trainer, make_model, pairs, tmp_path, name):
    path = str(tmp_path / name)
    only_weights = not name.endswith(".keras")
    saving = keras.ModelCheckpoint(path, "val_loss", save_best_only=True, save_weights_only=only_weights)
    trainer = make_trainer(saving, learning_rate=1.0)
    history = trainer.fit(pairs, epochs=3, eval_data=pairs)
    best = make_model() if only_weights else tf_keras.models.load_model(path)
    if only_weights:
        best.load_weights(path).expect_partial() if name == "best" else best.load_weights(path)
    assert min(history["eval/loss"]) == history["eval/loss"][0] < history["eval/loss"][-1]
    again = Trainer(best, loss="mse", default_callbacks=False)
    assert again.evaluate(pairs)["loss"] == pytest.approx(history["eval/loss"][0], rel=1e-5)


def test_model_checkpoint_names_files_by_epoch_and_logs(make_trainer, pairs, tmp_path):
    saving = keras.ModelCheckpoint(str(tmp_path / "{epoch:02d}-{val_loss:.3f}.weights.h5"), save_weights_only=True)
    history = make_trainer(saving).fit(pairs, epochs=2, eval_data=pairs)
    expected = {f"{epoch:02d}-{loss:.3f}.weights.h5" for epoch, loss in enumerate(history["eval/loss"], 1)}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_model_checkpoint_counts_the_steps_of_its_save_freq(make_trainer, pairs, tmp_path):
    saving = keras.ModelCheckpoint(str(tmp_path / "{epoch}-{batch}.weights.h5"), save_weights_only=True, save_freq=3)
    make_trainer(KerasCallback(saving, every=1)).fit(pairs, epochs=3)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.weights.h5" for name in ("1-3", "2-2", "3-1", "3-4")}


def test_csv_logger(make_trainer, pairs, tmp_path):
    path = tmp_path / "log.csv"
    history = make_trainer(keras.CSVLogger(str(path))).fit(pairs, epochs=3, eval_data=pairs)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [float(row["loss"]) for row in rows] == history["loss"]
    assert [float(row["val_loss"]) for row in rows] == history["eval/loss"]


def test_tensorboard(make_trainer, pairs, tmp_path):
    history = make_trainer(keras.TensorBoard(str(tmp_path), histogram_freq=1)).fit(pairs, epochs=2, eval_data=pairs)
    for directory, tag, name in (("train", "epoch_loss", "loss"), ("validation", "epoch_loss", "eval/loss")):
        events = EventAccumulator(str(tmp_path / directory), size_guidance={"tensors": 0}).Reload()
        found = {event.step: tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(tag)}
        assert found == {epoch: pytest.approx(value) for epoch, value in enumerate(history[name])}


def test_tqdm_callback(make_trainer, pairs, capsys):
    bar = TqdmCallback(file=sys.stdout, ncols=120, mininterval=0)
    make_trainer(bar).fit(pairs, epochs=3, eval_data=pairs)
    assert bar.epoch_bar.n == bar.epoch_bar.total == 3
    assert bar.batch_bar.n == bar.batch_bar.total == 4
    shown = capsys.readouterr().out
    assert "3/3" in shown
    assert "val_loss=" in shown


def test_terminate_on_nan(make_trainer, inputs):
    bad = data.from_arrays((inputs, np.full([32, 1], np.nan, np.float32)), batch_size=8)
    trainer = make_trainer(keras.TerminateOnNaN(), report_every=Every(steps=2))
    history = trainer.fit(bad, epochs=2)
    assert trainer.step == 2
    assert history.stop_reason == "TerminateOnNaN set model.stop_training"


class Two(Trainer):
    """Trains a generator; the other model only is there."""

    def train_step(self, batch, phase):
        inputs, targets = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(phase.call(self.model["generator"], inputs) - targets))
        self.apply_gradients(self.gradients(tape, loss, "generator"), "generator")
        return {"loss": loss}


@pytest.fixture
def make_two(make_model):
    def make(*callbacks):
        models = {"generator": make_model(), "teacher": make_model()}
        optimizers = {"generator": tf_keras.optimizers.SGD(0.05)}
        return Two(models, optimizers, callbacks=list(callbacks), default_callbacks=False)

    return make


def test_one_of_several_models(make_two, pairs):
    scheduler = keras.LearningRateScheduler(lambda epoch: 0.2)
    trainer = make_two(KerasCallback(scheduler, model="generator"))
    trainer.fit(pairs, epochs=1)
    assert scheduler.model is trainer.model["generator"]
    assert float(trainer.optimizer["generator"].learning_rate) == pytest.approx(0.2)


@pytest.mark.parametrize(("key", "given"), [(None, "has no model="), ("critic", "has model='critic'")])
def test_several_models_and_no_key(make_two, pairs, key, given):
    trainer = make_two(KerasCallback(Recorder(), model=key))
    with pytest.raises(ValueError, match=f"KerasCallback {given}.*'generator', 'teacher'.*Recorder"):
        trainer.fit(pairs, epochs=1)


def test_a_key_and_one_model(make_trainer, pairs):
    with pytest.raises(ValueError, match="KerasCallback: model='generator' is a key, but the Trainer has a single"):
        make_trainer(KerasCallback(Recorder(), model="generator")).fit(pairs, epochs=1)


def test_the_model_has_the_optimizer_that_trains_it(make_model, make_trainer, pairs):
    model = make_model()
    model.compile(tf_keras.optimizers.Adam(0.3), "mse")  # of another life
    scheduler = keras.LearningRateScheduler(lambda epoch: 0.2)
    trainer = make_trainer(scheduler, model=model)
    trainer.fit(pairs, epochs=1)
    assert model.optimizer is trainer.optimizer
    assert float(trainer.optimizer.learning_rate) == pytest.approx(0.2)


def test_the_optimizer_is_not_in_the_models_part_of_a_checkpoint(make_trainer, pairs, tmp_path):
    trainer = make_trainer(keras.CSVLogger(str(tmp_path / "log.csv")))
    trainer.fit(pairs, epochs=1)
    tf.train.Checkpoint(model=trainer.model).write(str(tmp_path / "model"))
    names = [name for name, _ in tf.train.list_variables(str(tmp_path / "model"))]
    assert names
    assert not [name for name in names if "optimizer" in name]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: KerasCallback(keras.History), TypeError, r"callback=History is a class; give an instance: History\("),
        (lambda: KerasCallback(tf.keras.callbacks.EarlyStopping()), TypeError, "EarlyStopping.* is of Keras 3"),
        (lambda: KerasCallback(print), TypeError, "callback=<built-in function print> is no callback"),
        (lambda: KerasCallback(keras.BackupAndRestore("x")), ValueError, "BackupAndRestore.*restore_or_initialize"),
        (lambda: KerasCallback(keras.TensorBoard("x", update_freq=5)), ValueError, r"TensorBoard\(update_freq=5\)"),
        (lambda: KerasCallback(keras.History(), every=0), ValueError, "KerasCallback: every=0"),
        (lambda: KerasCallback(keras.History(), every=2.0), ValueError, "KerasCallback: every=2.0"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
