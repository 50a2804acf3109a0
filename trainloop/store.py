"""The directory of a run's checkpoints: which there are, which are kept, and how one is added without a moment of risk.

The names in it:

- `step_00001000`: a checkpoint. It gets that name when all of it is on the disk, and nothing in it changes afterwards.
- `step_00001000_2`: the same step saved again; it takes the first one's name when that one is gone.
- `superseded_step_00001000_1`: was saved after a step that the run was put back to; left to whoever put it back.
- `damaged_step_00001000_1`: is not what was written; left for inspection.
- `.writing_*`, `.deleting_*`: leftovers of a process that was killed; gone after the next save.
"""

from __future__ import annotations

import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from absl import logging

from trainloop import checksums, manifest

PREFIX = "state"
_COMMITTED = re.compile(r"step_(\d+)(?:_(\d+))?")
_LEFTOVERS = (".writing_*", ".deleting_*")


class Retention(NamedTuple):
    """Which checkpoints are kept, besides those that were saved to be kept for good.

    Attributes:
      keep: How many of the newest.
      monitor: The full name of the metric (`eval/loss`) by which the best is kept, or None.
      mode: Whether the smallest or the largest value is the best.
    """

    keep: int = 3
    monitor: str | None = None
    mode: Literal["min", "max"] = "min"


class Store:
    """The checkpoints in one directory; it has one writer at a time.

    Args:
      directory: It need not exist yet.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = pathlib.Path(directory)

    def steps(self) -> list[int]:
        """Returns the steps of the committed checkpoints, oldest first."""
        return sorted({step for step, _ in self._committed()})

    def path(self, step: int) -> pathlib.Path:
        """Returns the directory of a step's checkpoint, the newest one where it was saved again."""
        return self._named(step, max(1, self._last(step)))

    def damaged(self) -> list[str]:
        """Returns the names of those that were found damaged and put aside."""
        return sorted(path.name for path in self.directory.glob("damaged_*"))

    def verify(self, step: int) -> None:
        """Looks whether a step's checkpoint is what was written.

        Raises:
          CheckpointDamaged: If a file is not what was written; the message names it.
        """
        directory = self.path(step)
        checksums.verify(directory / PREFIX)
        if (said := manifest.read(directory)["step"]) != step:
            raise manifest.CheckpointDamaged(f"{directory / manifest.NAME} is that of step {said}")

    def best(self, retention: Retention) -> int | None:
        """Returns the step of the best checkpoint by the metric that is monitored; None where none holds a value of it.

        Raises:
          CheckpointDamaged: If a manifest cannot be read, so that nobody knows.
        """
        return _best({step: manifest.read(self.path(step)) for step in self.steps()}, retention)

    def commit(
        self,
        step: int,
        write: Callable[[str], object],
        fields: Mapping[str, Any],
        retention: Retention,
        *,
        has_checksums: bool = False,
    ) -> None:
        """Adds a checkpoint, then retires the ones that are no longer to be kept.

        Until it is whole and on the disk it goes by another name, and until it has its own name nothing is deleted.

        Args:
          step: Its step.
          write: Writes the files of a `tf.train.Checkpoint`, given their prefix.
          fields: What the manifest says besides.
          retention: What is kept.
          has_checksums: Whether `write` writes with `checksums.OPTIONS`; else each file is hashed.

        Raises:
          OSError: If something could not be written; no checkpoint was touched.
          tf.errors.OpError: If TensorFlow could not write.
        """
        self._make_directory()
        writing = self._free_name(f".writing_{step:08d}")
        try:
            writing.mkdir()
            write(str(writing / PREFIX))
            unhashed = checksums.covered(writing / PREFIX) if has_checksums else ()
            fields = {"step": step, **fields, "retention": retention._asdict()}
            manifest.seal(writing, fields, unhashed)
            writing.rename(self._named(step, self._last(step) + 1))
            manifest.sync(self.directory)
        except Exception:
            self._sweep()
            raise
        try:
            self._retire(retention)
        except OSError as error:  # the new one is safe, and what was not deleted is in nobody's way
            logging.warning("an old checkpoint in %s could not be deleted (%s)", self.directory, error)
        self._sweep()

    def supersede(self, *, after: int) -> None:
        """Moves the checkpoints after a step aside: the run was put back there, and goes another way."""
        aside = [self._named(step, again) for step, again in self._committed() if step > after]
        for path in reversed(aside):  # so that a kill in between leaves none that comes after one that is gone
            path.rename(self._free_name(f"superseded_{path.name}"))
        if aside:
            manifest.sync(self.directory)

    def _committed(self) -> list[tuple[int, int]]:
        """Returns each checkpoint's step, and the how-manieth one of that step it is."""
        if not self.directory.is_dir():
            return []
        found = (_COMMITTED.fullmatch(entry.name) for entry in self.directory.iterdir() if entry.is_dir())
        return sorted((int(match[1]), int(match[2] or 1)) for match in found if match)

    def _named(self, step: int, again: int) -> pathlib.Path:
        return self.directory / (f"step_{step:08d}" if again == 1 else f"step_{step:08d}_{again}")

    def _last(self, step: int) -> int:
        return max((again for found, again in self._committed() if found == step), default=0)

    def _make_directory(self) -> None:
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True)
            manifest.sync(self.directory.parent)

    def _free_name(self, name: str) -> pathlib.Path:
        return _free_name(self.directory, name)

    def _retire(self, retention: Retention) -> None:
        manifests = {}
        for step in self.steps():
            try:
                manifests[step] = manifest.read(self.path(step))
            except manifest.CheckpointDamaged as error:  # nobody knows what it is worth
                logging.warning("%s; that checkpoint is kept as it is", error)
        kept = {*self.steps()[-retention.keep :], _best(manifests, retention)}
        kept |= {step for step in self.steps() if step not in manifests or manifests[step]["kept_for_good"]}
        for step, again in self._committed():
            if step not in kept or again < self._last(step):
                self._delete(self._named(step, again))
        for step, again in self._committed():
            if again > 1:
                self._named(step, again).rename(self._named(step, 1))
                manifest.sync(self.directory)

    def _delete(self, path: pathlib.Path) -> None:
        """Deletes a checkpoint; it is never half there under its own name."""
        shutil.rmtree(path.rename(self._free_name(f".deleting_{path.name}")))

    def _sweep(self) -> None:
        for pattern in _LEFTOVERS:
            for leftover in self.directory.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)


def put_aside_as_damaged(path: pathlib.Path) -> pathlib.Path:
    """Gives a checkpoint's directory a name by which it is no longer one; returns where it is now."""
    aside = path.rename(_free_name(path.parent, f"damaged_{path.name}"))
    manifest.sync(path.parent)
    return aside


def _free_name(directory: pathlib.Path, name: str) -> pathlib.Path:
    number = 1
    while (candidate := directory / f"{name}_{number}").exists():
        number += 1
    return candidate


def _best(manifests: Mapping[int, Mapping[str, Any]], retention: Retention) -> int | None:
    if retention.monitor is None:
        return None
    values = {step: each["metrics"].get(retention.monitor) for step, each in manifests.items()}
    known = {step: value for step, value in values.items() if isinstance(value, float) and math.isfinite(value)}
    sign = 1 if retention.mode == "min" else -1
    return min(known, key=lambda step: (sign * known[step], step), default=None)
