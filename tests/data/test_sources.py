"""`from_source`: any rows by number, step by step as arrays are; and rows that do not fit together."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Phase, Trainer, data

ROWS, BATCH = 10, 4


class Rows:
    """A source that makes its rows, and counts those that were looked up; the protocol of Grain's data sources."""

    def __init__(self, row: Callable[[int], Any], rows: int = ROWS):
        self.row = row
        self.rows = rows
        self.looked_up: list[int] = []

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, number: int) -> Any:
        assert type(number) is int
        self.looked_up.append(number)
        return self.row(number)


class ManyRows(Rows):
    def __getitems__(self, numbers: Sequence[int]) -> Sequence[Any]:
        self.looked_up.append(list(numbers))
        return [self.row(number) for number in numbers]


def whole(source: Any) -> Any:
    [batch] = data.from_source(source, batch_size=len(source)).once
    return tf.nest.map_structure(lambda leaf: leaf.numpy(), batch)


def test_the_batches_are_those_of_the_same_rows_in_an_array() -> None:
    rows = np.arange(ROWS)
    options = {
        "batch_size": BATCH,
        "map_fn": lambda batch: batch * 10,
        "augment_fn": lambda batch, key: tf.concat([batch, key], 0),
    }
    arrays, source = data.from_arrays(rows, **options), data.from_source(Rows(lambda number: number), **options)
    assert source.steps_per_epoch == arrays.steps_per_epoch
    for position in ((0, 0), (3, 1)):
        for one, other in zip(arrays.endless(5, *position).take(5), source.endless(5, *position).take(5), strict=True):
            np.testing.assert_array_equal(one, other)
    for one, other in zip(arrays.once, source.once, strict=True):
        np.testing.assert_array_equal(one, other)
    assert data.is_same(arrays, source)
    assert not data.is_same(arrays, data.from_source(Rows(lambda number: number, 9), batch_size=BATCH))


@pytest.mark.parametrize("kind", [Rows, ManyRows])
def test_after_a_seek_only_the_rows_of_the_batches_are_looked_up(kind: type[Rows]) -> None:
    rows = kind(lambda number: number, 10**9)
    source = data.from_source(rows, batch_size=BATCH)
    rows.looked_up.clear()
    first = next(iter(source.endless(1, 3, 2 * 10**8)))
    expected = source.order(1, 3).between(8 * 10**8, 8 * 10**8 + BATCH).tolist()
    assert first.numpy().tolist() == expected
    batches, begin = (1, [expected]) if kind is ManyRows else (BATCH, expected)
    assert rows.looked_up[:batches] == begin
    assert len(rows.looked_up) <= 20 * batches  # what was read ahead of the next step


@pytest.mark.parametrize(
    ("row", "expected", "dtype"),
    [
        (lambda n: n, np.arange(3), np.int64),
        (lambda n: n / 2, [0, 0.5, 1], np.float32),
        (lambda n: 0.5 if n == 0 else n, [0.5, 1, 2], np.float32),
        (lambda n: n > 1, [False, False, True], bool),
        (np.float64, [0, 1, 2], np.float64),
        (lambda n: np.full([2], n, "uint8"), [[0, 0], [1, 1], [2, 2]], np.uint8),
        (lambda n: np.full([2], n, ">i4"), [[0, 0], [1, 1], [2, 2]], np.int32),
        (lambda n: tf.fill([1], float(n)), [[0], [1], [2]], np.float32),
        (lambda n: b"\0" * n, [b"", b"\0", b"\0\0"], object),
        (lambda n: "ä" * n, [b"", "ä".encode(), "ää".encode()], object),
        (lambda n: np.array(["a" * n, "b"]), [[b"", b"b"], [b"a", b"b"], [b"aa", b"b"]], object),
    ],
    ids=[
        "int", "float", "float, then int", "bool", "float64", "array", "byte order", "tensor", "bytes", "text", "texts",
    ],
)  # fmt: skip
def test_a_row_may_be_a_number_an_array_or_text(row: Callable[[int], Any], expected: Any, dtype: Any) -> None:
    found = whole(Rows(row, 3))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.array(expected, dtype))


def test_a_row_may_be_a_nest() -> None:
    found = whole(Rows(lambda n: {"x": (np.full([2], n), "a"), "y": n}, 3))
    assert found["x"][0].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert found["x"][1].tolist() == [b"a"] * 3
    assert found["y"].tolist() == [0, 1, 2]
    spec = data.from_source(Rows(lambda n: (np.zeros([2, 3]), b"")), batch_size=2).once.element_spec
    assert spec == (tf.TensorSpec([None, 2, 3], tf.float64), tf.TensorSpec([None], tf.string))


def test_records_are_parsed_in_map_fn() -> None:
    records = [np.array([n, n * n], "<f4").tobytes() for n in range(ROWS)]
    parsed = data.from_source(
        records, batch_size=ROWS, map_fn=lambda batch: tf.ensure_shape(tf.io.decode_raw(batch, tf.float32), [None, 2])
    )
    [batch] = parsed.once
    assert batch.numpy().tolist() == [[n, n * n] for n in range(ROWS)]


@pytest.mark.parametrize("form", ["grain", "array_record"])
def test_rows_of_a_record_file(tmp_path: Any, form: str) -> None:
    """With the real thing where it is installed: it is no dependency of the tests."""
    writer = pytest.importorskip("array_record.python.array_record_module").ArrayRecordWriter
    file = writer(str(tmp_path / "rows.array_record"), "group_size:1")
    for number in range(ROWS):
        file.write(f"row {number}".encode())
    file.close()
    if form == "grain":
        source = pytest.importorskip("grain.python").ArrayRecordDataSource(str(tmp_path / "rows.array_record"))
    else:
        module = pytest.importorskip("array_record.python.array_record_data_source")
        source = module.ArrayRecordDataSource(str(tmp_path / "rows.array_record"))
    assert sorted(whole(source).tolist()) == sorted(f"row {number}".encode() for number in range(ROWS))


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(1,))])
    return Trainer(model, "sgd", loss="mse", default_callbacks=False, seed=0)


