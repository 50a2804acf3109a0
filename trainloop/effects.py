"""The effects of a traced function: what its graph draws at random and writes, through every function that it calls.

A graph is read once, op by op, and so is the graph of each function in it, however often that is called. What a
function does to one of its inputs is followed out through the calls, to the variable that the outermost one was given.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import tensorflow as tf

from trainloop.ambient import graphs_from
from trainloop.tracing import LayerCall, Trace

Kind = Literal["random", "write", "unknown"]

_RANDOM = re.compile(
    r"Random(Uniform|UniformInt|StandardNormal|Gamma|Poisson(V2)?|Shuffle|Crop|IndexShuffle)"
    r"|(Parameterized)?TruncatedNormal|Multinomial|NonDeterministicInts|RiscRandomUniform|RngReadAndSkip|RngSkip"
    r"|Stateful(Uniform\w*|StandardNormal\w*|TruncatedNormal|RandomBinomial)"
    r"|Stateless(Random(Uniform|Normal|Gamma|Poisson|Binomial)\w*|(Parameterized)?TruncatedNormal\w*|Multinomial"
    r"|Shuffle|SampleDistortedBoundingBox)"
    r"|SampleDistortedBoundingBox(V2)?|\w+CandidateSampler|Skipgram|NegTrain|CudnnRNN(V2|V3)?|Fractional(Max|Avg)Pool"
    r"|(Experimental)?RandomDataset(V2)?|Shuffle(AndRepeat)?Dataset(V2|V3)?"
)
_WRITES = re.compile(
    r"Assign\w*Variable(Op|Xla\w+)|Resource(Sparse)?Apply\w+|ResourceScatter\w+|ResourceStridedSliceAssign"
    r"|ResourceCountUpTo|LookupTable(Insert|Remove|Import)(V2)?|InitializeTable\w*"
    r"|Assign(Add|Sub)?|(Sparse)?Apply[A-Z]\w+|Scatter(Nd)?(Add|Sub|Mul|Div|Min|Max|Update)"
)
_READS = re.compile(r"ReadVariable(Op|XlaSplitND)|ResourceGather(Nd)?")
# What is stateful in the eyes of TensorFlow, but neither draws nor leaves anything behind in the process.
_HARMLESS = re.compile(
    r"_?(Arg|Retval|Send|Recv|HostSend|HostRecv|DeviceArg|DeviceRetval)|VariableV?2?|VarHandleOp|_VarHandlesOp"
    r"|VariableShape|VarIsInitializedOp|_ReadVariablesOp|DisableCopyOnRead|TemporaryVariable|DeepCopy|Empty"
    r"|GuaranteeConst|IsResourceHandleRefCounting|IsTensorFloat32Enabled|DeviceIndex|GraphDefVersion|Timestamp"
    r"|StatelessRandomGetAlg|Anonymous\w+|DummySeedGenerator|DummyMemoryCache|DummyIterationCounter|Delete\w+Generator"
    r"|DeleteMemoryCache|Assert|Print(V2)?|CheckNumerics(V2)?|Debug\w+|DumpTensor"
    r"|SummaryWriter|Create\w+Writer|FlushSummaryWriter|CloseSummaryWriter|Write\w*Summary|ImportEvent"
    r"|Collective\w+|Nccl\w+|_Nccl\w+|CrossReplicaSum|AllToAll|TensorArray\w*|Stack\w*|CudnnRNNBackprop\w*"
    r"|(Mutable)?HashTable\w*|MutableDenseHashTable\w*|LookupTable(Find|Size|Export)V2"
    r"|\w*Iterator\w*|\w*Dataset\w*|DatasetToSingleElement|Optional\w*|MutexV2|MutexLock|ConsumeMutexLock"
)
_PASSES_ON = frozenset({"Identity", "StopGradient", "PreventGradient", "Enter", "Switch", "Merge"})

_Role = Literal["random", "write", "read", "call", "unknown", "none"]
_roles: dict[str, _Role] = {}


def _role_of(op: tf.Operation) -> _Role:
    """Returns what an op is by its type, which has one answer for all ops of that type."""
    kind, definition = op.type, op.op_def
    if _RANDOM.fullmatch(kind):
        return "random"
    if any(attribute.type in ("func", "list(func)") for attribute in definition.attr):
        return "call"
    if _WRITES.fullmatch(kind):
        return "write"
    if _READS.fullmatch(kind):
        return "read"
    return "unknown" if definition.is_stateful and not _HARMLESS.fullmatch(kind) else "none"


@dataclasses.dataclass(eq=False, frozen=True)
class GraphEffect:
    """An op that draws, writes, or may do either, somewhere in a graph.

    Attributes:
      kind: What it does; `"unknown"` where nothing is known of what it does.
      op: The op.
      target: The handle of the variable or table that it writes; None where it writes none.
      owner: The layer call that made the op, or the innermost call of a function with the op in it; or None.
      is_declared: Whether it is a draw through `trainloop.random`, or takes its seed from one.
      is_here: Whether it was made in this trace, and not by a function that was traced before.
    """

    kind: Kind
    op: tf.Operation
    target: Any
    owner: LayerCall | None
    is_declared: bool
    is_here: bool
    seeds: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class EarlierTrace:
    """A call of a function that was traced before, so that nobody saw the layers in it now.

    Attributes:
      name: The name of the function.
      owner: The layer call that made the call, or None.
      scopes: The names of all scopes that ops stand in, there and in the functions called from there.
    """

    name: str
    owner: LayerCall | None
    scopes: frozenset[str]


@dataclasses.dataclass
class GraphEffects:
    """What a graph does.

    Attributes:
      effects: Every op that draws or writes, or that may.
      reads: The handles of all variables that are read, by id.
      earlier: The functions in it that were traced before.
    """

    effects: list[GraphEffect]
    reads: dict[int, Any]
    earlier: list[EarlierTrace]


def read_effects(concrete: Any, trace: Trace) -> GraphEffects:
    """Reads what a concrete function does.

    Args:
      concrete: A `tf.types.experimental.ConcreteFunction`.
      trace: What was recorded while it was traced.
    """
    captured = concrete.captured_inputs
    given = dict(zip(map(id, concrete.inputs[len(concrete.inputs) - len(captured) :]), captured, strict=True))
    return _Reader(concrete.graph, trace).read(concrete.graph).seen_with(lambda tensor: given.get(id(tensor), tensor))


@dataclasses.dataclass
class _Read(GraphEffects):
    graph: tf.Graph
    name: str

    def seen_with(self, given: Callable[[Any], Any]) -> GraphEffects:
        pass
