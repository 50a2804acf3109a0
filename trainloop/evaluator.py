"""`evaluate` and `predict`: one pass over some data in a phase that trains nothing."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import tensorflow as tf

from trainloop import data, guard, keras_hooks, steps
from trainloop.agenda import Pace
from trainloop.callback import Callback
from trainloop.phase import Phase, check_phase
from trainloop.state import State, new_window
from trainloop.step_methods import StepMethods
from trainloop.steps import GatheringLoop, SummingLoop
from trainloop.user_code import noted

if TYPE_CHECKING:
    from trainloop.trainer import Trainer

Data = data.ArrayData | tf.data.Dataset


EVAL_EVERY = "eval_every"  # the reason of the evaluations that belong to a `fit`


class Pass(NamedTuple):
    """One pass over some data in a phase.

    Attributes:
      batches: The data.
      count: How many batches there are; None where only the end will tell.
      loop: The compiled loop.
      argument: What the data are called in messages.
    """

    batches: tf.data.Dataset
    count: int | None
    loop: Any
    argument: str

    def left(self, taken: int, at_most: int) -> int:
        """Returns how many batches may be asked for after `taken` of them."""
        return at_most if self.count is None else min(at_most, self.count - taken)


class _ById:
    """An object as a part of a dict's key: equal to itself alone, and kept alive."""

    def __init__(self, value: Any):
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


