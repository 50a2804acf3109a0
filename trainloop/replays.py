"""What was traced once, for one sample, replayed for many samples at a time.

    number                        says which sample it is; whatever is drawn in it depends on that
    ops that do not need it       are done once, and what they compute holds for all samples
    ops that need it              become ops of all samples of a block, along a new first axis

What an op becomes is known to TensorFlow's vectorization (`tf.vectorized_map`). It looks at ops and not at layers, so
that each sample is what it would be alone, whatever computes it: a mean over the batch is that of the sample's batch.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from trainloop.effects import functions_of
from trainloop.versions import built_differently

try:
    from tensorflow.python.ops.parallel_for.pfor import (
        ConversionNotImplementedError,
        PFor,
        _convert_flatten_batch,
        _pfor_converter_registry,
        wrap,
    )
except ImportError as error:
    raise ImportError(built_differently(str(error))) from error

# The stateful ops that may be done once for all samples, or for many of them at a time: they only read.
_READS = (
    r"ReadVariableOp|ResourceGather(Nd)?|VariableShape|VarIsInitializedOp|VarHandleOp|LookupTable(Find|Size)V2"
    r"|DisableCopyOnRead|IsResourceHandleRefCounting|CheckNumerics(V2)?"
)
_CALLS = r"StatefulPartitionedCall|While|If|Case"
# Ops that TensorFlow's vectorization does not know, or not with one filter for all; all samples are one larger batch.
_OF_A_BATCH = frozenset(
    {"Conv3D", "DepthwiseConv2dNative", "LRN", "ResizeArea", "ResizeBicubic", "ResizeBilinear", "ResizeNearestNeighbor"}
)
_NO_COPIES = frozenset({"Const", "Identity", "Placeholder", "ReadVariableOp"})
_SMALL = 64  # as many elements a shape or a list of axes may have, of which the vectorization had better know the value


class NotReplayableError(Exception):
    """A sample that has to be computed anew each time; the message says why."""


class Sample:
    """The ops of one sample: those made in a graph from here on, until it is replayed.

    Attributes:
      number: The number of the sample; int32 scalar. It is 0 where they run as they were traced.
    """

    def __init__(self) -> None:
        self.number: tf.Tensor = tf.compat.v1.placeholder_with_default(0, [])
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self._start = 0 if self._graph is None else self._graph.version

    def replay(self, outputs: Sequence[tf.Tensor]) -> Replay:
        """Returns what makes the same outputs for other samples.

        Raises:
          NotReplayableError: If there is no graph, or an op keeps a state, as a draw without a key does.
        """
        if self._graph is None:
            raise NotReplayableError("the step is run eagerly")
        ops = self._graph.get_operations()[self._start : self._graph.version]
        depends = {self.number.op}
        for op in ops:  # each comes after those that it needs
            if any(tensor.op in depends for tensor in op.inputs) or not depends.isdisjoint(op.control_inputs):
                depends.add(op)
        for op in reversed(ops):  # a list that will hold what depends on it has to be made anew as well
            lists = [output for output in op.outputs if output.dtype == tf.variant]
            if any(reader in depends for output in lists for reader in output.consumers()):
                depends.add(op)
        for op in ops:
            for each in (op, *_called_by(op)):
                _check(each, is_done_once=op not in depends)
        return Replay(self.number, [op for op in ops if op in depends], outputs)


class Replay:
    """Ops of one sample that depend on its number, as ops of many.

    Args:
      number: The number of the sample.
      ops: The ops.
      outputs: What is wanted of them.
    """

    def __init__(self, number: tf.Tensor, ops: Sequence[tf.Operation], outputs: Sequence[tf.Tensor]):
        self._number = number
        self._ops = ops
        self._outputs = outputs

    def bytes(self) -> tf.Tensor | int:
        """Returns how large all that depends on the number is for one sample, roughly: int64 scalar, or an int.

        Tensors whose shapes are known alike (`[None, 64]`) are taken to be alike. In the functions that the ops call
        each unknown size is taken for the number of rows; what a loop computes counts once.
        """
        total, for_each_row = 0, 0
        alike: dict[tuple[str, int], list[tf.Tensor]] = {}
        inner = [each for op in self._ops for each in _called_by(op)]
        for tensor in [tensor for op in self._ops for tensor in op.outputs]:
            if tensor.shape.is_fully_defined():
                total += tensor.shape.num_elements() * tensor.dtype.size
            else:
                alike.setdefault((str(tensor.shape), tensor.dtype.size), []).append(tensor)
        for tensor in [tensor for op in inner if op.type not in _NO_COPIES for tensor in op.outputs]:
            if tensor.shape.is_fully_defined():
                total += tensor.shape.num_elements() * tensor.dtype.size
            else:
                for_each_row += math.prod(size or 1 for size in tensor.shape.dims or ()) * tensor.dtype.size
        for (_, size), tensors in alike.items():
            total += tf.size(tensors[0], tf.int64) * (len(tensors) * size)
        rows = [tf.shape(each[0], tf.int64)[0] for each in alike.values() if each[0].shape.rank]
        return total + (rows[0] * for_each_row if rows else for_each_row)

    def block(self, first: tf.Tensor, size: tf.Tensor | int) -> list[tf.Tensor]:
        """Returns the outputs of a block of samples, stacked along a new first axis.

        It is called in a function in the graph that the sample was traced in: the body of a loop.

        Args:
          first: The number of the first sample; int32 scalar.
          size: How many there are.

        Raises:
          NotReplayableError: If there is an op of which nobody knows what it is for many samples.
        """
        unused = tf.compat.v1.placeholder_with_default(0, [])
        # Not one op after the other in a loop, where an op is not known: its outputs may differ in shape.
        replaying = PFor(unused, size, self._ops, fallback_to_while_loop=False)
        replaying._add_conversion(self._number, wrap(first + tf.range(size), True))
        for tensor in self._given():
            replaying._add_conversion(tensor, wrap(_as_given(tensor), False))
        own = set(self._ops)
        for op in self._ops:
            for each in (op, *_called_by(op)):
                _teach(each)
            for before in op.control_inputs:
                if not before.outputs and before not in own:
                    replaying._add_conversion(before, tf.no_op())  # an assertion, which comes before the loop
        try:
            with _silent():
                return [replaying.convert(output) for output in self._outputs]
        except Exception as error:
            said = getattr(error, "ag_error_metadata", None)  # AutoGraph's, where it was in a function
            raise NotReplayableError(str(error if said is None else said.cause_message).splitlines()[0]) from error

    def _given(self) -> list[tf.Tensor]:
        """Returns the tensors of other ops that are needed."""
        own = {self._number.op, *self._ops}
        needed = [tensor for op in self._ops for tensor in op.inputs]
        needed += [tensor for op in self._ops for before in op.control_inputs for tensor in before.outputs]
        return list({tensor.ref(): tensor for tensor in [*needed, *self._outputs] if tensor.op not in own}.values())


def _called_by(op: tf.Operation) -> Iterator[tf.Operation]:
    """Yields the ops in the functions that an op calls, and in those called there."""
    if not any(attribute.type in ("func", "list(func)") for attribute in op.op_def.attr):
        return
    for function in functions_of(op, op.graph):
        if function is None:
            raise NotReplayableError(f"{op.type} {op.name!r} calls a function that cannot be read")
        for each in function.get_operations():
            yield each
            yield from _called_by(each)


def _check(op: tf.Operation, *, is_done_once: bool) -> None:
    """Raises where an op does what cannot be done for many samples at a time."""
    if not op.op_def.is_stateful or re.fullmatch(_READS, op.type) or re.fullmatch(_CALLS, op.type):
        return
    if op.type != "Assert" or not is_done_once:
        raise NotReplayableError(f"{op.type} {op.name!r} keeps a state, or is not known to keep none")


def _teach(op: tf.Operation) -> None:
    """Tells TensorFlow's vectorization what it does not know of an op, or had better not do with it."""
    if op.type in _OF_A_BATCH:
        op.pfor_converter = functools.partial(_convert_flatten_batch, op_type=op.type, dims=[0])
    elif op.type in ("If", "StatelessIf", "Case", "StatelessCase"):
        op.pfor_converter = functools.partial(_one_way, of=1)
    elif op.type in ("While", "StatelessWhile"):
        condition, _ = functions_of(op, op.graph)
        decides = None if condition is None else condition.outputs[0].op
        if decides is None or decides.type == "Placeholder":
            raise NotReplayableError(f"{op.type} {op.name!r} goes on by what it is given, of which too little is known")
        decides.pfor_converter = functools.partial(_one_way, of=len(decides.inputs))


def _one_way(given: Any, of: int) -> Any:
    """Refuses control flow that depends on a draw: a branch may have to do with no sample at all, and many ops cannot.

    Args:
      given: An op, with its inputs for many samples.
      of: How many of its inputs decide where to go.
    """
    if any(each.is_stacked for each in given.inputs[:of]):
        raise ConversionNotImplementedError("control flow that depends on what is drawn")
    return _pfor_converter_registry[given.op_type](given)


def _as_given(tensor: tf.Tensor) -> tf.Tensor:
    """Returns a tensor of the graph around a function in it; a shape or an axis that is known as a constant."""
    if tensor.dtype.is_integer and (tensor.shape.num_elements() or _SMALL + 1) <= _SMALL:
        value = tf.get_static_value(tensor)
        if value is not None:
            return tf.constant(value, tensor.dtype)
    return tf.compat.v1.get_default_graph().capture(tensor)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps TensorFlow from logging an op that it cannot vectorize as an error, with the traceback of its making."""
    logger = tf.get_logger()
    logger.addFilter(_no_record)
    try:
        yield
    finally:
        logger.removeFilter(_no_record)


def _no_record(record: logging.LogRecord) -> bool:
    del record
    return False
