"""Rollbacks: a run goes back to its newest good checkpoint, and on without the batch at fault."""

import json
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainloop import (
    At,
    Callback,
    Checkpointing,
    Every,
    MetricsLog,
    NonFiniteLossError,
    Phase,
    StopOnNaN,
    TensorBoard,
    Trainer,
    data,
)

BATCH, EPOCH, TOTAL = 4, 5, 10


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here pulls the plug of the machine, which is all that `fsync` is for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def arrays(*bad: int) -> tuple[np.ndarray, np.ndarray]:
    """An epoch of five batches, in which some, counted from 1, have a row that no logarithm is known of."""
    x = np.random.default_rng(0).uniform(1.0, 3.0, size=[BATCH * EPOCH, 3]).astype("float32")
    y = np.log(x).sum(axis=1, keepdims=True)
    for number in bad:
        x[BATCH * (number - 1)] = -1.0
    return x, y


def addressed(*bad: int) -> data.ArrayData:
    return data.from_arrays(arrays(*bad), batch_size=BATCH, shuffle=False)


class Logarithm(Trainer):
    """A loss that is NaN where an input is negative."""

    def compute_loss(self, batch: Any, phase: Any) -> Any:
        inputs, targets = batch
        outputs = phase.call(self.model, tf.math.log(inputs))
        return tf.reduce_mean(tf.square(outputs - targets)), outputs


class Fails(Callback):
    def __init__(self, step: int):
        self.trigger = Every(steps=step)

    def on_trigger(self, trainer: Trainer) -> None:
        raise ZeroDivisionError


