"""What a `tf.data.Dataset` is made of: the only module that reads its nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

# By the names of their classes: what passes on rows that there are; what can be saved wherever that which it reads can.
_PASSING_ON = "Tensor|TensorSlice|Range|Batch|Shuffle|Repeat|Prefetch|Take|Skip|Zip|Concatenate|Options"
_INLINE = re.compile(f"_({_PASSING_ON})Dataset")
_PLAINLY_SAVED = re.compile(f"_({_PASSING_ON}|ParallelBatch|Map|ParallelMap|Filter)Dataset")


def of(dataset: Any) -> Iterator[Any]:
    """Yields a dataset, and all that it reads."""
    yield dataset
    for source in getattr(dataset, "_inputs", list)():
        yield from of(source)


def described(dataset: tf.data.Dataset) -> dict[str, Any]:
    """Returns what a dataset tells of its rows and batches, without being read."""
    parts = list(of(dataset))
    sizes = [tf.get_static_value(node._batch_size) for node in parts if hasattr(node, "_batch_size")]
    origins = [node for node in parts if not getattr(node, "_inputs", list)()]
    return {
        "batches": _counted(dataset),
        "batch_size": [None if size is None else int(size) for size in sizes],
        "rows": [_counted(origin) for origin in origins],
        "element": [str(leaf) for leaf in tf.nest.flatten(dataset.element_spec)],
    }


def _counted(dataset: tf.data.Dataset) -> int | str:
    cardinality = int(dataset.cardinality())
    special = {tf.data.INFINITE_CARDINALITY: "endless", tf.data.UNKNOWN_CARDINALITY: "unknown"}
    return special.get(cardinality, cardinality)


def can_be_taken_inline(dataset: tf.data.Dataset) -> bool:
    """Returns whether the thread that runs the ops of a loop does best to take the batches itself, and can.

    They have to be as many as the dataset says, since one that is asked for and is not there is an error then. Where a
    function makes them, or several threads do, the loop is faster where another thread waits for them. Ragged and
    sparse tensors leave a dataset in a form of their own.
    """
    dense = all(type(spec) is tf.TensorSpec for spec in tf.nest.flatten(dataset.element_spec))
    return dense and all(map(_passes_on, of(dataset)))


def _passes_on(node: Any) -> bool:
    """Returns whether a node passes on rows that there are, and says how many."""
    name = type(node).__name__
    if name in ("_TakeDataset", "_SkipDataset") and int(node._count) < 0:  # skips all, and may call that endless
        return False
    return _INLINE.fullmatch(name) is not None


def can_plainly_be_saved(dataset: tf.data.Dataset) -> bool:
    """Returns whether it is plain to see that an iterator can be saved: nothing in it has a state of its own."""
    return all(_PLAINLY_SAVED.fullmatch(type(node).__name__) and is_stateless(node) for node in of(dataset))


def is_stateless(node: Any) -> bool:
    """Returns whether no function of a node has an op with a state."""
    graphs = [getattr(function.function, "graph", None) for function in node._functions()]
    # A function of TensorFlow 1 has no graph to look at.
    return all(graph is not None and not _has_state(graph) for graph in graphs)


def _has_state(graph: tf.Graph) -> bool:
    return any(op.op_def.is_stateful for op in graph.get_operations())


def is_unseeded(node: Any) -> bool:
    """Returns whether a node draws its own seed in every process, which TensorFlow writes as two zeros."""
    seeds = [getattr(node, name, 1) for name in ("_seed", "_seed2")]
    return all(int(seed) == 0 for seed in seeds)


def shuffles_anew(node: Any) -> bool:
    """Returns whether a node has another order each time that it is iterated."""
    return "Shuffle" in type(node).__name__ and getattr(node, "_reshuffle_each_iteration", None) is not False


def shuffles_anew_within_a_pass(dataset: Any, *, repeated: bool = False, changed: bool = False) -> bool:
    """Returns whether a shuffle feeds a repeat through something else, which drops the shuffle where a pass ends."""
    if repeated and changed and shuffles_anew(dataset):
        return True
    is_repeat = "Repeat" in type(dataset).__name__
    below = {"repeated": repeated or is_repeat, "changed": repeated and (changed or not is_repeat)}
    return any(shuffles_anew_within_a_pass(source, **below) for source in getattr(dataset, "_inputs", list)())
