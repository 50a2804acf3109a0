"""`evaluate`, `predict` and `update_bn`: one pass over some data in a phase that trains nothing."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import tensorflow as tf

from trainloop import arguments, batch_norm, data, keras_hooks, monte_carlo, step_context
from trainloop.agenda import Pace
from trainloop.callback import Callback
from trainloop.data import iterators
from trainloop.gathering_loop import GatheringLoop
from trainloop.interrupts import Interrupted, Interrupts
from trainloop.monte_carlo import Sampling
from trainloop.phase import Phase
from trainloop.phase_loops import PhaseLoops
from trainloop.signatures import strict
from trainloop.state import reset_window
from trainloop.summing_loop import SummingLoop
from trainloop.variables import parts_of

if TYPE_CHECKING:
    from trainloop.trainer import Trainer

Data = data.Data
EVAL_EVERY = "eval_every"  # the reason of the evaluations that belong to a `fit`


class Pass(NamedTuple):
    """One pass over some data in a phase.

    Attributes:
      batches: The data.
      count: How many batches there are; None where only the end will tell.
      loop: The compiled loop.
      argument: What the data are called in messages.
      inline: Whether the loop takes the batches inline.
    """

    batches: tf.data.Dataset
    count: int | None
    loop: Any
    argument: str
    inline: bool

    def left(self, taken: int, at_most: int) -> int:
        """Returns how many batches may be asked for after `taken` of them."""
        return at_most if self.count is None else min(at_most, self.count - taken)


class Evaluator(PhaseLoops):
    """What a `Trainer` does outside of training, and how it goes from one phase into another and back."""

    callbacks: list[Callback]
    phase: Phase | None = None
    phase_reason: str = ""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.clock: Callable[[], float] = time.perf_counter
        self.latest_metrics: dict[str, Any] = {}
        self._interrupts: Interrupts | None = None

    @property
    def step(self) -> Any:
        """Steps completed: an int, or inside a step an int64 tensor (the steps before this one)."""
        context = step_context.current()
        return self.state.counts.step if context is None else context.step

    @property
    def epoch(self) -> Any:
        """Epochs completed: an int, or inside a step an int64 tensor."""
        context = step_context.current()
        return self.state.counts.epoch if context is None else context.epoch

    @strict
    def evaluate(
        self, data: Data, *, phase: Phase = Phase.EVAL, samples: int | None = None, steps: int | None = None
    ) -> dict[str, Any]:
        """Returns the loss, scalars and metrics over some data, each the weighted mean over all rows.

        Nothing of a training that is under way changes, its running metrics included.

        Under `Phase.MC_PREDICT` (Monte-Carlo dropout) the metrics are those of the predictive mean: the mean of the
        outputs over the samples, so let a classifier put out probabilities, not logits. The loss is that of the
        predictive mean too, together with the models' own losses (regularisation). Where `compute_loss` or `eval_step`
        is overridden, nobody but that method knows the loss: it is then the mean of the samples' losses. A scalar is
        always the mean over the samples; targets, sample weights and weights are those of the first.

        Args:
          data: `trainloop.data.from_arrays(...)` or a `tf.data.Dataset` of batches; seen once, in order.
          phase: `Phase.EVAL` or `Phase.MC_PREDICT`.
          samples: How many samples `Phase.MC_PREDICT` draws; 50 by default.
          steps: How many batches to take; all by default.

        Returns:
          `{"loss": ..., "accuracy": ...}`.

        Raises:
          TypeError: If `data` is not data or `phase` is not a `Phase`.
          ValueError: If the data are empty, have fewer batches than `steps`, or are endless while it is not given; if
            `samples` is not positive, or given for another phase.
          PhaseError: If the step does what the phase does not allow, or draws nothing at random in `Phase.MC_PREDICT`.
        """
        arguments.check_phase_of_pass("evaluate", phase, (Phase.EVAL, Phase.MC_PREDICT))
        sampling = _check_sampling("evaluate", phase, samples)
        found = self._evaluate({"": data}, steps, "evaluate", "evaluate: data", phase, sampling)
        return {name.removeprefix(f"{phase.value}/"): value for name, value in found.items()}

    @strict
    def predict(
        self,
        data: Data,
        *,
        phase: Phase = Phase.PREDICT,
        samples: int | None = None,
        keep_samples: bool = False,
        steps: int | None = None,
    ) -> Any:
        """Returns the outputs for some data, as NumPy arrays in the order of the data.

        Args:
          data: As in `evaluate`; of `(x, y)` batches only `x` is used.
          phase: `Phase.PREDICT`, or `Phase.MC_PREDICT` for Monte-Carlo dropout.
          samples: How many samples `Phase.MC_PREDICT` draws; 50 by default.
          keep_samples: Whether `Phase.MC_PREDICT` returns each of them.
          steps: How many batches to take; all by default.

        Returns:
          The nest of outputs that `predict_step` returns, each an array with a row for each row of the data; where the
          rows differ in shape, a list of arrays. Under `Phase.MC_PREDICT` an `MCPrediction`, whose fields are such
          nests.

        Raises:
          TypeError: If `data` is not data or `phase` is not a `Phase`; if an output of `Phase.MC_PREDICT` is no number.
          ValueError: If the data are empty, have fewer batches than `steps`, or are endless while it is not given; if
            `samples` is not positive, or it or `keep_samples` is given for another phase.
          PhaseError: If the step does what the phase does not allow, or draws nothing at random in `Phase.MC_PREDICT`.
        """
        arguments.check_phase_of_pass("predict", phase, (Phase.PREDICT, Phase.MC_PREDICT))
        sampling = _check_sampling("predict", phase, samples, keep_samples)
        with self.strategy.scope():
            source = self._pass_over(data, steps, phase, "predict: data", sampling=sampling, gathers=True)
            with self._in_phase(phase, "predict"):
                structure, leaves = self._gather(source, steps)
        if sampling is not None:
            return monte_carlo.to_prediction(structure, leaves)
        return tf.nest.pack_sequence_as(structure, leaves)

    @strict
    def update_bn(self, data: Data, *, steps: int | None = None) -> None:
        """Measures the statistics of batch normalization anew, as their average over one pass (precise batch norm).

        After the pass the moving mean and variance of each batch normalization are the mean of the batches' means and
        variances, each batch counted by its rows, whatever they were before and whatever `momentum` is. Dropout is off
        and augmentation on, `augment_fn` included; nothing else changes. A frozen layer (`trainable=False`) keeps its
        statistics. After an exception the statistics are those from before.

        The forward part of the training step is run: `compute_loss` where it is overridden; with a `train_step` of its
        own, `eval_step` or `predict_step`; else the model on `x`.

        Args:
          data: As in `evaluate`, but `from_arrays` data come as in an epoch of `fit`, shuffled unless `shuffle=False`.
            A few thousand rows will do, in batches of the size that the model was trained with.
          steps: How many batches to take; all by default.

        Raises:
          TypeError: If `data` is not data.
          ValueError: If the data are empty, have fewer batches than `steps`, or are endless while it is not given; if
            there is no batch normalization that is not frozen.

        Example:
          >>> import numpy as np, tf_keras
          >>> from trainloop import Trainer, data
          >>> trainer = Trainer(tf_keras.Sequential([tf_keras.layers.BatchNormalization()]))
          >>> trainer.update_bn(data.from_arrays(np.full([6, 1], 3, np.float32), batch_size=4))
          >>> float(trainer.model.layers[0].moving_mean[0])
          3.0
        """
        phase = Phase.UPDATE_BN
        with self.strategy.scope():
            source = self._pass_over(data, steps, phase, "update_bn: data")
            with self._in_phase(phase, "update_bn"), batch_norm.put_back_on_error(source.loop, self.models):
                source.loop.begin_pass()
                self._run(source, steps)
                batch_norm.check_updates(source.loop, self.models)  # an eager step was not traced beforehand

    def _evaluate(
        self,
        sets: Mapping[str, Data],
        steps: int | None,
        reason: str,
        argument: str,
        phase: Phase = Phase.EVAL,
        sampling: Sampling | None = None,
    ) -> dict[str, Any]:
        """Returns the metrics of all sets by full name: `eval/loss`, or `eval/<set>/loss` where the set has a name."""
        with self.strategy.scope():
            passes = {
                name: self._pass_over(source, steps, phase, f"{argument}[{name!r}]" if name else argument, sampling)
                for name, source in sets.items()
            }
            with self._in_phase(phase, reason) as told:
                found: dict[str, Any] = {}
                for name, source in passes.items():
                    prefix = f"{phase.value}/{name}/" if name else f"{phase.value}/"
                    found |= {prefix + key: value for key, value in self._evaluate_set(source, steps).items()}
                if reason == EVAL_EVERY:  # what a hook evaluates on its own is not the run's `eval/loss`
                    told |= found
                    self.latest_metrics |= found
        return found

    def _pass_over(
        self,
        source: Data,
        steps: int | None,
        phase: Phase,
        argument: str,
        sampling: Sampling | None = None,
        *,
        gathers: bool = False,
    ) -> Pass:
        """Returns one pass over some data, with its loop compiled: that is done before the phase is entered."""
        self._layers = None  # the user may have changed the model since
        batches, count = data.one_pass(source, steps, argument, self.seed if phase.policy.augmentation else None)
        inline = data.can_be_taken_inline(batches)
        loop = self._loop(phase, batches, argument, inline=inline, sampling=sampling, gathers=gathers)
        return Pass(batches, count, loop, argument, inline)

    def _evaluate_set(self, source: Pass, steps: int | None) -> dict[str, Any]:
        with self.metrics.borrowed():
            self._run(source, steps)
            return self.metrics.result(beside=source.loop.means(source.loop.window.numpy()))

    def _run(self, source: Pass, steps: int | None) -> None:
        """Runs one pass whose scalars are summed."""
        loop: SummingLoop = source.loop
        reset_window(loop.window)
        iterator, pace, taken, out_of_data = iterators.begin(source.batches), Pace(), 0, False
        with self._states_put_back():
            while not out_of_data and source.left(taken, pace.steps) > 0:
                self._leave_on_a_signal()
                start = self.clock()
                ran = loop.run(iterator, source.left(taken, pace.steps), taken, inline=source.inline)
                pace.observe(ran.steps, self.clock() - start)
                taken, out_of_data = taken + ran.steps, ran.out_of_data
        data.check_taken(taken, steps, source.argument)

    def _gather(self, source: Pass, steps: int | None) -> tuple[Any, list[Any]]:
        """Runs one pass whose outputs are gathered.

        Returns:
          A nest like the outputs, and its leaves: arrays, or lists of rows that differ in shape.
        """
        loop: GatheringLoop = source.loop
        iterator, pace, taken = iterators.begin(source.batches), Pace(), 0
        structure: Any = None
        chunks: list[list[Any]] = []
        with self._states_put_back():
            while source.left(taken, pace.steps) > 0:
                self._leave_on_a_signal()
                start = self.clock()
                done, outputs = loop.run(iterator, source.left(taken, pace.steps), taken, inline=source.inline)
                pace.observe(done, self.clock() - start)
                if done == 0:
                    break
                taken, structure = taken + done, outputs
                chunks.append([_to_numpy(leaf) for leaf in tf.nest.flatten(outputs)])
        data.check_taken(taken, steps, source.argument)
        return structure, [_joined(leaf) for leaf in zip(*chunks, strict=True)]

    @contextlib.contextmanager
    def _states_put_back(self) -> Iterator[None]:
        """Puts back what RNNs (`stateful=True`) and metrics inside a model keep between batches, however it ends."""
        before = {id(state): state.read_value() for state in self._states_kept()}
        try:
            yield
        finally:
            for state in self._states_kept():
                state.assign(before.get(id(state), tf.zeros_like(state)))

    @contextlib.contextmanager
    def _left_on(self, interrupts: Interrupts) -> Iterator[None]:
        """Lets the passes in the block be left between two chunks, once a signal is noted."""
        before, self._interrupts = self._interrupts, interrupts
        try:
            yield
        finally:
            self._interrupts = before

    def _leave_on_a_signal(self) -> None:
        if self._interrupts is not None and self._interrupts.received:
            raise Interrupted

    def _states_kept(self) -> list[tf.Variable]:
        models, borrowed = self.models.values(), {id(metric) for metric in self.metrics.objects}
        metrics = [metric for model in models for metric in keras_hooks.metrics_in(model) if id(metric) not in borrowed]
        states = [state for model in models for state in keras_hooks.states_kept_between_batches(model)]
        variables = [*states, *(variable for metric in metrics for variable in metric.variables)]
        return [part for variable in variables for part in parts_of(variable)]

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


def _check_sampling(method: str, phase: Phase, samples: int | None, keep: bool = False) -> Sampling | None:
    """Returns how samples are drawn; None in a phase that draws none."""
    if phase is Phase.MC_PREDICT:
        samples = monte_carlo.SAMPLES if samples is None else arguments.check_positive(samples, f"{method}: samples")
        return Sampling(samples, keep)
    given = f"samples={samples}" if samples is not None else "keep_samples=True" if keep else None
    if given is not None:
        raise ValueError(
            f"{method}: {given} with phase={phase}, which draws none; drop {given.split('=')[0]}=, or give "
            "phase=Phase.MC_PREDICT"
        )
    return None


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
