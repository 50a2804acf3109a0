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
        (numbers(), None, None, (3, True, False)),
        (numbers(), None, 50, (3, True, False)),
        (dataset(), None, None, (3, True, False)),
        (dataset(), 3, None, (3, True, False)),
        (dataset(), None, 2, (None, False, False)),
        (dataset().repeat(), 5, None, (5, True, False)),
        (dataset().repeat(), None, 50, (None, False, False)),
        (dataset().filter(lambda x: True), None, None, (None, True, True)),
    ],
    ids=["arrays", "arrays, steps", "epochs", "said twice", "steps", "endless epochs", "endless", "unknown length"],
)
def test_how_long_an_epoch_is(
    source: Any, steps_per_epoch: int | None, steps_needed: int | None, expected: tuple[int | None, bool, bool]
) -> None:
    stream = training_stream(source, 0, steps_per_epoch=steps_per_epoch, steps_needed=steps_needed)
    assert (stream.steps_per_epoch, stream.has_epochs, stream.may_end) == expected


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
