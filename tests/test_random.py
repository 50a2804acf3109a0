"""The draws of one's own code are keyed and declared, and all draws of a Trainer are the same however it runs."""

import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.keyed_steps import all_differ, compiled, eagerly, step_of
from trainloop import Callback, Every, Phase, StepResult, Trainer, data, random, step_context

layers = tf_keras.layers


# The functions for one's own code

OWN = {
    "uniform": (lambda: random.uniform([3], 2, 9, tf.int32), lambda: tf.random.uniform([3], 2, 9, tf.int32)),
    "normal": (lambda: random.normal([3], 1.0, 2.0), lambda: tf.random.normal([3], 1.0, 2.0)),
    "truncated_normal": (
        lambda: random.truncated_normal([3], 1.0, 2.0),
        lambda: tf.random.truncated_normal([3], 1.0, 2.0),
    ),
    "bernoulli": (lambda: random.bernoulli([64], 0.3), lambda: tf.random.uniform([64]) < 0.3),
    "categorical": (
        lambda: random.categorical(tf.zeros([2, 99]), 3, tf.int32),
        lambda: tf.random.categorical(tf.zeros([2, 99]), 3, tf.int32),
    ),
    "gamma": (lambda: random.gamma([3], [1.0, 2.0], 2.0), lambda: tf.random.gamma([3], [1.0, 2.0], 2.0)),
    "poisson": (lambda: random.poisson([3], [9.0, 5.0]), lambda: tf.random.poisson([3], [9.0, 5.0])),
    "shuffle": (lambda: random.shuffle(tf.range(99)), lambda: tf.random.shuffle(tf.range(99))),
    "key": (random.key, lambda: tf.random.uniform([2], tf.int64.min, tf.int64.max, tf.int64)),
}


def test_every_function_is_tested() -> None:
    assert {*OWN} == {*random.__all__}


@pytest.mark.parametrize("name", OWN)
def test_own_draws_are_keyed_and_declared(name: str) -> None:
    own, stock = OWN[name]
    np.testing.assert_array_equal(compiled(own), compiled(stock))
    np.testing.assert_array_equal(compiled(own), eagerly(own))
    assert all_differ([compiled(own), compiled(own, place=1)])
    step = step_of(own)
    graph = tf.function(step, autograph=False).get_concrete_function(tf.constant(0, tf.int64)).graph
    drawn = [index for index, op in enumerate(graph.get_operations()) if "Random" in op.type or "Stateless" in op.type]
    assert drawn
    assert all(step.trace.is_declared(graph, index) for index in drawn)


@pytest.mark.parametrize("name", OWN)
def test_outside_of_a_step_own_draws_are_those_of_tensorflow(name: str) -> None:
    own, stock = OWN[name]
    tf.random.set_seed(4)
    expected = stock()
    tf.random.set_seed(4)
    np.testing.assert_array_equal(own(), expected)


def test_other_draws_are_not_declared() -> None:
    step = step_of(lambda: [random.normal([2]), tf.random.normal([2])])
    graph = tf.function(step, autograph=False).get_concrete_function(tf.constant(0, tf.int64)).graph
    declared = [
        step.trace.is_declared(graph, index)
        for index, op in enumerate(graph.get_operations())
        if op.type == "StatelessRandomNormalV2"
    ]
    assert declared == [True, False]


def test_one_key_draws_the_same_twice() -> None:
    def draw() -> list[tf.Tensor]:
        key, other = random.key(), random.key()
        return [tf.random.stateless_normal([4], seed) for seed in (key, key, other)]

    one, same, other = compiled(draw)
    np.testing.assert_array_equal(one, same)
    assert all_differ([one, other])


# In a Trainer

X = np.random.default_rng(0).normal(size=[24, 4]).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Stochastic(Trainer):
    """Draws in layers and on its own, in every phase."""

    def compute_loss(self, batch: Any, phase: Phase) -> StepResult:
        x, y = batch
        outputs = phase.call(self.model, x + 0.1 * random.normal(tf.shape(x)))
        drawn = random.uniform([])
        return StepResult(loss=tf.reduce_mean((outputs - y) ** 2), scalars={"drawn": drawn, "noise": drawn * 2})

    def predict_step(self, batch: Any, phase: Phase) -> tf.Tensor:
        return random.uniform([tf.shape(batch[0])[0], 3])


class EverySteps(Callback):
    """Does something every few steps, so that no chunk is longer."""

    def __init__(self, steps: int, act: Callable[[Trainer], Any] = lambda trainer: None):
        self.trigger = Every(steps=steps)
        self.act = act

    def on_trigger(self, trainer: Trainer) -> None:
        self.act(trainer)


def stochastic_model() -> tf_keras.Model:
    tf_keras.utils.set_random_seed(5)
    return tf_keras.Sequential(
        [layers.Input([4]), layers.Dense(16, "relu"), layers.Dropout(0.5), layers.GaussianNoise(0.1), layers.Dense(1)]
    )


