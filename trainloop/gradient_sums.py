"""Gradients of a weighted mean: loss scaling, and the weighing of replicas and microbatches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras

Gradient = tf.Tensor | tf.IndexedSlices | None
LossScaleOptimizer = tf_keras.mixed_precision.LossScaleOptimizer


def compute(
    tape: tf.GradientTape,
    loss: tf.Tensor,
    variables: Sequence[tf.Variable],
    optimizer: Any,
    share: tf.Tensor | None = None,
) -> list[Gradient]:
    """Returns the gradients of `share * loss`, computed at the optimizer's loss scale and scaled back.

    Scale and share go in as the tape's seed, so that the user's loss itself is never touched, and so that what a
    gradient gets from other replicas (through synchronized batch norm) counts with their shares, not with this one's.

    Args:
      tape: The tape that recorded the loss.
      loss: Scalar.
      variables: What to differentiate by.
      optimizer: The optimizer that will apply the gradients.
      share: This replica's part of the whole batch's weight, between 0 and 1; None leaves the loss as it is. Where it
        is 0 the loss may be a mean over nothing: what is not finite becomes 0.

    Returns:
      A gradient for each variable; None where the loss does not depend on it. Sparse ones (of an embedding) name each
      row once: the optimizer clips by the norm of what it is given, which repeated rows would falsify.
    """
    if isinstance(optimizer, LossScaleOptimizer):
        seed = optimizer.get_scaled_loss(tf.ones([], loss.dtype))
        seed = seed if share is None else seed * tf.cast(share, loss.dtype)
        found = optimizer.get_unscaled_gradients(tape.gradient(loss, variables, output_gradients=seed))
    else:
        seed = None if share is None else tf.cast(share, loss.dtype)
        found = tape.gradient(loss, variables, output_gradients=seed)
    if share is not None:
        found = [_finite_where_nothing_counts(gradient, share) for gradient in found]
    return [_each_row_once(gradient) for gradient in found]


def scale(gradients: Sequence[Gradient], factor: tf.Tensor) -> list[Gradient]:
    """Returns each gradient times a scalar; where that is 0 also those that are not finite become 0."""

    def scaled(gradient: Gradient) -> Gradient:
        if gradient is None:
            return None
        times = tf.cast(factor, gradient.dtype)
        if isinstance(gradient, tf.IndexedSlices):
            values = tf.math.multiply_no_nan(gradient.values, times)
            return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
        return tf.math.multiply_no_nan(gradient, times)

    return [scaled(gradient) for gradient in gradients]


def dense(gradients: Sequence[Gradient]) -> list[Gradient]:
    """Returns the gradients as dense tensors."""
    return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]


def add(left: Sequence[Gradient], right: Sequence[Gradient]) -> list[Gradient]:
    """Returns the sums of two lists of gradients, as dense tensors."""
    return [
        b if a is None else a if b is None else tf.convert_to_tensor(a) + tf.convert_to_tensor(b)
        for a, b in zip(left, right, strict=True)
    ]


def global_norm(gradients: Sequence[Gradient]) -> tf.Tensor:
    """Returns the Euclidean norm of all gradients together."""
    return tf.linalg.global_norm([gradient for gradient in gradients if gradient is not None])


def _finite_where_nothing_counts(gradient: Gradient, share: tf.Tensor) -> Gradient:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = _finite_where_nothing_counts(gradient.values, share)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return tf.where((share > 0) | tf.math.is_finite(gradient), gradient, tf.zeros_like(gradient))


def _each_row_once(gradient: Gradient) -> Gradient:
    if gradient is None or not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, position = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)
