"""`TensorBoard`: the event files, read back."""

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainloop import Phase, TensorBoard
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
