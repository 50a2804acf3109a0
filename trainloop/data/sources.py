"""`from_source`: rows that Python looks up one by one, by the protocol of Grain's data sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from trainloop.data.addressed import AugmentFn, Batch, MapFn, RowData
from trainloop.user_code import called_by_tensorflow

_NUMBERS = {bool: np.dtype(bool), int: np.dtype(np.int64), float: np.dtype(np.float32)}  # of Python


class Source(Protocol):
    """Rows by number. A source may have `__getitems__(numbers)` as well, which returns many rows at once."""

    def __len__(self) -> int:
        """Returns how many rows there are."""
        ...

    def __getitem__(self, number: int, /) -> Any:
        """Returns a row."""
        ...


class _Leaf(NamedTuple):
    """What stands at one place of every row."""

    dtype: np.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        kind = "text" if self.dtype == object else str(self.dtype)
        return f"{kind} of shape {self.shape}"


class SourceData(RowData):
    """The rows of a source in batches; made by `from_source`."""

    _loads_in_python = True

    def __init__(self, source: Source, **options: Any):
        _check_source(source)
        rows = len(source)
        if rows == 0:
            raise ValueError("from_source: source= has no rows: its length is 0")
        super().__init__(rows, "from_source", **options)
        self._source = source
        first = source[0]
        _refuse_lists(first)
        if not tf.nest.flatten(first):
            raise ValueError(f"from_source: source[0]={first!r} holds nothing; a row must hold at least one value")
        self._structure = tf.nest.map_structure(lambda _: None, first)
        self._leaves = [_leaf_of(value) for value in tf.nest.flatten(first)]

    def _load(self, rows: tf.Tensor) -> Batch:
        dtypes = [tf.string if leaf.dtype == object else tf.as_dtype(leaf.dtype) for leaf in self._leaves]
        columns = tf.numpy_function(called_by_tensorflow(self._columns), [rows], dtypes, stateful=False)
        shaped = [
            tf.ensure_shape(column, [None, *leaf.shape]) for column, leaf in zip(columns, self._leaves, strict=True)
        ]
        return tf.nest.pack_sequence_as(self._structure, shaped)

    def _columns(self, rows: np.ndarray) -> list[np.ndarray]:
        """Returns the rows of these numbers, the values at each place of a row put together."""
        numbers = rows.tolist()
        values = [self._flat(number, row) for number, row in zip(numbers, self._looked_up(numbers), strict=True)]
        return [
            self._column(place, leaf, numbers, [each[place] for each in values])
            for place, leaf in enumerate(self._leaves)
        ]

    def _looked_up(self, numbers: list[int]) -> Sequence[Any]:
        many = getattr(self._source, "__getitems__", None)
        if many is None:
            return [self._source[number] for number in numbers]
        rows = many(numbers)
        if len(rows) != len(numbers):
            raise ValueError(
                f"from_source: source.__getitems__ returned {len(rows)} rows where {len(numbers)} were asked for; it "
                "must return a row for each number"
            )
        return rows

    def _flat(self, number: int, row: Any) -> list[Any]:
        try:
            tf.nest.assert_same_structure(self._structure, row)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"from_source: source[{number}] is {_described(row)}, but source[0] is "
                f"{tf.nest.pack_sequence_as(self._structure, list(map(str, self._leaves)))}; all rows must have one "
                "structure"
            ) from error
        return tf.nest.flatten(row)

    def _column(self, place: int, leaf: _Leaf, numbers: list[int], values: list[Any]) -> np.ndarray:
        if leaf.dtype == object and not leaf.shape and all(isinstance(value, (str, bytes)) for value in values):
            column = np.empty(len(values), object)  # an array of bytes would lose the zeros that they end with
            column[:] = values
            return column
        arrays = list(map(np.asarray, values))
        if leaf.dtype == object:
            arrays = [array.astype(object) for array in arrays if array.dtype.kind in "SU"]
        if len(arrays) == len(values) and all(array.shape == leaf.shape for array in arrays):
            column = np.stack(arrays)
            column = np.asarray(column, column.dtype.newbyteorder("="))
            if column.dtype == leaf.dtype:
                return column
            are_numbers = column.dtype != object and all(type(value) in _NUMBERS for value in values)
            if are_numbers and np.can_cast(column.dtype, leaf.dtype, "same_kind"):
                return column.astype(leaf.dtype)
        raise self._another_kind(place, leaf, numbers, values)

    def _another_kind(self, place: int, leaf: _Leaf, numbers: list[int], values: list[Any]) -> ValueError:
        """Returns the error for values that do not fit together; it names the first that is not like `source[0]`'s."""
        others = [(number, _leaf_of(value, number)) for number, value in zip(numbers, values, strict=True)]
        number, other = next(((number, other) for number, other in others if other != leaf), others[0])
        where = f" at {place} of its {len(self._leaves)} places" if len(self._leaves) > 1 else ""
        return ValueError(
            f"from_source: source[{number}] holds {other}{where}, but source[0] holds {leaf}; all rows must be of one "
            "type and shape (pad, crop or cast them in the source)"
        )


