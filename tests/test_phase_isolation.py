"""Whatever is run between training steps, the training goes on with the same bits as if nothing had been."""

import collections
import json
import os
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import trainloop
from trainloop import (
    At,
    Callback,
    Checkpointing,
    Every,
    MetricsLog,
    Phase,
    PhaseError,
    Trainer,
    WeightAveraging,
    data,
    keras_hooks,
    pin,
    unpin,
)

BATCH, STEPS_PER_EPOCH, TOTAL = 4, 5, 10
X = np.random.default_rng(0).normal(size=[BATCH * STEPS_PER_EPOCH, 3, 2]).astype("float32")
Y = X.sum(axis=(1, 2))[:, None]


def augment(batch: Any, key: tf.Tensor) -> Any:
    x, y = batch
    return x + 0.1 * tf.random.stateless_normal(tf.shape(x), key), y


TRAIN = data.from_arrays((X, Y), batch_size=BATCH, augment_fn=augment)
HELD_OUT = data.from_arrays((X[:12] + 0.5, Y[:12]), batch_size=BATCH)
BAD = data.from_arrays((np.where(np.arange(12)[:, None, None] == 8, np.inf, X[:12]), Y[:12]), batch_size=BATCH)


class Checked(Trainer):
    """Raises in the midst of a pass over BAD, whose third batch holds an infinity."""

    def eval_step(self, batch: Any, phase: Phase) -> Any:
        tf.debugging.assert_all_finite(batch[0], "a bad row")
        return super().eval_step(batch, phase)

    def predict_step(self, batch: Any, phase: Phase) -> Any:
        tf.debugging.assert_all_finite(batch[0], "a bad row")
        return super().predict_step(batch, phase)


class FailsOnce(Callback):
    """Raises when a phase is entered or left, where it was told to; the first callback to be asked, and the last."""

    fails: tuple[str, Phase] | None = None

    def on_phase_begin(self, trainer: Trainer, phase: Phase) -> None:
        self._fail("begin", phase)

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Any) -> None:
        self._fail("end", phase)

    def _fail(self, moment: str, phase: Phase) -> None:
        if self.fails == (moment, phase):
            self.fails = None
            raise ZeroDivisionError


def save(trainer: Trainer) -> None:
    next(callback for callback in trainer.callbacks if isinstance(callback, Checkpointing)).on_trigger(trainer)


def look_at_contracts(trainer: Trainer) -> None:
    assert trainer.contract(Phase.TRAIN).verdict == "holds"
    trainer.contract(Phase.MC_PREDICT)
    trainloop.contract(trainer.model, Phase.EVAL, tf.constant(X[:BATCH]))


# A plain `Phase.EVAL.call(model, x)` is not among them: it is no pass, so an RNN keeps the state that it leaves.
PHASES: dict[str, Callable[[Trainer], Any]] = {
    "evaluate": lambda trainer: trainer.evaluate(HELD_OUT),
    "evaluate some": lambda trainer: trainer.evaluate(TRAIN, steps=2),
    "evaluate by samples": lambda trainer: trainer.evaluate(HELD_OUT, phase=Phase.MC_PREDICT, samples=2),
    "predict": lambda trainer: trainer.predict(HELD_OUT),
    "predict by samples": lambda trainer: trainer.predict(HELD_OUT, phase=Phase.MC_PREDICT, samples=2),
    "save": save,
}
RARE: dict[str, Callable[[Trainer], Any]] = {
    "audit": lambda trainer: trainloop.audit(trainer.model, tf.constant(X[:BATCH])),
    "contracts": look_at_contracts,
}


def evaluate_bad_rows(trainer: Trainer) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="a bad row"):
        trainer.evaluate(BAD)


def predict_bad_rows(trainer: Trainer) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="a bad row"):
        trainer.predict(BAD, phase=Phase.MC_PREDICT, samples=2)


def contradict(trainer: Trainer) -> None:
    pin(trainer.model, Phase.EVAL)
    try:
        with pytest.raises(PhaseError, match="nothing at random"):
            trainer.predict(HELD_OUT, phase=Phase.MC_PREDICT, samples=2)
    finally:
        unpin(trainer.model)


def fail_in_hooks(trainer: Trainer) -> None:
    for callback in (trainer.callbacks[0], trainer.callbacks[2]):
        for moment in ("begin", "end"):
            callback.fails = (moment, Phase.EVAL)
            with pytest.raises(ZeroDivisionError):
                trainer.evaluate(HELD_OUT)


RAISING = (evaluate_bad_rows, predict_bad_rows, contradict, fail_in_hooks)


class Between(Callback):
    """Does what a plan has for a step."""

    trigger = Every(steps=1)

    def __init__(self) -> None:
        self.plan: dict[int, list[Callable[[Trainer], Any]]] = {}

    def on_trigger(self, trainer: Trainer) -> None:
        for call in self.plan.get(trainer.step, ()):
            call(trainer)


