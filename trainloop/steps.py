"""The only place where a step is compiled: one inner loop for each phase.

    step(batch, place)              the user's step method, in its phase, on every replica; its scalars, weighed
    loop(iterator, steps, first)    tf.while_loop over step; sums stay on the device until somebody reads them

What the loop carries from step to step is as little as can be: where a step is small, each number carried shows in its
time. So the sums are added to a variable, and counters are variables that a step reads only where it uses them. It does
carry the next batch, which is taken, and copied to the device that computes, while the step before runs: a step waits
for data only where these are slower. No more is taken than is run, so the iterator stands where the run stands whenever
Python looks; unless a loss that is not finite, or an error, has ended the call before its time. How many steps are done
is int32, which TensorFlow keeps in the memory of the host on a GPU too.

What is drawn in a step depends on the place of its batch: in TRAIN the run's step, elsewhere how many batches of the
pass came before it.

A step is traced once. A loop takes its number of steps as a tensor, so that no chunk length traces it again.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainloop import batches, guard, random, results
from trainloop.contract_report import ContractReport
from trainloop.losses import Metrics
from trainloop.phase import Phase
from trainloop.results import StepResult
from trainloop.state import MAX_SCALARS
from trainloop.step_context import StepContext, within
from trainloop.tracing import Trace
from trainloop.user_code import call_user, own_exceptions

_int64, _int32 = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32)
_HOST = "CPU:0"


@dataclasses.dataclass(frozen=True)
class Ran:
    """What one call of a loop did.

    Attributes:
      steps: How many steps it ran.
      finite: Whether every loss was finite, where that was asked for.
      out_of_data: Whether the data ended before the steps were done.
      left_out: Whether the batches were passed over, and nothing was computed.
    """

    steps: int
    finite: bool
    out_of_data: bool
    left_out: bool = False


class _Loop:
    """What the loops of all phases share: a traced step, and how it is called for each replica.

    Attributes:
      traces: What was recorded while the step was traced, or run eagerly last, on each replica.
      contract: The verdict on the step, once it was judged.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        phase: Phase,
        strategy: tf.distribute.Strategy,
        *,
        counter: tf.Variable,
        epoch: tf.Variable,
        root: Any,
        seed: int,
        jit_compile: bool,
        run_eagerly: bool,
    ):
        self._method = method
        self.phase = phase
        self._strategy = strategy
        self._counter = counter
        self._epoch = epoch
        self._root = root
        self._seed = seed
        self._jit_compile = jit_compile
        self._run_eagerly = run_eagerly
        self._step: Any = None
        self._loop: Any = None
        self._accelerator = ""  # where batches are copied ahead of their step; "" leaves them where they are
        self._around_batch_norm: guard.AroundBatchNorm | None = None
        self.traces: list[Trace] = []
        self.contract: ContractReport | None = None

    @property
    def own_variables(self) -> list[tf.Variable]:
        """The variables that are the loop's and no part of what the step computes."""
        return []

    @property
    def _replicas(self) -> int:
        return self._strategy.num_replicas_in_sync

    def prepare(self, source: Any) -> None:
        """Traces the step and the loop for batches like those of a dataset or an iterator; runs nothing."""
        if self._step is not None:
            return
        if self._run_eagerly:
            self._step, self._loop = self._whole_step, self._many
            return
        self._accelerator = _find_accelerator(self._strategy)
        # With several replicas XLA cannot compile the exchange between them; the Trainer compiles the part before it.
        step = tf.function(
            self._whole_step, autograph=False, jit_compile=True if self._jit_compile and self._replicas == 1 else None
        )
        with own_exceptions():
            self._step = step.get_concrete_function(source.element_spec, _int64, _int64, _int64)
            if self.can_join:
                # A concrete function cannot be traced again, and does not warn that it is: TensorFlow counts the traces
                # of a method, so that the loops of a few Trainers look to it like one that is traced over and over.
                loop = tf.function(self._many, autograph=False)
                iterator = tf.data.IteratorSpec(source.element_spec)
                self._loop = loop.get_concrete_function(iterator, _int32, _int64)

    @property
    def compiled_step(self) -> Any:
        """The concrete function of the step, once it is traced; None where steps run eagerly."""
        return None if self._run_eagerly else self._step

    @property
    def can_join(self) -> bool:
        """Whether several steps can run on the device in one call, and what they return be put together there."""
        return True

    def _following(self, iterator: Any, wanted: tf.Tensor) -> Any:
        """Takes the next batch, if one is wanted and there is one; nothing but the next step depends on it."""
        nothing = functools.partial(tf.experimental.Optional.empty, iterator.element_spec)
        with tf.device(_HOST):
            following = tf.cond(wanted, iterator.get_next_as_optional, nothing)
        return self._on_accelerator(following) if self._accelerator else following

    def _batch(self, following: Any) -> Any:
        """Returns the batch that was taken, where its step computes: on the device of the value that it is got from."""
        return (self._on_accelerator(following) if self._accelerator else following).get_value()

    def _on_accelerator(self, following: Any) -> Any:
        with tf.device(self._accelerator):
            return tf.identity(following)

    def _whole_step(self, batch: Any, step: tf.Tensor, epoch: tf.Tensor, place: tf.Tensor) -> Any:
        """One step on all replicas; cross-replica."""
        self.traces.clear()  # a step that makes variables is traced twice
        total = batches.rows(batch)
        if not isinstance(self._strategy, tf.distribute.MirroredStrategy):
            return self._merge([self._part_of_step(batch, StepContext(step, epoch, place, total, total, 1), 0)])
        outcome = self._strategy.run(self._replica_step, (batch, total, step, epoch, place))
        leaves = [self._strategy.experimental_local_results(leaf) for leaf in tf.nest.flatten(outcome)]
        return self._merge([tf.nest.pack_sequence_as(outcome, each) for each in zip(*leaves, strict=True)])

    def _replica_step(self, batch: Any, total: tf.Tensor, step: tf.Tensor, epoch: tf.Tensor, place: tf.Tensor) -> Any:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        part, rows = batches.part(batch, replica, self._replicas) if self._replicas > 1 else (batch, total)
        return self._part_of_step(part, StepContext(step, epoch, place, rows, total, self._replicas), replica)

    def _run_step(self, batch: Any, place: tf.Tensor | None) -> Any:
        """Runs the traced step on a batch; without a place, that is the run's step."""
        step = self._counter.read_value()
        return self._step(batch, step, self._epoch.read_value(), step if place is None else place)

    def _part_of_step(self, part: Any, context: StepContext, replica: int) -> Any:
        around = self._around_batch_norm
        scope = guard.scope(self.phase.value, self.phase.policy, root=self._root, around_batch_norm=around)
        keyed = random.keyed(seed=self._seed, phase=self.phase.value, place=context.place, replica=replica)
        with within(context), scope as opened, keyed:
            self.traces.append(opened.trace)
            return self._finish(call_user(self._method, part, self.phase), part, context.rows)

    def _finish(self, returned: Any, part: Any, rows: tf.Tensor) -> Any:
        raise NotImplementedError

    def _merge(self, outcomes: Sequence[Any]) -> Any:
        raise NotImplementedError

    def _many(self, *args: Any) -> Any:
        raise NotImplementedError


