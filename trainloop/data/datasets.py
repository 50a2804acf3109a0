"""`tf.data.Dataset`: what of its position can be saved, and what a resume does where it cannot."""

from __future__ import annotations

import dataclasses
import tempfile
import weakref
from typing import Any, Literal

import tensorflow as tf
from absl import logging

from trainloop.data import iterators, nodes
from trainloop.data.streams import Stream

Resume = Literal["replay", "epoch"]

_read: weakref.WeakSet[tf.data.Dataset] = weakref.WeakSet()  # in this process, by a stream


@dataclasses.dataclass(frozen=True, eq=False)
class ResumedDataset:
    """A dataset, and what a resume does with it; made by `from_dataset`."""

    dataset: tf.data.Dataset
    resume: Resume


def from_dataset(dataset: tf.data.Dataset, *, resume: Resume) -> ResumedDataset:
    """Says what a resumed run does with a dataset whose position is not, or cannot be, saved.

    A `tf.data.Dataset` needs no wrapper: where TensorFlow can save its iterator, the iterator is saved in every
    checkpoint, with all that it has read ahead (a shuffle's buffer, for one), and goes on exactly. Where it cannot
    (`from_generator`, `py_function`), `fit` warns at the start. This says which of two other ways is meant; then a
    checkpoint holds integers and no iterator.

    Args:
      dataset: Batches.
      resume: `"replay"` makes the batches that were seen once more, as fast as the dataset can, and drops them: exact
        where the dataset gives the same batches in every process (a shuffle needs a seed), and it takes as long as it
        takes. `"epoch"` begins the epoch under way again (endless data from their start): its first batches are seen
        twice.

    Returns:
      Data for `fit`, and for `evaluate` and `predict`, to which it is the dataset.

    Raises:
      TypeError: If `dataset` is not a `tf.data.Dataset`.
      ValueError: If `resume` is something else.

    Example:
      >>> import tensorflow as tf
      >>> from trainloop import data
      >>> rows = tf.data.Dataset.from_generator(lambda: range(6), output_signature=tf.TensorSpec([], tf.int32))
      >>> batches = data.from_dataset(rows.batch(2), resume="replay")
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            f"from_dataset: dataset= is a {type(dataset).__name__}; it must be a tf.data.Dataset of batches (a resume "
            "of from_arrays, from_source and zip is exact)"
        )
    if resume not in ("replay", "epoch"):
        raise ValueError(f"from_dataset: resume={resume!r} is unknown; it must be 'replay' or 'epoch'")
    return ResumedDataset(dataset, resume)


class DatasetStream(Stream):
    """A `tf.data.Dataset`: iterated anew each epoch, or, where the run is counted in steps, once."""

    def __init__(self, dataset: tf.data.Dataset, resume: Resume | None = None):
        self._dataset = dataset
        self._was_read = dataset in _read
        _read.add(dataset)
        self.replays = resume == "replay"
        self._cardinality = int(dataset.cardinality())
        self._can_be_taken_inline = nodes.can_be_taken_inline(dataset)
        self.shape = {"dataset": nodes.described(dataset)}
        # This one is not read from. TensorFlow makes another one when it restores an iterator, and `shuffle` draws for
        # that once more; so the iterator that a run begins with has to be the second one too.
        self._first = iterators.begin(dataset) if resume is None else None
        self.passes = 0 if self._first is None else 1
        self._is_saved = self._first is not None and _can_be_saved(dataset, self._first)
        self.caveat = self._why_inexact(resume)

    def count(self, steps_per_epoch: int | None, *, in_epochs: bool) -> None:
        """Says how long an epoch is, and whether the run is counted in epochs."""
        self.steps_per_epoch = self._cardinality if self._cardinality >= 0 and in_epochs else steps_per_epoch
        self.restarts = in_epochs and (steps_per_epoch is None or self._cardinality >= 0)
        self.has_epochs = self.restarts or self.steps_per_epoch is not None

    def seek(self, epoch: int, batch: int) -> None:
        """Leaves the iterator where it stands, which is the position; makes the first one where there is none."""
        if self.iterator is None:
            self._note_iterator(iterators.begin(self._dataset, at_once=True))

    def begin_epoch(self) -> None:
        """Iterates the dataset anew, unless it has no end."""
        if self.restarts:
            self._note_iterator(iterators.begin(self._dataset))

    def resume(self, passes: int, taken: int) -> bool:
        """Goes to the order of a pass, and where the dataset is replayed past the batches that were taken of it.

        `shuffle` draws the order of a pass when its iterator is made. A saved iterator holds what it has yet to draw
        from, except where all of a pass has been drawn already.

        Args:
          passes: How many iterators the run had made of the dataset.
          taken: How many batches it had taken from the last one.

        Returns:
          Whether the iterator now stands behind these batches.
        """
        if self._was_read and any(map(nodes.shuffles_anew, nodes.of(self._dataset))):
            logging.warning(
                "train_data= was read in this process before, and its shuffle goes on from there: the rows may come in "
                "another order than in the run that was saved. Make the dataset anew after restore"
            )
        while self.passes < passes - 1:
            self._note_iterator(iterators.begin(self._dataset))
        if self._is_saved:  # TensorFlow makes the last one itself
            self.iterator = self.saved_iterator = self.iterator or self._first
            self.passes = passes
            self.note_ahead()  # it may have been when it was saved
        elif self.replays:
            self._note_iterator(iterators.begin(self._dataset.skip(taken), at_once=True))
        elif self.passes < passes:
            self._note_iterator(iterators.begin(self._dataset, at_once=True))
        return self.replays

    def note_ahead(self) -> None:
        """Has the rest of the pass taken in a way in which it may end at any batch."""
        self.taken_inline = self._can_be_taken_inline and self._cardinality == tf.data.INFINITE_CARDINALITY

    def _note_iterator(self, iterator: Any) -> None:
        self.iterator = iterator
        self.taken_inline = self._can_be_taken_inline
        self.saved_iterator = self.iterator if self._is_saved else None
        self.passes += 1

    def _why_inexact(self, resume: Resume | None) -> str | None:
        if resume == "epoch":
            return None  # that the batches come again is what was asked for
        if resume is None and not self._is_saved:
            return _UNSAVED
        if any(map(nodes.is_unseeded, nodes.of(self._dataset))):
            return _UNSEEDED
        return _SHUFFLES_WITHIN if resume is None and nodes.shuffles_anew_within_a_pass(self._dataset) else None


_UNSAVED = (
    "cannot save its position (it holds a generator, Python code or unseeded random ops): a resumed run will begin the "
    "epoch under way again, or endless data from their start. Say that this is meant with "
    'trainloop.data.from_dataset(dataset, resume="epoch"), or have what was seen passed over with resume="replay". '
    "trainloop.data.from_arrays and from_source have no such limit"
)
_UNSEEDED = (
    "shuffles without a seed: a resumed run will see rows in another order, so that some of the epoch under way come "
    "twice and others not at all. Call tf_keras.utils.set_random_seed(...) before the dataset is made, or give "
    "shuffle(seed=...)"
)
_SHUFFLES_WITHIN = (
    "repeats what was shuffled and then batched, mapped or otherwise changed, and TensorFlow forgets how to shuffle on "
    "where a checkpoint falls on the end of a pass: a resumed run may see the next passes in another order. Put "
    "repeat() next to shuffle(), or leave it out and give epochs="
)


def _can_be_saved(dataset: tf.data.Dataset, iterator: Any) -> bool:
    """Returns whether an iterator of a dataset can be saved, also once it has been read from.

    TensorFlow has no way to ask. A new iterator tells of a `shuffle`, and not of what that will read; so what has a
    state is tried apart.
    """
    if nodes.can_plainly_be_saved(dataset):
        return True
    doubtful = [node for node in nodes.of(dataset) if not nodes.is_stateless(node)]
    return all(map(_is_written, [iterator, *map(iter, doubtful)]))


def _is_written(iterator: Any) -> bool:
    """Tries it. Of a large `shuffle` this writes a number for each row of its buffer."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            tf.train.Checkpoint(iterator=iterator).write(f"{directory}/iterator")
        except (tf.errors.OpError, NotImplementedError, ValueError):
            return False
    return True
