"""What an op does to the world by its type: whether it draws, writes, reads, calls a function, or may do anything."""

from __future__ import annotations

import re
from typing import Any, Literal

import tensorflow as tf

Role = Literal["random", "write", "read", "call", "unknown", "none"]

# Types of ops, as patterns that are compiled when the first op is looked at: an import need not wait for that.
_RANDOM = (
    r"Random(Uniform|UniformInt|StandardNormal|Gamma|Poisson(V2)?|Shuffle|Crop|IndexShuffle)"
    r"|(Parameterized)?TruncatedNormal|Multinomial|NonDeterministicInts|RiscRandomUniform|RngReadAndSkip|RngSkip"
    r"|Stateful(Uniform\w*|StandardNormal\w*|TruncatedNormal|RandomBinomial)"
    r"|Stateless(Random(Uniform|Normal|Gamma|Poisson|Binomial)\w*|(Parameterized)?TruncatedNormal\w*|Multinomial"
    r"|Shuffle|SampleDistortedBoundingBox)"
    r"|SampleDistortedBoundingBox(V2)?|\w+CandidateSampler|Skipgram|NegTrain|CudnnRNN(V2|V3)?|Fractional(Max|Avg)Pool"
    r"|(Experimental)?RandomDataset(V2)?|Shuffle(AndRepeat)?Dataset(V2|V3)?"
)
_WRITES = (
    r"Assign\w*Variable(Op|Xla\w+)|Resource(Sparse)?Apply\w+|ResourceScatter\w+|ResourceStridedSliceAssign"
    r"|ResourceCountUpTo|LookupTable(Insert|Remove|Import)(V2)?|InitializeTable\w*"
    r"|Assign(Add|Sub)?|(Sparse)?Apply[A-Z]\w+|Scatter(Nd)?(Add|Sub|Mul|Div|Min|Max|Update)"
)
_READS = r"ReadVariable(Op|XlaSplitND)|ResourceGather(Nd)?"
# What is stateful in the eyes of TensorFlow, but neither draws nor leaves anything behind in the process.
_HARMLESS = (
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

_roles: dict[str, Role] = {}


def role_of(op: tf.Operation) -> Role:
    """Returns what an op is by its type, which has one answer for all ops of that type."""
    role = _roles.get(op.type)
    if role is None:
        role = _roles[op.type] = _role_of_type(op.type, op.op_def)
    return role


def _role_of_type(kind: str, definition: Any) -> Role:
    if re.fullmatch(_RANDOM, kind):
        return "random"
    if any(attribute.type in ("func", "list(func)") for attribute in definition.attr):
        return "call"
    if re.fullmatch(_WRITES, kind):
        return "write"
    if re.fullmatch(_READS, kind):
        return "read"
    return "unknown" if definition.is_stateful and not re.fullmatch(_HARMLESS, kind) else "none"
