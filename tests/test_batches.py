"""A batch: what is x, y and w in it, its rows, and its parts, which put together are the batch again."""

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from trainloop import batches

X, Y, W = tf.range(3), tf.range(3) + 10, tf.ones([3])


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (X, (X, None, None)),
        ((X,), (X, None, None)),
        ((X, Y), (X, Y, None)),
        ((X, Y, W), (X, Y, W)),
        ([X, Y], ([X, Y], None, None)),
        ({"a": X, "b": Y}, ({"a": X, "b": Y}, None, None)),
        ((X, Y, W, X), ((X, Y, W, X), None, None)),
        (({"a": X}, {"b": Y}), ({"a": X}, {"b": Y}, None)),
        ((), ((), None, None)),
    ],
    ids=str,
)
def test_a_tuple_of_one_to_three_is_read_as_keras_reads_it(batch: Any, expected: tuple[Any, Any, Any]) -> None:
    found = batches.unpack(batch)
    tf.nest.assert_same_structure(found, expected)
    assert all(a is b for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True))


def sparse(rows: int) -> tf.SparseTensor:
    return tf.sparse.from_dense(np.arange(rows * 2).reshape(rows, 2))


def ragged(rows: int) -> tf.RaggedTensor:
    """Row r is `[r, r, ...]`, r times: the first one is empty."""
    return tf.RaggedTensor.from_row_lengths(np.repeat(np.arange(rows), np.arange(rows)), np.arange(rows))


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        (tf.zeros([5, 2]), 5),
        ((tf.constant(1.0), tf.zeros([4])), 4),
        ({"temperature": tf.constant(1.0)}, 1),
        (ragged(6), 6),
        (sparse(7), 7),
    ],
    ids=["dense", "a scalar first", "a scalar alone", "ragged", "sparse"],
)
def test_the_rows_are_those_of_the_first_tensor_that_has_some(batch: Any, rows: int) -> None:
    assert batches.rows(batch) == rows


def test_rows_that_are_not_known_before_the_run_are_counted_in_it() -> None:
    counted = tf.function(batches.rows).get_concrete_function(tf.TensorSpec(None))
    assert counted(tf.zeros([9, 3])) == 9


def nest(rows: int) -> Any:
    """A batch with everything in it that a batch may hold; a row's number stands in each of its entries."""
    numbers = np.arange(rows)
    return {
        "dense": tf.constant(np.stack([numbers, numbers], axis=1)),
        "pair": (tf.constant(numbers), tf.constant(0.5)),
        "ragged": ragged(rows),
    }


SPEC = {
    "dense": tf.TensorSpec([None, 2], tf.int64),
    "pair": (tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.float32)),
    "ragged": tf.RaggedTensorSpec([None, None], tf.int64),
}
count = st.integers(min_value=1, max_value=6)
rows = st.integers(min_value=1, max_value=20)


@functools.cache
def traced_part(count: int) -> Any:
    signature = [SPEC, tf.TensorSpec([], tf.int32)]
    return tf.function(lambda batch, index: batches.part(batch, index, count), input_signature=signature)


def listed(batch: Any, rows: int | None = None) -> dict[str, Any]:
    """Returns the first rows of a batch as Python values."""
    return {
        "dense": batch["dense"].numpy().tolist()[:rows],
        "first": batch["pair"][0].numpy().tolist()[:rows],
        "ragged": batch["ragged"].to_list()[:rows],
    }


@pytest.mark.parametrize("traced", [False, True], ids=["rows known", "rows unknown"])
@given(rows=rows, count=count)
def test_the_parts_hold_every_row_once_and_are_never_empty(traced: bool, rows: int, count: int) -> None:
    batch, seen = nest(rows), {"dense": [], "first": [], "ragged": []}
    for index in range(count):
        part, here = traced_part(count)(batch, index) if traced else batches.part(batch, index, count)
        assert {len(column) for column in listed(part).values()} == {max(int(here), 1)}
        assert float(part["pair"][1]) == 0.5
        seen = {name: column + listed(part, int(here))[name] for name, column in seen.items()}
    assert seen == listed(batch)


@given(rows=rows, count=count)
def test_parts_differ_by_one_row_at_most(rows: int, count: int) -> None:
    sizes = [int(batches.part(tf.range(rows), index, count)[1]) for index in range(count)]
    assert max(sizes) - min(sizes) <= 1


@given(rows=rows, count=count)
def test_join_puts_the_parts_of_a_batch_together_again(rows: int, count: int) -> None:
    batch = (tf.range(rows), {"squares": tf.range(rows) ** 2}, ragged(rows))
    parts, counts = zip(*(batches.part(batch, index, count) for index in range(count)), strict=True)
    joined = batches.join(list(parts), list(counts))
    tf.nest.map_structure(lambda a, b: np.testing.assert_array_equal(a.numpy(), b.numpy()), joined[:2], batch[:2])
    assert joined[2].to_list() == batch[2].to_list()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_a_sparse_batch_is_cut_by_rows(count: int) -> None:
    parts = [batches.part((sparse(7), tf.range(7)), index, count) for index in range(count)]
    kept = [tf.sparse.to_dense(part[0])[:here].numpy() for part, here in parts]
    np.testing.assert_array_equal(np.concatenate(kept), np.arange(14).reshape(7, 2))


def test_equal_parts_of_known_rows_have_a_known_shape() -> None:
    """What XLA, and layers that ask for their batch size, need."""
    cut = tf.function(lambda batch: batches.part(batch, 1, 3)[0]).get_concrete_function(tf.TensorSpec([6, 2]))
    assert cut.structured_outputs.shape == [2, 2]
