"""Mean and variance of what layers put out, in training and in evaluation, measured on a batch.

What the runs write is put back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainloop.auditing.data_flow import Flow
from trainloop.auditing.evidence import Traced
from trainloop.auditing.untouched import variables_put_back

MASKS = 16


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a layer put out on the batch; in training as the mean over many draws.

    Attributes:
      path: The layer.
      train_mean: Mean over all units and rows in TRAIN.
      train_variance: Variance over all units and rows in TRAIN.
      eval_mean: The mean in EVAL.
      eval_variance: The variance in EVAL.
    """

    path: str
    train_mean: float
    train_variance: float
    eval_mean: float
    eval_variance: float

    @property
    def mean_shift(self) -> float:
        """By how many standard deviations (of TRAIN) the mean moves from TRAIN to EVAL; NaN without a variance."""
        if self.train_variance <= 0.0:
            return math.nan
        return (self.eval_mean - self.train_mean) / math.sqrt(self.train_variance)

    @property
    def variance_ratio(self) -> float:
        """The variance in EVAL over that in TRAIN; NaN where that is zero."""
        return math.nan if self.train_variance <= 0.0 else self.eval_variance / self.train_variance


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What was measured on a batch.

    Attributes:
      outputs: Of each phase-sensitive layer whose output the graph shows, in the order of their calls.
      variance_ratios: Of the input of each batch normalization, by path: its variance with dropout off, over that with
        dropout on. Both are taken with batch normalization on its moving statistics (EVAL against MC_PREDICT), so that
        dropout and noise alone make the difference; the median over the channels.
    """

    outputs: tuple[Measurement, ...]
    variance_ratios: Mapping[str, float]


NOTHING = Measurements((), {})


class Observed(NamedTuple):
    """Statistics of one call of a model, by layer path; tensors in its graph.

    Attributes:
      outputs: Mean and variance of what each phase-sensitive layer puts out at its first call, shape `[2]`.
      batch_norm_inputs: Variance of what each batch normalization takes in, a number for each channel.
    """

    outputs: dict[str, Any]
    batch_norm_inputs: dict[str, Any]


def observe(flow: Flow) -> Observed:
    """Adds the statistics to a graph that has just been built."""
    found = Observed({}, {})
    for call in flow.calls:
        if call.family is not None and call.path not in found.outputs and (made := _numbers(call.outputs)):
            values = tf.cast(made[0], tf.float32)
            found.outputs[call.path] = tf.stack([tf.reduce_mean(values), tf.math.reduce_variance(values)])
        taken = flow.inputs_of(call) if call.family == "batch_norm" else []
        if taken and taken[0].shape.rank is not None and call.path not in found.batch_norm_inputs:
            found.batch_norm_inputs[call.path] = _variance_by_channel(taken[0], call.layer)
    return found


def measure(model: Any, inputs: Any, train: Traced, evaluation: Traced, dropping: Traced | None) -> Measurements:
    """Runs a model that was traced with its statistics, and puts it back.

    Args:
      model: The model.
      inputs: The batch.
      train: It in TRAIN.
      evaluation: It in EVAL.
      dropping: It in MC_PREDICT; None where that does not apply.
    """
    in_train = _run(model, inputs, train, MASKS)
    in_eval = _run(model, inputs, evaluation, 1)
    outputs = tuple(
        Measurement(path, *map(float, moments), *map(float, in_eval.outputs[path]))
        for path, moments in in_train.outputs.items()
        if path in in_eval.outputs
    )
    ratios = {}
    if dropping is not None:
        for path, variances in _run(model, inputs, dropping, MASKS).batch_norm_inputs.items():
            varies = variances > 0.0
            if path in in_eval.batch_norm_inputs and varies.any():
                ratios[path] = float(np.median(in_eval.batch_norm_inputs[path][varies] / variances[varies]))
    return Measurements(outputs, ratios)


def _run(model: Any, inputs: Any, traced: Traced, times: int) -> Observed:
    """Returns the statistics as the mean over some calls."""
    runs = []
    with variables_put_back(model, traced.concrete, traced.effects) as put_back:
        for _ in range(times):
            runs.append(traced.concrete(inputs))
            put_back()
    return tf.nest.map_structure(lambda *values: np.mean([value.numpy() for value in values], axis=0), *runs)


def _numbers(outputs: Any) -> list[tf.Tensor]:
    return [each for each in tf.nest.flatten(outputs) if isinstance(each, tf.Tensor) and each.dtype.is_floating]


def _variance_by_channel(inputs: tf.Tensor, layer: Any) -> tf.Tensor:
    axis = getattr(layer, "axis", -1)
    channel = (axis[0] if isinstance(axis, (list, tuple)) else axis) % inputs.shape.rank
    rest = [each for each in range(inputs.shape.rank) if each != channel]
    return tf.math.reduce_variance(tf.cast(inputs, tf.float32), axis=rest)
