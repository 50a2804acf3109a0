"""Ctrl-C and SIGTERM: what was under way is left at once, saved, and done by whoever goes on."""

import json
import os
import pathlib
import signal
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import (
    AtEnd,
    Callback,
    Checkpointing,
    EarlyStopping,
    Every,
    MetricsLog,
    Phase,
    Trainer,
    WeightAveraging,
    data,
)

X = np.random.default_rng(0).normal(size=[20, 4]).astype("float32")
PAIRS = data.from_arrays((X, X.sum(axis=1, keepdims=True) ** 2), batch_size=8)  # three steps an epoch
HELD_OUT = data.from_arrays((X + 0.5, X[:, :1]), batch_size=2)  # ten batches, in chunks of 1, 4 and 5
TOTAL = 10


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here pulls the plug of the machine, which is all that `fsync` is for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Predictions(Callback):
    """Keeps, as a part of the run's state, what was predicted when; and counts before it predicts."""

    trigger = Every(steps=4)

    def __init__(self) -> None:
        self.begun, self.seen = 0, []

    def on_trigger(self, trainer: Trainer) -> None:
        self.begun += 1
        trainer.log({"begun": self.begun})
        drawn = trainer.predict(HELD_OUT, phase=Phase.MC_PREDICT, samples=3)
        self.seen.append([trainer.step, float(drawn.mean.sum()), trainer.latest_metrics["loss"]])

    def get_state(self) -> dict[str, Any]:
        return {"begun": self.begun, "seen": self.seen}

    def set_state(self, state: dict[str, Any]) -> None:
        self.begun, self.seen = state["begun"], state["seen"]


class SignalIn:
    """A clock, and so called at the beginning and the end of each chunk, that sends a signal in a phase at a step."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.at, self.calls, self.now = trainer, (), 0, 0.0

    def __call__(self) -> float:
        self.now += 0.001
        if self.at and (self.trainer.phase, self.trainer.step) == self.at[:2]:
            self.calls += 1
            if self.calls == 1:
                os.kill(os.getpid(), self.at[2])
        return self.now


def make(workdir: pathlib.Path) -> Trainer:
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(1)
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [tf_keras.Input([4]), layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.2), layers.Dense(1)]
    )
    callbacks = [
        Predictions(),
        EarlyStopping("eval/a/loss", patience=99),
        WeightAveraging(ema=0.9, bn_data=PAIRS),
        MetricsLog(),
    ]
    trainer = Trainer(
        model,
        tf_keras.optimizers.Adam(0.01),
        loss="mse",
        metrics=["mae"],
        seed=3,
        workdir=workdir,
        report_every=Every(steps=2),
        default_callbacks=False,
        callbacks=[*callbacks, Checkpointing(Every(steps=5) | AtEnd(), monitor="eval/a/mae", mode="min")],
    )
    trainer.clock = SignalIn(trainer)
    return trainer


def fit(trainer: Trainer) -> Trainer:
    trainer.restore_or_initialize()
    trainer.fit(PAIRS, steps=TOTAL, eval_data={"a": HELD_OUT, "b": HELD_OUT})
    return trainer


def outcome(trainer: Trainer) -> dict[str, Any]:
    """Everything that a run ends with, but for its logs."""
    reader = tf.train.load_checkpoint(str(trainer.checkpoints.path(trainer.step) / "state"))
    saved = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    host = next(json.loads(saved[name]) for name in saved if name.startswith("host/"))
    del host["log_size"]
    arrays = {name: value.tolist() for name, value in saved.items() if isinstance(value, np.ndarray)}
    return {"arrays": arrays, "host": host, "scores": manifest_metrics(trainer)}


def manifest_metrics(trainer: Trainer) -> dict[str, float]:
    found = trainer.checkpoints.manifest(trainer.step)["metrics"]
    return {name: value for name, value in found.items() if not name.endswith("_per_second")}


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a log, but for what depends on the machine, and for the beginning of each new process.

    Without UPDATE_BN too: statistics that were measured before an evaluation was left are kept, and not measured again.
    """
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        del record["time"]
        if "metrics" in record:
            record["metrics"] = {k: v for k, v in record["metrics"].items() if not k.endswith("_per_second")}
    return [record for record in records if record.get("why") != "fit" and record["phase"] != "update_bn"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], pathlib.Path]:
    workdir = tmp_path_factory.mktemp("unbroken")
    return outcome(fit(make(workdir))), workdir


