"""Checkpoint and resume: the same script run again continues, and ends where an unbroken run ends."""

import contextlib
import functools
import gc
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.thorough import thorough
from trainloop import AtEnd, Callback, Checkpointing, Every, MetricsLog, StopOnNaN, Trainer, data, manifest
from trainloop.store import Store
from trainloop.workdir import Workdir

ROWS, BATCH, STEPS_PER_EPOCH = 20, 8, 3
X = np.random.default_rng(0).normal(size=[ROWS, 4]).astype("float32")
Y = X.sum(axis=1, keepdims=True) ** 2
TOTAL = 17


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here pulls the plug of the machine, which is all that `fsync` is for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Killed(Exception):
    """Stands for the end of the process: no hook of the run saves anything any more."""


class Kill(Callback):
    """Ends a run at a step, before that step's checkpoint is written."""

    def __init__(self, step: int):
        self.trigger = Every(steps=step)

    def on_trigger(self, trainer: Trainer) -> None:
        raise Killed


class Stop(Kill):
    def on_trigger(self, trainer: Trainer) -> None:
        trainer.request_stop("enough")


class CountsReports(Callback):
    """A callback with a state."""

    def __init__(self) -> None:
        self.reports = 0

    def on_report(self, trainer: Trainer, metrics: Any) -> None:
        self.reports += 1

    def get_state(self) -> dict[str, Any]:
        return {"reports": self.reports}

    def set_state(self, state: dict[str, Any]) -> None:
        self.reports = state["reports"]


class Subclassed(tf_keras.Model):
    """A model whose weights exist only once it has been called."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = tf_keras.layers.Dense(8, "relu")
        self.norm = tf_keras.layers.BatchNormalization()
        self.out = tf_keras.layers.Dense(1)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.out(self.norm(self.hidden(inputs)))


def sequential() -> tf_keras.Model:
    return tf_keras.Sequential(
        [
            tf_keras.layers.Dense(8, "relu", input_shape=(4,)),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Dense(1),
        ]
    )


def arrays() -> data.ArrayData:
    return data.from_arrays((X, Y), batch_size=BATCH)


def dataset() -> tf.data.Dataset:
    """Read ahead of the step, as pipelines are."""
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(ROWS).batch(BATCH).prefetch(2)


def endless() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(ROWS).repeat().batch(BATCH).prefetch(2)


def filtered() -> tf.data.Dataset:
    return dataset().filter(lambda x, y: True)


def trainer_for(workdir: pathlib.Path, model: Any, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        model,
        tf_keras.optimizers.Adam(0.01),
        **{
            "loss": "mse",
            "metrics": ["mae", tf_keras.metrics.RootMeanSquaredError()],
            "seed": 3,
            "workdir": workdir,
            "report_every": Every(steps=4),
            "default_callbacks": False,
            "callbacks": [
                CountsReports(),
                *callbacks,
                MetricsLog(),
                StopOnNaN(),
                Checkpointing(Every(steps=5) | AtEnd()),
            ],
        }
        | options,
    )


def script(
    workdir: pathlib.Path,
    *callbacks: Callback,
    model: Callable[[], Any] = sequential,
    source: Callable[[], Any] = arrays,
    **length: int,
) -> Trainer:
    """What a user's program does; each call stands for a new process."""
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(1)
    train_data = source()
    trainer = trainer_for(workdir, model(), *callbacks)
    trainer.restore_or_initialize()
    trainer.fit(train_data, eval_data=data.from_arrays((X, Y), batch_size=7), **(length or {"steps": TOTAL}))
    return trainer


def state(trainer: Trainer) -> dict[str, Any]:
    """Everything that a run ends with."""
    return {
        "counts": (trainer.step, trainer.epoch, trainer.state.epoch_step),
        "weights": [v.numpy().tolist() for v in trainer.model.variables],
        "optimizer": [v.numpy().tolist() for v in trainer.optimizer.variables],
        "metrics": [v.numpy().tolist() for metric in trainer.metrics.objects for v in metric.variables],
        "window": trainer.state.window.numpy().tolist(),
        "reports": next(callback.reports for callback in trainer.callbacks if isinstance(callback, CountsReports)),
    }


