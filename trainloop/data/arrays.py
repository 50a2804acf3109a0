"""`from_arrays`: rows of NumPy arrays, in memory or in a memory-mapped file."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import tensorflow as tf

from trainloop.data.addressed import AugmentFn, Batch, MapFn, RowData
from trainloop.signatures import one_nest
from trainloop.user_code import called_by_tensorflow

_MOST_TOGETHER, _BYTES_TOGETHER = 32, 1 << 18
_SHOWN = 5


class ArrayData(RowData):
    """Arrays in batches; made by `from_arrays`."""

    def __init__(self, arrays: Any, **options: Any):
        given = arrays
        arrays = tf.nest.map_structure(_as_array, _lists_as_tuples(arrays))
        leaves = tf.nest.flatten(arrays)
        if not leaves:
            raise ValueError(f"from_arrays: arrays={arrays!r} holds no array")
        lengths = {len(leaf) for leaf in leaves}
        if len(lengths) != 1:
            shapes = ", ".join(str(leaf.shape) for leaf in leaves[:_SHOWN])
            why = _list_of_rows(given, "arrays") or f"their shapes are {shapes}{', ...' * (len(leaves) > _SHOWN)}"
            raise ValueError(f"from_arrays: arrays= must have the same number of rows; {why}")
        rows = lengths.pop()
        if rows == 0:
            raise ValueError("from_arrays: arrays= has no rows")
        super().__init__(rows, "from_arrays", **options)
        self._structure = tf.nest.map_structure(lambda _: None, arrays)
        # TensorFlow's gather is faster than NumPy's by what it costs to call Python for every batch; but it wants a
        # tensor, which would hold all of a file that is only mapped.
        self._mapped = {place: leaf for place, leaf in enumerate(leaves) if _is_mapped(leaf)}
        self._loads_in_python = bool(self._mapped)
        if not self._mapped:  # to gather a small batch costs less than to be asked for it
            size = sum(leaf.nbytes for leaf in leaves) * self.batch_size // rows
            self._loaded_together = max(1, min(_MOST_TOGETHER, _BYTES_TOGETHER // max(1, size)))
        with tf.device("CPU"):
            self._tensors = {place: _as_tensor(leaf) for place, leaf in enumerate(leaves) if place not in self._mapped}

    def _load(self, rows: tf.Tensor) -> Batch:
        leaves = {place: tf.gather(tensor, rows) for place, tensor in self._tensors.items()}
        if self._mapped:
            dtypes = [tf.as_dtype(leaf.dtype) for leaf in self._mapped.values()]
            read = tf.numpy_function(called_by_tensorflow(self._read), [rows], dtypes, stateful=False)
            for (place, leaf), batch in zip(self._mapped.items(), read, strict=True):
                leaves[place] = tf.ensure_shape(batch, [None, *leaf.shape[1:]])
        return tf.nest.pack_sequence_as(self._structure, [leaves[place] for place in range(len(leaves))])

    def _read(self, rows: np.ndarray) -> list[np.ndarray]:
        # Indexed, since `take` would first copy all of an array whose rows are not contiguous in the file.
        return [_readable(leaf[rows]) for leaf in self._mapped.values()]


@one_nest
def from_arrays(
    arrays: Any,
    *,
    batch_size: int,
    shuffle: bool = True,
    seed: int | None = None,
    map_fn: MapFn | None = None,
    augment_fn: AugmentFn | None = None,
) -> ArrayData:
    """Makes batches of arrays, addressed by step: a run can start at any of them at no cost.

    `fit` sees the data shuffled and without an end, in epochs of a known length; `update_bn` sees one such epoch; other
    phases see it once, in order.

    Arrays in memory are copied, once; a memory-mapped file (`np.load(file, mmap_mode="r")`, `np.memmap`) is read row by
    row as the batches need it. What may still change, or is no array, goes to `from_source`.

    Args:
      arrays: A NumPy array or a nest of them (`x`, `(x, y)`, `(x, y, sample_weight)`, a dict) with the same number of
        rows. Some may be memory-mapped and others not. A list of arrays is a tuple in a batch, since TensorFlow would
        make one tensor of it.
      batch_size: Rows in a batch; the last one of an epoch may have fewer.
      shuffle: Whether `fit` sees the rows in a new order each epoch.
      seed: Of the order, and of what `augment_fn` draws; by default the run's seed.
      map_fn: `batch -> batch` in TensorFlow ops, applied to every batch in every phase.
      augment_fn: `(batch, key) -> batch`, applied only where the phase has augmentation on; `key` is an int64 tensor of
        shape `[2]` for `tf.random.stateless_*`, another one each step. A draw without a key gets one too, so that it is
        repeated in a resumed run.

    Returns:
      Data for `fit`, `evaluate` and `predict`.

    Raises:
      TypeError: If something in `arrays` is not an array, or has no type that TensorFlow knows.
      ValueError: If the arrays differ in their number of rows or have none, `batch_size` is not positive, or `seed` is
        out of range.

    Example:
      >>> import numpy as np
      >>> from trainloop import data
      >>> pairs = data.from_arrays((np.zeros([10, 3]), np.zeros([10])), batch_size=4)
      >>> pairs.steps_per_epoch
      3
    """
    return ArrayData(arrays, batch_size=batch_size, shuffle=shuffle, seed=seed, map_fn=map_fn, augment_fn=augment_fn)


def _lists_as_tuples(nest: Any) -> Any:
    if isinstance(nest, dict):
        return {key: _lists_as_tuples(part) for key, part in nest.items()}
    if type(nest) in (list, tuple):
        return tuple(map(_lists_as_tuples, nest))
    return nest


def _as_array(value: Any) -> np.ndarray:
    if not hasattr(value, "__array__"):
        raise TypeError(
            f"from_arrays: arrays= holds {value!r} of type {type(value).__name__}; every leaf must be an array "
            "(numpy.asarray makes one of a list)"
        )
    array = np.asarray(value)
    if array.ndim == 0:
        raise ValueError(
            "from_arrays: arrays= holds a scalar; every leaf must have rows (numpy.asarray makes one array of a list)"
        )
    try:
        tf.as_dtype(array.dtype)
    except TypeError as error:
        raise TypeError(
            f"from_arrays: arrays= holds an array of dtype {array.dtype}, which TensorFlow does not know; take it "
            "apart, or convert it"
        ) from error
    return array


def _as_tensor(array: np.ndarray) -> tf.Tensor:
    try:
        return tf.constant(array)
    except (TypeError, ValueError) as error:
        if array.dtype != object:
            raise
        raise TypeError(
            "from_arrays: arrays= holds an array of dtype object, of which no tensor can be made; numpy.stack makes "
            "one array of rows of one shape, and from_source takes rows that Python looks up"
        ) from error


def _list_of_rows(nest: Any, name: str) -> str | None:
    """Says which part of what was given is a list with an array for each row, as far as one can tell."""
    if isinstance(nest, list) and len(nest) > _SHOWN and len({np.shape(part) for part in nest}) == 1:
        return f"{name} is a list of {len(nest)} arrays; numpy.asarray makes one array of it"
    parts = nest.items() if isinstance(nest, dict) else enumerate(nest) if isinstance(nest, (list, tuple)) else ()
    return next((found for key, part in parts if (found := _list_of_rows(part, f"{name}[{key!r}]"))), None)


def _is_mapped(array: np.ndarray) -> bool:
    """Returns whether an array, or the one that it is a view of, is a file that is mapped into memory."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)


def _readable(array: np.ndarray) -> np.ndarray:
    """Returns an array as TensorFlow takes it: text as objects, numbers in the byte order of the machine."""
    if array.dtype.kind in "SU":
        return array.astype(object)
    return np.asarray(array, array.dtype.newbyteorder("="))
