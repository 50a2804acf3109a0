"""A batch as a nest of tensors: what is x, y and w in it, how many rows it has, and how it is cut into parts."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def unpack(batch: Any) -> tuple[Any, Any, Any]:
    """Returns `(x, y, w)` of a batch as Keras reads it; None for what is not there.

    A tuple of one to three is `(x,)`, `(x, y)` or `(x, y, w)`; any other nest is `x` as a whole.
    """
    if isinstance(batch, tuple) and 1 <= len(batch) <= 3:
        return (*batch, None, None)[:3]  # type: ignore[return-value]
    return batch, None, None


def rows(batch: Any) -> tf.Tensor:
    """Returns the number of rows of a batch: the leading dimension of its first tensor that has one (else 1), int32."""
    for leaf in tf.nest.flatten(batch):
        if isinstance(leaf, tf.RaggedTensor):
            return tf.cast(leaf.nrows(), tf.int32)
        if isinstance(leaf, tf.SparseTensor):
            return tf.cast(leaf.dense_shape[0], tf.int32)
        if leaf.shape.rank != 0:
            return tf.shape(leaf)[0]
    return tf.constant(1)


def part(batch: Any, index: tf.Tensor | int, count: int) -> tuple[Any, tf.Tensor]:
    """Cuts one of `count` contiguous parts out of a batch, of each tensor in it by its own number of rows.

    A part is never empty: where a batch has fewer rows than there are parts, an empty part is given a copy of one row,
    so that no mean over nothing (a NaN) arises; the number of rows returned says 0 then.

    Args:
      batch: A nest of tensors with the same leading dimension, unless it puts several batches side by side, as
        `data.zip` does; scalars go to every part.
      index: Which part, from 0.
      count: The number of parts.

    Returns:
      The part, and the number of rows of the batch's first tensor that are in it (int32 scalar).
    """
    static = _static_rows(batch)
    if static is not None and static % count == 0:
        size = static // count
        start = index * size
        return tf.nest.map_structure(lambda leaf: _slice(leaf, start, start + size, size), batch), tf.constant(size)

    def bounds(total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return total * index // count, total * (index + 1) // count

    def cut(leaf: Any) -> Any:
        total = rows(leaf)
        start, stop = bounds(total)
        first = tf.minimum(start, total - 1)
        return _slice(leaf, first, tf.maximum(stop, first + 1), None)

    start, stop = bounds(rows(batch))
    return tf.nest.map_structure(cut, batch), stop - start


def join(parts: list[Any], counts: list[tf.Tensor]) -> Any:
    """Puts nests of row-wise tensors together again, each cut to the number of its true rows."""
    return tf.nest.map_structure(
        lambda *leaves: tf.concat([leaf[:count] for leaf, count in zip(leaves, counts, strict=True)], axis=0), *parts
    )


def _static_rows(batch: Any) -> int | None:
    found = {leaf.shape[0] for leaf in tf.nest.flatten(batch) if leaf.shape.rank != 0}
    if len(found - {None}) > 1:
        raise ValueError(
            f"a batch whose tensors have {' and '.join(map(str, sorted(found - {None})))} rows cannot be "
            "cut into parts, for microbatches or replicas: every tensor in it must have the same leading dimension, or "
            "be a scalar"
        )
    return found.pop() if len(found) == 1 else None


def _slice(leaf: Any, start: Any, stop: Any, size: int | None) -> Any:
    if isinstance(leaf, tf.SparseTensor):
        begin = tf.cast(tf.concat([[start], tf.zeros_like(leaf.dense_shape[1:], tf.int32)], 0), tf.int64)
        extent = tf.concat([[tf.cast(stop - start, tf.int64)], leaf.dense_shape[1:]], 0)
        return tf.sparse.slice(leaf, begin, extent)
    if isinstance(leaf, tf.RaggedTensor):
        return leaf[start:stop]
    if leaf.shape.rank == 0:
        return leaf
    sliced = leaf[start:stop]
    return tf.ensure_shape(sliced, [size, *leaf.shape[1:]]) if leaf.shape.rank is not None else sliced
