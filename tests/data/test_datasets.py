"""`tf.data.Dataset`: how long an epoch is, what cannot be resumed exactly and is said, and `from_dataset`."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainloop import data
from trainloop.data import ArrayData, training_stream

ROWS, BATCH = 10, 4
NUMBERS = np.arange(ROWS)


def numbers(**options: Any) -> ArrayData:
    return data.from_arrays(NUMBERS, **{"batch_size": BATCH} | options)


def dataset(rows: int = ROWS) -> tf.data.Dataset:
    return tf.data.Dataset.range(rows).batch(BATCH)


@pytest.mark.parametrize(
    ("source", "steps_per_epoch", "steps_needed", "expected"),
    [
        (numbers(), None, None, (3, True)),
        (numbers(), None, 50, (3, True)),
        (dataset(), None, None, (3, True)),
        (dataset(), 3, None, (3, True)),
        (dataset(), None, 2, (None, False)),
        (dataset().repeat(), 5, None, (5, True)),
        (dataset().repeat(), None, 50, (None, False)),
        (dataset().filter(lambda x: True), None, None, (None, True)),
    ],
    ids=["arrays", "arrays, steps", "epochs", "said twice", "steps", "endless epochs", "endless", "unknown length"],
)
def test_how_long_an_epoch_is(
    source: Any, steps_per_epoch: int | None, steps_needed: int | None, expected: tuple[int | None, bool]
) -> None:
    stream = training_stream(source, 0, steps_per_epoch=steps_per_epoch, steps_needed=steps_needed)
    assert (stream.steps_per_epoch, stream.has_epochs) == expected


def test_a_dataset_that_is_used_twice_goes_on_where_it_stood() -> None:
    source = dataset().repeat()
    first = training_stream(source, 0, steps_per_epoch=None, steps_needed=9)
    first.seek(0, 0)
    next(first.iterator)
    second = training_stream(source, 0, steps_per_epoch=5, steps_needed=None, opened=first)
    assert next(second.iterator).numpy().tolist() == [4, 5, 6, 7]
    assert second.steps_per_epoch == 5


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (numbers(), True),
        (data.from_arrays(NUMBERS * 2, batch_size=BATCH, seed=3), True),
        (numbers(batch_size=5), False),
        (data.from_arrays(NUMBERS[:9], batch_size=BATCH), False),
        (dataset(), False),
    ],
)
def test_a_position_means_the_same_where_rows_and_batches_are_as_many(other: Any, same: bool) -> None:
    assert data.is_same(numbers(), other) is same


SHUFFLED = tf.data.Dataset.range(9).shuffle(9, seed=1)


@pytest.mark.parametrize(
    ("source", "may_differ"),
    [
        (SHUFFLED.batch(4).repeat(), True),
        (SHUFFLED.batch(4).repeat().prefetch(2), True),
        (SHUFFLED.map(lambda x: x).repeat(3), True),
        (tf.data.Dataset.zip(dataset().repeat(), SHUFFLED.batch(4).repeat()), True),
        (SHUFFLED.repeat().batch(4), False),
        (SHUFFLED.batch(4), False),
        (dataset().repeat(), False),
        (tf.data.Dataset.range(9).shuffle(9, seed=1, reshuffle_each_iteration=False).batch(4).repeat(), False),
    ],
)
def test_what_shuffles_anew_within_a_repeat_is_said_not_to_resume_exactly(
    source: tf.data.Dataset, may_differ: bool
) -> None:
    stream = training_stream(source, 0, steps_per_epoch=None, steps_needed=2)
    assert (stream.caveat is not None and "in another order" in stream.caveat) is may_differ


def test_tensorflow_still_forgets_a_shuffle_whose_pass_is_over(tmp_path: pathlib.Path) -> None:
    """The reason for that warning; where this fails, TensorFlow was mended and the warning can go."""

    def batches() -> tf.data.Dataset:
        tf.random.set_seed(1)
        options = tf.data.Options()
        options.autotune.enabled = False
        options.experimental_optimization.inject_prefetch = False
        return tf.data.Dataset.range(20).shuffle(20).batch(8).repeat().with_options(options)

    straight = iter(batches())
    for _ in range(3):
        next(straight)
    saved = tf.train.Checkpoint(iterator=straight).write(str(tmp_path / "iterator"))
    resumed = iter(batches())
    tf.train.Checkpoint(iterator=resumed).read(saved)
    assert [next(straight).numpy().tolist() for _ in range(3)] != [next(resumed).numpy().tolist() for _ in range(3)]


ROW = tf.data.Dataset.range(20)
STATEFUL = tf.Variable(1, dtype=tf.int64)
KINDS = {
    "plain": ROW.shuffle(5, seed=1)
    .map(lambda x: x + 1, num_parallel_calls=2)
    .filter(lambda x: x > 0)
    .repeat()
    .batch(2),
    "two": tf.data.Dataset.zip((ROW.take(3), ROW.skip(3))).concatenate(tf.data.Dataset.zip((ROW, ROW))).prefetch(1),
    "stateless draws": ROW.map(lambda x: x + tf.random.stateless_uniform([], [1, 2], maxval=9, dtype=tf.int64)),
    "draws": ROW.map(lambda x: x + tf.random.uniform([], maxval=9, dtype=tf.int64)),
    "draws below a shuffle": ROW.map(lambda x: x + tf.random.uniform([], maxval=9, dtype=tf.int64)).shuffle(9, seed=1),
    "python": ROW.map(lambda x: tf.numpy_function(lambda a: a, [x], tf.int64)),
    "python in a function": ROW.map(tf.function(lambda x: tf.numpy_function(lambda a: a, [x], tf.int64))),
    "python in a branch": ROW.map(
        lambda x: tf.cond(x > 3, lambda: tf.py_function(lambda a: a, [x], tf.int64), lambda: x)
    ),
    "a variable": ROW.map(lambda x: x + STATEFUL),
    "a generator": tf.data.Dataset.from_generator(lambda: range(4), output_signature=tf.TensorSpec([], tf.int64)),
    "a function of TensorFlow 1": tf.compat.v1.data.Dataset.range(9).map_with_legacy_function(lambda x: x + 1),
    "cached": ROW.cache(),
    "interleaved": ROW.interleave(lambda x: tf.data.Dataset.range(3)),
}
TRIED = {
    "draws",
    "draws below a shuffle",
    "python",
    "python in a function",
    "python in a branch",
    "a variable",
    "a generator",
    "a function of TensorFlow 1",
    "cached",
    "interleaved",
}


@pytest.mark.parametrize("kind", KINDS)
def test_whether_a_position_can_be_saved_is_tried_only_where_it_is_not_plain(
    kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save of an iterator writes a number for each row of a shuffle's buffer, which takes longer than the start."""
    writes = []
    write = tf.train.Checkpoint.write

    def counted(self: tf.train.Checkpoint, path: str) -> str:
        writes.append(path)
        return write(self, path)

    monkeypatch.setattr(tf.train.Checkpoint, "write", counted)
    stream = training_stream(KINDS[kind], 0, steps_per_epoch=None, steps_needed=9)
    stream.seek(0, 0)
    assert bool(writes) == (kind in TRIED)
    iterator = iter(KINDS[kind])
    next(iterator)  # a shuffle that was not read from does not know yet what it reads
    try:
        write(tf.train.Checkpoint(iterator=iterator), str(tmp_path / "iterator"))
        can_be_saved = True
    except tf.errors.OpError:
        can_be_saved = False
    assert (stream.saved_iterator is not None) == can_be_saved
