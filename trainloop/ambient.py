"""What holds for the code that runs here: values opened around it, found by thread, or by the graph being built.

A replica's or a worker's thread, which opened nothing itself, finds what was opened around the graph that it builds; a
replica's thread also finds what was opened eagerly around `strategy.run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

import tensorflow as tf

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)  # values may not be compared: `==` of tensors is an op
class _Opened:
    value: object
    thread: int
    graph: tf.Graph | None
    replica: int | None


class Ambient(Generic[T]):
    """A stack of values for each thread; the innermost holds.

    Example:
      >>> from trainloop.ambient import Ambient
      >>> colour = Ambient()
      >>> with colour.opened("red"):
      ...     colour.current()
      'red'
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self._open: list[_Opened] = []

    @contextlib.contextmanager
    def opened(self, value: T) -> Iterator[T]:
        """Makes a value hold for the block."""
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        entry = _Opened(value, threading.get_ident(), graph, replica_id())
        stack = self._stack()
        stack.append(entry)
        self._open.append(entry)
        try:
            yield value
        finally:
            stack.remove(entry)
            self._open.remove(entry)

    def current(self) -> T | None:
        """Returns the innermost value that holds here, or None."""
        found = self._found()
        return None if found is None else found.value  # type: ignore[return-value]

    def _found(self) -> _Opened | None:
        if stack := self._stack():
            return stack[-1]
        if not self._open:
            return None
        here = replica_id()
        # A worker's thread is in no replica: it works for the one that has opened something last, the others wait.
        candidates = [entry for entry in reversed(tuple(self._open)) if here is None or entry.replica in (None, here)]
        if not tf.executing_eagerly():
            graphs = set(map(id, graphs_around()))
            for candidate in candidates:
                if id(candidate.graph) in graphs:
                    return candidate
        around = [candidate for candidate in candidates if candidate.graph is None]
        if here is not None and len({candidate.thread for candidate in around}) == 1:
            return around[0]
        return None

    def _stack(self) -> list[_Opened]:
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        return self._local.stack


def graphs_around() -> Iterator[tf.Graph]:
    """Yields the graph that is being built, the one around it, and so on outwards."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        yield graph
        graph = getattr(graph, "outer_graph", None)


def replica_id() -> int | None:
    """Returns which replica's code is running, or None where there is but one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context.replica_id_in_sync_group if isinstance(context.replica_id_in_sync_group, int) else id(context)
