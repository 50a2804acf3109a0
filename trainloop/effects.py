"""The effects of a traced function: what its graph draws at random and writes, through every function that it calls.

A graph is read once, op by op, and so is the graph of each function in it, however often that is called. What a
function does to one of its inputs is followed out through the calls, to the variable that the outermost one was given.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from trainloop.op_roles import role_of
from trainloop.tracing import LayerCall, Trace

Kind = Literal["random", "write", "unknown"]

_PASSES_ON = frozenset({"Identity", "StopGradient", "PreventGradient", "Enter", "Switch", "Merge"})


@dataclasses.dataclass(eq=False, frozen=True)
class GraphEffect:
    """An op that draws, writes, or may do either, somewhere in a graph.

    Attributes:
      kind: What it does; `"unknown"` where nothing is known of what it does.
      op: The op.
      target: The handle of the variable or table that it writes; None where it writes none.
      owner: The layer call that made the op, or else the function call with the op in it; None where there is none.
      is_declared: Whether it is a draw through `trainloop.random`, or takes its seed from one.
      is_here: Whether it was made in this trace, and not by a function that was traced before.
      phase: The value of the phase that holds for it: that of the innermost layer call or scope that it was made in;
        None where there is none.
      seeds: What it takes its seed from, as far as that is given to the graph and not made in it.
    """

    kind: Kind
    op: tf.Operation
    target: Any
    owner: LayerCall | None
    is_declared: bool
    is_here: bool
    phase: str | None
    seeds: tuple[Any, ...]

    @property
    def is_stateful(self) -> bool:
        """Whether the op itself keeps a state, so that what it draws is no function of what it is given."""
        return self.op.op_def.is_stateful


class EarlierTrace(NamedTuple):
    """A call of a function that was traced before, so that nobody has seen the layers in it now.

    Attributes:
      name: The name of the function.
      owner: The layer call that made the call; None where there is none.
      phase: The value of the phase that holds for the call; None where there is none.
      training: The bool that it was given for a parameter `training`; None where it was given none.
      scopes: The names of all scopes that ops stand in, there and in the functions called from there.
    """

    name: str
    owner: LayerCall | None
    phase: str | None
    training: bool | None
    scopes: frozenset[str]


class GraphEffects(NamedTuple):
    """What a graph does.

    Attributes:
      effects: Every op that draws or writes, or that may.
      reads: The handles of the variables that are read.
      earlier: The functions called in it that were traced before.
    """

    effects: list[GraphEffect]
    reads: list[Any]
    earlier: list[EarlierTrace]


def read_effects(concrete: Any, trace: Trace) -> GraphEffects:
    """Returns what a concrete function does.

    Args:
      concrete: A `tf.types.experimental.ConcreteFunction`.
      trace: What was recorded while it was traced.
    """
    given = _Arguments(concrete.inputs, concrete.captured_inputs)
    read = _Reader(concrete.graph, trace).read(concrete.graph)
    effects = [dataclasses.replace(effect, target=given.of(effect.target)) for effect in read.effects]
    return GraphEffects(effects, [given.of(handle) for handle in read.reads], read.earlier)


class _Arguments:
    """What a function's inputs are outside of it.

    Where a call has more inputs than its function, or fewer, the last ones belong together: what precedes them is a
    condition, or the function's element of a loop or of a data set.
    """

    def __init__(self, inputs: Sequence[Any], given: Sequence[Any]):
        self._given = dict(zip(map(id, reversed(inputs)), reversed(given), strict=False))

    def of(self, tensor: Any) -> Any:
        """Returns what a tensor is outside of the function; itself if it is no input."""
        return self._given.get(id(tensor), tensor)


class _Reader:
    """Reads graphs, each once."""

    def __init__(self, outermost: tf.Graph, trace: Trace):
        self._outermost = outermost
        self._trace = trace
        self._read: dict[int, GraphEffects] = {}
        self._graphs: list[tf.Graph] = []  # held, so that no id is given to another one
        self._declared: dict[int, set[str]] = collections.defaultdict(set)
        for graph, start, stop in trace.declared:
            self._declared[id(graph)] |= {op.name for op in graph.get_operations()[start:stop]}

    def read(self, graph: tf.Graph) -> GraphEffects:
        """Returns what a graph does; variables and seeds that it is given stand for themselves, as its inputs."""
        if id(graph) not in self._read:
            self._graphs.append(graph)
            self._read[id(graph)] = self._read_ops(graph)
        return self._read[id(graph)]

    def _read_ops(self, graph: tf.Graph) -> GraphEffects:
        effects: dict[tuple[int, ...], GraphEffect] = {}
        reads: dict[int, Any] = {}
        earlier: dict[EarlierTrace, None] = {}
        here = self._is_here(graph)
        for index, op in enumerate(graph.get_operations()):
            role = role_of(op)
            if role == "none":
                continue
            if role == "read":
                handle = _origin(op.inputs[0])
                reads[id(handle)] = handle
            elif role == "call":
                owner, phase = self._trace.owner(graph, index), self._trace.phase_at(graph, index)
                given = self._trace.training_given(graph, index)
                for inner in functions_of(op, graph):
                    if any(inner is replay for replay in self._trace.replays):
                        continue
                    if inner is None:
                        effect = GraphEffect("unknown", op, None, owner, False, here, phase, ())
                        effects[_key(effect)] = effect
                        continue
                    inside, arguments = self.read(inner), _Arguments(inner.inputs, list(op.inputs))
                    for effect in inside.effects:
                        effect = self._outside(effect, arguments, owner, phase, graph)
                        effects[_key(effect)] = effect
                    for handle in inside.reads:
                        handle = _origin(arguments.of(handle))
                        reads[id(handle)] = handle
                    if here and not self._is_here(inner):
                        earlier[EarlierTrace(inner.name, owner, phase, given, _scopes(inner))] = None
                    for each in inside.earlier:
                        earlier[each._replace(owner=each.owner or owner, phase=each.phase or phase)] = None
            elif role != "random" or _draws(op):
                effect = self._effect(role, op, index, graph, here)
                effects[_key(effect)] = effect
        return GraphEffects(list(effects.values()), list(reads.values()), list(earlier))

    def _effect(self, kind: Kind, op: tf.Operation, index: int, graph: tf.Graph, here: bool) -> GraphEffect:
        declared, seeds = False, ()
        if kind == "random" and self._declared:
            declared = op.name in self._declared[id(graph)]
            if not declared:
                declared, seeds = self._follow(_seeds(op), graph)
        target = _origin(op.inputs[0]) if kind == "write" else None
        owner, phase = self._trace.owner(graph, index), self._trace.phase_at(graph, index)
        return GraphEffect(kind, op, target, owner, declared, here, phase, seeds)

    def _outside(
        self, effect: GraphEffect, given: _Arguments, owner: LayerCall | None, phase: str | None, graph: tf.Graph
    ) -> GraphEffect:
        """Returns an effect of a function as one of the graph that calls it."""
        declared, seeds = effect.is_declared, effect.seeds
        if seeds and not declared:
            declared, seeds = self._follow([given.of(seed) for seed in seeds], graph)
        return dataclasses.replace(
            effect,
            target=None if effect.target is None else _origin(given.of(effect.target)),
            owner=effect.owner or owner,
            phase=effect.phase or phase,
            is_declared=declared,
            seeds=seeds,
        )

    def _follow(self, seeds: Iterable[Any], graph: tf.Graph) -> tuple[bool, tuple[Any, ...]]:
        """Returns whether a seed was declared in a graph, and the inputs of the graph that it is made of."""
        waiting = [seed for seed in seeds if getattr(seed, "graph", None) is graph]
        inputs = set(map(id, getattr(graph, "inputs", ())))
        met: set[int] = set()
        found: list[Any] = []
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in inputs:
                found.append(tensor)
                continue
            op = tensor.op
            if id(op) in met:
                continue
            met.add(id(op))
            if op.name in self._declared[id(graph)]:
                return True, ()
            waiting += op.inputs
        return False, tuple(found)

    def _is_here(self, graph: tf.Graph | None) -> bool:
        """Returns whether a graph was built inside the outermost one."""
        while graph is not None and graph is not self._outermost:
            graph = getattr(graph, "outer_graph", None)
        return graph is not None


def _key(effect: GraphEffect) -> tuple[int, int, int]:
    return id(effect.op), id(effect.target), id(effect.owner)


def _draws(op: tf.Operation) -> bool:
    """Returns whether an op that may draw does so as it is set."""
    if op.type.startswith("CudnnRNN"):
        return op.get_attr("dropout") > 0.0
    if op.type.startswith("Fractional"):
        return not op.get_attr("deterministic")
    return True


def _seeds(op: tf.Operation) -> list[Any]:
    """Returns what a stateless draw takes its seed from."""
    names = [argument.name for argument in op.op_def.input_arg]
    return [tensor for name, tensor in zip(names, op.inputs, strict=False) if name in ("seed", "key", "counter")]


def _origin(handle: Any) -> Any:
    """Returns where a handle comes from inside its graph."""
    while isinstance(handle, tf.Tensor) and hasattr(handle, "graph") and handle.op.type in _PASSES_ON:
        handle = handle.op.inputs[0]
    return handle


def functions_of(op: tf.Operation, graph: tf.Graph) -> Iterator[tf.Graph | None]:
    """Yields the graph of each function that an op may call; None where it cannot be found.

    Args:
      op: The op.
      graph: The graph that it is in, or whose functions it may call.
    """
    never = None
    if op.type in ("If", "StatelessIf") and (condition := _known(op.inputs[0])) is not None:
        never = "else_branch" if condition else "then_branch"
    for attribute in op.op_def.attr:
        if attribute.name == never:
            continue
        if attribute.type == "func":
            yield _function(op.get_attr(attribute.name).name, graph)
        elif attribute.type == "list(func)":
            yield from (_function(each.name, graph) for each in op.get_attr(attribute.name))


def _known(condition: tf.Tensor) -> bool | None:
    """Returns the value of a condition where it is known before anything runs; else None.

    `RandomCrop` asks for `tf.reduce_all((training, rows_left >= 0, ...))`, which is False where `training` is.
    """
    static = tf.get_static_value(condition)
    if static is not None:
        return bool(static)
    op = condition.op
    if op.type in ("Identity", "LogicalNot"):
        value = _known(op.inputs[0])
        return value if value is None or op.type == "Identity" else not value
    deciding = {"All": False, "LogicalAnd": False, "Any": True, "LogicalOr": True}.get(op.type)
    if deciding is None:
        return None
    parts = list(op.inputs if op.type.startswith("Logical") else op.inputs[:1])
    if op.type in ("All", "Any") and parts[0].op.type == "Pack":
        parts = list(parts[0].op.inputs)
    elif op.type in ("All", "Any"):
        return None
    return deciding if any(part.shape.rank == 0 and _known(part) is deciding for part in parts) else None


def _function(name: str, graph: tf.Graph | None) -> tf.Graph | None:
    while graph is not None:
        function = graph._get_function(name)
        if function is not None:
            return getattr(function, "graph", None)
        graph = getattr(graph, "outer_graph", None)
    return None


def _scopes(graph: tf.Graph) -> frozenset[str]:
    """Returns the names of the scopes in a graph, and in the graphs of the functions called from there."""
    found: set[str] = set()
    waiting, met = [graph], {id(graph)}
    while waiting:
        graph = waiting.pop()
        for op in graph.get_operations():
            found.update(op.name.split("/")[:-1])
            for inner in functions_of(op, graph) if role_of(op) == "call" else ():
                if inner is not None and id(inner) not in met:
                    met.add(id(inner))
                    waiting.append(inner)
    return frozenset(found)
