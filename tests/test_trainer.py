"""The outer loop: what is due when, positions in the data, hooks, stops."""

import logging
import signal

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import AtEnd, Callback, Checkpointing, EarlyStopping, Every, StepResult, Trainer, data

X = np.random.default_rng(0).normal(size=[20, 4]).astype("float32")
PAIRS = (X, X.sum(axis=1, keepdims=True))


def make(*callbacks, kind=Trainer, **options):
    net = tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(1)])
    return kind(net, "sgd", loss="mse", default_callbacks=False, callbacks=list(callbacks), **options)


def ten_batches():
    return tf.data.Dataset.from_tensor_slices(PAIRS).batch(2)


class Notes(Callback):
    """Writes down the steps at which its trigger fired."""

    def __init__(self, trigger):
        self.trigger = trigger
        self.steps = []

    def on_trigger(self, trainer):
        self.steps.append(trainer.step)


class Stops(Notes):
    def on_trigger(self, trainer):
        trainer.request_stop("enough")


class Logs(Notes):
    def on_trigger(self, trainer):
        trainer.log({"mine": trainer.epoch})


@pytest.mark.parametrize("known", [True, False])
def test_a_trigger_fires_once_a_step(known):
    batches = ten_batches() if known else ten_batches().filter(lambda x, y: True)
    notes = Notes(Every(steps=5) | Every(epochs=1))
    make(notes).fit(batches, epochs=2)
    assert notes.steps == [5, 10, 15, 20]


def test_a_stop_asked_for_by_a_hook_fires_nothing_twice():
    notes, stops = Notes(Every(epochs=1) | AtEnd()), Stops(Every(steps=20))
    history = make(notes, stops).fit(ten_batches(), epochs=5, eval_data=ten_batches())
    assert notes.steps == history.steps["eval/loss"] == [10, 20]
    assert history.stop_reason == "enough"


def test_what_a_hook_logs_is_reported_at_that_step():
    history = make(Logs(Every(epochs=1))).fit(ten_batches(), epochs=3)
    assert (history["mine"], history.steps["mine"]) == ([1, 2, 3], [10, 20, 30])


def test_a_stop_needs_a_reason():
    with pytest.raises(ValueError, match="request_stop: reason='' says nothing"):
        make().request_stop("")


