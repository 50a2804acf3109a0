"""What comes before what in a traced model, read off the graph: from a tensor back to the layers that it depends on.

The order in which layers are listed, or called, says nothing about which feeds which. The ops do, and each is known to
be of one layer call (see `tracing.py`). Where an op is met of which nothing is known, the way ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import tensorflow as tf

from trainloop.tracing import LayerCall, Trace

_PASSING = frozenset(
    [
        "BatchToSpaceND",
        "BiasAdd",
        "Cast",
        "EnsureShape",
        "ExpandDims",
        "Identity",
        "MirrorPad",
        "Pad",
        "PadV2",
        "Reshape",
        "Slice",
        "Snapshot",
        "SpaceToBatchND",
        "Split",
        "SplitV",
        "Squeeze",
        "StopGradient",
        "StridedSlice",
        "Transpose",
        "Unpack",
    ]
)
_LINEAR = frozenset(
    ["BatchMatMulV2", "Conv2D", "Conv2DBackpropInput", "Conv3D", "DepthwiseConv2dNative", "Einsum", "MatMul"]
)
_JOINING = frozenset(["Add", "AddN", "AddV2", "ConcatV2", "Maximum", "Minimum", "Mul", "Pack", "Sub"])
_BENDING = frozenset(
    [
        "AvgPool",
        "AvgPool3D",
        "Elu",
        "Erf",
        "Erfc",
        "Exp",
        "IdentityN",
        "LeakyRelu",
        "Max",
        "MaxPool",
        "MaxPool3D",
        "Mean",
        "Relu",
        "Relu6",
        "Selu",
        "Sigmoid",
        "Softmax",
        "Softplus",
        "Softsign",
        "Square",
        "Sum",
        "Tanh",
    ]
)
_RECTIFYING = frozenset({"Relu", "Relu6"})
_ON_THE_WAY_OUT = _PASSING | {"Sigmoid", "Softmax", "Softplus", "Tanh", "Relu", "LogSoftmax"}


@dataclasses.dataclass(frozen=True)
class Way:
    """How a layer's output comes to a tensor.

    Attributes:
      call: The call of the layer.
      linear: How many linear ops (dense, convolution) lie between.
      is_plain: Whether nothing else lies between that changes the variance: no nonlinearity, pooling, or other branch.
    """

    call: LayerCall
    linear: int
    is_plain: bool


class Flow:
    """The ops of one graph, and the layer call that made each.

    Args:
      trace: What was recorded while the graph was built.
      graph: The graph.
    """

    def __init__(self, trace: Trace, graph: tf.Graph):
        self.operations: list[tf.Operation] = graph.get_operations()
        self._trace, self._graph = trace, graph
        self.calls = [call for call in trace.calls if call.graph is graph]
        self._place = {op.name: place for place, op in enumerate(self.operations)}
        self._carries_data = self._find_data()

    def owner(self, op: tf.Operation) -> LayerCall | None:
        """Returns the innermost layer call that made an op, or None."""
        return self._trace.owner(self._graph, self._place[op.name])

    def inputs_of(self, call: LayerCall) -> list[tf.Tensor]:
        """Returns the floating-point tensors that a layer call took and that depend on the model's inputs."""
        found: dict[str, tf.Tensor] = {}
        for op in self.operations[call.start : call.stop]:
            for tensor in op.inputs:
                if self._place[tensor.op.name] < call.start and self._is_data(tensor) and tensor.dtype.is_floating:
                    found[tensor.name] = tensor
        return list(found.values())

    def ways_to(self, tensor: tf.Tensor, families: frozenset[str], until: frozenset[str]) -> list[Way]:
        """Returns how the layers of some families come to a tensor, the plainest way from each.

        Args:
          tensor: Where the ways end.
          families: The families of the layers to find; a way is not followed through one.
          until: Further families through which no way is followed.
        """
        found: dict[LayerCall, Way] = {}
        seen: set[tuple[str, int, bool]] = set()
        heads = [(tensor, 0, True)]
        while heads:
            tensor, linear, is_plain = heads.pop()
            op = tensor.op
            if not self._is_data(tensor) or (op.name, linear, is_plain) in seen:
                continue
            seen.add((op.name, linear, is_plain))
            chain = list(_outwards(self.owner(op)))
            if call := next((call for call in chain if call.family in families), None):
                way = Way(call, linear, is_plain)
                if call not in found or _plainness(way) < _plainness(found[call]):
                    found[call] = way
                continue
            if any(call.family in until for call in chain):
                continue
            data = [each for each in op.inputs if self._is_data(each)]
            if op.type in _LINEAR and len(data) == 1:
                heads.append((data[0], min(linear + 1, 2), is_plain))
            elif op.type in _PASSING or (op.type in _JOINING and len(data) == 1):
                heads += [(each, linear, is_plain) for each in data]
            elif op.type in _LINEAR | _JOINING | _BENDING:
                heads += [(each, linear, False) for each in data]
        return list(found.values())

    def last_before(self, tensor: tf.Tensor) -> LayerCall | None:
        """Returns the innermost layer call behind a tensor, seen through reshapes, casts and activations; or None."""
        while tensor.op.type in _ON_THE_WAY_OUT:
            owner = self.owner(tensor.op)
            data = [each for each in tensor.op.inputs if self._is_data(each)]
            if (owner is not None and owner.family is not None) or len(data) != 1:
                break
            tensor = data[0]
        return self.owner(tensor.op)

    def is_rectified(self, tensor: tf.Tensor) -> bool:
        """Returns whether a tensor comes straight from a ReLU."""
        while tensor.op.type in _PASSING - {"BiasAdd"} and self._is_data(tensor):
            tensor = tensor.op.inputs[0]
        return tensor.op.type in _RECTIFYING

    def _find_data(self) -> list[bool]:
        """For each op, whether it depends on an input of the graph that is no variable and no constant."""
        captures = getattr(self._graph, "captures", ())  # of a function's graph
        constants = {inside.op.name for outside, inside in captures if not hasattr(outside, "op")}
        found: list[bool] = []
        for op in self.operations:
            if op.type == "Placeholder":
                found.append(op.outputs[0].dtype != tf.resource and op.name not in constants)
            else:
                found.append(any(found[self._place[tensor.op.name]] for tensor in op.inputs))
        return found

    def _is_data(self, tensor: tf.Tensor) -> bool:
        return self._carries_data[self._place[tensor.op.name]]


def _outwards(call: LayerCall | None) -> Iterator[LayerCall]:
    while call is not None:
        yield call
        call = call.parent


def _plainness(way: Way) -> tuple[bool, int]:
    return not way.is_plain, way.linear
