"""`verify_resume`: says exact where a resume is, and else what differs and why.

The processes are played by this one, so that a run costs no start of TensorFlow; `tests/scripts/test_verify_resume.py`
has real ones.
"""

import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Callback, Every, ResumeReport, Trainer, data, launch, verify_resume
from trainloop.launch import Task
from trainloop.verify import resume
from trainloop.verify.comparison import UNSAVED, Difference, differences, digest, log_differences, state_of
from trainloop.verify.resume_report import Moment

ROOT = pathlib.Path(__file__).resolve().parent.parent

X = np.random.default_rng(0).normal(size=[20, 4]).astype("float32")
Y = X.sum(axis=1, keepdims=True) ** 2


class Killed(Exception):
    """Stands for SIGKILL."""


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, number: int) -> None:
        raise Killed

    def play(function: Callable[..., None], *args: Any) -> bool:
        tf_keras.backend.clear_session()
        try:
            function(*args)
        except Killed:
            return False
        return True

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(resume, "_in_new_process", play)


def build(workdir: str, *callbacks: Callback, **options: Any) -> Task:
    """Steps run in Python, which is faster for eight of them than to trace them in each of three processes."""
    given = {"loss": "mse", "workdir": workdir, "report_every": Every(steps=2), "run_eagerly": True, **options}
    layers = [tf_keras.layers.Dense(4), tf_keras.layers.Dropout(0.5), tf_keras.layers.Dense(1)]
    made = Trainer(tf_keras.Sequential(layers), "adam", callbacks=list(callbacks), **given)
    return Task(made, data.from_arrays((X, Y), batch_size=8), eval_data=None, fit={"epochs": 9})


class Counts(Callback):
    """Forgets what it goes by."""

    trigger = Every(steps=2)
    count = 0

    def on_trigger(self, trainer: Trainer) -> None:
        self.count += 1
        self.act(trainer)

    def act(self, trainer: Trainer) -> None:
        trainer.optimizer.learning_rate = 0.01 / self.count


class CountsEachStep(Counts):
    trigger = Every(steps=1)


class Logs(Counts):
    def act(self, trainer: Trainer) -> None:
        trainer.log({"count": self.count})


class Remembers(Logs):
    def get_state(self) -> dict[str, Any]:
        return {"count": self.count}

    def set_state(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def build_with_a_log(workdir: str, rate: float) -> Task:
    task = build(workdir, Remembers(), run_eagerly=False)
    task.trainer.optimizer.learning_rate = rate
    return task


def unseeded(workdir: str) -> Task:
    task = build(workdir)
    task.trainer.model(X[:1])
    task.trainer.model.layers[0].kernel.assign(np.random.default_rng().normal(size=[4, 4]))
    return task


def generated(workdir: str) -> Task:
    def rows() -> Any:
        yield from zip(X, Y, strict=True)

    signature = (tf.TensorSpec([4]), tf.TensorSpec([1]))
    made = tf.data.Dataset.from_generator(rows, output_signature=signature).batch(8).repeat()
    return Task(build(workdir).trainer, made, fit={"steps": 20})


@pytest.mark.usefixtures("_in_this_process")
def test_a_run_that_is_exact() -> None:
    report = verify_resume(functools.partial(build_with_a_log, rate=0.01), steps=4)
    assert report.exact, str(report)
    assert (report.first, report.cause) == (None, "")
    assert [moment.name for moment in report.moments] == ["step 0", "step 4", "restored", "step 5", "end"]
    assert {"model/dense/kernel", "optimizer/v/dense/bias", "window", "host/seed"} <= set(report.moments[0].state)
    assert report.bytes > 4 * 3 * (4 * 4 + 4 + 4 + 1)
    assert report.log_lines == 8
    assert f"exact: {report.values} values ({report.bytes:,} bytes) and 8 lines of metrics.jsonl" in str(report)


INEXACT = {
    "a callback that forgets": (
        lambda workdir: build(workdir, Counts()),
        "end",
        "optimizer/learning_rate is .* instead of .*",
        "a callback whose get_state",
        "first in the log: metrics.jsonl line 4 (train, step 8): loss is ",
    ),
    "a callback that forgets at each step": (
        lambda workdir: build(workdir, CountsEachStep()),
        "step 5",
        "optimizer/learning_rate is .* instead of .*",
        "a callback or a layer that no checkpoint holds",
        "learning_rate",
    ),
    "a log that forgets": (
        lambda workdir: build(workdir, Logs()),
        "end",
        "host/latest_metrics/count is 2 instead of 4",
        "a callback whose get_state",
        "first in the log: metrics.jsonl line 6 (train, step 6): count is 1 instead of 3",
    ),
    "weights without a seed": (
        unseeded,
        "step 0",
        "model/dense/kernel differs in 16 of 16 values, by at most .*",
        "that no seed decides",
        "step 0: model/dense/kernel",
    ),
    "data without a position": (
        generated,
        "restored",
        "epoch_start is 4 instead of 0",
        "fit: train_data= cannot save its position",
        "NOT EXACT: restored: epoch_start is 4 instead of 0",
    ),
}


@pytest.mark.usefixtures("_in_this_process")
@pytest.mark.filterwarnings("ignore:fit. train_data= cannot save its position")
@pytest.mark.parametrize(("make", "moment", "first", "cause", "logged"), INEXACT.values(), ids=list(INEXACT))
def test_what_differs_is_named(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., Task], moment: str, first: str, cause: str, logged: str
) -> None:
    monkeypatch.setattr(resume, "_why_not_found", lambda build: "")
    report = verify_resume(make, steps=4)
    assert not report.exact
    assert next((each.name for each in report.moments if each.differences), "") == moment, str(report)
    assert re.fullmatch(first, str(report.first)), str(report)
    assert cause in report.cause
    assert f"likely cause: {report.cause}" in str(report)
    assert logged in str(report)


