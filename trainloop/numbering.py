"""Keys for the draws of a step, by where each stands: in which sample, loop, branch, function or recomputed region.

A part takes its number when something is drawn in it, so a loop or a function that draws nothing moves no other draw.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from trainloop import draws, keras_hooks, tracing
from trainloop.ambient import Ambient, graphs_around
from trainloop.stateless import Function, Key
from trainloop.violations import PhaseError, Violation, phase_error

Position = tuple[Any, ...]


@contextlib.contextmanager
def keyed(*, seed: int, phase: str, place: tf.Tensor, replica: int) -> Iterator[None]:
    """Keys every draw of the block.

    What cannot be keyed (a draw in an inner `tf.function`, in `tf.vectorized_map` or in a function of `tf.data`) is
    left as it is, and noted in the trace.

    Args:
      seed: The run's seed.
      phase: The value of the phase.
      place: The place of the batch; int64 scalar.
      replica: The number of the replica.

    Raises:
      PhaseError: If a draw under `tf.recompute_grad` cannot be repeated for the gradient, which would be wrong then.
    """
    numbering = _Numbering((seed, phase, replica), phase, place)
    with _numberings.opened(numbering), draws.intercepted(numbering):
        yield


def are_keyed() -> bool:
    """Returns whether draws get keys here."""
    return _numberings.current() is not None


@contextlib.contextmanager
def function_of_step() -> Iterator[None]:
    """Marks the body of a `tf.function` that is called once in a step, so that what it draws is keyed as well."""
    numbering = _numberings.current()
    with contextlib.nullcontext() if numbering is None else numbering.function():
        yield


@contextlib.contextmanager
def sample(number: tf.Tensor) -> Iterator[None]:
    """Keys every draw of the block by the number of a sample too, and by nothing of what the block stands in.

    So a sample is the same whether it is drawn in a loop over all, or traced once for all; blocks that are to be the
    same but for the number have to draw alike.

    Args:
      number: The number of the sample; int32 scalar.
    """
    numbering = _numberings.current()
    with contextlib.nullcontext() if numbering is None else numbering.sample(number):
        yield


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Leaves what is traced in the block as it is: ops that were keyed before, made once more."""
    numbering = _numberings.current()
    with contextlib.nullcontext() if numbering is None else numbering.vectorized():
        yield


class _Frame:
    """A stretch of code in which draws are counted from 0.

    Attributes:
      position: Where it stands in the trace.
      counters: The counters of the loops around it.
      counts: How much of each kind was met in it: draws, loops, regions of `tf.recompute_grad`, inner functions.
    """

    def __init__(self, position: Position, counters: tuple[Any, ...]):
        self.position = position
        self.counters = counters
        self.counts: Counter[str] = Counter()

    def next(self, kind: str) -> Position:
        self.counts[kind] += 1
        return (*self.position, kind, self.counts[kind] - 1)


class _Part:
    """A step, or in it a sample, a loop's condition or body, a branch or an inner function, while it is traced or run.

    Attributes:
      graph: The graph that it makes; None for eager code.
      sample: The number of the sample that it is; None where it is none.
      is_vectorized: Whether its ops will be replaced by others, that do for all rows what these do for one.
      outside: How many regions of `tf.recompute_grad` were entered around it.
      conditionals: How many there are in it, for each region in it and outside of these.
    """

    def __init__(
        self,
        place: Callable[[_Frame], Position],
        counters: tuple[Any, ...] = (),
        *,
        sample: tf.Tensor | None = None,
        is_vectorized: bool = False,
    ):
        self.graph = _graph_here()
        self.sample = sample
        self.is_vectorized = is_vectorized
        self.outside = len(draws.recomputations())
        self.conditionals: Counter[types.FrameType | None] = Counter()
        self._place = place
        self._counters = counters
        self._frame: _Frame | None = None

    def frame(self, around: _Frame) -> _Frame:
        """Returns its frame; it takes its number, where it has none yet, only now that something is drawn in it."""
        if self._frame is None:
            around = _Frame((), ()) if self.sample is not None else around  # wherever the sample is drawn
            self._frame = _Frame(self._place(around), around.counters + self._counters)
        return self._frame


@dataclasses.dataclass
class _Region:
    """A call under `tf.recompute_grad`, known by its arguments: the very same object when it is repeated.

    Attributes:
      called: The call; held, so that its arguments' id stays theirs.
      position: Where it stands in the trace.
      counters: The counters of the loops around it.
      is_only_one: Whether no other call had the same arguments, as all have that are called with none.
    """

    called: draws.Recomputation
    position: Position
    counters: tuple[Any, ...]
    is_only_one: bool = True