def log(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl but for what depends on the machine."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["time"]
        record["metrics"] = {k: v for k, v in record["metrics"].items() if not k.endswith("_per_second")}
    return records


KINDS = {
    "arrays": {},
    "a dataset, in epochs": {"source": dataset, "epochs": 6},
    "a dataset of unknown length, in epochs": {"source": filtered, "epochs": 6},
    "an endless dataset": {"source": endless},
    "an endless dataset, in epochs": {"source": endless, "epochs": 3, "steps_per_epoch": 6},
    "a subclassed model": {"model": Subclassed},
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Returns how a kind of run ends, and its log; each kind is run once."""

    @functools.cache
    def run(kind: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        workdir = tmp_path_factory.mktemp("unbroken")
        return state(script(workdir, **KINDS[kind])), log(workdir)

    return run


@pytest.mark.parametrize(
    ("kind", "killed_at"),
    [
        ("arrays", 2),  # before the first checkpoint
        thorough("arrays", 5),  # where the first one is due, before it is written
        ("arrays", 7),  # in the midst of an epoch
        ("arrays", 16),  # the newest checkpoint falls on the end of an epoch
        thorough("a dataset, in epochs", 7),  # TensorFlow has read all of the epoch ahead of the checkpoint
        ("a dataset, in epochs", 16),
        ("a dataset of unknown length, in epochs", 7),
        thorough("a dataset of unknown length, in epochs", 16),
        ("an endless dataset", 7),
        ("an endless dataset, in epochs", 16),
        thorough("a subclassed model", 2),
        ("a subclassed model", 7),
    ],
)
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    tmp_path: pathlib.Path, unbroken: Callable[[str], Any], kind: str, killed_at: int
) -> None:
    with pytest.raises(Killed):
        script(tmp_path, Kill(killed_at), **KINDS[kind])
    resumed = script(tmp_path, **KINDS[kind])
    expected_state, expected_log = unbroken(kind)
    assert state(resumed) == expected_state
    assert log(tmp_path) == expected_log


def test_what_a_stateful_layer_keeps_between_batches_comes_back(tmp_path: pathlib.Path) -> None:
    def run(workdir: pathlib.Path, *callbacks: Callback) -> list[list[float]]:
        tf_keras.backend.clear_session()
        tf_keras.utils.set_random_seed(1)
        rnn = tf_keras.layers.SimpleRNN(3, stateful=True, batch_input_shape=(4, 4, 1))
        trainer = trainer_for(workdir, tf_keras.Sequential([rnn, tf_keras.layers.Dense(1)]), *callbacks)
        trainer.restore_or_initialize()
        trainer.fit(data.from_arrays((X[:16, :, None], Y[:16]), batch_size=4), steps=9)
        return [each.numpy().tolist() for each in (*trainer.model.variables, *rnn.states)]

    with pytest.raises(Killed):
        run(tmp_path / "killed", Kill(7))
    assert run(tmp_path / "killed") == run(tmp_path / "unbroken")


def test_a_run_may_be_killed_again_and_again(tmp_path: pathlib.Path, unbroken: Callable[[str], Any]) -> None:
    for step in (7, 12, 14):
        with pytest.raises(Killed):
            script(tmp_path, Kill(step))
    assert state(script(tmp_path)) == unbroken("arrays")[0]
    assert log(tmp_path) == unbroken("arrays")[1]


@pytest.mark.parametrize("kind", ["arrays", "a dataset, in epochs"])
def test_a_run_that_was_stopped_goes_on_from_where_it_stopped(
    tmp_path: pathlib.Path, unbroken: Callable[[str], Any], kind: str
) -> None:
    stopped = script(tmp_path, Stop(8), **KINDS[kind])
    assert (stopped.step, stopped.history.stop_reason) == (8, "enough")
    resumed = script(tmp_path, **KINDS[kind])
    assert resumed.history.steps["loss"][0] == 12
    without_reports = {key: value for key, value in state(resumed).items() if key != "reports"}
    assert without_reports == {key: value for key, value in unbroken(kind)[0].items() if key != "reports"}


@pytest.mark.parametrize("length", [{"steps": 10}, {"epochs": 2}], ids=str)
def test_the_same_command_returns_at_once_when_the_total_is_reached(
    tmp_path: pathlib.Path, length: dict[str, int]
) -> None:
    first = script(tmp_path, **length)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = script(tmp_path, **length)
    assert state(second)["counts"] == state(first)["counts"]
    assert state(second)["weights"] == state(first)["weights"]
    assert len(second.history) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("kind", "smaller"), [("arrays", {"steps": 10}), ("a dataset, in epochs", {"epochs": 2})], ids=str
)
def test_a_larger_total_goes_on(
    tmp_path: pathlib.Path, unbroken: Callable[[str], Any], kind: str, smaller: dict[str, int]
) -> None:
    script(tmp_path, **{**KINDS[kind], **smaller})
    longer = state(script(tmp_path, **KINDS[kind]))
    assert longer["counts"] == unbroken(kind)[0]["counts"]
    assert longer["weights"] == unbroken(kind)[0]["weights"]


@pytest.mark.parametrize("source", [arrays, dataset, endless])
def test_two_fits_are_as_good_as_one(tmp_path: pathlib.Path, source: Callable[[], Any]) -> None:
    ends = []
    for number, totals in enumerate([(12,), (5, 12)]):
        tf_keras.utils.set_random_seed(1)
        train_data, lengthen = source(), 4 if source is dataset else 1  # a dataset that ends is counted in epochs
        trainer = trainer_for(tmp_path / str(number), sequential())
        for total in totals:
            length = {"epochs": max(1, total // lengthen)} if source is dataset else {"steps": total}
            trainer.fit(train_data, **length)
        ends.append({key: value for key, value in state(trainer).items() if key != "reports"})
    assert ends[0] == ends[1]


def test_a_killed_run_leaves_no_file_that_an_unbroken_one_has_not(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Killed):
        script(tmp_path / "killed", Kill(8))
    script(tmp_path / "killed")
    script(tmp_path / "unbroken")
    found = [sorted(path.name for path in (tmp_path / name).glob("*/*")) for name in ("killed", "unbroken")]
    assert found[0] == found[1]


class StopsForGood(Callback):
    """Knows from its state that the run is over."""

    def __init__(self) -> None:
        self.over = False

    def on_fit_begin(self, trainer: Trainer) -> None:
        if self.over:
            trainer.request_stop("over already")

    def get_state(self) -> dict[str, Any]:
        return {"over": True}

    def set_state(self, state: dict[str, Any]) -> None:
        self.over = state["over"]


def test_a_run_that_a_callback_knows_to_be_over_makes_no_further_step(tmp_path: pathlib.Path) -> None:
    script(tmp_path, StopsForGood(), steps=5)
    again = script(tmp_path, StopsForGood())
    assert (again.step, again.history.stop_reason) == (5, "over already")
    assert len(again.history) == 0


def test_a_new_callback_starts_fresh_and_one_that_is_gone_is_named(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    script(tmp_path, steps=5)
    stops = StopsForGood()
    assert script(tmp_path, stops, steps=6).step == 6
    assert not stops.over
    caplog.clear()
    script(tmp_path, steps=6)
    assert (
        "StopsForGood is not there now, and was when the checkpoint was saved; its state is dropped" in caplog.messages
    )


def test_the_seed_belongs_to_the_run(tmp_path: pathlib.Path) -> None:
    first = trainer_for(tmp_path, sequential(), seed=None)
    first.fit(arrays(), steps=2)
    second = trainer_for(tmp_path, sequential(), seed=None)
    second.restore_or_initialize()
    assert second.seed == first.seed


def saved_at_each_fifth(workdir: pathlib.Path) -> Trainer:
    trainer = trainer_for(
        workdir,
        sequential(),
        callbacks=[CountsReports(), MetricsLog(), Checkpointing(Every(steps=5), keep=9, monitor="eval/loss")],
    )
    held_out = data.from_arrays((X + 0.5, Y), batch_size=7)
    trainer.restore_or_initialize()
    trainer.fit(arrays(), steps=20, eval_data=held_out, eval_every=Every(steps=5))
    return trainer


def test_the_best_checkpoint_comes_back_and_the_run_goes_on_from_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = saved_at_each_fifth(tmp_path)
    losses = dict(zip(trainer.history.steps["eval/loss"], trainer.history["eval/loss"], strict=True))
    worst = {step: -loss for step, loss in losses.items()}  # training gets better all the time: look for the worst
    for step in losses:
        directory = trainer.checkpoints.path(step)
        record = manifest.read(directory)
        record["metrics"]["eval/loss"] = worst[step]
        (directory / manifest.NAME).unlink()
        manifest.seal(directory, record)
    best = min(worst, key=lambda step: worst[step])
    assert best == 5
    assert trainer.restore("best") == trainer.step == best
    evaluated = trainer.evaluate(data.from_arrays((X + 0.5, Y), batch_size=7))
    assert evaluated["loss"] == losses[best]
    assert trainer.checkpoints.steps() == [5, 10, 15, 20]

    trainer.fit(arrays(), steps=7)
    assert trainer.checkpoints.steps() == [5]
    assert len(list(trainer.checkpoints.directory.glob("superseded_*"))) == 3
    assert {record["step"] for record in log(tmp_path)} == {4, 5, 7}


def test_a_step_that_was_saved_comes_back(tmp_path: pathlib.Path) -> None:
    trainer = saved_at_each_fifth(tmp_path)
    end = state(trainer)
    assert trainer.restore(10) == trainer.step == 10
    trainer.fit(arrays(), steps=20, eval_data=arrays(), eval_every=Every(steps=5))
    assert state(trainer)["weights"] == end["weights"]


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        (7, FileNotFoundError, r"^restore: there is no checkpoint 7; .*checkpoints holds 5, 10"),
        ("newest", ValueError, r"^restore: 'newest' is unknown; it must be 'latest', 'best' or a step. .* holds 5, 10"),
        ("best", ValueError, r"^restore: no checkpoint holds a value of .* give Checkpointing\(monitor="),
    ],
)
def test_a_checkpoint_that_is_not_there_is_told_what_is(
    tmp_path: pathlib.Path, which: Any, error: type[Exception], message: str
) -> None:
    trainer = trainer_for(tmp_path, sequential())
    trainer.fit(arrays(), steps=10)
    with pytest.raises(error, match=message):
        trainer.restore(which)


def test_a_trainer_without_a_workdir_has_nothing_to_restore() -> None:
    trainer = Trainer(sequential(), "sgd", loss="mse")
    assert trainer.restore_or_initialize() == 0
    with pytest.raises(ValueError, match=r"^restore: workdir=None, so there are no checkpoints; give the Trainer a"):
        trainer.restore("latest")


def test_an_empty_workdir_is_a_run_that_begins(tmp_path: pathlib.Path) -> None:
    trainer = trainer_for(tmp_path / "new", sequential())
    assert trainer.restore_or_initialize() == 0
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileNotFoundError, match=r"^restore: there is no checkpoint 'latest'; .* holds no checkpoint"):
        trainer.restore()


def test_restore_inside_fit_is_refused(tmp_path: pathlib.Path) -> None:
    class Restores(Callback):
        trigger = Every(steps=1)

        def on_trigger(self, trainer: Trainer) -> None:
            trainer.restore()

    with pytest.raises(RuntimeError, match=r"^restore was called while fit is running; call it before fit"):
        script(tmp_path, Restores())


def layers(*widths: int, built: bool) -> tf_keras.Model:
    model = tf_keras.Sequential([tf_keras.layers.Dense(width) for width in widths])
    if built:
        model.build([None, 4])
    return model


def test_a_checkpoint_fits_whatever_was_looked_at_before_the_optimizer_was_built(tmp_path: pathlib.Path) -> None:
    """Keras names the slots of an optimizer once less often then."""

    def trainer() -> Trainer:
        return Trainer(layers(8, 1, built=True), optimizer="adam", loss="mse", workdir=tmp_path)

    first = trainer()
    list(tf.train.TrackableView(first.optimizer).descendants())
    first.fit(arrays(), steps=1)
    again = trainer()
    assert again.restore_or_initialize() == 1
    for saved, restored in zip(first.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(saved, restored)


# The widths of the layers, the optimizer and the metrics, where what was saved is 8 and 1, Adam with amsgrad, and one.
OTHERS = {
    "other widths": ((9, 1), {}, r"kernel has the shape \(4, 9\) and was saved with \(4, 8\)"),
    "one more layer": (
        (8, 1, 1),
        {},
        r"Trainer: model/layer_with_weights-2/kernel was not saved \(shape .* and \d+ more",
    ),
    "one layer less": ((8,), {}, r"model/layer_with_weights-1/kernel was saved and is not there"),
    "another optimizer": (
        (8, 1),
        {"optimizer": "sgd"},
        r"Trainer: the run's optimizer is Adam, this one is SGD; optimizer/_variables/2 has the shape",
    ),
    "fewer slots": ((8, 1), {"optimizer": "adam"}, r"optimizer/_variables/10 was saved and is not there"),
    "another metric": ((8, 1), {"metrics": ["mae", "mse"]}, r"metrics/1/total was not saved"),
}


@pytest.mark.parametrize("built", [True, False], ids=["built", "not built"])
@pytest.mark.parametrize(("widths", "changed", "message"), OTHERS.values(), ids=list(OTHERS))
def test_the_checkpoint_of_another_model_is_refused_by_name(
    tmp_path: pathlib.Path, widths: tuple[int, ...], changed: dict[str, Any], message: str, built: bool
) -> None:
    optimizer = tf_keras.optimizers.Adam(amsgrad=True)
    options = {"optimizer": optimizer, "loss": "mse", "metrics": ["mae"], "workdir": tmp_path}
    Trainer(layers(8, 1, built=built), **options).fit(arrays(), steps=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = options | {"optimizer": tf_keras.optimizers.Adam(amsgrad=True)} | changed
    trainer = Trainer(layers(*widths, built=built), **again)
    with pytest.raises(ValueError, match=rf"^restore: .*step_00000001 does not fit this .*{message}"):
        trainer.restore_or_initialize() and trainer.fit(arrays(), steps=2)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_evaluation_does_not_pass_over_what_was_not_saved(tmp_path: pathlib.Path) -> None:
    Trainer(layers(8, 1, built=False), "adam", loss="mse", workdir=tmp_path).fit(arrays(), steps=1)
    trainer = Trainer(layers(8, 1, 1, built=False), loss="mse", workdir=tmp_path)
    trainer.restore_or_initialize()
    with pytest.raises(ValueError, match=r"^restore: .* model/layer_with_weights-2/kernel was not saved"):
        trainer.predict(arrays())


def test_a_checkpoint_is_readable_without_trainloop(tmp_path: pathlib.Path) -> None:
    trainer = script(tmp_path, steps=5)
    other = sequential()
    saved = str(trainer.checkpoints.path(5) / "state")
    tf.train.Checkpoint(model=other).read(saved).expect_partial()
    for mine, theirs in zip(trainer.model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert tf.train.load_variable(saved, "step/.ATTRIBUTES/VARIABLE_VALUE") == 5


def stages(workdir: pathlib.Path, *callbacks: Callback, source: Callable[[], list[Any]]) -> Trainer:
    """Trains a new head on a frozen base, then all of it, more slowly."""
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(1)
    first, second = source()
    base = tf_keras.Sequential(
        [tf_keras.layers.Dense(8, "relu", input_shape=(4,)), tf_keras.layers.BatchNormalization()]
    )
    base.trainable = False
    trainer = trainer_for(workdir, tf_keras.Sequential([base, tf_keras.layers.Dense(1)]), *callbacks)
    trainer.restore_or_initialize()
    before = [v.numpy() for v in base.variables]
    if trainer.step == 0:
        trainer.fit(first, steps=8)
        assert all(np.array_equal(a, b) for a, b in zip(before, base.variables, strict=True)), "the base was frozen"
    trainer.fit(first, steps=8)
    base.trainable = True
    trainer.optimizer.learning_rate = 1e-3
    trainer.fit(second, steps=16)
    return trainer


def same_arrays() -> list[Any]:
    return [arrays()] * 2


def other_arrays() -> list[Any]:
    return [arrays(), data.from_arrays((X[:9], Y[:9]), batch_size=2)]


def same_dataset() -> list[Any]:
    return [endless()] * 2


def other_dataset() -> list[Any]:
    return [endless(), endless()]


# In the first stage; in the second, before it has a checkpoint of its own; in the second, after that.
@pytest.mark.parametrize(
    ("source", "killed_at"),
    [
        thorough(same_arrays, 6),
        (same_arrays, 12),
        (other_arrays, 9),
        thorough(same_dataset, 9),
        (other_dataset, 9),
        thorough(other_dataset, 12),
    ],
)
def test_stages_that_were_killed_end_as_stages_that_were_not(
    tmp_path: pathlib.Path, source: Callable[[], list[Any]], killed_at: int
) -> None:
    unbroken = stages(tmp_path / "unbroken", source=source)
    with pytest.raises(Killed):
        stages(tmp_path / "killed", Kill(killed_at), source=source)
    resumed = stages(tmp_path / "killed", source=source)
    assert state(resumed) == state(unbroken)
    assert float(resumed.optimizer.learning_rate) == np.float32(1e-3)


class Interrupt(Kill):
    """Sends this process a signal, as a terminal or a cluster does."""

    def __init__(self, step: int, number: signal.Signals):
        super().__init__(step)
        self.number = number

    def on_trigger(self, trainer: Trainer) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "left"), [(signal.SIGINT, KeyboardInterrupt()), (signal.SIGTERM, SystemExit(143))], ids=["INT", "TERM"]
)
def test_a_run_that_was_interrupted_is_saved_and_goes_on(
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    unbroken: Callable[[str], Any],
    number: signal.Signals,
    left: BaseException,
) -> None:
    with pytest.raises(type(left)) as caught:
        script(tmp_path, Interrupt(8, number))
    told = caplog.messages if number is signal.SIGTERM else caught.value.__notes__
    assert [each.partition(",")[0] for each in told] == ["stopped at step 8"]
    assert caught.value.args == left.args
    assert (tmp_path / "checkpoints" / "step_00000008").is_dir()
    assert state(script(tmp_path)) == unbroken("arrays")[0]
    assert log(tmp_path) == unbroken("arrays")[1]


def child(workdir: pathlib.Path, *, waits_at: int) -> "subprocess.Popen[str]":
    """Runs `script` in a process of its own, which says when it has made some steps."""
    program = f"""
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("test_resume", {__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

class Waits(module.Kill):
    def on_trigger(self, trainer):
        trainer.checkpoints.wait()
        print("at step", trainer.step, flush=True)
        sys.stdin.readline()

module.script(pathlib.Path({str(workdir)!r}), Waits({waits_at}))
"""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("number", "newest", "said"),
    [thorough(signal.SIGINT, "step_00000008", "KeyboardInterrupt"), (signal.SIGKILL, "step_00000005", "")],
    ids=["INT", "KILL"],
)
def test_a_process_that_got_a_signal_can_be_run_again(
    tmp_path: pathlib.Path, unbroken: Callable[[str], Any], number: signal.Signals, newest: str, said: str
) -> None:
    process = child(tmp_path, waits_at=8)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "at step 8\n"
        process.send_signal(number)
        _, errors = process.communicate("go on\n" if number is not signal.SIGKILL else None, timeout=60)
    finally:
        process.kill()
    assert process.returncode == -number
    assert said in errors
    assert max(path.name for path in (tmp_path / "checkpoints").glob("step_*")) == newest
    assert state(script(tmp_path)) == unbroken("arrays")[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tf.data.Dataset.from_generator(
                lambda: iter(zip(X, Y, strict=True)), output_signature=(tf.TensorSpec([4]), tf.TensorSpec([1]))
            ).batch(BATCH),
            "cannot save its position .*: a resumed run will begin the epoch under way again",
        ),
        (
            lambda: tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(ROWS).batch(BATCH).repeat(),
            r"repeats what was shuffled .* may see the next passes in another order. Put repeat\(\) next to shuffle",
        ),
    ],
    ids=["a generator", "shuffled within repeat"],
)
def test_what_a_resume_cannot_repeat_is_said_at_the_start(
    tmp_path: pathlib.Path, make: Callable[[], Any], message: str
) -> None:
    length = {"epochs": 1} if make().cardinality() == tf.data.UNKNOWN_CARDINALITY else {"steps": 1}
    with pytest.warns(UserWarning, match=f"^fit: train_data= {message}"):
        trainer_for(tmp_path, sequential()).fit(make(), **length)
    Trainer(sequential(), "sgd", loss="mse").fit(make(), **length)  # nothing is resumed without a workdir


@pytest.mark.filterwarnings("ignore:fit. train_data= cannot save its position")
def test_a_generator_begins_its_epoch_again(tmp_path: pathlib.Path) -> None:
    def counted(seen: list[int]) -> tf.data.Dataset:
        def rows() -> Iterator[Any]:
            for number in range(ROWS):
                seen.append(number)
                yield X[number], Y[number]

        return tf.data.Dataset.from_generator(rows, output_signature=(tf.TensorSpec([4]), tf.TensorSpec([1]))).batch(1)

    with pytest.raises(Killed):
        script(tmp_path, Kill(7), source=lambda: counted([]), epochs=1)
    seen: list[int] = []
    resumed = script(tmp_path, source=lambda: counted(seen), epochs=1)
    assert seen == list(range(ROWS))
    assert (resumed.step, resumed.epoch) == (5 + ROWS, 1)


def test_other_data_than_was_saved_is_refused_or_begun_anew(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    tf_keras.utils.set_random_seed(1)
    trainer_for(tmp_path, sequential()).fit(endless(), steps=5)
    trainer = trainer_for(tmp_path, sequential())
    trainer.restore_or_initialize()
    other = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH).repeat()
    caplog.clear()
    with pytest.raises(ValueError, match=r"^fit: train_data= cannot be put where the run of .*restart_data=True"):
        trainer.fit(other, steps=6)
    gc.collect()
    assert not caplog.records, "TensorFlow lists all of the checkpoint that was not asked for"
    trainer.fit(other, steps=6, restart_data=True)
    assert trainer.step == 6


def larger_batches() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(ROWS).batch(2 * BATCH).prefetch(2)


@pytest.mark.parametrize(
    ("saved", "now", "changed"),
    [
        (arrays, dataset, f"{ROWS} rows in batches of {BATCH} then, a tf.data.Dataset now"),
        (dataset, arrays, f"a tf.data.Dataset then, {ROWS} rows in batches of {BATCH} now"),
        (dataset, larger_batches, f"batches 3 then, 2 now; batch_size [{BATCH}] then, [{2 * BATCH}] now"),
        (dataset, dataset, None),
    ],
    ids=["arrays, then a dataset", "a dataset, then arrays", "larger batches", "the same"],
)
def test_that_a_position_in_other_data_is_dropped_is_said(
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    saved: Callable[[], Any],
    now: Callable[[], Any],
    changed: str | None,
) -> None:
    def trainer() -> Trainer:
        tf_keras.utils.set_random_seed(1)
        return trainer_for(tmp_path, layers(1, built=True), metrics=None, run_eagerly=True)

    first = trainer()
    first.callbacks.append(Interrupt(4, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        first.fit(saved(), epochs=2)
    again = trainer()
    assert again.restore_or_initialize() == 4
    caplog.clear()
    again.fit(now(), epochs=2)
    told = [message for message in caplog.messages if "train_data" in message]
    lost = f"train_data= is not what the run was saved with ({changed}): its epoch begins anew"
    assert told == ([] if changed is None else [lost])
    assert again.step == (6 if changed is None else 6 if now is larger_batches else 7)


def test_a_restore_that_is_refused_leaves_the_run_where_it_stands(tmp_path: pathlib.Path) -> None:
    def begun(workdir: pathlib.Path) -> tuple[Trainer, tf.data.Dataset]:
        tf_keras.backend.clear_session()
        tf_keras.utils.set_random_seed(1)
        source, trainer = endless(), trainer_for(workdir, sequential())
        trainer.fit(source, steps=5)
        return trainer, source

    unbroken, source = begun(tmp_path / "unbroken")
    unbroken.fit(source, steps=8)
    trainer, source = begun(tmp_path / "refused")
    other = trainer_for(tmp_path / "other", tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(4,))]))
    other.fit(arrays(), steps=2)
    assert trainer.checkpoints is not None
    assert other.checkpoints is not None
    shutil.copytree(other.checkpoints.path(2), trainer.checkpoints.directory / "step_00000002")
    with pytest.raises(ValueError, match=r"^restore: .* does not fit this Trainer"):
        trainer.restore(2)
    trainer.fit(source, steps=8)
    assert state(trainer) == state(unbroken)


def test_the_lock_is_held_until_the_last_save_is_on_the_disk(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, commit, lock = [], Store.commit, Workdir.lock

    def committed(*args: Any, **options: Any) -> None:
        commit(*args, **options)
        order.append("on the disk")

    @contextlib.contextmanager
    def locked(workdir: Workdir) -> Iterator[None]:
        with lock(workdir):
            yield
            order.append("let go")

    monkeypatch.setattr(Store, "commit", committed)
    monkeypatch.setattr(Workdir, "lock", locked)
    trainer_for(tmp_path, sequential()).fit(arrays(), steps=5)
    assert order == ["on the disk", "let go"]


def test_restart_data_begins_the_data_again() -> None:
    trainer = Trainer(sequential(), "sgd", loss="mse", default_callbacks=False)
    trainer.fit(arrays(), steps=4)
    trainer.fit(arrays(), steps=5, restart_data=True)
    assert (trainer.epoch, trainer.state.epoch_step) == (1, 1)


def test_shorter_epochs_than_the_position_was_counted_in_begin_anew() -> None:
    trainer = Trainer(sequential(), "sgd", loss="mse", default_callbacks=False)
    trainer.fit(data.from_arrays((X, Y), batch_size=2), steps=8)
    trainer.fit(arrays(), steps=10)
    assert (trainer.step, trainer.epoch, trainer.state.epoch_step) == (10, 0, 2)


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize("saved", [True, False])
def test_metrics_of_eager_steps_are_saved_too(tmp_path: pathlib.Path, saved: bool, resumed: bool) -> None:
    """Those given by name are made when the first step runs; a checkpoint in mid-epoch has what they have seen."""

    def make(workdir: pathlib.Path, run_eagerly: bool) -> Trainer:
        tf_keras.utils.set_random_seed(0)
        model = tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(1)])
        metrics = ["mae", tf_keras.metrics.MeanSquaredError("mse")]
        saving = Checkpointing(Every(steps=2) | AtEnd())
        options = {"callbacks": [saving], "default_callbacks": False, "run_eagerly": run_eagerly}
        return Trainer(model, "sgd", loss="mse", metrics=metrics, seed=1, workdir=workdir, **options)

    batches = data.from_arrays((X, Y), batch_size=BATCH)
    unbroken = make(tmp_path / "unbroken", False).fit(batches, epochs=1)
    make(tmp_path / "run", saved).fit(batches, steps=2)
    trainer = make(tmp_path / "run", resumed)
    assert trainer.restore_or_initialize() == 2
    history = trainer.fit(batches, epochs=1)
    for name in ("loss", "mae", "mse"):
        np.testing.assert_allclose(history[name], unbroken[name], rtol=1e-6)


def test_metrics_beside_names_that_no_eager_step_makes_are_saved() -> None:
    """Which metrics training has a state of is known only when an eager step has run."""

    class OwnMetric(Trainer):
        def train_step(self, batch: Any, phase: Any) -> dict[str, Any]:
            loss = tf.reduce_mean((phase.call(self.model, batch[0]) - batch[1]) ** 2)
            own.update_state(loss)
            return {"loss": loss}

    own = tf_keras.metrics.Mean("own")
    model = tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(1)])
    trainer = OwnMetric(model, "sgd", metrics=["mae", own], default_callbacks=False, run_eagerly=True)
    trainer.fit(data.from_arrays((X, Y), batch_size=BATCH), steps=2)
    assert list(trainer.state.checkpoint.metrics) == [own]


def test_metrics_that_an_eager_step_updates_itself_are_saved(tmp_path: pathlib.Path) -> None:
    class OwnMetric(Trainer):
        def train_step(self, batch: Any, phase: Any) -> dict[str, Any]:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((phase.call(self.model, batch[0]) - batch[1]) ** 2)
            self.apply_gradients(self.gradients(tape, loss))
            self.metrics.objects[0].update_state(loss)
            return {"loss": loss}

    def make(workdir: pathlib.Path) -> Trainer:
        tf_keras.utils.set_random_seed(0)
        model = tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(1)])
        options = {"callbacks": [Checkpointing(AtEnd())], "default_callbacks": False, "run_eagerly": True}
        return OwnMetric(model, "sgd", metrics=[tf_keras.metrics.Mean("own")], seed=1, workdir=workdir, **options)

    batches = data.from_arrays((X, Y), batch_size=BATCH)
    unbroken = make(tmp_path / "unbroken").fit(batches, epochs=1)
    make(tmp_path / "run").fit(batches, steps=2)
    trainer = make(tmp_path / "run")
    trainer.restore_or_initialize()
    assert trainer.fit(batches, epochs=1)["own"] == unbroken["own"]
