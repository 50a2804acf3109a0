"""`zip`: several sets of rows side by side, each with a batch size and a length of its own."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import tensorflow as tf

from trainloop.data.addressed import AddressedData, RowData


class ZippedData(AddressedData):
    """Batches of several parts, as a dict; made by `zip`."""

    def __init__(self, parts: dict[str, RowData]):
        self.parts = parts
        self.steps_per_epoch = max(part.steps_per_epoch for part in parts.values())
        self.shape = {name: part.shape for name, part in parts.items()}

    @property
    def unkeyed(self) -> list[str]:
        """What the parts' functions were last seen to draw where no key could be made, as descriptions."""
        return [draw for part in self.parts.values() for draw in part.unkeyed]

    def endless(self, run_seed: int, epoch: int, batch: int) -> tf.data.Dataset:
        """Returns the batches from a position on, each part at the place in its own epochs that the step leads to."""
        step = epoch * self.steps_per_epoch + batch
        return tf.data.Dataset.zip(
            {
                name: part.endless(_seed_of(name, run_seed), *divmod(step, part.steps_per_epoch))
                for name, part in self.parts.items()
            }
        )

    @functools.cached_property
    def once(self) -> tf.data.Dataset:
        """All batches once, in the order of the rows, not augmented.

        Raises:
          ValueError: If the parts have different numbers of batches: a row of the shorter one would come twice.
        """
        if len({part.steps_per_epoch for part in self.parts.values()}) > 1:
            batches = ", ".join(f"{name} {part.steps_per_epoch}" for name, part in self.parts.items())
            raise ValueError(
                f"zip: its parts have different numbers of batches ({batches}), so that not all rows can be seen just "
                "once; evaluate and predict with one part, or give parts of as many batches"
            )
        return tf.data.Dataset.zip({name: part.once for name, part in self.parts.items()})


def zip(**parts: RowData) -> ZippedData:
    """Puts several sets of rows side by side: each batch is a dict with a batch of each part.

    For semi-supervised training, domain adaptation, or pairs that do not belong together. Each part is shuffled, mapped
    and augmented on its own, with draws of its own, and keeps its batch size. A part that has come to its end goes on
    with its next epoch, in a new order; an epoch of the whole is that of the part with the most batches, so it is over
    when every row was seen at least once. Which batch of a part comes at a step follows from the step alone: a resumed
    run goes on exactly, and saves two integers.

    What counts as the rows of a batch (where a loss is averaged over batches of different size) are those of the part
    whose name comes first in the alphabet. Microbatches and replicas cut each part on its own, so choose batch sizes
    that are multiples of their number.

    `evaluate` and `predict` see every row once, so they take parts with the same number of batches only.

    Args:
      **parts: `from_arrays` and `from_source` data; the keywords are the keys of the batch.

    Returns:
      Data for `fit` and `update_bn`, and for `evaluate` and `predict` as said.

    Raises:
      TypeError: If a part is neither `from_arrays` nor `from_source` data.
      ValueError: If there is no part.

    Example:
      >>> import numpy as np
      >>> from trainloop import data
      >>> labelled = data.from_arrays((np.zeros([8, 3]), np.zeros([8])), batch_size=4)
      >>> unlabelled = data.from_arrays(np.zeros([50, 3]), batch_size=10)
      >>> both = data.zip(labelled=labelled, unlabelled=unlabelled)
      >>> both.steps_per_epoch
      5
    """
    if not parts:
        raise ValueError("zip: there is no part; give parts by keyword: data.zip(labelled=a, unlabelled=b)")
    for name, part in parts.items():
        if not isinstance(part, RowData):
            raise TypeError(f"zip: {name}= is a {type(part).__name__}; {_hint(part)}")
    return ZippedData(dict(parts))


def _hint(part: Any) -> str:
    if isinstance(part, ZippedData):
        return "give its parts to one zip"
    if isinstance(part, tf.data.Dataset):
        return "a part must be addressed by step, which a dataset is not; zip datasets with tf.data.Dataset.zip"
    return "a part must be trainloop.data.from_arrays(...) or from_source(...)"


def _seed_of(name: str, run_seed: int) -> int:
    """Returns the seed of a part that has none of its own: another one for each, lest equal parts come in one order."""
    digest = hashlib.blake2b(f"{run_seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