def stochastic(*callbacks: Callback, seed: int = 11, **options: Any) -> Stochastic:
    return Stochastic(
        stochastic_model(),
        tf_keras.optimizers.Adam(0.01),
        callbacks=list(callbacks),
        seed=seed,
        **{"default_callbacks": False} | options,
    )


def pairs() -> data.ArrayData:
    return data.from_arrays((X, Y), batch_size=4)


def weights_after(trainer: Trainer, total: int = 10) -> list[np.ndarray]:
    trainer.fit(pairs(), steps=total)
    return [weight.numpy() for weight in trainer.model.weights]


def same_bits(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_training_is_the_same_in_any_chunk_length() -> None:
    expected = weights_after(stochastic())
    for length in (1, 3):
        assert same_bits(weights_after(stochastic(EverySteps(length))), expected)
    assert not same_bits(weights_after(stochastic(seed=12)), expected)


def test_training_is_the_same_eagerly() -> None:
    expected, found = weights_after(stochastic(), 4), weights_after(stochastic(run_eagerly=True), 4)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_evaluating_and_predicting_do_not_move_the_training() -> None:
    def look(trainer: Trainer) -> None:
        trainer.evaluate(pairs())
        trainer.predict(pairs())
        tf.random.uniform([3])

    assert same_bits(weights_after(stochastic(EverySteps(3, look))), weights_after(stochastic()))


class FixedPace:
    steps = 1

    def observe(self, steps: int, seconds: float) -> None:
        del steps, seconds


@pytest.mark.parametrize("length", [1, 4])
def test_a_pass_is_the_same_in_any_chunk_length(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = stochastic()
    expected, outputs = trainer.evaluate(pairs()), trainer.predict(pairs())
    assert all_differ([*outputs])
    weights_after(trainer, 2)  # the place of a batch in a pass has nothing to do with the run's step
    monkeypatch.setattr("trainloop.evaluator.Pace", type("Pace", (FixedPace,), {"steps": length}))
    assert trainer.evaluate(pairs())["drawn"] == pytest.approx(expected["drawn"], rel=1e-12)
    np.testing.assert_array_equal(trainer.predict(pairs()), outputs)
    trainer.run_eagerly = True
    np.testing.assert_array_equal(trainer.predict(pairs()), outputs)


def test_a_resumed_run_draws_as_one_straight_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    expected = weights_after(stochastic())
    options = {"workdir": tmp_path, "default_callbacks": True}
    weights_after(stochastic(**options), 6)
    tf.random.set_seed(1234)
    second = stochastic(seed=99, **options)
    with pytest.warns(UserWarning, match="holds checkpoints that were not restored"):
        assert second.evaluate(pairs())["drawn"] != stochastic().evaluate(pairs())["drawn"]
    assert second.restore_or_initialize() == 6
    assert second.evaluate(pairs())["drawn"] == stochastic().evaluate(pairs())["drawn"], "the seed is restored"
    assert same_bits(weights_after(second), expected)


PROGRAM = """
import os, sys
sys.path.insert(0, {here!r})
import conftest, test_random
print(b"".join(weight.tobytes() for weight in test_random.weights_after(test_random.stochastic())).hex())
"""


def test_another_process_draws_the_same() -> None:
    here = str(pathlib.Path(__file__).parent)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(here=here)], capture_output=True, text=True, check=False, timeout=150
    )
    assert result.returncode == 0, result.stderr
    expected = b"".join(weight.tobytes() for weight in weights_after(stochastic()))
    assert result.stdout.split()[-1] == expected.hex()


class DrawsByReplica(Trainer):
    def compute_loss(self, batch: Any, phase: Phase) -> StepResult:
        x, y = batch
        outputs = phase.call(self.model, x)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        drawn = tf.random.uniform([]) if phase is Phase.TRAIN else random.uniform([])
        drawn = tf.where(tf.equal(replica, [0, 1]), drawn, 0.0)
        count = tf.cast(step_context.required().rows, tf.float32)
        count /= tf.cast(step_context.required().total_rows, tf.float32)
        return StepResult(
            loss=tf.reduce_mean((outputs - y) ** 2), scalars={"first": drawn[0] / count, "second": drawn[1] / count}
        )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_replicas_draw_numbers_of_their_own(two_replicas: tf.distribute.MirroredStrategy, jit_compile: bool) -> None:
    def history() -> dict[str, list[float]]:
        with two_replicas.scope():
            model = stochastic_model()
        trainer = DrawsByReplica(
            model,
            "sgd",
            seed=1,
            default_callbacks=False,
            jit_compile=jit_compile,
            report_every=Every(steps=1),
        )
        found = trainer.fit(pairs(), steps=3)
        return {name: found[name] for name in ("loss", "first", "second")}

    found = history()
    drawn = np.array(found["first"] + found["second"])
    assert ((drawn > 0) & (drawn < 1)).all()
    assert len({*drawn.tolist()}) == 6, "two steps or replicas have drawn the same number"
    assert history() == found