class _Numbering:
    """Gives each draw of a step, on one replica, its key."""

    def __init__(self, run: tuple[Any, ...], phase: str, place: tf.Tensor):
        self._run = run
        self._phase = phase
        self._place = place
        self._parts = [_Part(lambda _: ())]
        self._regions: dict[int, _Region] = {}
        self._calls: dict[types.FrameType, _Frame] = {}

    def key(self, op: str) -> Key | None:
        recomputed = draws.recomputations()
        if not self._counts_here():
            if _is_inside(self._parts[-1].graph):  # else it is made outside of the step, as what a weight begins with
                self._note(op, recomputed)
            return None
        frame = self._frame(recomputed)
        position = (*self._run, *frame.next("draw"))
        digest = hashlib.blake2b(repr(position).encode(), digest_size=8).digest()
        number = int.from_bytes(digest, "little", signed=True)
        sample = next((part.sample for part in reversed(self._parts) if part.sample is not None), None)
        return Key(number, self._place, frame.counters, sample)

    def loop(self, condition: Function, body: Function) -> tuple[Function, Function]:
        if not self._counts_here():
            return condition, body
        taken: list[Position] = []

        def place(around: _Frame) -> Position:
            if not taken:
                taken.append(around.next("loop"))
            return taken[0]

        def counted(function: Function, name: str) -> Function:
            iterations = itertools.count()

            def run(*args: Any) -> Any:
                counter = next(iterations) if tf.executing_eagerly() else draws.loop_counter()
                with self._inside(_Part(lambda around: (*place(around), name), (counter,))):
                    return function(*args)

            return run

        return counted(condition, "condition"), counted(body, "body")

    def branches(self, functions: Sequence[Function]) -> list[Function]:
        if not self._counts_here():
            return list(functions)
        # Counted now and not at the first draw: eagerly, the branch that draws may not be the one that is taken.
        part = self._parts[-1]
        called_in = [each.call for each in draws.recomputations()[part.outside :]]
        region = called_in[-1] if called_in else None
        number = part.conditionals[region]
        part.conditionals[region] += 1

        def placed(function: Function, index: int) -> Function:
            def run(*args: Any) -> Any:
                with self._inside(_Part(lambda around: (*around.position, "conditional", number, index))):
                    return function(*args)

            return run

        return [placed(function, index) for index, function in enumerate(functions)]

    def sample(self, number: tf.Tensor) -> contextlib.AbstractContextManager[None]:
        return self._inside(_Part(lambda _: ("sample",), sample=number))

    def vectorized(self) -> contextlib.AbstractContextManager[None]:
        return self._inside(_Part(lambda around: around.position, is_vectorized=True))

    def function(self) -> contextlib.AbstractContextManager[None]:
        return self._inside(_Part(lambda around: around.next("function")))

    def _counts_here(self) -> bool:
        part = self._parts[-1]
        return part.graph is _graph_here() and not part.is_vectorized

    @contextlib.contextmanager
    def _inside(self, part: _Part) -> Iterator[None]:
        self._parts.append(part)
        try:
            yield
        finally:
            self._parts.pop()

    def _frame(self, recomputed: list[draws.Recomputation]) -> _Frame:
        """Returns the frame of the code that runs here, found from the outermost one inwards."""
        frame, done = _Frame((), ()), 0
        for part in self._parts:
            for each in recomputed[done : part.outside]:
                frame = self._frame_of_region(each, frame)
            frame, done = part.frame(frame), part.outside
        for each in recomputed[done:]:
            frame = self._frame_of_region(each, frame)
        return frame

    def _frame_of_region(self, called: draws.Recomputation, around: _Frame) -> _Frame:
        """Returns the frame of a call under `tf.recompute_grad`: when it is repeated, it counts from 0 again."""
        if called.call in self._calls:
            return self._calls[called.call]
        region = self._regions.get(id(called.args))
        if called.again:
            if region is None or not region.is_only_one:
                raise self._refusal("a draw")
            frame = _Frame(region.position, region.counters)
        else:
            frame = _Frame(around.next("region"), around.counters)
            if region is None:
                self._regions[id(called.args)] = _Region(called, frame.position, frame.counters)
            else:
                region.is_only_one = False
        self._calls[called.call] = frame
        return frame

    def _note(self, op: str, recomputed: list[draws.Recomputation]) -> None:
        if recomputed:
            raise self._refusal(op)
        name = tf.compat.v1.get_default_graph().name
        if (trace := tracing.current()) is not None and not name.endswith("_scratch_graph"):  # Keras's, to infer shapes
            trace.unkeyed.append(f"{op} in {name}")

    def _refusal(self, op: str) -> PhaseError:
        layer, trace = keras_hooks.calling_layer(), tracing.current()
        if layer is not None and trace is not None:
            path = trace.path_of(layer, None)
        else:
            path = tf.compat.v1.get_default_graph().get_name_scope() or "step"
        what = (
            f"{op} under tf.recompute_grad cannot be made again with the same numbers, so the gradient would be that "
            "of another mask"
        )
        fix = (
            "Call what tf.recompute_grad returns in the step itself, not in a loop, a condition or a tf.function; call "
            "it with tensors, and let the function that it is given hold no tf.function"
        )
        return phase_error(self._phase, [Violation(path, what, fix)])


_numberings: Ambient[_Numbering] = Ambient()


def _graph_here() -> tf.Graph | None:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _is_inside(graph: tf.Graph | None) -> bool:
    """Returns whether the graph that is being built here is a graph, or that of a function in it."""
    here = _graph_here()
    return here is graph or (here is not None and (graph is None or any(each is graph for each in graphs_around())))
