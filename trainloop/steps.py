"""The only place where a step is compiled, and the loop around it.

    step(batch, place)              the user's step method, in its phase, on every replica
    loop(iterator, steps, first)    tf.while_loop over step: many steps on the device, without coming back to Python

What a loop carries from step to step is as little as can be: where a step is small, each number carried shows in its
time. So the sums are added to a variable, and counters are variables that a step reads only where it uses them. It does
carry the next batch, which is taken, and copied to the device that computes, while the step before runs: a step waits
for data only where these are slower. No more is taken than is run, so the iterator stands where the run stands whenever
Python looks; unless a loss that is not finite, or an error, has ended the call before its time. How many steps are done
is int32, which TensorFlow keeps in the memory of the host on a GPU too.

A batch is taken by a thread that the iterator wakes, or inline, by the one that runs the loop's ops, where the data are
such that to wake another takes longer.

What is drawn in a step depends on the place of its batch: in TRAIN the run's step, elsewhere how many batches of the
pass came before it.

A step is traced once. A loop takes its number of steps as a tensor, so that no chunk length traces it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from trainloop import batches, guard, numbering
from trainloop.contract_report import ContractReport
from trainloop.phase import Phase
from trainloop.step_context import StepContext, within
from trainloop.tracing import Trace
from trainloop.user_code import call_user, own_exceptions

_int64, _int32 = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32)
_HOST = "CPU:0"
Take = Callable[[Any], Any]  # from an iterator to its next batch, as an optional


class InnerLoop:
    """What the inner loops of all phases share: a traced step, how it is called for each replica, and its next batch.

    Args:
      method: The user's step method, `(batch, phase) -> ...`.
      phase: The phase of every step.
      strategy: The default strategy, or a MirroredStrategy.
      counter: The run's step.
      epoch: The run's epoch.
      root: The model, or the dict of models, from which the paths of layers are counted.
      seed: The run's seed, on which the random draws of each step depend.
      jit_compile: Whether a step is compiled by XLA.
      run_eagerly: Whether steps run without being compiled at all.

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
        root: Any = None,
        seed: int = 0,
        jit_compile: bool = False,
        run_eagerly: bool = False,
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
        self._loops: dict[bool, Any] = {}  # by whether batches are taken inline
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

    def prepare(self, source: Any, *, inline: bool = False) -> None:
        """Traces the step and the loop for batches like those of a dataset or an iterator; runs nothing.

        Args:
          source: The dataset, or the iterator.
          inline: Whether the batches can be taken inline (`data.can_be_taken_inline`).
        """
        if self._step is None:
            self._trace_step(source)
        if inline not in self._loops and self.can_join:
            self._trace_loop(source, inline)

    def _trace_step(self, source: Any) -> None:
        if self._run_eagerly:
            self._step = self._whole_step
            return
        self._accelerator = _find_accelerator(self._strategy)
        # With several replicas XLA cannot compile the exchange between them; the Trainer compiles the part before it.
        step = tf.function(
            self._whole_step, autograph=False, jit_compile=True if self._jit_compile and self._replicas == 1 else None
        )
        with own_exceptions():
            self._step = step.get_concrete_function(source.element_spec, _int64, _int64, _int64)

    def _trace_loop(self, source: Any, inline: bool) -> None:
        many = functools.partial(self._many, _take_inline if inline else _take)
        if self._run_eagerly:
            self._loops[inline] = many
            return
        # A concrete function cannot be traced again, and does not warn that it is: TensorFlow counts the traces of a
        # method, so that the loops of a few Trainers look to it like one that is traced over and over.
        loop = tf.function(many, autograph=False)
        with own_exceptions():
            self._loops[inline] = loop.get_concrete_function(tf.data.IteratorSpec(source.element_spec), _int32, _int64)

    @property
    def compiled_step(self) -> Any:
        """The concrete function of the step, once it is traced; None where steps run eagerly."""
        return None if self._run_eagerly else self._step

    @property
    def can_join(self) -> bool:
        """Whether several steps can run on the device in one call, and what they return be put together there."""
        return True

    def _run_loop(self, iterator: Any, steps: int, first: int, inline: bool) -> Any:
        assert steps > 0, steps
        return self._loops[inline](iterator, tf.constant(steps, tf.int32), tf.constant(first, tf.int64))

    def _ahead(self, take: Take, iterator: Any, wanted: tf.Tensor | None = None) -> Any:
        """Takes the next batch, if one is wanted and there is one; nothing but the next step depends on it.

        It is copied to the device that computes before its step runs. The first one of a loop is taken without asking
        whether it is wanted: a loop runs one step at least, and `If` takes time to trace.
        """
        with tf.device(_HOST):
            if wanted is None:
                taken = take(iterator)
            else:
                nothing = functools.partial(tf.experimental.Optional.empty, iterator.element_spec)
                taken = tf.cond(wanted, functools.partial(take, iterator), nothing)
        return self._on_accelerator(taken) if self._accelerator else taken

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
        keyed = numbering.keyed(seed=self._seed, phase=self.phase.value, place=context.place, replica=replica)
        with within(context), scope as opened, keyed:
            self.traces.append(opened.trace)
            return self._finish(call_user(self._method, part, self.phase), part, context.rows)

    def _finish(self, returned: Any, part: Any, rows: tf.Tensor) -> Any:
        raise NotImplementedError

    def _merge(self, outcomes: Sequence[Any]) -> Any:
        raise NotImplementedError

    def _many(self, take: Take, iterator: Any, steps: tf.Tensor, first: tf.Tensor) -> Any:
        raise NotImplementedError


def _take(iterator: Any) -> Any:
    """Takes the next batch, if there is one; a thread of the iterator's own is asked for it."""
    return iterator.get_next_as_optional()


def _take_inline(iterator: Any) -> Any:
    """Takes the next batch, which has to be there, in the thread that runs the loop's ops; none has to be woken."""
    [resource] = tf.nest.flatten(iterator, expand_composites=True)
    specs = tf.nest.flatten(iterator.element_spec)
    taken = tf.raw_ops.IteratorGetNextSync(
        iterator=resource,
        output_types=[spec.dtype for spec in specs],
        output_shapes=[spec.shape for spec in specs],
    )
    return tf.experimental.Optional.from_value(tf.nest.pack_sequence_as(iterator.element_spec, taken))


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