@pytest.mark.usefixtures("_in_this_process")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda workdir: None, TypeError, "build= returned None; expected a trainloop.launch.Task"),
        (
            lambda workdir: build(f"{workdir}_2"),
            ValueError,
            "build= made a Trainer with workdir='.*_2'; hand it the workdir that build is called with, '.*'",
        ),
        (
            lambda workdir: build(workdir, default_callbacks=False),
            ValueError,
            "the Trainer of build= has no Checkpointing, so its runs cannot be resumed; add one",
        ),
        (
            lambda workdir: Task(build(workdir).trainer, build(workdir).train_data, fit={"steps": 7}),
            ValueError,
            r"steps=4 needs a run of 8 steps, and that of build= ends at step 7\. Give steps=3, or a longer run",
        ),
    ],
)
def test_what_cannot_be_verified_is_said(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any], error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(resume, "_why_not_found", lambda build: "")
    with pytest.raises(error, match=f"^verify_resume: {message}"):
        verify_resume(make, steps=4)


def test_a_log_that_differs_alone_is_a_difference() -> None:
    moments = [Moment(name, (), {}) for name in ("step 0", "step 4", "restored", "step 5", "end")]
    report = ResumeReport(4, tuple(moments), 2, (Difference("metrics.jsonl line 2", "is missing"),), (), {})
    assert not report.exact
    assert "likely cause: the states are the same and the logs are not" in str(report)
    unsaved = Moment("restored", (Difference(f"model/scale{UNSAVED}", "is 1.0 instead of 2.0"),), {})
    report = ResumeReport(4, (*moments[:2], unsaved, *moments[3:]), 2, (), (), {})
    assert "this variable of the model is in no checkpoint" in report.cause


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"build": "digits"}, TypeError, "build='digits' must be a function that returns a trainloop.launch.Task"),
        ({"steps": 0}, ValueError, "steps=0 must be a positive whole number"),
        ({"steps": 1.5}, ValueError, r"steps=1\.5 must be a positive whole number"),
        ({"build": lambda workdir: None}, ValueError, "build=<function .* cannot be found by a new process: .*Define"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^verify_resume: {message}"):
        verify_resume(**{"build": build} | options)


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "_in_new_process", lambda *args: False)
    with pytest.raises(RuntimeError, match=r"^verify_resume: the process of the straight run died\. .*__main__"):
        verify_resume(build)


def test_a_recipe_builds_what_a_config_says(tmp_path: pathlib.Path) -> None:
    recipe = launch.Recipe({"task": "trainloop.tasks.digits:mlp", "steps": 3, "seed": 5}, "none", verbose_tf=False)
    assert recipe(workdir=str(tmp_path)).trainer.seed == 5