class Moments(Callback):
    """Notes when a fit begins and ends."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def on_fit_begin(self, trainer: Trainer) -> None:
        self.seen.append(("begin", trainer.step))

    def on_fit_end(self, trainer: Trainer) -> None:
        self.seen.append(("end", -1))

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self.seen.append((type(error).__name__, getattr(error, "step", -1)))


def make(workdir: pathlib.Path | None, *callbacks: Callback, rate: float = 0.3, **options: Any) -> Trainer:
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(3)
    layers = tf_keras.layers
    model = tf_keras.Sequential([tf_keras.Input([3]), layers.Dropout(rate), layers.Dense(1)])
    saving = Checkpointing(Every(steps=4))
    options = {"callbacks": [*callbacks, MetricsLog(), TensorBoard(), saving], "workdir": workdir} | options
    return Logarithm(
        model,
        tf_keras.optimizers.Adam(0.05),
        metrics=["mse"],
        seed=1,
        report_every=Every(steps=1),
        default_callbacks=False,
        **options,
    )


def state(trainer: Trainer) -> list[Any]:
    variables = [*trainer.model.variables, *trainer.optimizer.variables, *trainer.metrics.objects[0].variables]
    stop = next(callback for callback in trainer.callbacks if isinstance(callback, StopOnNaN))
    return [v.numpy().tolist() for v in variables] + [trainer.step, trainer.epoch, stop.left_out]


def log(workdir: pathlib.Path) -> list[Any]:
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], {k: v for k, v in r["metrics"].items() if not k.endswith("_per_second")}) for r in records]


def entries(workdir: pathlib.Path) -> list[tuple[int, str]]:
    records = [json.loads(line) for line in (workdir / "phases.jsonl").read_text().splitlines()]
    return [(record["step"], record["why"]) for record in records if record["event"] == "entered"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, pathlib.Path]:
    """A run whose second batch fails in both epochs: steps 2 and 7."""
    workdir = tmp_path_factory.mktemp("unbroken")
    trainer = make(workdir, StopOnNaN(rollbacks=3), Moments())
    trainer.fit(addressed(2), steps=TOTAL)
    return trainer, workdir


WHY = "rollback {} of 3: the loss of step {} is NaN or infinite; back to step {}, and on without the batch of step {}"


def test_the_run_goes_back_and_on_without_the_batch_at_fault(unbroken: tuple[Trainer, pathlib.Path]) -> None:
    trainer, workdir = unbroken
    made = [1, 3, 4, 5, 6, 8, 9, 10]
    assert (trainer.step, trainer.epoch, trainer.state.epoch_step) == (10, 2, 0)
    assert int(trainer.optimizer.iterations) == len(made)
    assert trainer.history.steps["loss"] == made == [step for step, _ in log(workdir)]
    assert trainer.history["loss"] == [m["loss"] for _, m in log(workdir)]
    assert entries(workdir) == [(0, "fit"), (0, WHY.format(1, 2, 0, 2)), (4, WHY.format(2, 7, 4, 7))]
    events = EventAccumulator(str(workdir / "events" / "train"), size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in events.Tensors("loss")] == made
    fails = [("NonFiniteLossError", step) for step in (2, 7)]
    assert trainer._contracts.reports[Phase.TRAIN] is trainer.contract(Phase.TRAIN)  # and not that of a replay
    moments = [("begin", 0), fails[0], ("end", -1), ("begin", 0), fails[1], ("end", -1), ("begin", 4), ("end", -1)]
    assert trainer.callbacks[1].seen == moments


def test_what_is_left_out_is_all_that_differs_from_a_plain_loop(tmp_path: pathlib.Path) -> None:
    trainer = make(tmp_path, StopOnNaN(rollbacks=3), rate=0.0)
    weights, bias = (w.copy() for w in trainer.model.get_weights())
    trainer.fit(addressed(2), steps=7)
    kernel, offset = tf.Variable(weights), tf.Variable(bias)
    optimizer, (x, y) = tf_keras.optimizers.Adam(0.05), arrays()
    for number in (0, 2, 3, 4, 0):
        rows = slice(BATCH * number, BATCH * (number + 1))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(np.log(x[rows]) @ kernel + offset - y[rows]))
        optimizer.apply_gradients(zip(tape.gradient(loss, [kernel, offset]), [kernel, offset], strict=True))
    np.testing.assert_allclose(trainer.model.get_weights()[0], kernel, rtol=1e-5)
    np.testing.assert_allclose(trainer.model.get_weights()[1], offset, rtol=1e-5)


@pytest.mark.parametrize("killed_at", [3, 9])
def test_a_killed_run_leaves_out_the_same_batches(
    tmp_path: pathlib.Path, unbroken: tuple[Trainer, pathlib.Path], killed_at: int
) -> None:
    with pytest.raises(ZeroDivisionError):
        make(tmp_path, StopOnNaN(rollbacks=3), Fails(killed_at)).fit(addressed(2), steps=TOTAL)
    resumed = make(tmp_path, StopOnNaN(rollbacks=3))
    resumed.restore_or_initialize()
    resumed.fit(addressed(2), steps=TOTAL)
    assert state(resumed) == state(unbroken[0])
    assert log(tmp_path) == log(unbroken[1])
    assert [each for each in entries(tmp_path) if each[1] != "fit"] == entries(unbroken[1])[1:]


def test_a_rollback_keeps_what_was_set_between_two_stages(tmp_path: pathlib.Path) -> None:
    trainer = make(tmp_path, StopOnNaN(rollbacks=1))
    trainer.fit(addressed(5), steps=4)
    assert trainer.checkpoints is not None
    assert 4 in trainer.checkpoints.steps(), "of the stage before, with its learning rate"
    trainer.optimizer.learning_rate = 0.003
    trainer.fit(addressed(5), steps=6)
    assert (trainer.step, trainer.history.stop_reason) == (6, None)
    assert float(trainer.optimizer.learning_rate) == pytest.approx(0.003)


def test_what_else_went_wrong_stands_in_the_warning(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    class Breaks(Callback):
        def on_exception(self, trainer: Trainer, error: BaseException) -> None:
            raise OSError("no room")

    with caplog.at_level("WARNING"):
        make(tmp_path, StopOnNaN(rollbacks=1), Breaks()).fit(addressed(2), steps=3)
    assert "rollback 1 of 1: the loss of step 2 is NaN" in caplog.text
    assert "Breaks.on_exception raised OSError('no room')" in caplog.text


def test_the_number_of_rollbacks_is_bounded(tmp_path: pathlib.Path) -> None:
    stop = StopOnNaN(rollbacks=1, skip=3)
    trainer = make(tmp_path, stop)
    with pytest.raises(NonFiniteLossError, match=r"the loss of step 4 is NaN .* from the checkpoint of step 0, with"):
        trainer.fit(addressed(2, 4), steps=TOTAL)
    assert stop.left_out == [1, 2]  # the third would be before the checkpoint
    assert trainer.history.steps["loss"] == [3]


def test_a_signal_during_a_replay_leaves_the_run_at_the_checkpoint(
    tmp_path: pathlib.Path, unbroken: tuple[Trainer, pathlib.Path]
) -> None:
    trainer = make(tmp_path, StopOnNaN(rollbacks=3))
    replay, signals = trainer.replay, iter([signal.SIGINT])

    def replay_with_a_signal(to_step: int, **options: Any) -> None:
        if to_step == 6:  # on its way to the step at fault, the seventh, from the checkpoint of the fourth
            for number in signals:
                replay(5)
                signal.raise_signal(number)
        replay(to_step, **options)

    trainer.replay = replay_with_a_signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt) as left:
            trainer.fit(addressed(2), steps=TOTAL)
    finally:
        signal.signal(signal.SIGINT, before)
    assert left.value.__notes__[0].startswith("stopped at step 4, whose checkpoint is")
    assert (trainer.step, trainer.checkpoints.steps()) == (4, [0, 4])
    trainer.fit(addressed(2), steps=TOTAL)  # in the same process
    assert state(trainer) == state(unbroken[0])
    assert log(tmp_path) == log(unbroken[1])


def test_steps_made_again_from_the_end_of_an_epoch_begin_the_next(tmp_path: pathlib.Path) -> None:
    """A loss that is not finite ends `fit` before the epoch that its batch is the last of is counted."""
    trainer = make(tmp_path, callbacks=[StopOnNaN(), Checkpointing(Every(steps=100))])
    with pytest.raises(NonFiniteLossError):
        trainer.fit(addressed(EPOCH), steps=TOTAL)
    assert (trainer.step, trainer.epoch) == (EPOCH, 0)
    trainer.replay(EPOCH + 2)
    assert (trainer.step, trainer.epoch, trainer.state.epoch_step) == (EPOCH + 2, 1, 2)


def test_a_replay_to_an_earlier_step_goes_on_with_the_batches_from_there(tmp_path: pathlib.Path) -> None:
    class Back(Callback):
        trigger = At(steps=6)

        def on_trigger(self, trainer: Trainer) -> None:
            self.trigger = At(steps=TOTAL + 1)
            trainer.replay(5, from_step=4)

    plain, back = make(tmp_path / "plain", StopOnNaN()), make(tmp_path / "back", StopOnNaN(), Back())
    for trainer in (plain, back):
        trainer.fit(addressed(), steps=TOTAL)
    assert state(back) == state(plain)


def generator() -> tf.data.Dataset:
    def batches() -> Iterator[Any]:
        yield from ()

    specs = tuple(tf.TensorSpec([None, width]) for width in (3, 1))
    return tf.data.Dataset.from_generator(batches, output_signature=specs).repeat()


@pytest.mark.filterwarnings("ignore:fit. train_data= ")
def test_what_cannot_be_had_is_refused_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        ValueError, match=r"^StopOnNaN: rollbacks=1 has to find the same batches again .* tf.data.Dataset"
    ):
        make(tmp_path, StopOnNaN(rollbacks=1)).fit(generator(), steps=3)
    with pytest.raises(ValueError, match=r"^StopOnNaN: rollbacks=2 goes back to checkpoints, but this run saves none"):
        make(None, callbacks=[StopOnNaN(rollbacks=2)]).fit(addressed(), steps=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollbacks": -1}, "rollbacks=-1 must be a whole number that is not negative"),
        ({"skip": 1.5}, "skip=1.5 must be a whole number"),
        ({"rollbacks": 1, "replay": False}, "rollbacks=1 needs the replay"),
    ],
)
def test_options_that_say_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^StopOnNaN: {message}"):
        StopOnNaN(**options)
