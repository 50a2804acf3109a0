"""The nodes of a `tf.data.Dataset`: which batches a loop takes inline, and that they are the same either way."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import NonFiniteLossError, Phase, StopOnNaN, Trainer, data
from trainloop.batch_norm import StatisticsLoop
from trainloop.data import nodes
from trainloop.gathering_loop import GatheringLoop
from trainloop.summing_loop import SummingLoop

X = np.random.default_rng(0).normal(size=[22, 3]).astype("float32")
Y = X.sum(axis=1)
ROWS = tf.data.Dataset.from_tensor_slices((X, Y))
TWO = tf.data.Dataset.zip((tf.data.Dataset.from_tensor_slices(X), tf.data.Dataset.from_tensor_slices(Y)))
RAGGED = tf.data.Dataset.from_tensor_slices(tf.ragged.constant([[1], [2, 3]]))
OPTIONS = tf.data.Options()
OPTIONS.deterministic = False

INLINE = {
    "rows": ROWS.batch(4),
    "shuffled, without an end": ROWS.shuffle(9, seed=1).repeat().batch(4, drop_remainder=True).prefetch(2),
    "two": TWO.take(9).concatenate(TWO.skip(20)).batch(4).with_options(OPTIONS),
    "numbers": tf.data.Dataset.range(9).batch(2),
    "one": tf.data.Dataset.from_tensors((X, Y)).repeat(3),
}
WOKEN = {
    "a function": ROWS.batch(4).map(lambda x, y: (x, y)),
    "a function below": ROWS.map(lambda x, y: (x, y)).batch(4).prefetch(2),
    "in parallel": ROWS.batch(4, num_parallel_calls=2),
    "some of the rows": ROWS.filter(lambda x, y: True).batch(4),
    "without an end, and without a row": ROWS.filter(lambda x, y: False).repeat().batch(4),
    "a generator": tf.data.Dataset.from_generator(lambda: range(4), output_signature=tf.TensorSpec([], tf.int32)),
    "said to be more": ROWS.filter(lambda x, y: False).apply(tf.data.experimental.assert_cardinality(9)),
    "all skipped, and said to be endless": ROWS.batch(4).repeat().skip(-1),
    "ragged": RAGGED.batch(2),
    "sparse": tf.data.Dataset.from_tensor_slices(tf.sparse.from_dense(X)).batch(2),
    "arrays": data.from_arrays((X, Y), batch_size=4).once,
}


@pytest.mark.parametrize("kind", INLINE)
def test_rows_that_there_are_are_taken_inline_and_are_as_many_as_is_said(kind: str) -> None:
    source = INLINE[kind]
    assert nodes.can_be_taken_inline(source)
    if (count := int(source.cardinality())) != tf.data.INFINITE_CARDINALITY:
        assert sum(1 for _ in source) == count


@pytest.mark.parametrize("kind", WOKEN)
def test_what_has_to_be_made_or_may_end_early_is_not_taken_inline(kind: str) -> None:
    assert not nodes.can_be_taken_inline(WOKEN[kind])


def inline() -> tf.data.Dataset:
    return ROWS.shuffle(22, seed=3).batch(4)


def woken() -> tf.data.Dataset:
    return inline().map(lambda x, y: (x, y))


def found_in_all_phases(source: Callable[[], tf.data.Dataset], **options: Any) -> list[np.ndarray]:
    """Returns what each phase finds, after all were made to take their batches in one way."""
    tf_keras.utils.set_random_seed(0)
    parts = [tf_keras.Input([3]), tf_keras.layers.Dense(4), tf_keras.layers.BatchNormalization()]
    model = tf_keras.Sequential([*parts, tf_keras.layers.Dropout(0.3), tf_keras.layers.Dense(1)])
    trainer = Trainer(model, "adam", loss="mse", seed=0, default_callbacks=False, **options)
    history = trainer.fit(source(), epochs=3, eval_data=source())
    evaluated = trainer.evaluate(source(), steps=5)
    predicted = trainer.predict(source().take(3))
    sampled = trainer.evaluate(source(), phase=Phase.MC_PREDICT, samples=3)
    samples = trainer.predict(source(), phase=Phase.MC_PREDICT, samples=3, keep_samples=True).samples
    trainer.update_bn(source())
    traced = {(loop.phase, type(loop)): [*loop._loops] for loop in trainer._loops.values() if loop.can_join}
    summing = {(phase, SummingLoop) for phase in (Phase.TRAIN, Phase.EVAL, Phase.MC_PREDICT)}
    joining = set() if options.get("run_eagerly") else {(Phase.PREDICT, GatheringLoop)}
    assert {*traced} == {*summing, (Phase.UPDATE_BN, StatisticsLoop), *joining}
    assert all(ways == [source is inline] for ways in traced.values())
    return [*model.get_weights(), *history["eval/loss"], evaluated["loss"], predicted, sampled["loss"], samples]


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_the_bits_are_the_same_whoever_takes_the_batches(run_eagerly: bool) -> None:
    woke = found_in_all_phases(woken, run_eagerly=run_eagerly)
    for one, other in zip(found_in_all_phases(inline, run_eagerly=run_eagerly), woke, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_bits_of_two_replicas_are_the_same_whoever_takes_the_batches(
    two_replicas: tf.distribute.MirroredStrategy,
) -> None:
    with two_replicas.scope():
        woke, took = found_in_all_phases(woken), found_in_all_phases(inline)
    for one, other in zip(took, woke, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["without an end, and without a row", "all skipped, and said to be endless"])
def test_data_without_a_batch_are_still_said_to_be_empty(kind: str) -> None:
    """TensorFlow takes them to be endless."""
    trainer = Trainer(tf_keras.Sequential([tf_keras.Input([3]), tf_keras.layers.Dense(1)]), "sgd", loss="mse")
    with pytest.raises(ValueError, match="train_data= is empty: it has no batch"):
        trainer.fit(WOKEN[kind], steps=9)


BAD_ROW = 5  # in the second batch


def with_a_bad_row(source: Callable[[tf.data.Dataset], tf.data.Dataset], value: float) -> tf.data.Dataset:
    x = X.copy()
    x[BAD_ROW] = value
    return source(tf.data.Dataset.from_tensor_slices((x, Y)).batch(4))


def as_it_is(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset


def by_function(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(lambda x, y: (x, y))


class Refusing(Trainer):
    """Cannot compute the loss of large numbers, until it is told that they are right."""

    def __init__(self, **options: Any):
        tf_keras.utils.set_random_seed(0)
        model = tf_keras.Sequential([tf_keras.Input([3]), tf_keras.layers.Dense(1)])
        super().__init__(model, "sgd", default_callbacks=False, seed=0, **options)
        self.most = tf.Variable(50.0, trainable=False)

    def compute_loss(self, batch: Any, phase: Phase) -> tf.Tensor:
        x, y = batch
        tf.debugging.Assert(~tf.reduce_any(x > self.most), ["too large"])
        return tf.reduce_mean(tf.square(phase.call(self.model, x)[:, 0] - y))

    def mend(self) -> None:
        """Takes back what the bad row has done, and has it let pass."""
        for variable in (*self.model.weights, *self.optimizers["model"].variables):
            variable.assign(tf.zeros_like(variable))
        self.most.assign(1000.0)
        self.callbacks[:] = [callback for callback in self.callbacks if not isinstance(callback, StopOnNaN)]


@pytest.mark.filterwarnings("ignore:fit. an error ended the last fit")
@pytest.mark.parametrize("source", [as_it_is, by_function])
@pytest.mark.parametrize("value", [np.nan, 100.0])
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_data_end_where_they_end_though_a_call_was_left_with_a_batch_taken(
    source: Callable[[tf.data.Dataset], tf.data.Dataset], value: float, run_eagerly: bool
) -> None:
    """The loop takes a batch ahead: then fewer are left than the epoch has still to come."""
    trainer, rows = Refusing(callbacks=[StopOnNaN()], run_eagerly=run_eagerly), with_a_bad_row(source, value)
    with pytest.raises((NonFiniteLossError, tf.errors.InvalidArgumentError)):
        trainer.fit(rows, epochs=1)
    trainer.mend()
    trainer.fit(rows, epochs=1)
    lost = 6 - trainer.step
    assert trainer.epoch == 1
    assert lost > 0
    trainer.fit(rows, epochs=2)
    assert (trainer.epoch, trainer.step) == (2, 12 - lost)
    assert trainer._stream is not None
    assert trainer._stream.taken_inline == (source is as_it_is), "the next epoch is taken as the first was"


@pytest.mark.parametrize("endless", [False, True])
def test_an_iterator_that_was_saved_may_have_been_ahead(endless: bool) -> None:
    rows = inline().repeat() if endless else inline()
    steps_per_epoch = 6 if endless else None
    stream = data.training_stream(rows, 0, steps_per_epoch=steps_per_epoch, steps_needed=None)
    stream.seek(0, 0)
    assert stream.taken_inline
    resumed = data.DatasetStream(rows)
    resumed.count(steps_per_epoch, in_epochs=True)
    resumed.resume(3, 2)
    assert resumed.taken_inline == endless
    resumed.begin_epoch()
    assert resumed.taken_inline
