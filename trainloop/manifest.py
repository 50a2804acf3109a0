"""The manifest of a checkpoint: what it is, which files make it up, and whether they are still what was written."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

NAME = "manifest.json"
_UNSEALED = "0" * 64


class CheckpointDamaged(ValueError):
    """A checkpoint is not what was written: a file of it is missing, is of another size, or holds other bytes."""


def seal(directory: pathlib.Path, fields: Mapping[str, Any], unhashed: Collection[str] = ()) -> None:
    """Writes the manifest of the files in a directory; all of them, and then it, are forced to the disk.

    Args:
      directory: Holds the files of the checkpoint, and nothing else.
      fields: What else the manifest says, as JSON values.
      unhashed: The names of files that have checksums of their own, so that their size is all that is noted.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(directory.iterdir()):
        files[path.name] = {"size": path.stat().st_size}
        if path.name not in unhashed:
            files[path.name]["sha256"] = _hash(path)
        sync(path)
    text = json.dumps({**fields, "files": files, "sha256": _UNSEALED}, indent=2) + "\n"
    text = text.replace(_UNSEALED, hashlib.sha256(text.encode()).hexdigest())
    path = directory / NAME
    with path.open("wb") as file:
        file.write(text.encode())
    sync(path)
    sync(directory)


def read(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the manifest of a directory.

    Raises:
      CheckpointDamaged: If it is missing, cannot be read, or is not as it was written.
    """
    path = directory / NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointDamaged(f"{path} cannot be read ({error.strerror})") from error
    try:
        manifest = json.loads(content)
        sealed = str(manifest["sha256"])
        intact = hashlib.sha256(content.replace(sealed.encode(), _UNSEALED.encode())).hexdigest() == sealed
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointDamaged(f"{path} is no manifest") from error
    if not intact:
        raise CheckpointDamaged(f"{path} was changed after it was written: its sha256 is not the one in it")
    return manifest


def verify(directory: pathlib.Path) -> list[pathlib.Path]:
    """Compares the files of a checkpoint with its manifest.

    Returns:
      Those of which it has the size alone, so that their bytes are still to be verified.

    Raises:
      CheckpointDamaged: If one is not what was written; the message names it.
    """
    files = read(directory)["files"]
    for name, expected in files.items():
        path = directory / name
        try:
            found = {"size": path.stat().st_size}
            if found["size"] == expected["size"] and "sha256" in expected:
                found["sha256"] = _hash(path)
        except OSError as error:
            raise CheckpointDamaged(f"{path} cannot be read ({error.strerror})") from error
        if found["size"] != expected["size"]:
            raise CheckpointDamaged(f"{path} has {found['size']} bytes and was written with {expected['size']}")
        if found != expected:
            raise CheckpointDamaged(f"{path} holds other bytes than were written: its sha256 is another")
    return [directory / name for name, expected in files.items() if "sha256" not in expected]


def sync(path: pathlib.Path) -> None:
    """Forces a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hash(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