def test_a_pass_is_left_at_once_and_made_again_exactly_once(
    tmp_path: pathlib.Path, unbroken: tuple[dict[str, Any], pathlib.Path]
) -> None:
    expected, other = unbroken
    moments = [
        (Phase.UPDATE_BN, 6, signal.SIGINT, KeyboardInterrupt),  # before the evaluation's own chunks
        (Phase.EVAL, 6, signal.SIGTERM, SystemExit),  # within the same evaluation, made again and left again
        (Phase.MC_PREDICT, 8, signal.SIGINT, KeyboardInterrupt),
        (Phase.EVAL, 10, signal.SIGTERM, SystemExit),  # at the end, where no step is left to make
    ]
    trainer = make(tmp_path)
    for *at, leaves in moments:
        trainer.clock.at, trainer.clock.calls = tuple(at), 0
        with pytest.raises(leaves):
            fit(trainer)
        assert trainer.clock.calls == 2  # of all its chunks one was run
        assert (trainer.step, trainer.phase) == (at[1], None)
        assert trainer.checkpoints.steps()[-1] == at[1]
    resumed = fit(make(tmp_path))
    assert outcome(resumed) == expected
    for log in ("metrics.jsonl", "phases.jsonl"):
        assert lines(tmp_path / log) == lines(other / log)
    assert [step for step, *_ in resumed.callbacks[0].seen] == [4, 8]


class Signals(Callback):
    """Sends signals at a step, one after the other."""

    def __init__(self, step: int, *numbers: signal.Signals):
        self.trigger, self.numbers, self.told = Every(steps=step), numbers, []

    def on_trigger(self, trainer: Trainer) -> None:
        for number in self.numbers:
            signal.raise_signal(number)  # which runs the handler before it returns; of two by os.kill the order is open
        self.told.append(trainer.step)


def quick(workdir: pathlib.Path, *callbacks: Callback) -> Trainer:
    model = tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(1)])
    saving = [Checkpointing(Every(steps=5) | AtEnd())]
    return Trainer(model, "sgd", loss="mse", callbacks=[*callbacks, *saving], default_callbacks=False, workdir=workdir)


