"""What a trace leaves behind: the layer calls in it, and which of them made which op.

The contract reads it to name the effects that it finds in a graph; the audit, to say how each layer got its value.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from trainloop.ambient import Ambient
from trainloop.layer_paths import layer_paths, own_name
from trainloop.policy import Family
from trainloop.violations import Violation

How = Literal["supplied", "said", "inherited", "overridden", "pinned", "followed"]


@dataclasses.dataclass(eq=False)
class LayerCall:
    """One call of a layer.

    Attributes:
      layer: The layer.
      path: Its path in the model.
      family: Its family, or None.
      phase: The value of the phase that holds for it (`"train"`): that of the scope, or of its pin.
      training: The value it has got; None where it takes none and was told none.
      how: How it came by that value: supplied by the guard, said by an argument, inherited from the Keras call around
        it, overridden because the phase tells its family so, or decided by `pin` or `follow`.
      parent: The layer call around it, or None.
      graph: The graph that was being built; None for an eager call.
      start: How many ops the graph had before the call.
      stop: How many it had after it.
      outputs: What it returned to the graph; None for an eager call, and for one that raised.
      around: The layer call that it was made in, also where a scope of its own was opened in between, so that this one
        is no parent.
    """

    layer: Any
    path: str
    family: Family | None
    phase: str
    training: bool | None
    how: How
    parent: LayerCall | None
    graph: tf.Graph | None
    start: int = 0
    stop: int = 0
    outputs: Any = None
    around: LayerCall | None = None


class OpenedScope(NamedTuple):
    """The ops that were made while a scope was open.

    Attributes:
      graph: The graph that was being built.
      start: How many ops it had before.
      stop: How many it had after.
      phase: The value of the scope's phase.
      around: The layer call that it was opened in, or None.
    """

    graph: tf.Graph
    start: int
    stop: int
    phase: str
    around: LayerCall | None


class Trace:
    """All layer calls under one outermost scope.

    Attributes:
      calls: In the order in which they began.
      scopes: The scopes, in the order in which they ended.
      given: What calls of `tf.function`s were given for `training`, as `(graph, first op, number of ops after it,
        value)`, in the order in which they ended.
      declared: The draws made through `trainloop.random`, as `(graph, first op, number of ops after it)`.
      unkeyed: What was drawn where no key could be made, as descriptions.
      replays: The graphs that only do for many samples what other ops of the trace do for one.
      violations: Where a layer contradicted its phase.
      in_graph: Whether a graph was being built when the trace began.
    """

    def __init__(self) -> None:
        self.in_graph = not tf.executing_eagerly()
        self.violations: list[Violation] = []
        self._paths: dict[int, str] = {}
        self._layers: dict[int, Any] = {}
        self._roots: list[Any] = []  # held, so that no id is given to another object
        self.calls: list[LayerCall] = []
        self.scopes: list[OpenedScope] = []
        self.given: list[tuple[tf.Graph, int, int, bool]] = []
        self._by_graph: dict[int, tuple[list[int], list[LayerCall]]] = {}
        self._sorted_calls = 0
        self.declared: list[tuple[tf.Graph, int, int]] = []
        self.unkeyed: list[str] = []
        self.replays: list[tf.Graph] = []

    @property
    def roots(self) -> list[Any]:
        """The models, dicts of models and layers that the paths are counted from."""
        return list(self._roots)

    @property
    def layers(self) -> dict[int, tuple[str, Any]]:
        """All layers by id, each with its path: those of the models, and those that were called."""
        found = {key: (self._paths[key], layer) for key, layer in self._layers.items()}
        for call in self.calls:
            found.setdefault(id(call.layer), (call.path, call.layer))
        return found

    def add_root(self, root: Any) -> None:
        """Counts the paths of a model's layers from the model, or from the dict of models."""
        if not any(root is known for known in self._roots):
            self._roots.append(root)
            for path, layer in layer_paths(root).items():
                self._paths.setdefault(id(layer), path)
                self._layers.setdefault(id(layer), layer)

    def path_of(self, layer: Any, parent: LayerCall | None) -> str:
        """Returns a layer's path: in its model, or else (a layer in a closure) below the layer that calls it."""
        if id(layer) not in self._paths:
            if parent is None:
                self.add_root(layer)
            else:  # not there when the model's paths were taken
                self._roots.append(layer)
                below = layer_paths(parent.layer)
                own = next((path for path, each in below.items() if each is layer), own_name(layer))
                self._paths[id(layer)] = f"{parent.path}/{own}"
        return self._paths[id(layer)]

    def owner(self, graph: tf.Graph, index: int) -> LayerCall | None:
        """Returns the innermost layer call that made an op, or None.

        Args:
          graph: The graph of the op.
          index: Its place among `graph.get_operations()`.
        """
        starts, calls = self._calls_by_graph().get(id(graph), ((), ()))
        position = bisect.bisect_right(starts, index) - 1
        call = calls[position] if position >= 0 else None
        while call is not None and not (call.graph is graph and call.start <= index < call.stop):
            call = call.around
        return call

    def phase_at(self, graph: tf.Graph, index: int) -> str | None:
        """Returns the value of the phase that holds for an op: that of the innermost layer call or scope around it.

        Args:
          graph: The graph of the op.
          index: Its place among `graph.get_operations()`.
        """
        call = self.owner(graph, index)
        for scope in self.scopes:  # the innermost has ended first
            if scope.graph is graph and scope.start <= index < scope.stop:
                around = scope.around
                while around is not None and around is not call:
                    around = around.around
                return scope.phase if call is None or around is call else call.phase
        return None if call is None else call.phase

    def _calls_by_graph(self) -> dict[int, tuple[list[int], list[LayerCall]]]:
        """Returns the calls made in each graph, in the order of their first ops, and these."""
        if self._sorted_calls != len(self.calls):
            self._by_graph = {}
            for call in sorted(self.calls, key=lambda call: call.start):  # where two start together, the inner is later
                starts, calls = self._by_graph.setdefault(id(call.graph), ([], []))
                starts.append(call.start)
                calls.append(call)
            self._sorted_calls = len(self.calls)
        return self._by_graph

    def training_given(self, graph: tf.Graph, index: int) -> bool | None:
        """Returns what the `tf.function` whose call made an op was given for `training`, or None."""
        return next((value for each, start, stop, value in self.given if each is graph and start <= index < stop), None)

    def is_declared(self, graph: tf.Graph, index: int) -> bool:
        """Returns whether an op was made by a draw through `trainloop.random`."""
        return any(each is graph and start <= index < stop for each, start, stop in self.declared)

    @contextlib.contextmanager
    def in_scope(self, phase: str, around: LayerCall | None) -> Iterator[None]:
        """Notes which ops the block makes, as those of a scope of that phase that is opened in a layer call."""
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        start = op_count(graph)
        yield
        if graph is not None:
            self.scopes.append(OpenedScope(graph, start, op_count(graph), phase, around))

    @contextlib.contextmanager
    def giving(self, training: bool) -> Iterator[None]:
        """Notes which ops the call of a `tf.function` makes, and what it was given for `training`."""
        graph = tf.compat.v1.get_default_graph()
        start = op_count(graph)
        yield
        self.given.append((graph, start, op_count(graph), training))

    @contextlib.contextmanager
    def declaring(self) -> Iterator[None]:
        """Declares every op that the block makes."""
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        start = op_count(graph)
        yield
        if graph is not None:
            self.declared.append((graph, start, op_count(graph)))