class Evaluator(StepMethods):
    """What a `Trainer` does outside of training, and how it goes from one phase into another and back."""

    state: State
    callbacks: list[Callback]
    run_eagerly: bool
    seed: int
    phase: Phase | None = None
    phase_reason: str = ""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.clock: Callable[[], float] = time.perf_counter
        self.latest_metrics: dict[str, Any] = {}
        self._loops: dict[Any, Any] = {}
        self._layers: list[Any] | None = None

    @property
    def step(self) -> Any:
        """Steps completed: an int, or inside a step an int64 tensor (the steps before this one)."""
        context = steps.current()
        return int(self.state.step) if context is None else context.step

    @property
    def epoch(self) -> Any:
        """Epochs completed: an int, or inside a step an int64 tensor."""
        context = steps.current()
        return int(self.state.epoch) if context is None else context.epoch

    def evaluate(self, data: Data, *, phase: Phase = Phase.EVAL, steps: int | None = None) -> dict[str, Any]:
        """Returns the loss, scalars and metrics over some data, each the weighted mean over all rows.

        Nothing of a training that is under way changes, its running metrics included.

        Args:
          data: `trainloop.data.from_arrays(...)` or a `tf.data.Dataset` of batches; seen once, in order.
          phase: `Phase.EVAL`.
          steps: How many batches to take; all by default.

        Returns:
          `{"loss": ..., "accuracy": ...}`.

        Raises:
          TypeError: If `data` is not data or `phase` is not a `Phase`.
          ValueError: If the data are empty, have fewer batches than `steps`, or are endless while it is not given.
        """
        check_phase(phase, (Phase.EVAL,))
        found = self._evaluate({"": data}, steps, "evaluate", "evaluate: data")
        return {name.removeprefix(f"{phase.value}/"): value for name, value in found.items()}

    def predict(self, data: Data, *, phase: Phase = Phase.PREDICT, steps: int | None = None) -> Any:
        """Returns the outputs for some data, as NumPy arrays in the order of the data.

        Args:
          data: As in `evaluate`; of `(x, y)` batches only `x` is used.
          phase: `Phase.PREDICT`.
          steps: How many batches to take; all by default.

        Returns:
          The nest of outputs that `predict_step` returns, each an array with a row for each row of the data; where the
          rows differ in shape, a list of arrays.

        Raises:
          TypeError: If `data` is not data or `phase` is not a `Phase`.
          ValueError: If the data are empty, have fewer batches than `steps`, or are endless while it is not given.
        """
        check_phase(phase, (Phase.PREDICT,))
        with self.strategy.scope():
            source = self._pass_over(data, steps, phase, "predict: data")
            with self._in_phase(phase, "predict"):
                return self._predict(source, steps)

    def _evaluate(self, sets: Mapping[str, Data], steps: int | None, reason: str, argument: str) -> dict[str, Any]:
        """Returns the metrics of all sets by full name: `eval/loss`, or `eval/<set>/loss` where the set has a name."""
        with self.strategy.scope():
            passes = {
                name: self._pass_over(source, steps, Phase.EVAL, f"{argument}[{name!r}]" if name else argument)
                for name, source in sets.items()
            }
            with self._in_phase(Phase.EVAL, reason) as told:
                found: dict[str, Any] = {}
                for name, source in passes.items():
                    prefix = f"{Phase.EVAL.value}/{name}/" if name else f"{Phase.EVAL.value}/"
                    found |= {prefix + key: value for key, value in self._evaluate_set(source, steps).items()}
                if reason == EVAL_EVERY:  # what a hook evaluates on its own is not the run's `eval/loss`
                    told |= found
                    self.latest_metrics |= found
        return found

    def _pass_over(self, source: Data, steps: int | None, phase: Phase, argument: str) -> Pass:
        """Returns one pass over some data, with its loop compiled: that is done before the phase is entered."""
        self._layers = None  # the user may have changed the model since
        batches, count = data.one_pass(source, steps, argument)
        return Pass(batches, count, self._loop(phase, batches, argument, may_end=count is None), argument)

    def _evaluate_set(self, source: Pass, steps: int | None) -> dict[str, Any]:
        loop: SummingLoop = source.loop
        with self.metrics.borrowed():
            loop.window.assign(tf.zeros_like(loop.window))
            iterator, pace, taken, out_of_data = iter(source.batches), Pace(), 0, False
            while not out_of_data and source.left(taken, pace.steps) > 0:
                start = self.clock()
                ran = loop.run(iterator, source.left(taken, pace.steps), self.epoch, taken)
                pace.observe(ran.steps, self.clock() - start)
                taken, out_of_data = taken + ran.steps, ran.out_of_data
            data.check_taken(taken, steps, source.argument)
            return {**loop.means(), **self.metrics.result()}

    def _predict(self, source: Pass, steps: int | None) -> Any:
        loop: GatheringLoop = source.loop
        iterator, pace, taken = iter(source.batches), Pace(), 0
        structure: Any = None
        chunks: list[list[Any]] = []
        while source.left(taken, pace.steps) > 0:
            start = self.clock()
            done, outputs = loop.run(iterator, source.left(taken, pace.steps), self.epoch, taken)
            pace.observe(done, self.clock() - start)
            if done == 0:
                break
            taken, structure = taken + done, outputs
            chunks.append([_to_numpy(leaf) for leaf in tf.nest.flatten(outputs)])
        data.check_taken(taken, steps, source.argument)
        return tf.nest.pack_sequence_as(structure, [_joined(leaf) for leaf in zip(*chunks, strict=True)])

    def _loop(self, phase: Phase, batches: Any, argument: str, *, may_end: bool, **options: Any) -> Any:
        """Returns the compiled loop of a phase; one is made anew only where its graph would be another one.

        What changes a graph: the kind of batches, which layers there are, which are frozen or pinned, and the run's
        seed, which a checkpoint may bring. So `layer.trainable = False` takes effect also when it is set after a step
        was traced.
        """
        kind = (phase, repr(batches.element_spec), may_end, self.run_eagerly, self.seed, guard.all_pins())
        kind += tuple(options.values())
        loop = self._loops.get((kind, self._layers_as_they_stand()))
        if loop is None:
            shared = {
                "counter": self.state.step,
                "may_end": may_end,
                "root": self.model,
                "seed": self.seed,
                "jit_compile": self.jit_compile,
                "run_eagerly": self.run_eagerly,
            }
            if phase is Phase.PREDICT:
                loop = GatheringLoop(self.predict_step, phase, self.strategy, **shared)
            else:
                training = phase is Phase.TRAIN
                method = self.train_step if training else self.eval_step
                window = self.state.window if training else new_window()
                loop = SummingLoop(
                    method, phase, self.strategy, metrics=self.metrics, window=window, **shared, **options
                )
            with noted(f"while tracing a step for the batches of {argument}=: {batches.element_spec}"):
                loop.prepare(batches)
            self._after_trace(loop)
            self._loops[kind, self._layers_as_they_stand()] = loop  # asked again: the trace may have made layers
        return loop

    def _after_trace(self, loop: SummingLoop | GatheringLoop) -> None:
        """Called when a step was traced, which may have made layers and metrics build their variables."""
        self._layers = None
        if isinstance(loop, SummingLoop) and loop.phase is Phase.TRAIN:
            self.state.track_metrics(self.metrics.in_training(loop.updates_metrics))

    def _layers_as_they_stand(self) -> tuple[tuple[Any, bool], ...]:
        """Returns every layer, and whether it is trainable; the layers are part of a key, so that none is forgotten."""
        if self._layers is None:
            self._layers = [layer for model in self.models.values() for layer in keras_hooks.layers_of(model)]
        return tuple((_ById(layer), layer.trainable) for layer in self._layers)

    @contextlib.contextmanager
    def _in_phase(self, phase: Phase, reason: str) -> Iterator[dict[str, Any]]:
        """Enters a phase for the block and goes back to the one before, also after an exception.

        Yields:
          A dict for the phase's metrics by full name; the callbacks get it when the phase is left.
        """
        trainer = cast("Trainer", self)
        metrics: dict[str, Any] = {}
        with contextlib.ExitStack() as ends:
            ends.callback(self._set_phase, self.phase, self.phase_reason)
            self._set_phase(phase, reason)
            with contextlib.ExitStack() as hooks:  # whoever has begun is told of the end, even if another one raises
                ended = []
                hooks.callback(lambda: run_all(ended))
                for callback in self.callbacks:
                    ended.append(functools.partial(callback.on_phase_end, trainer, phase, metrics))
                    callback.on_phase_begin(trainer, phase)
                yield metrics

    def _set_phase(self, phase: Phase | None, reason: str) -> None:
        self.phase, self.phase_reason = phase, reason


def run_all(calls: Sequence[Callable[[], None]]) -> None:
    """Calls every one, in order, even where one raises; the first exception then goes on."""
    with contextlib.ExitStack() as stack:
        for call in reversed(calls):
            stack.callback(call)


def _to_numpy(leaf: Any) -> Any:
    """Returns a batch of outputs as an array, or as a list of arrays where the rows are ragged."""
    if isinstance(leaf, tf.RaggedTensor):
        return [row.numpy() for row in leaf]
    return leaf.numpy()


def _joined(chunks: tuple[Any, ...]) -> Any:
    """Puts chunks of rows together: one array where all rows have one shape, else a list of rows."""
    ragged = any(isinstance(chunk, list) for chunk in chunks)
    if not ragged and all(chunk.ndim == 0 for chunk in chunks):
        return np.stack(chunks)
    if not ragged and len({chunk.shape[1:] for chunk in chunks}) == 1:
        return np.concatenate(chunks)
    return [row for chunk in chunks for row in chunk]
