"""The training data of a run, with a position."""

from __future__ import annotations

from typing import Any

from trainloop.data import iterators
from trainloop.data.addressed import AddressedData


class Stream:
    """The training data of a run, with a position.

    Attributes:
      shape: What a position in the data depends on, as far as it is known; a value of JSON.
      steps_per_epoch: Batches in an epoch; None where only the end of the data will tell, or there are no epochs.
      has_epochs: Whether the data come in epochs.
      restarts: Whether the data begin again where they end.
      iterator: Where the next batch comes from.
      saved_iterator: The iterator, where the position can only be saved with it; else None.
      passes: How many iterators were made of the data, where the order of the next pass depends on it.
      taken_inline: Whether the thread that runs the loop's ops may take the next batches itself.
      caveat: Why a resumed run may see other batches than one that was not killed, and what it will see; else None.
    """

    shape: Any = None
    steps_per_epoch: int | None = None
    has_epochs = True
    restarts = True
    iterator: Any = None
    saved_iterator: Any = None
    passes = 0
    taken_inline = False
    caveat: str | None = None

    def seek(self, epoch: int, batch: int) -> None:
        """Moves to a batch of an epoch."""
        raise NotImplementedError

    def begin_epoch(self) -> None:
        """Goes on to the next epoch."""

    def note_ahead(self) -> None:
        """Notes that batches may have been taken that were not run, so that fewer are left than `steps_left` says."""

    def steps_left(self, batch: int) -> int | None:
        """Returns the number of batches left in the epoch after `batch` of them, or None where that is not known."""
        return None if self.steps_per_epoch is None else self.steps_per_epoch - batch


class AddressedStream(Stream):
    """Data addressed by step: any position can be made anew, so none is saved but two integers."""

    passes = 1

    def __init__(self, source: AddressedData, run_seed: int):
        self._source = source
        self._run_seed = run_seed
        self.shape = source.shape
        self.steps_per_epoch = source.steps_per_epoch

    def seek(self, epoch: int, batch: int) -> None:
        """Makes the iterator anew, at that position."""
        self.iterator = iterators.begin(self._source.endless(self._run_seed, epoch, batch), at_once=True)
        if self._source.unkeyed:
            self.caveat = _UNKEYED.format(", ".join(sorted(set(self._source.unkeyed))))


_UNKEYED = (
    "draws at random where no key can be made ({}, in map_fn or augment_fn): a resumed run will draw other numbers. "
    "Draw in augment_fn itself, and not in a tf.function or tf.vectorized_map that it calls, or with "
    "tf.random.stateless_* and its key"
)