def from_source(
    source: Source,
    *,
    batch_size: int,
    shuffle: bool = True,
    seed: int | None = None,
    map_fn: MapFn | None = None,
    augment_fn: AugmentFn | None = None,
) -> SourceData:
    """Makes batches of rows that Python looks up, addressed by step as those of `from_arrays` are.

    Anything with `__len__` and `__getitem__` will do: a data source of Grain, an `ArrayRecordDataSource`, a data set of
    h5py, a list, a class of one's own that opens a file for each row. Where it has `__getitems__(numbers)`, that is
    asked for a batch at a time, and may look rows up side by side. Rows are looked up ahead of the step, one batch
    after the other, in a thread of TensorFlow's. A number has to give the same row in every process: then a resumed run
    sees what the one that was killed would have seen.

    Args:
      source: The rows. A row is an array, a number, str or bytes, or a nest of these in tuples and dicts; all have one
        structure, with the types and shapes of `source[0]`. A Python float becomes float32, an int int64.
      batch_size: Rows in a batch; the last one of an epoch may have fewer.
      shuffle: Whether `fit` sees the rows in a new order each epoch.
      seed: Of the order, and of what `augment_fn` draws; by default the run's seed.
      map_fn: `batch -> batch` in TensorFlow ops, applied to every batch in every phase: the place to parse records.
      augment_fn: As in `from_arrays`.

    Returns:
      Data for `fit`, `evaluate` and `predict`.

    Raises:
      TypeError: If `source` cannot be indexed, or its first row holds what no tensor is made of.
      ValueError: If it has no rows, `batch_size` is not positive, or `seed` is out of range; when a batch is read, if
        a row has another structure, type or shape than the first.

    Example:
      >>> from trainloop import data
      >>> class Squares:
      ...     def __len__(self):
      ...         return 10
      ...
      ...     def __getitem__(self, number):
      ...         return {"x": float(number), "y": float(number**2)}
      >>> squares = data.from_source(Squares(), batch_size=4)
      >>> squares.steps_per_epoch
      3
    """
    return SourceData(source, batch_size=batch_size, shuffle=shuffle, seed=seed, map_fn=map_fn, augment_fn=augment_fn)


def _check_source(source: Any) -> None:
    if isinstance(source, (tuple, Mapping)):
        raise TypeError(
            f"from_source: source= is a {type(source).__name__}, which is no row after row; give arrays to "
            "trainloop.data.from_arrays, and several sources to trainloop.data.zip"
        )
    if isinstance(source, (str, bytes)) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise TypeError(
            f"from_source: source= is a {type(source).__name__}; it must have __len__ and __getitem__, so that "
            "source[number] is a row"
        )


def _refuse_lists(row: Any) -> None:
    if isinstance(row, list):
        raise TypeError(
            f"from_source: source[0] holds the list {row!r}; give numbers as an array (numpy.asarray), and parts of a "
            "row as a tuple or dict"
        )
    if isinstance(row, (tuple, Mapping)):
        for part in row.values() if isinstance(row, Mapping) else row:
            _refuse_lists(part)


def _leaf_of(value: Any, number: int = 0) -> _Leaf:
    """Returns what a value of a row is like.

    Raises:
      TypeError: If no tensor can be made of it.
    """
    if isinstance(value, (str, bytes)):
        return _Leaf(np.dtype(object), ())
    if type(value) in _NUMBERS and not (type(value) is int and value.bit_length() > 63):
        return _Leaf(_NUMBERS[type(value)], ())
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind in "SU":
            return _Leaf(np.dtype(object), array.shape)
        if array.dtype != object:
            try:
                tf.as_dtype(array.dtype)
            except TypeError:
                pass
            else:
                return _Leaf(array.dtype.newbyteorder("="), array.shape)
    raise TypeError(
        f"from_source: source[{number}] holds {value!r} of type {type(value).__name__}; a row is made of arrays, "
        "numbers (of 64 bits), str and bytes, in tuples and dicts"
    )


def _described(row: Any) -> Any:
    def described(value: Any) -> str:
        try:
            return str(_leaf_of(value))
        except TypeError:
            return type(value).__name__

    return tf.nest.map_structure(described, row)
