"""Which callbacks a `Trainer` has without being asked, and the order in which all are called."""

from __future__ import annotations

from collections.abc import Sequence

import tf_keras

from trainloop.callback import Callback
from trainloop.callbacks import (
    Checkpointing,
    KerasCallback,
    MetricsLog,
    ProgressBar,
    StopOnNaN,
    TensorBoard,
)

# What comes before and after the callbacks of `callbacks=`: a run that has gone wrong is not logged or saved, and a
# checkpoint holds what all the others have done at its step.
_BEFORE: tuple[type[Callback], ...] = (StopOnNaN,)
_AFTER: tuple[type[Callback], ...] = (ProgressBar, MetricsLog, TensorBoard, Checkpointing)
_NEED_WORKDIR = (MetricsLog, TensorBoard, Checkpointing)


def with_defaults(
    callbacks: Sequence[Callback | tf_keras.callbacks.Callback], *, defaults: bool, has_workdir: bool
) -> list[Callback]:
    """Returns all callbacks in the order in which they are called.

    Args:
      callbacks: What the user gave; one of a default's class takes that default's place.
      defaults: Whether the defaults are added.
      has_workdir: Whether the run writes anything.

    Raises:
      ValueError: If a callback that writes files is given without a workdir, or the same class of default twice.
    """
    given = [callback if isinstance(callback, Callback) else KerasCallback(callback) for callback in callbacks]
    placed: dict[type[Callback], Callback] = {}
    for kind in (*_BEFORE, *_AFTER):
        own = [callback for callback in given if isinstance(callback, kind)]
        if len(own) > 1:
            raise ValueError(f"callbacks= holds {len(own)} of {kind.__name__}; give one")
        if own and kind in _NEED_WORKDIR and not has_workdir:
            raise ValueError(f"callbacks= holds {kind.__name__}, which writes files; give the Trainer a workdir=")
        if own:
            placed[kind] = own[0]
        elif defaults and (has_workdir or kind not in _NEED_WORKDIR):
            placed[kind] = kind()
    others = [callback for callback in given if all(callback is not one for one in placed.values())]
    before = [placed[kind] for kind in _BEFORE if kind in placed]
    return before + others + [placed[kind] for kind in _AFTER if kind in placed]
