"""The nodes of a `tf.data.Dataset`: which batches a loop takes inline, and that they are the same either way."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Trainer, data
from trainloop.data import nodes

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


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_the_bits_are_the_same_whoever_takes_the_batches(run_eagerly: bool) -> None:
    def found(source: Callable[[], tf.data.Dataset]) -> list[np.ndarray]:
        tf_keras.utils.set_random_seed(0)
        model = tf_keras.Sequential([tf_keras.Input([3]), tf_keras.layers.Dropout(0.3), tf_keras.layers.Dense(1)])
        trainer = Trainer(model, "adam", loss="mse", seed=0, default_callbacks=False, run_eagerly=run_eagerly)
        history = trainer.fit(source(), epochs=3, eval_data=source())
        evaluated = trainer.evaluate(source(), steps=5)
        return [*model.get_weights(), *history["eval/loss"], evaluated["loss"], trainer.predict(source().take(3))]

    for one, other in zip(found(inline), found(woken), strict=True):
        np.testing.assert_array_equal(one, other)


def test_data_without_a_batch_are_still_said_to_be_empty() -> None:
    """TensorFlow takes them to be endless."""
    trainer = Trainer(tf_keras.Sequential([tf_keras.Input([3]), tf_keras.layers.Dense(1)]), "sgd", loss="mse")
    with pytest.raises(ValueError, match="train_data= is empty: it has no batch"):
        trainer.fit(WOKEN["without an end, and without a row"], steps=9)
