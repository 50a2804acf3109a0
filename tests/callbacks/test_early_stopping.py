"""`EarlyStopping`: what is counted, when it stops, and that a resumed run counts on."""

import signal

import pytest

from trainloop import Callback, Checkpointing, EarlyStopping, Every, Phase


@pytest.fixture
def feed(fake_trainer):
    """Returns a function that gives a callback one value after the other; it returns the step of the stop, or None."""

    def give(callback, values, start=0):
        trainer = fake_trainer(step=start)
        callback.on_fit_begin(trainer)
        for value in values:
            if trainer.stop_reason:
                return trainer.step
            trainer.step += 1
            callback.on_phase_end(trainer, Phase.EVAL, {callback.monitor.name: value})
        return trainer.step if trainer.stop_reason else None

    return give


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("options", "values", "stop"),
    [
        ({"patience": 1}, [3, 2, 1, 1], 4),
        ({"patience": 2}, [3, 2, 2, 1, 1, 1], 6),
        ({"patience": 2}, [3, 4, 2, 3, 1, 2], None),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.4, 2.3, 2.2], 5),
        ({"patience": 2, "mode": "max"}, [1, 2, 3, 2, 3], 5),
        ({"patience": 2, "mode": "max", "min_delta": 1.0}, [1, 1.5, 2.5, 3.5, 3.0], 5),
        ({"patience": 2}, [3, NAN, NAN], 3),
        ({"patience": 2}, [NAN, INF], 2),
        ({"patience": 2}, [NAN, 3, NAN, 2], None),
    ],
)
def test_stops_after_that_many_values_without_improvement(feed, options, values, stop):
    assert feed(EarlyStopping(**options), values) == stop


def test_ends_fit_and_says_why(make_trainer, pairs):
    trainer = make_trainer(EarlyStopping(patience=2), learning_rate=1.0)  # it diverges from the first step on
    history = trainer.fit(pairs, epochs=10, eval_data=pairs)
    first = history["eval/loss"][0]
    assert trainer.step == 12
    assert history.stop_reason == (
        f"EarlyStopping: the last 2 values of eval/loss did not improve on the best ({first:.6g} at step 4)"
    )


def test_counts_reports_where_a_training_metric_is_monitored(make_trainer, pairs):
    trainer = make_trainer(EarlyStopping("loss", patience=3), learning_rate=1.0, report_every=Every(steps=1))
    history = trainer.fit(pairs, epochs=10, eval_data=pairs)
    assert len(history["loss"]) == trainer.step < 10
    assert history.stop_reason.startswith("EarlyStopping: the last 3 values of loss did not improve")


def test_an_evaluation_outside_of_fit_is_not_counted(fake_trainer):
    callback = EarlyStopping(patience=1)
    trainer = fake_trainer(fitting=False)
    for _ in range(3):
        callback.on_phase_end(trainer, Phase.EVAL, {"eval/loss": 1.0})
    assert trainer.stop_reason is None
    assert callback.get_state()["waited"] == 0


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_resumed_run_stops_where_an_unbroken_one_does(feed, cut):
    values = [3, 2, 2.5, 2.5, 2.5, 1]
    first = EarlyStopping(patience=3)
    assert feed(first, values[:cut]) is None
    resumed = EarlyStopping(patience=3)
    resumed.set_state(first.get_state())
    assert feed(resumed, values[cut:], start=cut) == 5


def test_a_run_that_was_stopped_stays_so_when_it_is_started_again_and_says_how_to_go_on(feed, fake_trainer, caplog):
    first = EarlyStopping(patience=1)
    feed(first, [1, 2])
    again = EarlyStopping(patience=1)
    again.set_state(first.get_state())
    trainer = fake_trainer(step=2)
    again.on_fit_begin(trainer)
    [told] = caplog.messages
    assert told.startswith("EarlyStopping: this run had been stopped already, after 1 values of eval/loss without impr")
    assert told.endswith("To go on all the same, give it a larger patience=, or leave it out")
    assert trainer.stop_reason == "EarlyStopping: the last value of eval/loss did not improve on the best (1 at step 1)"


