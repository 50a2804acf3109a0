"""`WeightAveraging`: train with the raw weights, use their average."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from trainloop import arguments
from trainloop.callback import Callback
from trainloop.phase import Phase
from trainloop.triggers import Trigger

if TYPE_CHECKING:
    from trainloop.trainer import Trainer


class WeightAveraging(Callback):
    """Keeps an average of the trainable weights: TRAIN uses the raw weights, every other phase the average.

    An exponential moving average is taken in the compiled loop after every step, as `decay * average + (1 - decay) *
    weights`, divided by the sum of its coefficients as Adam divides its moments: so the weights a run began with do not
    count, however short the run is. Stochastic weight averaging takes the plain mean of the weights at the moments of a
    trigger. The averages are part of every checkpoint.

    Only trainable weights have an average. The moving statistics of batch normalization stay those of the raw weights,
    and they do not fit averaged ones: they are measured on what the layers put out, and the mean of such measurements
    is not what the mean of the weights would put out. They have to be measured again with the averaged weights.

    The weights are exchanged in this callback's own hooks, so callbacks that are listed after it see the raw weights
    again in their `on_phase_end`.

    Args:
      ema: The decay of an exponential moving average, between 0 and 1; 0.999 looks back about 1000 steps.
      swa: When to take the weights into a plain mean.
      bn_data: Data to measure batch normalization's statistics on when `fit` ends.

    Raises:
      TypeError: If `swa` is not a trigger.
      ValueError: If not exactly one of `ema` and `swa` is given, or `ema` is not between 0 and 1.
      NotImplementedError: If `bn_data` is given: `Phase.UPDATE_BN` is not served yet.

    References:
      Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.
      Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018.

    Example:
      >>> from trainloop import Every, WeightAveraging
      >>> moving = WeightAveraging(ema=0.999)
      >>> plain = WeightAveraging(swa=Every(epochs=1))
    """

    def __init__(self, *, ema: float | None = None, swa: Trigger | None = None, bn_data: Any = None):
        if (ema is None) == (swa is None):
            raise ValueError(f"WeightAveraging takes exactly one of ema= and swa=; given: ema={ema!r}, swa={swa!r}")
        if ema is not None and not (isinstance(ema, float) and 0.0 < ema < 1.0):
            raise ValueError(f"WeightAveraging: ema={ema!r} must be a number between 0 and 1, like 0.999")
        if bn_data is not None:
            raise NotImplementedError(
                "WeightAveraging: bn_data= needs Phase.UPDATE_BN, which the Trainer does not serve yet; leave it out, "
                "and average only models without batch normalization until it does"
            )
        self.ema = ema
        self.trigger = arguments.check_trigger(swa, "WeightAveraging: swa")
        self.tracked: dict[str, Any] = {}
        self._pairs: list[tuple[tf.Variable, tf.Variable]] = []
        self._count: tf.Variable | None = None
        self._depth = 0
        self._swapped = False

    def build(self, variables: Sequence[tf.Variable]) -> None:
        """Makes the averages, under the current strategy; called by the Trainer once all variables exist.

        Args:
          variables: What to average. A variable that stands here twice has one average.
        """
        if self._count is not None:
            return
        self._count = tf.Variable(0, dtype=tf.int64, trainable=False, name="averaged")
        distinct = {id(variable): variable for variable in variables}.values()
        self._pairs = [(v, tf.Variable(v.read_value(), trainable=False, name="average")) for v in distinct]
        self.tracked = {"count": self._count, "averages": [average for _, average in self._pairs]}

    def update(self) -> None:
        """Takes the weights into the moving average; called in the graph after each step, in cross-replica context."""
        if self.ema is None or self._count is None:
            return
        count = tf.cast(self._count.assign_add(1), tf.float64)
        self._take_in(-math.expm1(math.log(self.ema)) / -tf.math.expm1(count * math.log(self.ema)))

    def on_trigger(self, trainer: Trainer) -> None:
        if self._count is not None:
            self._take_in(1.0 / tf.cast(self._count.assign_add(1), tf.float64))

    def on_phase_begin(self, trainer: Trainer, phase: Phase) -> None:
        if phase is Phase.TRAIN:
            return
        self._depth += 1
        if self._depth == 1 and self._count is not None and self._count.numpy() > 0:
            self._swap()
            self._swapped = True

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        if phase is Phase.TRAIN:
            return
        self._depth -= 1
        if self._depth == 0 and self._swapped:
            self._swapped = False
            self._swap()

    def _take_in(self, share: tf.Tensor) -> None:
        def move(average: tf.Variable, weights: tf.Variable) -> None:
            average.assign_add((weights - average) * tf.cast(share, average.dtype))

        extended = tf.distribute.get_strategy().extended
        for variable, average in self._pairs:
            extended.update(average, move, args=(variable,))

    def _swap(self) -> None:
        for variable, average in self._pairs:
            raw = variable.read_value()
            variable.assign(average.read_value())
            average.assign(raw)
