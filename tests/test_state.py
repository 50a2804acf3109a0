"""The state of a run: it is complete before the first save, and nothing in it can be lost unnoticed."""

import dataclasses
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import At, Callback, Checkpointing, Every, MetricsLog, Trainer, WeightAveraging, data
from trainloop.variables import variables_held_by
from trainloop.verify.comparison import Difference, State, differences, log_differences, log_of, state_of

X = np.random.default_rng(0).normal(size=[20, 4]).astype("float32")
Y = X.sum(axis=1, keepdims=True) ** 2
SAVED, TOTAL = 5, 11  # three batches an epoch, and a report each three steps: 5 is in the midst of both


class Decays(Callback):
    """Sets the learning rate by what it has counted."""

    trigger = Every(steps=2)

    def __init__(self) -> None:
        self.count = 0

    def on_trigger(self, trainer: Trainer) -> None:
        self.count += 1
        trainer.optimizer.learning_rate = 0.01 / self.count

    def get_state(self) -> dict[str, Any]:
        return {"count": self.count}

    def set_state(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Looks(Callback):
    """Keeps the state of the run before its first step, and at the one that is saved."""

    trigger = At(steps=SAVED)

    def __init__(self) -> None:
        self.states: dict[int, State] = {}
        self.values: dict[Any, np.ndarray] = {}

    def on_fit_begin(self, trainer: Trainer) -> None:
        if not self.states:
            self.states[0] = state_of(trainer)
            self.values = {v.ref(): v.numpy() for v in variables_held_by(trainer.state.checkpoint)}

    def on_trigger(self, trainer: Trainer) -> None:
        self.states.setdefault(SAVED, state_of(trainer))

    def differences(self, trainer: Trainer) -> list[Difference]:
        """Returns where a run differs from the one that was saved.

        What is still to be done at the step is noted by the save, which comes after this has looked;
        `tests/test_between_chunks.py` holds it.
        """
        found = differences(self.states[SAVED], state_of(trainer))
        return [difference for difference in found if not difference.name.startswith("host/progress/")]


@dataclasses.dataclass
class Run:
    """A run to its end, that can be put back to its checkpoint."""

    trainer: Trainer
    looks: Looks
    end: State
    log: list[dict[str, Any]]
    kept: pathlib.Path

    def restore(self) -> None:
        shutil.rmtree(self.trainer.workdir)  # another case has added to its log
        shutil.copytree(self.kept, self.trainer.workdir)
        self.trainer.restore(SAVED)
        for callback in self.trainer.callbacks:
            if isinstance(callback, Checkpointing):
                callback.trigger = At(steps=TOTAL + 1)  # the checkpoint stays as it is

    def finish(self) -> tuple[State, list[dict[str, Any]]]:
        fit(self.trainer)
        return state_of(self.trainer), log_of(self.trainer.workdir)

    def forget(self, variables: list[tf.Variable]) -> None:
        for variable in variables:
            variable.assign(self.looks.values[variable.ref()])


def fit(trainer: Trainer) -> None:
    trainer.fit(data.from_arrays((X, Y), batch_size=8), steps=TOTAL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    tf_keras.utils.set_random_seed(1)
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Dense(8, "relu"),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Dropout(0.3),
            tf_keras.layers.Dense(1),
        ]
    )
    looks = Looks()
    trainer = Trainer(
        model,
        # The scale grows at each third step, so that it is not what it was at the start.
        tf_keras.mixed_precision.LossScaleOptimizer(
            tf_keras.optimizers.Adam(0.01), initial_scale=8, dynamic_growth_steps=3
        ),
        loss="mse",
        metrics=["mae"],
        seed=3,
        workdir=tmp_path_factory.mktemp("run"),
        report_every=Every(steps=3),
        default_callbacks=False,
        callbacks=[WeightAveraging(ema=0.9), Decays(), MetricsLog(), Checkpointing(At(steps=SAVED)), looks],
    )
    fit(trainer)
    kept = tmp_path_factory.mktemp("kept") / "run"
    shutil.copytree(trainer.workdir, kept)
    return Run(trainer, looks, state_of(trainer), log_of(trainer.workdir), kept)


def test_all_of_the_state_is_there_before_the_first_step(run: Run) -> None:
    """A variable that is made later is in no earlier checkpoint, and TensorFlow's asynchronous saving tears it."""
    begin = {name: value.shape for name, value in run.looks.states[0].items() if not name.startswith("host/")}
    end = {name: value.shape for name, value in run.end.items() if not name.startswith("host/")}
    assert begin == end
    weights = [name.removeprefix("model/") for name in end if re.match("model/.*(kernel|bias|gamma|beta)", name)]
    assert len(weights) == 6
    assert {f"optimizer/{slot}/{name}" for slot in "mv" for name in weights} <= set(end)


def test_the_counters_are_on_the_host_whatever_device_is_chosen_around_the_trainer() -> None:
    model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(4,))])
    with tf.device("CPU:1"):
        state = Trainer(model, "sgd", loss="mse", default_callbacks=False).state
    assert {tf.DeviceSpec.from_string(each.device).device_index for each in (state.step, state.window)} == {0}


