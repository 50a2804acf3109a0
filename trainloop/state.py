"""What is saved: everything that the future of a run depends on, each thing by its name."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainloop.aside import run_aside

MAX_SCALARS = 62
_WINDOW = MAX_SCALARS + 2
_NO_SUMS = np.zeros([_WINDOW])


class HostState(tf.train.experimental.PythonState):
    """The part of the state that lives in Python, kept in a checkpoint as JSON."""

    def __init__(self, get: Callable[[], dict[str, Any]], put: Callable[[dict[str, Any]], None]):
        self._get = get
        self._put = put

    def serialize(self) -> str:
        """Returns the state as JSON."""
        return json.dumps(self._get(), sort_keys=True)

    def deserialize(self, string_value: Any) -> None:
        """Puts back what `serialize` returned."""
        text = string_value.decode() if isinstance(string_value, bytes) else string_value
        self._put(json.loads(text))


class Counts(NamedTuple):
    """The counters of a run, as whole numbers.

    Attributes:
      step: Steps completed.
      epoch: Epochs completed.
      epoch_start: The step at which the epoch that is under way began.
      passes: How many iterators were made of the training data.
    """

    step: int
    epoch: int
    epoch_start: int
    passes: int


class State:
    """The state of a run as one `tf.train.Checkpoint`, readable without trainloop.

    The counters are variables, which compiled steps and checkpoints see. Python asks for them many times between two
    chunks, and each look at a variable is an op; so it keeps them in `counts` too, and looks anew only where something
    else than the methods here may have written them. Other threads may ask too, while a compiled loop counts: they are
    told how far it has come by then, which is not kept.

    Attributes:
      step: Steps completed.
      epoch: Epochs completed.
      epoch_start: The step at which the epoch that is under way began.
      passes: How many iterators were made of the training data.
      window: Sums of the report window: rows, total weight, then each scalar times its weight.
      checkpoint: All of it, and the models, optimizers, metrics and callbacks, as one object.
    """

    def __init__(self, models: Any, optimizers: Any, host: HostState):
        begin = Counts(step=0, epoch=0, epoch_start=0, passes=1)
        counters = {name: np.int64(number) for name, number in begin._asdict().items()}
        made = _on_the_host(**counters, window=_NO_SUMS)
        self.step, self.epoch, self.epoch_start, self.passes, self.window = made
        self._counts: Counts | None = begin
        self._lock = threading.RLock()  # what is looked at is kept before anybody else writes
        self._is_counted_elsewhere = False
        trained = {} if optimizers is None else {"optimizer": optimizers}
        self.checkpoint = tf.train.Checkpoint(
            step=self.step,
            epoch=self.epoch,
            epoch_start=self.epoch_start,
            passes=self.passes,
            window=self.window,
            host=host,
            model=models,
            **trained,
        )

    @property
    def counts(self) -> Counts:
        """The counters, as Python knows them."""
        with self._lock:
            if self._counts is not None:
                return self._counts
            found = Counts(*(int(getattr(self, name)) for name in Counts._fields))
            if not self._is_counted_elsewhere:
                self._counts = found
            return found

    def set_counts(self, **values: int) -> None:
        """Sets counters, by their names."""
        with self._lock:
            before, self._counts = self.counts, None
            after = before._replace(**values)
            for name, old, new in zip(Counts._fields, before, after, strict=True):
                if new != old:  # an op takes as long as some steps of a tiny model
                    getattr(self, name).assign(new, read_value=False)
            self._counts = after

    @contextlib.contextmanager
    def counted_elsewhere(self) -> Iterator[Counts]:
        """Has the counters looked at anew in the block, where a loop counts steps, and after it, until `note_steps`.

        Yields:
          The counters as they were before.
        """
        with self._lock:
            before, self._counts, self._is_counted_elsewhere = self.counts, None, True
        try:
            yield before
        finally:
            self._is_counted_elsewhere = False

    def note_steps(self, before: Counts, number: int) -> None:
        """Notes that a compiled loop has counted so many steps since the counters were these."""
        self._counts = before._replace(step=before.step + number)

    def forget_counts(self) -> None:
        """Has the counters looked at anew: a restore has written them."""
        self._counts = None

    @property
    def epoch_step(self) -> int:
        """The number of batches taken from the epoch under way."""
        return self.counts.step - self.counts.epoch_start

    def track_iterator(self, iterator: Any) -> None:
        """Puts the training data's iterator among what is saved; None takes it away, and any saved position with it."""
        self.checkpoint.iterator = tf.Module() if iterator is None else iterator

    @contextlib.contextmanager
    def without_iterator(self) -> Iterator[None]:
        """Takes the iterator away from what is saved, and any saved position with it, unless the block raises."""
        before = getattr(self.checkpoint, "iterator", None)
        self.track_iterator(None)
        try:
            yield
        except BaseException:
            self.checkpoint.iterator = tf.Module() if before is None else before
            raise

    def track_metrics(self, metrics: list[Any]) -> None:
        """Adds the metrics once they exist; what a restored checkpoint holds for them is put into them."""
        if not hasattr(self.checkpoint, "metrics") and metrics:
            self.checkpoint.metrics = list(metrics)

    def track_layer_states(self, states: Mapping[str, Sequence[tf.Variable]]) -> None:
        """Adds what the `stateful=True` RNNs keep from batch to batch, by the layers' paths, once it exists."""
        if not hasattr(self.checkpoint, "layer_states") and states:
            self.checkpoint.layer_states = {path: list(of_layer) for path, of_layer in states.items()}

    def track_replicas(self, number: int, of_each: Mapping[str, Sequence[tf.Variable]]) -> None:
        """Adds what each replica has of its own of a variable, by the variable's path."""
        setattr(self.checkpoint, replicas_of(number), dict(of_each))


def replicas_of(number: int) -> str:
    """Returns the name that the replicas' own values go by in a checkpoint, where there are so many of them."""
    return f"of_{number}_replicas"


def new_window() -> tf.Variable:
    """Returns sums for one report window, all zero; of fixed length, so that it can exist before a step is traced."""
    [window] = _on_the_host(window=_NO_SUMS)
    return window


def reset_window(window: tf.Variable) -> None:
    """Sets all sums of a window to zero."""
    window.assign(_NO_SUMS, read_value=False)


def _on_the_host(**values: Any) -> list[tf.Variable]:
    """Returns variables, by their names, that exist once however many replicas there are."""

    def make() -> list[tf.Variable]:
        with tf.device("CPU:0"):  # whatever device is chosen around it
            return [tf.Variable(value, trainable=False, name=name) for name, value in values.items()]

    return run_aside(make)
