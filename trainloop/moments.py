"""What samples that come in blocks have in common: their mean and spread, and for classes their entropies.

Each block is taken in as it comes, so that no more than one has to be in memory; the sums are those of Welford, for
many values at a time.

References:
  Welford, Note on a Method for Calculating Corrected Sums of Squares and Products, Technometrics 1962.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

State = Any  # a nest of tensors and TensorArrays: what `tf.while_loop` carries on
# How far the sum of class probabilities may be from 1; those of a softmax in few bits are rounded one by one.
_TOLERANCE = {tf.float16: 5e-3, tf.bfloat16: 3e-2}
_TOLERANCE_ELSE = 1e-3


@dataclasses.dataclass(frozen=True)
class Block:
    """Which samples stand in a block, one for each entry of the first axis.

    Attributes:
      index: The number of the block; int32 scalar.
      before: How many samples were taken in before it; int32 scalar.
      counts: Whether each of its samples counts: the last block may be filled up with more than were asked for.
    """

    index: tf.Tensor
    before: tf.Tensor
    counts: tf.Tensor

    def mean(self, mean: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        """Returns the mean over the samples so far, the block among them, from that over those before it."""
        total = self.before + tf.reduce_sum(tf.cast(self.counts, tf.int32))
        return mean + self.sum(values - mean) / tf.cast(total, mean.dtype)

    def sum(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the sum over the samples of the block."""
        return tf.reduce_sum(tf.where(self._counts_like(values), values, tf.zeros_like(values)), 0)

    def all(self, values: tf.Tensor) -> tf.Tensor:
        """Returns whether something holds in all samples of the block."""
        return tf.reduce_all(values | ~self._counts_like(values), 0)

    def _counts_like(self, values: tf.Tensor) -> tf.Tensor:
        rank = tf.rank(values) if values.shape.rank is None else values.shape.rank
        return tf.reshape(self.counts, tf.concat([[-1], tf.ones([rank - 1], tf.int32)], 0))


def accumulated(value: tf.Tensor) -> tf.Tensor:
    """Returns a value in the type that its mean is computed in: float32, or float64 for what that cannot hold."""
    held = value.dtype.is_bool or (value.dtype.is_floating and value.dtype.size <= 4)
    return tf.cast(value, tf.float32 if held else tf.float64)


def begin(first: tf.Tensor, blocks: tf.Tensor | int, *, keep: bool) -> State:
    """Returns the state that holds one sample of an output.

    Args:
      first: The sample.
      blocks: How many blocks will follow.
      keep: Whether the samples themselves are kept.
    """
    value = accumulated(first)
    state: dict[str, Any] = {"mean": value, "squares": tf.zeros_like(value)}
    if _may_be_classes(value):
        state |= {"entropy": _entropy(value), "are_classes": _are_classes(value[tf.newaxis], first.dtype)[0]}
    if keep:
        state["kept"] = tf.TensorArray(first.dtype, blocks, element_shape=[None, *first.shape])
    return state


def take_in(state: State, leaf: tf.Tensor, block: Block) -> State:
    """Returns the state that has taken in one more block of samples, stacked along the first axis."""
    value = accumulated(leaf)
    mean = block.mean(state["mean"], value)
    squares = state["squares"] + block.sum((value - state["mean"]) * (value - mean))
    following = {"mean": mean, "squares": squares}
    if "entropy" in state:
        following["entropy"] = block.mean(state["entropy"], _entropy(value))
        following["are_classes"] = state["are_classes"] & block.all(_are_classes(value, leaf.dtype))
    if "kept" in state:
        following["kept"] = state["kept"].write(block.index, leaf)
    return following


def end(state: State, first: tf.Tensor, samples: int) -> dict[str, tf.Tensor]:
    """Returns what was found, by name; each has a row for each row of the output.

    Args:
      state: The state that has taken in all samples.
      first: The sample that it began with.
      samples: How many there are.
    """
    mean = state["mean"]
    found = {"mean": mean, "std": tf.sqrt(state["squares"] / samples)}
    if "entropy" in state:
        entropy = _entropy(mean)
        information = tf.maximum(entropy - state["entropy"], tf.zeros_like(entropy))  # below 0 only by rounding
        found |= {"are_classes": state["are_classes"]}
    else:
        nothing = tf.zeros(tf.shape(mean)[:1], mean.dtype)
        entropy, information = nothing, nothing
        found |= {"are_classes": tf.zeros_like(nothing, tf.bool)}
    found |= {"predictive_entropy": entropy, "mutual_information": information}
    if "kept" in state:
        kept = first[tf.newaxis]
        if samples > 1:
            following = tf.reshape(state["kept"].stack(), tf.concat([[-1], tf.shape(first)], 0))
            kept = tf.concat([kept, tf.ensure_shape(following, [None, *first.shape])], 0)[:samples]
        found["samples"] = kept[tf.newaxis] if first.shape.rank == 0 else tf.einsum("sr...->rs...", kept)
    return found


def _may_be_classes(value: tf.Tensor) -> bool:
    return value.shape.rank is not None and value.shape.rank >= 2 and (value.shape[-1] or 0) >= 2


def _are_classes(value: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns for each row of each sample whether all of its last axes are probabilities."""
    sums_to_one = tf.abs(tf.reduce_sum(value, axis=-1) - 1.0) <= _TOLERANCE.get(dtype, _TOLERANCE_ELSE)
    found = tf.reduce_all(value >= 0.0, axis=-1) & sums_to_one
    return tf.reduce_all(found, axis=list(range(2, found.shape.rank)))


def _entropy(probabilities: tf.Tensor) -> tf.Tensor:
    """Returns the entropy over the last axis, in nats; what is no probability gives some number or NaN."""
    return -tf.reduce_sum(tf.math.xlogy(probabilities, probabilities), axis=-1)