def test_a_run_that_is_put_back_ends_as_before(run: Run) -> None:
    run.restore()
    assert run.looks.differences(run.trainer) == []
    state, log = run.finish()
    assert differences(run.end, state) == []
    assert log_differences(run.log, log) == []


def norm(run: Run) -> tf_keras.layers.Layer:
    return run.trainer.model.layers[1]


def slots(run: Run) -> list[tf.Variable]:
    return [v for v in run.trainer.optimizer.inner_optimizer.variables if v.shape.rank]


def scale(run: Run) -> list[tf.Variable]:
    inner = {v.ref() for v in run.trainer.optimizer.inner_optimizer.variables}
    return [v for v in variables_held_by(run.trainer.optimizer) if v.ref() not in inner and v.dtype.is_floating]


def averages(run: Run) -> list[tf.Variable]:
    return next(c for c in run.trainer.callbacks if isinstance(c, WeightAveraging)).tracked["averages"]


def decays(run: Run) -> Decays:
    return next(c for c in run.trainer.callbacks if isinstance(c, Decays))


# Each item of the state: how it is lost, and the names of what is then lost.
LOSSES: dict[str, tuple[Callable[[Run], Any], str]] = {
    "step": (lambda run: run.forget([run.trainer.state.step]), "step"),
    "epoch": (lambda run: run.forget([run.trainer.state.epoch]), "epoch"),
    "position in the epoch": (lambda run: run.forget([run.trainer.state.epoch_start]), "epoch_start"),
    "weights": (lambda run: run.forget(run.trainer.model.trainable_variables), "model/.*(kernel|bias|gamma|beta)"),
    "statistics": (lambda run: run.forget(norm(run).non_trainable_variables), "model/.*/moving_.*"),
    "slots": (lambda run: run.forget(slots(run)), "optimizer/[mv]/.*"),
    "updates made": (lambda run: run.forget([run.trainer.optimizer.iterations]), "optimizer/iteration"),
    "loss scale": (
        lambda run: run.forget([run.trainer.optimizer._loss_scale._current_loss_scale]),
        "optimizer/.*scale",
    ),
    "running metrics": (lambda run: run.forget(run.trainer.metrics.objects[0].variables), "metrics/.*"),
    "report window": (lambda run: run.forget([run.trainer.state.window]), "window"),
    "averaged weights": (lambda run: run.forget(averages(run)), "averages/averages/.*"),
    "callbacks": (lambda run: decays(run).set_state({"count": 0}), "host/callbacks/Decays/count"),
    "run seed": (lambda run: setattr(run.trainer, "seed", 4), "host/seed"),
}


@pytest.mark.parametrize(("lose", "lost"), LOSSES.values(), ids=list(LOSSES))
def test_nothing_is_lost_unnoticed(run: Run, lose: Callable[[Run], Any], lost: str) -> None:
    """Neither when it is restored, nor, where nobody looks then, by the end of the run or of its log."""
    run.restore()
    lose(run)
    found = [difference.name for difference in run.looks.differences(run.trainer)]
    assert found
    assert [name for name in found if not re.fullmatch(lost, name)] == []
    if (
        lost == "step"
    ):  # a run that is at its start again makes no second ending: it refuses the checkpoint that is there
        return
    state, log = run.finish()
    assert differences(run.end, state) or log_differences(run.log, log)


def test_who_asks_for_the_counters_while_a_loop_counts_keeps_nothing() -> None:
    trainer = Trainer(tf_keras.Sequential([tf_keras.layers.Dense(1)]))
    with trainer.state.counted_elsewhere() as before:
        trainer.state.step.assign(2)
        assert trainer.step == 2
        trainer.state.step.assign(5)
        assert trainer.step == 5
    assert before.step == 0
    trainer.state.step.assign(6)
    assert trainer.step == 6


def test_a_look_at_the_counters_from_inside_a_step_that_fails_changes_nothing() -> None:
    """What a `py_function`, or another thread, sees of a chunk is not what the run goes on with."""
    seen, fails_at = [], tf.Variable(4, dtype=tf.int64, trainable=False)

    class Looks(Trainer):
        def compute_loss(self, batch: Any, phase: Any) -> tf.Tensor:
            def look(step: tf.Tensor) -> tf.Tensor:
                seen.append(self.state.counts.step)
                return step

            step = look(self.step) if self.run_eagerly else tf.py_function(look, [self.step], tf.int64)
            tf.debugging.assert_none_equal(step, fails_at)
            return tf.reduce_mean(phase.call(self.model, batch[0]) ** 2)

    for run_eagerly in (False, True):
        fails_at.assign(4)
        model = tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(1)])
        trainer = Looks(model, "sgd", default_callbacks=False, run_eagerly=run_eagerly)
        with pytest.raises(tf.errors.InvalidArgumentError):
            trainer.fit(data.from_arrays((X, Y), batch_size=2), steps=8)
        assert trainer.step == int(trainer.state.step)
        assert seen[:4] == [0, 1, 2, 3]
        seen.clear()