class Run:
    """One Trainer, compiled once, that is put back to its first step for each case."""

    def __init__(self, workdir: Any):
        layers, inputs = tf_keras.layers, tf_keras.Input(batch_shape=[BATCH, 3, 2])
        x = layers.Reshape([3, 2])(layers.RandomFlip("horizontal")(layers.Reshape([3, 2, 1])(inputs)))
        x = layers.LSTM(4, stateful=True)(layers.GaussianNoise(0.1)(x))
        x = layers.Dropout(0.3)(layers.BatchNormalization()(x))
        averaging = WeightAveraging(ema=0.9, bn_data=data.from_arrays((X, Y), batch_size=BATCH))
        self.between = Between()
        self.trainer = Checked(
            tf_keras.Model(inputs, layers.Dense(1)(x)),
            tf_keras.optimizers.Adam(0.01),
            loss="mse",
            metrics=["mae", tf_keras.metrics.RootMeanSquaredError()],
            seed=3,
            workdir=workdir,
            report_every=Every(steps=3),
            default_callbacks=False,
            callbacks=[FailsOnce(), averaging, FailsOnce(), self.between, MetricsLog(), Checkpointing(At(steps=1))],
        )
        self.averages = averaging
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*what a layer keeps between batches is in no checkpoint")
            self.trainer.fit(TRAIN, steps=1)
        self._states = [state.numpy() for state in self.states]

    @property
    def states(self) -> list[tf.Variable]:
        return keras_hooks.states_kept_between_batches(self.trainer.model)

    def outcome(self, plan: dict[int, list[Callable[[Trainer], Any]]], **options: Any) -> dict[str, Any]:
        """Returns all that training leaves behind, but for what a plan is there to do."""
        trainer, self.between.plan = self.trainer, plan
        trainer.restore(1)
        for state, value in zip(self.states, self._states, strict=True):
            state.assign(value)
        history = trainer.fit(TRAIN, steps=TOTAL, **options)
        assert trainer.phase is None
        records = [json.loads(line) for line in trainer.workdir.metrics.read_text().splitlines()]
        logged = [(r["step"], r["phase"], r["metrics"]) for r in records]
        variables = {
            "model": trainer.model.variables,
            "optimizer": trainer.optimizer.variables,
            "rnn": self.states,
            "averages": self.averages.tracked["averages"],
            "metrics": [v for metric in trainer.metrics.objects for v in metric.variables],
            "counts": [trainer.state.step, trainer.state.epoch, trainer.state.epoch_start, trainer.state.window],
        }
        return {name: [v.numpy().tobytes() for v in each] for name, each in variables.items()} | {
            "history": {n: history[n] for n in history if not n.startswith("eval/") and not n.endswith("_second")},
            "log": [(s, _without_rates(m)) for s, phase, m in logged if phase == "train"],
            "batch": [leaf.numpy().tobytes() for leaf in next(trainer._stream.iterator)],
        }


def _without_rates(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith("_per_second")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda descriptor: None)  # nothing here pulls the plug of the machine
    tf_keras.utils.set_random_seed(7)
    yield Run(tmp_path_factory.mktemp("isolation"))
    patch.undo()


@pytest.fixture(scope="module")
def undisturbed(run: Run) -> dict[str, Any]:
    return run.outcome({})


def differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [name for name in expected if found[name] != expected[name]]


def test_the_same_run_twice_has_the_same_bits(run: Run, undisturbed: dict[str, Any]) -> None:
    assert differing(run.outcome({}), undisturbed) == []


def mixes() -> list[dict[int, list[str]]]:
    """Two random mixes; the calls that take long come once each."""
    drawn, rare = random.Random(0), list(RARE)
    plans: list[dict[int, list[str]]] = []
    for _ in range(2):
        plan: dict[int, list[str]] = collections.defaultdict(list)
        for step in range(2, TOTAL + 1):
            plan[step] += drawn.choices(list(PHASES), k=drawn.randrange(4))
        if rare:
            plan[drawn.randrange(2, TOTAL)].append(rare.pop())
        plans.append(dict(plan))
    return plans


@pytest.mark.parametrize("plan", mixes(), ids=["one", "another"])
def test_any_mix_of_phases_leaves_the_training_as_it_is(
    run: Run, undisturbed: dict[str, Any], plan: dict[int, list[str]]
) -> None:
    known = PHASES | RARE
    calls = {step: [known[name] for name in names] for step, names in plan.items()}
    assert differing(run.outcome(calls), undisturbed) == []


def test_the_evaluations_of_a_fit_leave_the_training_as_it_is(run: Run, undisturbed: dict[str, Any]) -> None:
    sets = {"a": HELD_OUT, "b": TRAIN}
    found = run.outcome({7: [save]}, eval_data=sets, eval_every=Every(steps=2) | Every(epochs=1))
    assert differing(found, undisturbed) == []


def test_a_phase_that_raises_leaves_the_training_as_it_is(run: Run, undisturbed: dict[str, Any]) -> None:
    plan = {step: [raises, PHASES["evaluate"]] for step, raises in enumerate(RAISING, start=2)}
    assert differing(run.outcome(plan), undisturbed) == []
