"""TensorFlow's own checksums of the values in a checkpoint: which bytes they cover, and whether these are still right.

TensorFlow keeps a crc32c of each value in the index, and compares it as it reads. A variant (the position of a
`tf.data.Iterator`) it takes apart before it has compared anything, and a wrong bit there can end the process. So
variants are written to a file of their own, and only what is in the first one is left to TensorFlow.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainloop import manifest
from trainloop.manifest import CheckpointDamaged


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


def covered(prefix: pathlib.Path) -> list[str]:
    """Returns the names of the files that have a checksum of each value in them, of what was written with `OPTIONS`."""
    return [path.name for path in prefix.parent.glob(f"{prefix.name}.data-00000-of-*")]


def verify(prefix: pathlib.Path) -> None:
    """Compares a checkpoint with its manifest, and then what that leaves to TensorFlow with TensorFlow's checksums.

    Args:
      prefix: That of the checkpoint's files; its directory is the checkpoint's.

    Raises:
      CheckpointDamaged: If a file is not what was written, or cannot be read; the message names it.
    """
    left = manifest.verify(prefix.parent)
    if not left:
        return
    [path] = left
    name = "the index"
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        for name, kind in reader.get_variable_to_dtype_map().items():
            if kind != tf.variant:
                reader.get_tensor(name)
    except tf.errors.ResourceExhaustedError:
        raise
    except tf.errors.OpError as error:
        _check_can_be_read(path)
        raise CheckpointDamaged(f"{path} holds other bytes than were written: those of {name}") from error


def _check_can_be_read(path: pathlib.Path) -> None:
    """Raises CheckpointDamaged from an OSError: TensorFlow's errors do not tell such ones from a wrong checksum."""
    try:
        with path.open("rb") as file:
            while file.read(2**20):
                pass
    except OSError as error:
        raise CheckpointDamaged(f"{path} cannot be read ({error.strerror})") from error
