"""The inner loop of TRAIN and EVAL, whose steps are summed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainloop import batches, results
from trainloop.losses import Metrics
from trainloop.phase import Phase
from trainloop.results import StepResult
from trainloop.state import MAX_SCALARS
from trainloop.steps import InnerLoop, Take
from trainloop.user_code import own_exceptions


class Ran(NamedTuple):
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


class SummingLoop(InnerLoop):
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
      **shared: What else an `InnerLoop` takes.
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
        **shared: Any,
    ):
        super().__init__(method, phase, strategy, counter=counter, epoch=epoch, **shared)
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

    def run(self, iterator: Any, steps: int, first: int = 0, *, inline: bool = False) -> Ran:
        """Runs up to `steps` steps and adds their sums to the window.

        Args:
          iterator: The batches.
          steps: How many steps to run at most; a positive number.
          first: How many batches of the pass came before these; TRAIN counts the run's steps instead.
          inline: Whether the batches can be taken inline; then there have to be as many as `steps`.
        """
        with own_exceptions():
            self.prepare(iterator, inline=inline)
            # The one place where a loop waits for the device: Python needs to know where the run stands.
            done, finite = (value.numpy() for value in self._run_loop(iterator, steps, first, inline))
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

    def _many(self, take: Take, iterator: Any, steps: tf.Tensor, first: tf.Tensor) -> Any:
        counts = self.phase is Phase.TRAIN

        def body(so_far: dict[str, Any]) -> list[dict[str, Any]]:
            place = None if counts else first + tf.cast(so_far["done"], tf.int64)
            sums, finite = self._run_step(self._batch(so_far["batch"]), place)
            self.window.assign_add(tf.pad(sums, [[0, MAX_SCALARS - len(self.names)]]))
            if counts:
                with tf.control_dependencies([sums]):  # a step that fails is not counted
                    self._counter.assign_add(1)
            done = so_far["done"] + 1
            following = self._ahead(take, iterator, wanted=done < steps)
            return [{"done": done, "batch": following} | ({"finite": finite} if self._stop_on_nonfinite else {})]

        def goes_on(so_far: dict[str, Any]) -> tf.Tensor:
            there_is_one = so_far["batch"].has_value()
            return so_far["finite"] & there_is_one if self._stop_on_nonfinite else there_is_one

        start = {"done": tf.constant(0, tf.int32), "batch": self._ahead(take, iterator)}
        if self._stop_on_nonfinite:
            start["finite"] = tf.constant(True)
        [end] = tf.while_loop(goes_on, body, [start])
        return end["done"], end.get("finite", tf.constant(True))