@pytest.mark.parametrize(
    ("expected", "found", "how"),
    [
        (np.ones(3), np.ones(4), "has the shape (4,) instead of (3,)"),
        (np.ones(2, np.float32), np.ones(2), "has the type float64 instead of float32"),
        (np.array([0.0, 1.0]), np.array([-0.0, 1.0]), "differs in 1 of 2 values, by at most 0"),
        (np.array([1.0, np.nan]), np.array([1.0, 2.0]), "differs in 1 of 2 values, by at most nan"),
        (np.array([1, 2], ml_dtypes.bfloat16), np.array([1, 3], ml_dtypes.bfloat16), "differs in 1 of 2 values, by a"),
        (np.array(5), np.array(6), "is 6 instead of 5"),
        (np.array('"a"'), np.array('"b"'), 'is "b" instead of "a"'),
        (np.array([b"a", b"b"], object), np.array([b"a", b"c"], object), "differs in 1 of 2 values"),
    ],
)
def test_how_an_array_differs(expected: np.ndarray, found: np.ndarray, how: str) -> None:
    [difference] = differences({"x": expected}, {"x": found})
    assert difference.how.startswith(how)
    assert digest({"x": expected}) != digest({"x": found})
    assert differences({"x": expected}, {"x": expected.copy()}) == []
    assert digest({"x": expected}) == digest({"x": expected.copy()})


def test_what_stands_on_one_side_alone_is_named() -> None:
    one, other = {"a": np.ones(1)}, {"b": np.ones(1)}
    assert differences(one, other) == [Difference("a", "is missing"), Difference("b", "is there and should not be")]
    line = {"step": 3, "phase": "eval", "metrics": {}}
    assert [each.how for each in log_differences([line], [])] == ["is missing"]
    assert [each.how for each in log_differences([], [line])] == ["is there and should not be"]


class Hidden(tf_keras.layers.Layer):
    """Keeps a weight where TensorFlow does not look."""

    def build(self, shape: Any) -> None:
        class Box:
            scale = tf.Variable(1.0)

        self.box = Box()
        self._trainable_weights.append(self.box.scale)
        super().build(shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * self.box.scale


def test_a_weight_that_no_checkpoint_holds_is_seen() -> None:
    trainer = Trainer(tf_keras.Sequential([Hidden(), tf_keras.layers.Dense(1)]), "sgd", loss="mse")
    trainer.model(X)
    assert [name for name in state_of(trainer) if "in no checkpoint" in name] == [
        "model/hidden/Variable (in no checkpoint)"
    ]


def test_tables_and_pythons_own_state_are_part_of_it() -> None:
    class Notes(tf.train.experimental.PythonState):
        def serialize(self) -> str:
            return "plain text"

        def deserialize(self, string_value: Any) -> None:
            pass

    model = tf_keras.Sequential([tf_keras.layers.Dense(1)])
    model.build([None, 4])
    model.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, -1)
    model.table.insert(tf.constant([7, 3], tf.int64), [0.7, 0.3])
    model.notes = Notes()
    state = state_of(Trainer(model, "sgd", loss="mse"))
    assert state["model/table/keys"].tolist() == [3, 7]
    np.testing.assert_allclose(state["model/table/values"], [0.3, 0.7])
    assert state["model/notes"] == "plain text"


WAITS = """
import os, threading
from trainloop import verify_resume
from trainloop.verify import resume

def wait(build, part, steps, place):
    print(os.getpid(), place, flush=True)
    threading.Event().wait()

if __name__ == "__main__":
    resume._run_part = wait
    verify_resume(print)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_no_process_outlives_the_one_that_started_it(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(tmp_path / "waits.py")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    child = None
    try:
        assert process.stdout is not None
        child, place = process.stdout.readline().split()
        assert pathlib.Path(place).is_dir()
        process.send_signal(number)
        process.communicate(timeout=60)  # until nobody can write there any more
        child = None
    finally:
        process.kill()
        if child is not None:
            os.kill(int(child), signal.SIGKILL)
    if number is signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert not pathlib.Path(place).exists()
    else:
        assert process.returncode == -signal.SIGKILL