def op_count(graph: tf.Graph | None) -> int:
    """Returns how many ops a graph has; 0 for no graph."""
    return 0 if graph is None else graph.version


def merged(traces: Sequence[Trace]) -> Trace:
    """Returns the traces of one step on several replicas as one."""
    if len(traces) == 1:
        return traces[0]
    whole = Trace()
    for trace in traces:
        whole.calls += trace.calls
        whole.scopes += trace.scopes
        whole.given += trace.given
        whole.declared += trace.declared
        whole.unkeyed += trace.unkeyed
        whole.replays += trace.replays
        whole.violations += trace.violations
        for root in trace.roots:
            whole.add_root(root)
    return whole


_traces: Ambient[Trace] = Ambient()


def current() -> Trace | None:
    """Returns the trace that is going on here, or None."""
    return _traces.current()


def note_replay() -> None:
    """Notes that the graph being built here only does for many samples what was traced for one."""
    if (trace := current()) is not None:
        trace.replays.append(tf.compat.v1.get_default_graph())


@contextlib.contextmanager
def recorded() -> Iterator[Trace]:
    """Records the layer calls of the block; inside another such block, that one goes on recording."""
    if (going_on := current()) is not None:
        yield going_on
        return
    with _traces.opened(Trace()) as trace:
        yield trace