def test_more_patience_lets_a_stopped_run_go_on(feed):
    first = EarlyStopping(patience=1)
    feed(first, [1, 2])
    patient = EarlyStopping(patience=3)
    patient.set_state(first.get_state())
    assert feed(patient, [2, 2, 2], start=2) == 4


def test_a_further_fit_counts_anew(feed):
    callback = EarlyStopping(patience=2)
    assert feed(callback, [1, 2, 2]) == 3
    assert feed(callback, [5, 4, 6, 6], start=3) == 7


def test_the_count_is_in_the_checkpoint(make_trainer, pairs, tmp_path):
    def make():
        callbacks = EarlyStopping(patience=3), Checkpointing(Every(epochs=1))
        return make_trainer(*callbacks, learning_rate=1.0, workdir=tmp_path)

    make().fit(pairs, epochs=2, eval_data=pairs)
    resumed = make()
    assert resumed.restore_or_initialize() == 8
    resumed.fit(pairs, epochs=10, eval_data=pairs)
    assert resumed.step == 16


class Interrupts(Callback):
    trigger = Every(steps=2)

    def on_trigger(self, trainer):
        signal.raise_signal(signal.SIGINT)


def test_who_leaves_before_the_first_evaluation_is_not_told_that_there_was_none(make_trainer, pairs):
    trainer = make_trainer(Interrupts(), EarlyStopping(patience=1))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(pairs, epochs=1, eval_data=pairs)
    assert (trainer.step, trainer.history.stop_reason) == (2, "SIGINT")


class Steps(Callback):
    trigger = Every(steps=1)
    last = 0

    def on_trigger(self, trainer):
        self.last = trainer.step


def test_a_misspelt_metric_is_named_at_the_first_evaluation(make_trainer, pairs):
    steps = Steps()
    trainer = make_trainer(steps, EarlyStopping("eval/los", patience=2, mode="min"))
    with pytest.raises(ValueError, match=r"EarlyStopping: monitor='eval/los' .*did you mean 'eval/loss'"):
        trainer.fit(pairs, epochs=10, eval_data=pairs)
    assert steps.last == 4


def test_a_set_that_does_not_exist_is_named(make_trainer, pairs):
    trainer = make_trainer(EarlyStopping("eval/loss", patience=2))
    with pytest.raises(ValueError, match=r"monitor='eval/loss' .*'eval/test/loss'"):
        trainer.fit(pairs, epochs=10, eval_data={"test": pairs})


def test_a_misspelt_training_metric_is_named_at_the_first_report(make_trainer, pairs):
    steps = Steps()
    trainer = make_trainer(steps, EarlyStopping("train_loss", patience=2), report_every=Every(steps=2))
    with pytest.raises(ValueError, match=r"EarlyStopping: monitor='train_loss' .*'loss'"):
        trainer.fit(pairs, epochs=10)
    assert steps.last == 2


def test_nothing_to_count_is_said(make_trainer, pairs):
    trainer = make_trainer(EarlyStopping(patience=2))
    with pytest.warns(UserWarning, match="monitor='eval/loss' never had a value, so nothing could stop this fit"):
        trainer.fit(pairs, epochs=2)
    assert trainer.step == 8


class Boom(Callback):
    trigger = Every(steps=1)

    def on_trigger(self, trainer):
        raise ZeroDivisionError


def test_an_exception_is_not_covered_by_that(make_trainer, pairs):
    with pytest.raises(ZeroDivisionError):
        make_trainer(EarlyStopping(patience=2), Boom()).fit(pairs, epochs=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patience": 0}, ValueError, "EarlyStopping: patience=0 must be a positive"),
        ({"patience": 1.5}, ValueError, "EarlyStopping: patience=1.5"),
        ({"patience": 1, "min_delta": -1.0}, ValueError, "EarlyStopping: min_delta=-1.0"),
        ({"patience": 1, "min_delta": "small"}, ValueError, "EarlyStopping: min_delta='small'"),
        ({"patience": 1, "monitor": "eval/accuracy"}, ValueError, "EarlyStopping: monitor='eval/accuracy' is no loss"),
        ({"patience": 1, "mode": "auto"}, ValueError, "EarlyStopping: mode='auto'"),
        ({"patience": 1, "monitor": 1}, TypeError, "EarlyStopping: monitor=1"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        EarlyStopping(**options)
