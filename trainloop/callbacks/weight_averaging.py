"""`WeightAveraging`: train with the raw weights, use their average."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from trainloop import arguments
from trainloop.callback import Callback
from trainloop.data import Data, check_data
from trainloop.phase import Phase
from trainloop.triggers import Trigger
from trainloop.user_code import noted
from trainloop.variables import paths_in

if TYPE_CHECKING:
    from trainloop.trainer import Trainer


class WeightAveraging(Callback):
    """Keeps an average of the trainable weights: TRAIN uses the raw weights, every other phase the average.

    An exponential moving average is taken in the compiled loop after every step, as `decay * average + (1 - decay) *
    weights`, divided by the sum of its coefficients as Adam divides its moments: so the weights a run began with do not
    count, however short the run is. Stochastic weight averaging takes the plain mean of the weights at the moments of a
    trigger. The averages are part of every checkpoint.

    Only trainable weights have an average. The moving statistics of batch normalization do not fit averaged weights:
    they are measured on what the layers put out, and the mean of such measurements is not what the mean of the weights
    would put out. With `bn_data` they are measured with the averaged weights (`trainer.update_bn`) before each use of
    averages that have moved since, so before each evaluation in `fit`, and before the checkpoint at the end. They are
    kept beside those of the raw weights, with which training goes on. Without `bn_data` the averaged weights use the
    statistics of the raw ones, unless `trainer.update_bn` is called and until training goes on.

    After `fit` the model holds the raw weights; `applied` puts the averages there, to be saved.

    The weights are exchanged in this callback's own hooks, so callbacks that are listed after it see the raw weights
    again in their `on_phase_end`.

    Args:
      ema: The decay of an exponential moving average, between 0 and 1; 0.999 looks back about 1000 steps.
      swa: When to take the weights into a plain mean.
      bn_data: Data to measure batch normalization's statistics on, with batches as `fit` has them: an own
        `compute_loss` is called on them. A few thousand rows of the training data will do: `from_arrays` data of these,
        or `dataset.take(50)`.

    Raises:
      TypeError: If `swa` is not a trigger, or `bn_data` is not data.
      ValueError: If not exactly one of `ema` and `swa` is given, or `ema` is not between 0 and 1; when `fit` begins, if
        `bn_data` is given for a model without batch normalization.

    References:
      Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.
      Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018.

    Example:
      >>> from trainloop import Every, WeightAveraging
      >>> moving = WeightAveraging(ema=0.999)
      >>> plain = WeightAveraging(swa=Every(epochs=1))
    """

    def __init__(
        self,
        *,
        ema: float | None = None,
        swa: Trigger | None = None,
        bn_data: Data | None = None,
    ):
        if (ema is None) == (swa is None):
            raise ValueError(f"WeightAveraging takes exactly one of ema= and swa=; given: ema={ema!r}, swa={swa!r}")
        if ema is not None and not (isinstance(ema, float) and 0.0 < ema < 1.0):
            raise ValueError(f"WeightAveraging: ema={ema!r} must be a number between 0 and 1, like 0.999")
        if bn_data is not None:
            check_data(bn_data, "WeightAveraging: bn_data")
        self.ema = ema
        self.bn_data = bn_data
        self.trigger = arguments.check_trigger(swa, "WeightAveraging: swa")
        self.tracked: dict[str, Any] = {}
        self._pairs: list[tuple[tf.Variable, tf.Variable]] = []
        self._statistics: list[tuple[tf.Variable, tf.Variable]] = []
        self._count: tf.Variable | None = None
        self._measured_at: tf.Variable | None = None
        self._depth = 0
        self._swapped = False
        self._paths: dict[str, list[str]] = {}

    def build(self, variables: Sequence[tf.Variable], statistics: Sequence[tf.Variable] = ()) -> None:
        """Makes the averages, under the current strategy; called by the Trainer once all variables exist.

        Args:
          variables: What to average. A variable that stands here twice has one average.
          statistics: The moving statistics of batch normalization.
        """
        if self._count is not None:
            return
        if self.bn_data is not None and not statistics:
            raise ValueError(
                "WeightAveraging: bn_data= is there to measure the statistics of batch normalization on, but the model "
                "has none; leave it out"
            )
        self._count = tf.Variable(0, dtype=tf.int64, trainable=False, name="averaged")
        distinct = {id(variable): variable for variable in variables}.values()
        self._pairs = [(v, tf.Variable(v.read_value(), trainable=False, name="average")) for v in distinct]
        self.tracked = {"count": self._count, "averages": [average for _, average in self._pairs]}
        if statistics:
            self._measured_at = tf.Variable(0, dtype=tf.int64, trainable=False, name="measured_at")
            self._statistics = [(variable, _beside(variable)) for variable in statistics]
            self.tracked |= {"measured_at": self._measured_at, "statistics": [own for _, own in self._statistics]}

    def update(self) -> None:
        """Takes the weights into the moving average; called in the graph after each step, in cross-replica context."""
        if self.ema is None or self._count is None:
            return
        count = tf.cast(self._count.assign_add(1), tf.float64)
        self._take_in(-math.expm1(math.log(self.ema)) / -tf.math.expm1(count * math.log(self.ema)))

    def measure(self, trainer: Trainer) -> None:
        """Measures the statistics of the averages on `bn_data`, unless they have not moved since that was done.

        Called by the Trainer at the end of `fit`, before it saves.
        """
        if self.bn_data is not None and self._has_averages() and not self._is_measured():
            with noted("update_bn was called for WeightAveraging, with its bn_data="):
                trainer.update_bn(self.bn_data)

    @contextlib.contextmanager
    def applied(self, trainer: Trainer) -> Iterator[None]:
        """Puts the averages in the place of the raw weights for the block, to save or export the model with them.

        With `bn_data` the statistics of batch normalization are those of the averages. After the block the raw weights
        are back, also after an exception.

        Args:
          trainer: The Trainer that has this callback.

        Raises:
          ValueError: If it has not, or nothing was averaged yet.

        Example:
          >>> import numpy as np, tf_keras
          >>> from trainloop import Trainer, WeightAveraging, data
          >>> averaging = WeightAveraging(ema=0.9)
          >>> model = tf_keras.Sequential([tf_keras.Input([2]), tf_keras.layers.Dense(1)])
          >>> trainer = Trainer(model, "sgd", loss="mse", callbacks=[averaging], default_callbacks=False)
          >>> pairs = data.from_arrays((np.ones([8, 2]), np.ones([8, 1])), batch_size=4)
          >>> _ = trainer.fit(pairs, epochs=2)
          >>> with averaging.applied(trainer):
          ...     averaged = model.get_weights()  # or model.save("averaged.keras")
        """
        if all(callback is not self for callback in trainer.callbacks):
            raise ValueError("WeightAveraging.applied: trainer= has not this callback; give the Trainer that has it")
        if not self._has_averages():
            raise ValueError(
                "WeightAveraging.applied: nothing was averaged yet; call fit, or restore a run that was averaged and "
                "evaluate it, before"
            )
        with trainer.strategy.scope():
            self._enter()
        try:
            self.measure(trainer)
            yield
        finally:
            with trainer.strategy.scope():
                self._leave()

    def on_trigger(self, trainer: Trainer) -> None:
        if self._count is not None:
            self._take_in(1.0 / tf.cast(self._count.assign_add(1), tf.float64))

    def on_phase_begin(self, trainer: Trainer, phase: Phase) -> None:
        if phase is Phase.TRAIN:
            if self._swapped:
                raise RuntimeError("fit was called inside WeightAveraging.applied, where the weights are the averages")
            return
        self._enter()
        if self._depth == 1 and phase is not Phase.UPDATE_BN:
            self.measure(trainer)

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        if phase is Phase.TRAIN:
            return
        if phase is Phase.UPDATE_BN and self._swapped and self._measured_at is not None and sys.exception() is None:
            self._measured_at.assign(self._count)
        self._leave()

    def on_fit_begin(self, trainer: Trainer) -> None:
        paths = paths_in(trainer.state.checkpoint.model)
        pairs = {"weights": self._pairs, "statistics": self._statistics}
        self._paths = {name: [paths[variable.ref()] for variable, _ in of] for name, of in pairs.items()}

    def get_state(self) -> dict[str, Any]:
        return self._paths

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes nothing back: whose averages they are is for `load_weights` to know, and found anew in each fit."""

    def _enter(self) -> None:
        self._depth += 1
        if self._depth == 1 and self._has_averages():
            self._swap_in()
            self._swapped = True

    def _leave(self) -> None:
        self._depth -= 1
        if self._depth == 0 and self._swapped:
            self._swapped = False
            self._swap_out()

    def _has_averages(self) -> bool:
        return self._count is not None and self._count.numpy() > 0

    def _is_measured(self) -> bool:
        """Returns whether the averages have statistics of their own, measured since they last moved."""
        return self._measured_at is not None and bool(self._measured_at == self._count)

    def _take_in(self, share: tf.Tensor) -> None:
        def move(average: tf.Variable, weights: tf.Variable) -> None:
            average.assign_add((weights - average) * tf.cast(share, average.dtype))

        extended = tf.distribute.get_strategy().extended
        for variable, average in self._pairs:
            extended.update(average, move, args=(variable,))

    def _swap_in(self) -> None:
        """Puts the averages in the place of the raw weights, and their statistics where they have any."""
        if not self._is_measured():
            for raw, own in _copies(self._statistics):
                own.assign(raw.read_value())
        _exchange(self._pairs)
        _exchange(_copies(self._statistics))

    def _swap_out(self) -> None:
        _exchange(self._pairs)
        _exchange(_copies(self._statistics))


def _exchange(pairs: Sequence[tuple[tf.Variable, tf.Variable]]) -> None:
    for variable, other in pairs:
        value = variable.read_value()
        variable.assign(other.read_value())
        other.assign(value)


def _beside(statistic: tf.Variable) -> tf.Variable:
    """Returns a variable like one of batch normalization's statistics, of which each replica may have its own."""
    return tf.Variable(
        statistic.read_value(),
        trainable=False,
        synchronization=statistic.synchronization,
        aggregation=statistic.aggregation,
        name="statistic",
    )


def _copies(pairs: Sequence[tuple[tf.Variable, tf.Variable]]) -> list[tuple[tf.Variable, tf.Variable]]:
    """Returns pairs of the replicas' own variables: read all together, what they hold would be averaged."""
    local = tf.distribute.get_strategy().experimental_local_results
    return [each for pair in pairs for each in zip(*map(local, pair), strict=True)]
