"""`TensorBoard`: the event files, read back."""

import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as ShownEvents

from trainloop import Callback, Checkpointing, Every, Phase, TensorBoard
from trainloop.workdir import Workdir


def curves(directory):
    """Returns `{tag: [(step, value), ...]}` of everything in a directory."""
    events = EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()
    return {
        tag: [(event.step, tf.make_ndarray(event.tensor_proto).item()) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_scalars_of_training_and_evaluation_in_one_directory_each(make_trainer, pairs, tmp_path):
    trainer = make_trainer(TensorBoard(), workdir=tmp_path)
    history = trainer.fit(pairs, epochs=2, eval_data={"test": pairs})
    train, evaluated = curves(tmp_path / "events" / "train"), curves(tmp_path / "events" / "eval")
    assert set(train) == {"loss", "learning_rate", "steps_per_second", "examples_per_second"}
    assert set(evaluated) == {"test/loss"}
    for curve, values in ((train["loss"], history["loss"]), (evaluated["test/loss"], history["eval/test/loss"])):
        assert [step for step, _ in curve] == [4, 8]
        np.testing.assert_allclose([value for _, value in curve], values, rtol=1e-6)
    assert {path.name for path in (tmp_path / "events").iterdir()} == {"train", "eval"}


def test_events_can_be_read_while_fit_runs_and_arrays_are_left_out(fake_trainer, tmp_path):
    board, trainer = TensorBoard(), fake_trainer(workdir=Workdir(tmp_path), step=3)
    board.on_fit_begin(trainer)
    board.on_phase_end(trainer, Phase.EVAL, {"eval/loss": 0.5, "eval/recall": np.ones([2])})
    assert curves(tmp_path / "events" / "eval") == {"loss": [(3, 0.5)]}
    board.on_fit_end(trainer)


def test_nothing_is_written_outside_of_fit(make_trainer, pairs, tmp_path):
    trainer = make_trainer(TensorBoard(), workdir=tmp_path)
    trainer.evaluate(pairs)
    assert list(tmp_path.iterdir()) == []
    trainer.fit(pairs, steps=2)
    trainer.evaluate(pairs)
    assert [path.name for path in (tmp_path / "events").iterdir()] == ["train"]


class Fails(Callback):
    def __init__(self, step):
        self.trigger = Every(steps=step)

    def on_trigger(self, trainer):
        raise ZeroDivisionError


def shown(directory):
    """Returns `{tag: [step, ...]}` as the pages of TensorBoard have it."""
    events = ShownEvents(str(directory)).Reload()
    return {tag: [event.step for event in events.Tensors(tag)] for tag in events.Tags()["tensors"]}


def test_points_after_the_checkpoint_are_the_new_runs_only(make_trainer, pairs, tmp_path):
    def run(*callbacks, **options):
        saving = Checkpointing(Every(steps=4))
        trainer = make_trainer(*callbacks, TensorBoard(), saving, workdir=tmp_path, report_every=Every(steps=2))
        trainer.restore_or_initialize()
        trainer.fit(pairs, eval_every=Every(steps=3), **options)

    with pytest.raises(ZeroDivisionError):
        run(Fails(step=7), steps=12, eval_data={"old": pairs})
    assert curves(tmp_path / "events" / "train")["loss"][-1][0] == 6  # later than the checkpoint of step 4
    run(steps=5, eval_data={"new": pairs})
    for read in (shown, lambda directory: {tag: [s for s, _ in curve] for tag, curve in curves(directory).items()}):
        assert read(tmp_path / "events" / "train")["loss"] == [2, 4, 5]
        assert read(tmp_path / "events" / "eval")["old/loss"] == [3]
    run(steps=8, eval_data={"new": pairs})
    assert shown(tmp_path / "events" / "train")["loss"] == [2, 4, 6, 8]
    assert shown(tmp_path / "events" / "eval") == {"old/loss": [3], "new/loss": [6]}


def test_a_page_that_has_shown_later_points_forgets_them(fake_trainer, tmp_path):
    """It does not read again what was cut."""
    trainer = fake_trainer(workdir=Workdir(tmp_path), step=0)

    def report(step, value):
        trainer.step = step
        board.on_report(trainer, {"loss": value})

    board = TensorBoard()
    board.on_fit_begin(trainer)
    for step in (4, 6):
        report(step, 1.0)
    page = ShownEvents(str(tmp_path / "events" / "train")).Reload()
    assert [event.step for event in page.Tensors("loss")] == [4, 6]
    trainer.step = 4
    board = TensorBoard()
    board.on_fit_begin(trainer)
    assert [event.step for event in page.Reload().Tensors("loss")] == [4]
    report(5, 2.0)
    assert [event.step for event in page.Reload().Tensors("loss")] == [4, 5]


def test_a_record_that_a_crash_has_torn_is_dropped(fake_trainer, tmp_path):
    trainer = fake_trainer(workdir=Workdir(tmp_path), step=1)
    board = TensorBoard()
    board.on_fit_begin(trainer)
    board.on_report(trainer, {"loss": 0.5})
    (path,) = (tmp_path / "events" / "train").iterdir()
    whole = path.read_bytes()
    for torn in (b"\x20", whole[:20]):
        path.write_bytes(whole + torn)
        TensorBoard().on_fit_begin(trainer)
        assert path.read_bytes() == whole


def test_a_new_file_is_read_last_whatever_the_clock_says(fake_trainer, tmp_path, monkeypatch):
    trainer = fake_trainer(workdir=Workdir(tmp_path), step=0)
    for now, step in ((2_000_000_000, 1), (1_900_000_000, 2), (1_900_000_000, 3)):
        monkeypatch.setattr(time, "time", lambda now=now: float(now))
        board = TensorBoard()
        board.on_fit_begin(trainer)
        trainer.step = step
        board.on_report(trainer, {"loss": step / 2})
        board.on_fit_end(trainer)
    assert curves(tmp_path / "events" / "train") == {"loss": [(1, 0.5), (2, 1.0), (3, 1.5)]}
