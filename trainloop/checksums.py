"""TensorFlow's own checksums of the values in a checkpoint: which bytes they cover, and whether these are still right.

TensorFlow keeps a crc32c of each value in the index, and compares it as it reads. A variant (the position of a
`tf.data.Iterator`) it takes apart before it has compared anything, and a wrong bit there can end the process. So
variants are written to a file of their own, and only what is in the first one is left to TensorFlow.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainloop import manifest
from trainloop.manifest import CheckpointDamaged

_FIRST = re.compile(r".*\.data-00000-of-\d{5}")


class _VariantsApart(tf.train.experimental.ShardingCallback):
    """Has variants written to a second file, where there are some."""

    @property
    def description(self) -> str:
        return "variants in a file of their own"

    def __call__(self, shardable_tensors: Sequence[Any]) -> Sequence[Any]:
        files: dict[bool, dict[str, dict[str, tf.Tensor]]] = {False: {}, True: {}}
        for each in shardable_tensors:
            slices = files[each.dtype == tf.variant].setdefault(each.checkpoint_key, {})
            slices[each.slice_spec] = each.tensor
        return [content for content in files.values() if content]


OPTIONS = tf.train.CheckpointOptions(experimental_sharding_callback=_VariantsApart())  # to write a checkpoint with


def cover(name: str) -> bool:
    """Returns whether a file of a checkpoint that was written with `OPTIONS` has a checksum of each value in it."""
    return _FIRST.fullmatch(name) is not None


def verify(prefix: pathlib.Path) -> None:
    """Compares a checkpoint with its manifest, and then what that leaves to TensorFlow with TensorFlow's checksums.

    Args:
      prefix: That of the checkpoint's files; its directory is the checkpoint's.

    Raises:
      CheckpointDamaged: If a file is not what was written; the message names it.
    """
    for left in manifest.verify(prefix.parent):
        reader = tf.train.load_checkpoint(str(prefix))
        kinds = reader.get_variable_to_dtype_map()
        for name in (name for name, kind in kinds.items() if kind != tf.variant):
            try:
                reader.get_tensor(name)
            except tf.errors.OpError as error:
                raise CheckpointDamaged(f"{left} holds other bytes than were written: those of {name}") from error