def test_a_second_signal_leaves_at_once_and_saves_nothing(tmp_path: pathlib.Path) -> None:
    signals = Signals(7, signal.SIGTERM, signal.SIGINT)
    trainer = quick(tmp_path, signals)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(PAIRS, steps=TOTAL)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (signals.told, trainer.checkpoints.steps()) == ([], [5])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_during_a_save_leaves_a_whole_checkpoint(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    trainer = quick(tmp_path)
    save, moments = trainer.checkpoints.save, [moment]

    def save_with_a_signal(*args: Any, **options: Any) -> Any:
        for now in ("before", "after"):
            if now == "after":
                saved = save(*args, **options)
            if now in moments:  # once: the run saves again on its way out
                moments.remove(now)
                os.kill(os.getpid(), signal.SIGTERM)
        return saved

    monkeypatch.setattr(trainer.checkpoints, "save", save_with_a_signal)
    with pytest.raises(SystemExit) as left:
        trainer.fit(PAIRS, steps=TOTAL)
    assert left.value.code == 143
    again = quick(tmp_path)
    assert again.restore_or_initialize() == 5
    again.fit(PAIRS, steps=6)
    assert again.step == 6


def test_a_fit_that_was_left_goes_on_in_the_same_process(tmp_path: pathlib.Path) -> None:
    trainer = quick(tmp_path)
    trainer.clock = SignalIn(trainer)
    trainer.clock.at = (Phase.EVAL, 3, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(PAIRS, steps=3, eval_data=HELD_OUT)
    assert "eval/loss" not in trainer.history
    history = trainer.fit(PAIRS, steps=3, eval_data=HELD_OUT)
    assert (trainer.step, history.steps["eval/loss"]) == (3, [3])
    assert len(trainer.fit(PAIRS, steps=3, eval_data=HELD_OUT)) == 0


class Requests(Callback):
    """Asks at a step for the run to stop; keeps nothing of that, as a time limit does not."""

    def __init__(self, step: int):
        self.trigger = Every(steps=step)

    def on_trigger(self, trainer: Trainer) -> None:
        trainer.request_stop("enough")


class Killed(Exception):
    """Stands for the end of the process."""


class KillAtEnd(Callback):
    trigger = AtEnd()

    def on_trigger(self, trainer: Trainer) -> None:
        raise Killed


def test_what_is_due_at_the_end_is_done_by_whoever_goes_on_after_a_kill_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Killed):
        quick(tmp_path, Requests(5), KillAtEnd()).fit(PAIRS, steps=TOTAL, eval_data=HELD_OUT, eval_every=AtEnd())
    again = quick(tmp_path)
    assert again.restore_or_initialize() == 5  # saved after the request, and before what is due at the end
    history = again.fit(PAIRS, steps=TOTAL, eval_data=HELD_OUT, eval_every=AtEnd())
    assert (again.step, history.stop_reason, history.steps["eval/loss"]) == (5, "enough", [5])
    assert "eval/loss" in again.checkpoints.manifest(5)["metrics"]  # the last checkpoint holds what came at the end


def test_a_run_that_has_stopped_and_is_whole_goes_on_when_it_is_asked_to(tmp_path: pathlib.Path) -> None:
    quick(tmp_path, Requests(5)).fit(PAIRS, steps=TOTAL, eval_data=HELD_OUT, eval_every=AtEnd())
    again = quick(tmp_path)
    again.restore_or_initialize()
    assert again.fit(PAIRS, steps=TOTAL).stop_reason is None
    assert again.step == TOTAL


@pytest.mark.parametrize("save_at", [3, 6])  # in the midst of the run, and at its end
def test_nothing_is_done_twice_where_an_epoch_of_unknown_length_ends(tmp_path: pathlib.Path, save_at: int) -> None:
    """That it has ended is known only when no batch follows, which may be after the save that is due at its step."""
    counted: list[tuple[int, int]] = []

    class Counts(Callback):
        trigger = Every(steps=3) | Every(epochs=1)

        def on_trigger(self, trainer: Trainer) -> None:
            counted.append((trainer.step, trainer.epoch))

    class Leaves(Callback):
        trigger = Every(epochs=1)

        def on_trigger(self, trainer: Trainer) -> None:
            if trainer.step == save_at:
                raise Killed

    batches = tf.data.Dataset.from_tensor_slices((X[:12], X[:12, :1])).batch(4).filter(lambda x, y: True)
    options: dict[str, Any] = {"epochs": 2, "eval_data": HELD_OUT, "eval_every": Every(steps=3) | Every(epochs=1)}

    def run(*callbacks: Callback) -> Trainer:
        model = tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(1)])
        saving = Checkpointing(Every(steps=3) | AtEnd())
        found = Trainer(
            model,
            "sgd",
            loss="mse",
            callbacks=[Counts(), saving, *callbacks, MetricsLog()],
            workdir=tmp_path,
            default_callbacks=False,
        )
        found.restore_or_initialize()
        found.fit(batches, **options)
        return found

    with pytest.raises(Killed):
        run(Leaves())
    trainer = run()
    assert (trainer.step, trainer.epoch) == (6, 2)
    assert [step for step, _ in counted] == [3, 6]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in records if each["phase"] == "eval"] == [3, 6]
    again = Trainer(trainer.model, "sgd", loss="mse", workdir=tmp_path, default_callbacks=False)
    again.restore_or_initialize()
    assert (again.step, again.epoch) == (6, 2)
