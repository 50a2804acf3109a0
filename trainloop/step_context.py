"""Where a step stands: what code that is called inside of one may ask about it, without being handed it."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import tensorflow as tf

from trainloop.ambient import Ambient


class StepContext(NamedTuple):
    """What a step method may ask about the step it is in, while it is traced or run.

    Attributes:
      step: Steps completed before this one; int64 scalar.
      epoch: Epochs completed; int64 scalar.
      place: What random draws depend on: in TRAIN the run's step, else the batch's place in the pass; int64 scalar.
      rows: Rows of this replica's part of the batch; int32 scalar.
      total_rows: Rows of the whole batch; int32 scalar.
      replicas: The number of replicas.
    """

    step: tf.Tensor
    epoch: tf.Tensor
    place: tf.Tensor
    rows: tf.Tensor
    total_rows: tf.Tensor
    replicas: int


_contexts: Ambient[StepContext] = Ambient()


def current() -> StepContext | None:
    """Returns the context of the step that is being traced or run here, or None outside of one."""
    return _contexts.current()


def required() -> StepContext:
    """Returns the context of the step that is being traced or run here.

    Raises:
      RuntimeError: Outside of a step.
    """
    context = current()
    if context is None:
        raise RuntimeError("called outside of a step; fit and evaluate call step methods, with a context of their own")
    return context


def within(context: StepContext) -> contextlib.AbstractContextManager[StepContext]:
    """Makes a context that of the step which the block traces or runs."""
    return _contexts.opened(context)