class SeesRows(Trainer):
    """Writes down the first number of each batch it trains on."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = []

    def compute_loss(self, batch, phase):
        tf.py_function(lambda value: self.seen.append(float(value)), [batch[0][0, 0]], [])
        return super().compute_loss(batch, phase)


def numbered():
    return tf.data.Dataset.range(20).map(lambda i: (tf.cast(tf.fill([1, 4], i), tf.float32), tf.zeros([1, 1])))


def test_a_refused_fit_moves_nothing():
    batches = numbered()
    trainer = make(kind=SeesRows)
    trainer.fit(batches, steps=2)
    with pytest.raises(ValueError, match="counts epochs"):
        trainer.fit(numbered(), steps=4, eval_data=batches, eval_every=Every(epochs=1))
    trainer.fit(batches, steps=4)
    assert trainer.seen == [0, 1, 2, 3]


def test_restart_data_begins_again_after_a_restore(tmp_path):
    make(Checkpointing(AtEnd()), kind=SeesRows, workdir=tmp_path).fit(numbered(), steps=3)
    trainer = make(Checkpointing(AtEnd()), kind=SeesRows, workdir=tmp_path)
    trainer.restore()
    trainer.fit(numbered(), steps=5, restart_data=True)
    assert trainer.seen == [0, 1]


def test_another_batch_size_begins_the_epoch_anew(tmp_path):
    def run(size, steps):
        trainer = make(Checkpointing(AtEnd()), workdir=tmp_path)
        trainer.restore_or_initialize()
        trainer.fit(data.from_arrays(PAIRS, batch_size=size), steps=steps)
        return trainer

    run(4, 3)
    assert run(8, 4).state.epoch_step == 1
    assert run(8, 5).state.epoch_step == 2


def test_a_dataset_taken_in_steps_ends_where_it_ends():
    batches, trainer = ten_batches(), make()
    trainer.fit(batches, steps=7)
    with pytest.raises(ValueError, match="exhausted after 3 batches, but 7 steps are left"):
        trainer.fit(batches, steps=14)
    trainer.fit(batches, steps=10)
    trainer.fit(batches, epochs=2)
    assert (trainer.step, trainer.epoch) == (20, 2)


class Ends(Callback):
    def __init__(self, error=None):
        self.error, self.ended = error, False

    def on_fit_end(self, trainer):
        self.ended = True
        if self.error is not None:
            raise self.error

    def on_exception(self, trainer, error):
        raise LookupError("of the hook")


def test_every_callback_is_told_of_the_end_and_the_first_error_counts():
    ends = [Ends(), Ends(KeyError("in between")), Ends()]

    trainer = make(*ends)
    with pytest.raises(KeyError):
        trainer.fit(ten_batches(), steps=1)
    assert [each.ended for each in ends] == [True] * 3


class FailsInAHook(Callback):
    trigger = Every(steps=1)

    def on_trigger(self, trainer):
        raise ZeroDivisionError


def test_an_error_of_on_exception_does_not_take_the_place_of_the_first():
    with pytest.raises(ZeroDivisionError) as caught:
        make(FailsInAHook(), Ends()).fit(ten_batches(), steps=2)
    assert caught.value.__notes__ == ["Ends.on_exception raised LookupError('of the hook')"]


class SwitchesItsScalar(Trainer):
    def compute_loss(self, batch, phase):
        loss, outputs = super().compute_loss(batch, phase)
        name = "a" if self.model.layers[0].trainable else "b"
        return StepResult(loss, outputs, scalars={name: tf.constant(1.0 if name == "a" else 1000.0)})


class Freezes(Notes):
    def on_trigger(self, trainer):
        trainer.model.layers[0].trainable = not trainer.model.layers[0].trainable


def test_scalars_of_different_steps_are_not_summed():
    net = tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(1), tf_keras.layers.Dense(1)])
    trainer = SwitchesItsScalar(net, "sgd", loss="mse", default_callbacks=False, callbacks=[Freezes(Every(steps=5))])
    history = trainer.fit(ten_batches(), epochs=1)
    assert history["b"] == [1000.0]


def test_a_checkpoint_is_the_best_by_a_value_of_its_own_step(tmp_path):
    trainer = make(Checkpointing(Every(steps=7) | Every(steps=10), monitor="eval/loss", keep=9), workdir=tmp_path)
    trainer.fit(data.from_arrays(PAIRS, batch_size=2), steps=21, eval_data=ten_batches(), eval_every=Every(steps=10))
    scored = {
        step: "eval/loss" in trainer.checkpoints.manifest(step)["metrics"] for step in trainer.checkpoints.steps()
    }
    assert scored == {7: False, 10: True, 14: False, 20: True, 21: False}


def test_a_workdir_that_another_run_has_written_to_is_refused(tmp_path):
    first, second = (make(Checkpointing(AtEnd()), workdir=tmp_path) for _ in range(2))
    first.fit(ten_batches(), steps=3)
    with pytest.raises(RuntimeError, match="holds checkpoints up to step 3 that were not restored"):
        second.fit(ten_batches(), steps=5)
    second.restore()
    first.fit(data.from_arrays(PAIRS, batch_size=2), steps=5)
    with pytest.raises(RuntimeError, match="checkpoint of step 5, which another run has saved since"):
        second.fit(ten_batches(), steps=4)


class NeverCalls(Trainer):
    def compute_loss(self, batch, phase):
        return tf.reduce_mean(batch[0])


def test_a_model_that_no_step_calls_is_an_error():
    lazy = tf_keras.Sequential([tf_keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="model= has no trainable variable after a step was traced"):
        NeverCalls(lazy, "sgd", default_callbacks=False).fit(ten_batches(), steps=1)


class VectorScalar(Trainer):
    def compute_loss(self, batch, phase):
        return StepResult(tf.reduce_mean(self.model(batch[0])), scalars={"v": batch[0]})


def test_a_scalar_that_is_none_names_the_method_that_was_written():
    with pytest.raises(ValueError, match=r"^compute_loss returned v of shape \(None, 4\)"):
        make(kind=VectorScalar).fit(ten_batches(), steps=1)


def test_a_run_that_was_stopped_early_stays_so_without_a_warning(tmp_path):
    def run():
        trainer = make(EarlyStopping(patience=1, min_delta=1e9), Checkpointing(AtEnd()), workdir=tmp_path)
        trainer.restore_or_initialize()
        return trainer.fit(ten_batches(), epochs=5, eval_data=ten_batches()), trainer.step

    assert run()[1] == 20
    history, step = run()
    assert (step, history.stop_reason.split(":")[0]) == (20, "EarlyStopping")


def test_a_total_that_is_reached_is_said(caplog):
    trainer = make()
    trainer.fit(ten_batches(), epochs=1)
    with caplog.at_level(logging.WARNING):
        trainer.fit(ten_batches(), epochs=1)
    assert "fit: nothing to do: the run is at step 10, where epochs=1 is reached" in caplog.text


class Interrupts(Notes):
    def on_trigger(self, trainer):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("saves", [True, False])
def test_whoever_stops_a_run_is_told_whether_it_can_go_on(tmp_path, saves):
    trainer = make(Interrupts(Every(steps=3)), *[Checkpointing()] * saves, workdir=tmp_path)
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.fit(ten_batches(), steps=9)
    [note] = caught.value.__notes__
    if saves:
        assert note.startswith(f"stopped at step 3, whose checkpoint is {tmp_path}/checkpoints/step_00000003; run the")
    else:
        assert note == "stopped at step 3, and no checkpoint was saved there: that takes workdir= and Checkpointing"


class Momentum(tf_keras.optimizers.SGD):
    pass


def test_what_a_checkpoint_changes_of_what_was_given_is_said(tmp_path, caplog):
    make(Checkpointing(), workdir=tmp_path, seed=3).fit(ten_batches(), steps=1)
    same, other = (make(workdir=tmp_path, seed=seed) for seed in (3, 4))
    other.optimizer.learning_rate = 0.5
    other.optimizer.__class__ = Momentum
    with caplog.at_level(logging.WARNING):
        same.restore()
        stands = f"the run stands at step 1, from {tmp_path}/checkpoints/step_00000001"
        assert caplog.messages == [stands]
        caplog.clear()
        other.restore()
    by_whom = "(a callback has changed it in the run, or somebody in the script)"
    assert caplog.messages == [
        "the run's optimizer is SGD, this one is Momentum; it goes on with what that one has kept of the gradients",
        f"the run goes on with learning_rate=0.01, as it was saved, not with 0.5, as it was given {by_whom}",
        "the run goes on with seed=3, as it was saved, not with 4, as it was given",
        stands,
    ]


def test_a_schedule_has_no_learning_rate_of_its_own_to_be_changed(tmp_path, caplog):
    def scheduled():
        rate = tf_keras.optimizers.schedules.CosineDecay(0.1, 10)
        net = tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(1)])
        saving = Checkpointing()
        return Trainer(
            net,
            tf_keras.optimizers.SGD(rate),
            loss="mse",
            default_callbacks=False,
            callbacks=[saving],
            workdir=tmp_path,
            seed=3,
        )

    scheduled().fit(ten_batches(), steps=2)
    with caplog.at_level(logging.WARNING):
        assert scheduled().restore() == 2
    assert "the run goes on with" not in caplog.text