class SummingLoop(_Loop):
    """The inner loop of TRAIN and EVAL: steps whose scalars are summed, weighed, over a window.

    Args:
      method: `(batch, phase) -> StepResult | dict`.
      phase: The phase of every step.
      strategy: The default strategy, or a MirroredStrategy.
      metrics: Updated with each step's outputs.
      counter: The run's step; counted up by each step of TRAIN.
      epoch: The run's epoch.
      window: Where the sums go.
      stop_on_nonfinite: Whether a call ends at the first step whose loss is not finite.
      after_step: Ops to run after each step (weight averaging); called in cross-replica context.
      root: The model, or the dict of models, from which the paths of layers are counted.
      seed: The run's seed, on which the random draws of each step depend.
      jit_compile: Whether a step is compiled by XLA.
      run_eagerly: Whether steps run without being compiled at all.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        phase: Phase,
        strategy: tf.distribute.Strategy,
        *,
        metrics: Metrics,
        counter: tf.Variable,
        epoch: tf.Variable,
        window: tf.Variable,
        stop_on_nonfinite: bool = False,
        after_step: Callable[[], None] | None = None,
        root: Any = None,
        seed: int = 0,
        jit_compile: bool = False,
        run_eagerly: bool = False,
    ):
        super().__init__(
            method,
            phase,
            strategy,
            counter=counter,
            epoch=epoch,
            root=root,
            seed=seed,
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
        )
        self._metrics = metrics
        self.window = window
        self._stop_on_nonfinite = stop_on_nonfinite
        self._after_step = after_step
        self.names: list[str] = []
        self.updates_metrics = False

    @property
    def own_variables(self) -> list[tf.Variable]:
        """The window."""
        return [self.window]

    def run(self, iterator: Any, steps: int, first: int = 0) -> Ran:
        """Runs up to `steps` steps and adds their sums to the window.

        Args:
          iterator: The batches.
          steps: How many steps to run at most.
          first: How many batches of the pass came before these; TRAIN counts the run's steps instead.
        """
        with own_exceptions():
            self.prepare(iterator)
            # The one place where a loop waits for the device: Python needs to know where the run stands.
            done, finite = (value.numpy() for value in self._loop(iterator, *_as_scalars(steps, first)))
        return Ran(int(done), bool(finite), out_of_data=bool(finite and done < steps))

    def means(self, sums: np.ndarray) -> dict[str, float]:
        """Returns the weighted mean of each scalar, given the sums of the window; empty where the window is."""
        weight = sums[1]
        if sums[0] == 0:
            return {}
        values = zip(self.names, sums[2:], strict=False)
        return {name: float(value / weight) if weight else math.nan for name, value in values}

    def _finish(self, returned: Any, part: Any, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `[rows, weight, weight * scalar, ...]` of one replica, float64, and whether its loss is finite."""
        method = getattr(self._method, "speaks_for", None) or getattr(self._method, "__name__", "step")
        result = results.from_step(returned, method)
        self._update_metrics(result, part, rows)
        named = result.named_scalars()
        measured = self._metrics.names
        if twice := sorted({*named} & {*measured} | {*filter(results.is_of_the_report, measured)}):
            raise ValueError(
                f"{method}: {', '.join(map(repr, twice))} would be reported twice; give the metric or scalar "
                "another name"
            )
        if len(named) > MAX_SCALARS:
            raise ValueError(f"{method} returned {len(named)} scalars; at most {MAX_SCALARS} can be reported")
        self.names[:] = named
        weight = tf.cast(rows if result.weight is None else result.weight, tf.float64)
        if self._replicas > 1:  # a part without rows counts nothing, whatever its scalars are
            weight = tf.where(rows > 0, weight, tf.zeros_like(weight))
            weighed = [tf.math.multiply_no_nan(tf.cast(value, tf.float64), weight) for value in named.values()]
        else:
            weighed = [tf.cast(value, tf.float64) * weight for value in named.values()]
        looked_at = [value for name, value in zip(named, weighed, strict=True) if name == "loss" or "loss" not in named]
        finite = [tf.math.is_finite(value) for value in looked_at] or [tf.constant(True)]
        sums = tf.stack([tf.cast(rows, tf.float64), weight, *weighed])
        return sums, finite[0] if len(finite) == 1 else tf.reduce_all(finite)

    def _update_metrics(self, result: StepResult, part: Any, rows: tf.Tensor) -> None:
        _, targets, sample_weight = batches.unpack(part)
        targets = targets if result.targets is None else result.targets
        sample_weight = sample_weight if result.sample_weight is None else result.sample_weight
        if not self._metrics.compares(targets, result.outputs):
            return
        self.updates_metrics = True
        if self._replicas == 1:
            self._metrics.update(targets, result.outputs, sample_weight)
            return
        self._metrics.build(targets, result.outputs)

        def update() -> tf.Tensor:
            self._metrics.update(targets, result.outputs, sample_weight)
            return tf.constant(True)

        tf.cond(rows > 0, update, lambda: tf.constant(False))

    def _merge(self, outcomes: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> tuple[tf.Tensor, tf.Tensor]:
        if self._after_step is not None:
            self._after_step()
        if len(outcomes) == 1:
            return outcomes[0]
        sums, finite = zip(*outcomes, strict=True)
        return tf.add_n(list(sums)), tf.reduce_all(finite)

    def _many(self, iterator: Any, steps: tf.Tensor, first: tf.Tensor) -> Any:
        counts = self.phase is Phase.TRAIN

        def body(so_far: dict[str, Any]) -> list[dict[str, Any]]:
            place = None if counts else first + tf.cast(so_far["done"], tf.int64)
            sums, finite = self._run_step(self._batch(so_far["batch"]), place)
            self.window.assign_add(tf.pad(sums, [[0, MAX_SCALARS - len(self.names)]]))
            if counts:
                with tf.control_dependencies([sums]):  # a step that fails is not counted
                    self._counter.assign_add(1)
            done = so_far["done"] + 1
            following = self._following(iterator, done < steps)
            return [{"done": done, "batch": following} | ({"finite": finite} if self._stop_on_nonfinite else {})]

        def goes_on(so_far: dict[str, Any]) -> tf.Tensor:
            there_is_one = so_far["batch"].has_value()
            return so_far["finite"] & there_is_one if self._stop_on_nonfinite else there_is_one

        start = {"done": tf.constant(0, tf.int32), "batch": self._following(iterator, steps > 0)}
        if self._stop_on_nonfinite:
            start["finite"] = tf.constant(True)
        [end] = tf.while_loop(goes_on, body, [start])
        return end["done"], end.get("finite", tf.constant(True))


class GatheringLoop(_Loop):
    """The inner loop of PREDICT: steps whose outputs are gathered, row by row in the order of the data.

    Args:
      method: `(batch, phase) -> outputs`.
      phase: The phase of every step.
      strategy: The default strategy, or a MirroredStrategy.
      counter: The run's step.
      epoch: The run's epoch.
      root: The model, or the dict of models, from which the paths of layers are counted.
      seed: The run's seed, on which the random draws of each step depend.
      jit_compile: Whether a step is compiled by XLA.
      run_eagerly: Whether steps run without being compiled at all.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        phase: Phase,
        strategy: tf.distribute.Strategy,
        *,
        counter: tf.Variable,
        epoch: tf.Variable,
        root: Any = None,
        seed: int = 0,
        jit_compile: bool = False,
        run_eagerly: bool = False,
    ):
        super().__init__(
            method,
            phase,
            strategy,
            counter=counter,
            epoch=epoch,
            root=root,
            seed=seed,
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
        )

    @property
    def can_join(self) -> bool:
        """Whether the outputs are dense rows of one known shape, as they must be to be put together on the device."""
        if self._run_eagerly:
            return False
        leaves = tf.nest.flatten(self._step.structured_outputs)
        return all(
            isinstance(leaf, tf.Tensor) and leaf.shape.rank not in (None, 0) and leaf.shape[1:].is_fully_defined()
            for leaf in leaves
        )

    def run(self, iterator: Any, steps: int, first: int = 0) -> tuple[int, Any]:
        """Runs up to `steps` steps (one where their outputs cannot be joined).

        Args:
          iterator: The batches.
          steps: How many steps to run at most.
          first: How many batches of the pass came before these.

        Returns:
          How many were run, and the nest of their outputs; None where none was.
        """
        with own_exceptions():
            self.prepare(iterator)
            if not self.can_join:
                following = iterator.get_next_as_optional()
                if not following.has_value():
                    return 0, None
                return 1, self._run_step(following.get_value(), tf.constant(first, tf.int64))
            done, outputs = self._loop(iterator, *_as_scalars(steps, first))
        return int(done), outputs if done > 0 else None

    def _finish(self, returned: Any, part: Any, rows: tf.Tensor) -> Any:
        method = getattr(self._method, "__name__", "predict_step")
        outputs = returned.outputs if isinstance(returned, StepResult) else returned
        if outputs is None:
            raise ValueError(
                f"{method} returned no outputs; it must return a nest of tensors or StepResult(outputs=...)"
            )
        return tf.nest.map_structure(_dense, outputs), rows

    def _merge(self, outcomes: Sequence[Any]) -> Any:
        if len(outcomes) == 1:
            return outcomes[0][0]
        return batches.join([outputs for outputs, _ in outcomes], [rows for _, rows in outcomes])

    def _many(self, iterator: Any, steps: tf.Tensor, first: tf.Tensor) -> Any:
        specs = tf.nest.flatten(self._step.structured_outputs)
        start = [
            tf.TensorArray(spec.dtype, 0, dynamic_size=True, infer_shape=False, element_shape=[None, *spec.shape[1:]])
            for spec in specs
        ]

        def body(done: tf.Tensor, arrays: list[tf.TensorArray], batch: Any) -> tuple[Any, ...]:
            outputs = tf.nest.flatten(self._run_step(self._batch(batch), first + tf.cast(done, tf.int64)))
            written = [array.write(done, value) for array, value in zip(arrays, outputs, strict=True)]
            done = done + 1
            return done, written, self._following(iterator, done < steps)

        done, arrays, _ = tf.while_loop(
            lambda done, arrays, batch: batch.has_value(),
            body,
            (tf.constant(0, tf.int32), start, self._following(iterator, steps > 0)),
        )
        joined = [
            tf.cond(done > 0, array.concat, lambda spec=spec: tf.zeros([0, *spec.shape[1:]], spec.dtype))
            for array, spec in zip(arrays, specs, strict=True)
        ]
        return done, tf.nest.pack_sequence_as(self._step.structured_outputs, joined)


def _find_accelerator(strategy: tf.distribute.Strategy) -> str:
    """Returns the one device that computes, where that is not the one that the data are read on; else `""`.

    Several replicas take their parts from a batch on the host.
    """
    mirrored = isinstance(strategy, tf.distribute.MirroredStrategy)
    where_numbers_go = tf.zeros([]).device  # a scope's device, else a GPU if there is one
    devices = strategy.extended.worker_devices if mirrored else [where_numbers_go]
    specs = [tf.DeviceSpec.from_string(device) for device in devices]
    if len(specs) > 1 or (specs[0].device_type, specs[0].device_index) == ("CPU", 0):
        return ""
    return devices[0]


def _as_scalars(steps: int, first: int) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.constant(steps, tf.int32), tf.constant(first, tf.int64)


def _dense(leaf: Any) -> Any:
    return tf.sparse.to_dense(leaf) if isinstance(leaf, tf.SparseTensor) else leaf