def pair(number: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full([1], number, "float32"), np.full([1], 2 * number, "float32")


def test_python_in_the_pipeline_leaves_the_step_proved(trainer: Trainer) -> None:
    source = data.from_source(Rows(pair), batch_size=BATCH)
    trainer.fit(source, epochs=1, eval_data=source)
    assert [trainer.contract(phase).verdict for phase in (Phase.TRAIN, Phase.EVAL)] == ["holds", "holds"]
    assert trainer.predict(source).shape == (ROWS, 1)


class Own(Exception):
    pass


@pytest.mark.parametrize("error", [Own("gone"), KeyError("gone")], ids=repr)
def test_an_exception_of_a_source_comes_out_as_itself(trainer: Trainer, error: Exception) -> None:
    def row(number: int) -> Any:
        if number == 7:
            raise error
        return pair(number)

    source = data.from_source(Rows(row), batch_size=BATCH, shuffle=False)
    with pytest.raises(type(error), match="gone") as caught:
        trainer.evaluate(source)
    assert caught.value is error


def test_a_source_that_raises_stop_iteration_does_not_end_the_data(trainer: Trainer) -> None:
    def row(number: int) -> Any:
        return next(iter([])) if number == 7 else pair(number)

    with pytest.raises(RuntimeError, match=r"^SourceData\._columns raised StopIteration"):
        trainer.evaluate(data.from_source(Rows(row), batch_size=BATCH))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (np.zeros, "source[3] holds float64 of shape (3,), but source[0] holds float64 of shape (2,)"),
        (lambda n: np.zeros(2, "i4" if n == 3 else "f4"), "source[3] holds int32 of shape (2,), but source[0] holds f"),
        (lambda n: n if n < 3 else 0.5, "source[3] holds float32 of shape (), but source[0] holds int64 of shape ()"),
        (lambda n: "a" if n < 3 else 1, "source[3] holds int64 of shape (), but source[0] holds text of shape ()"),
        (lambda n: (1, 2 if n < 3 else b""), "source[3] holds text of shape () at 1 of its 2 places, but source[0] "),
        (lambda n: (n, n)[: 2 - n // 3], "source[3] is ('int64 of shape ()',), but source[0] is ('int64 of "),
        (lambda n: {"x" if n < 3 else "y": n}, "source[3] is {'y': 'int64 of shape ()'}, but source[0] is {'x': 'int"),
        (lambda n: {"x": n} if n < 3 else None, "source[3] is NoneType, but source[0] is {'x': 'int64 of shape ()'}"),
        (lambda n: n if n < 3 else None, "source[3] holds None of type NoneType; a row is made of arrays, numbers (of"),
        (lambda n: 2**70 * (n == 3), "source[3] holds 1180591620717411303424 of type int; a row is made of arrays, n"),
    ],
)  # fmt: skip
def test_a_row_of_another_kind_is_named(row: Callable[[int], Any], message: str) -> None:
    shifted = Rows(lambda n: row(max(n, 2)) if row(2) is not None else row(n), 4)
    with pytest.raises(tf.errors.OpError, match=re.escape(f"from_source: {message}")):
        whole(shifted)


def test_fewer_rows_than_were_asked_for_are_named() -> None:
    class Forgets(ManyRows):
        def __getitems__(self, numbers: Sequence[int]) -> Sequence[Any]:
            return [0]

    with pytest.raises(
        tf.errors.OpError, match="__getitems__ returned 1 rows where 4 were asked for; it must return a"
    ):
        whole(Forgets(lambda number: number, 4))


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ((NUMBERS := np.arange(3), NUMBERS), {}, TypeError, "source= is a tuple, which is no row after row; give"),
        ({"x": NUMBERS}, {}, TypeError, "source= is a dict, which is no row after row; give arrays to trainloop.data"),
        ("abc", {}, TypeError, "source= is a str; it must have __len__ and __getitem__, so that source.number. is a"),
        (iter([1]), {}, TypeError, "source= is a list_iterator; it must have __len__ and __getitem__"),
        ([], {}, ValueError, "source= has no rows: its length is 0"),
        ([()], {}, ValueError, r"source\[0\]=\(\) holds nothing; a row must hold at least one value"),
        ([[1, 2]], {}, TypeError, r"source\[0\] holds the list \[1, 2\]; give numbers as an array"),
        ([({"x": [1]},)], {}, TypeError, r"source\[0\] holds the list \[1\]; give numbers as an array"),
        ([None], {}, TypeError, r"source\[0\] holds None of type NoneType; a row is made of arrays, numbers"),
        ([np.zeros(1, "M8[s]")], {}, TypeError, r"source\[0\] holds array.* of type ndarray; a row is made of arrays"),
        ([1], {"batch_size": 0}, ValueError, "batch_size=0 must be a positive whole number"),
        ([1], {"seed": -1}, ValueError, r"seed=-1 must be a whole number from 0 to 2\*\*63 - 1, or None"),
    ],
)  # fmt: skip
def test_what_is_no_source_is_refused(source: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^from_source: {message}"):
        data.from_source(source, **{"batch_size": 2} | options)


def test_a_source_without_from_source_is_told_of_it(trainer: Trainer) -> None:
    with pytest.raises(
        TypeError, match=r"^evaluate: data= is a Rows; wrap a source of rows with trainloop.data.from_so"
    ):
        trainer.evaluate(Rows(pair))
