"""Checkpoints of a run: saved while it goes on, verified before one is put back.

    checkpoints/step_00001000/state.index, state.data-*   a `tf.train.Checkpoint`, readable without trainloop
    checkpoints/step_00001000/manifest.json               step, time, metrics, what the bits depend on, files and hashes

A directory with that name is complete: it gets the name only after all of it is on the disk.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from absl import logging

from trainloop import manifest
from trainloop.manifest import CheckpointDamaged
from trainloop.phase import Phase
from trainloop.policy import Policy
from trainloop.restored import Restored
from trainloop.snapshot import CannotCopy, Snapshot
from trainloop.store import Retention, Store, put_aside_as_damaged


class CheckpointNotSaved(RuntimeError):
    """A checkpoint could not be written; those that there were are as they were.

    Attributes:
      step: The step that was to be saved.
    """

    def __init__(self, step: int, directory: pathlib.Path, error: Exception):
        self.step = step
        super().__init__(
            f"the checkpoint of step {step} was not saved in {directory}: {getattr(error, 'message', error)}. Make "
            "room, or make it writable; earlier checkpoints are as they were, and the next save tries again"
        )


class Checkpoints:
    """The checkpoints in one directory.

    A save copies the values and returns; the files are written in a thread of its own. Whatever asks for the
    checkpoints waits until that is done. One save at a time: the next one waits for it too.

    Args:
      directory: It need not exist yet.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self._store = Store(directory)
        self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: tuple[int, concurrent.futures.Future[None]] | None = None

    @property
    def directory(self) -> pathlib.Path:
        """The directory."""
        return self._store.directory

    def steps(self) -> list[int]:
        """Returns the steps of the committed checkpoints, oldest first."""
        return self._settled().steps()

    def path(self, step: int) -> pathlib.Path:
        """Returns the directory of a step's checkpoint."""
        return self._settled().path(step)

    def manifest(self, step: int) -> dict[str, Any]:
        """Returns the manifest of a step's checkpoint.

        Raises:
          CheckpointDamaged: If it is not what was written.
        """
        return manifest.read(self.path(step))

    def find(self, which: str | int, *, asked_by: str = "restore") -> int:
        """Returns the step of a checkpoint, every byte of which is what was written.

        Args:
          which: `"latest"`, `"best"` (by the metric that was monitored when the newest one was saved) or a step. Where
            the latest is damaged, the newest that is not is taken in its place, and the damaged ones are renamed.
          asked_by: The function that the user has called, for messages.

        Raises:
          FileNotFoundError: If there is no such checkpoint; the message lists what there is.
          ValueError: If `which` is none of these, or nothing was monitored.
          CheckpointDamaged: If it is damaged; as the latest, if all are.
        """
        store = self._settled()
        steps = store.steps()
        there = f"{self.directory} holds {', '.join(map(str, steps)) or 'no checkpoint'}"
        if isinstance(which, str) and which not in ("latest", "best"):
            raise ValueError(f"{asked_by}: {which!r} is unknown; it must be 'latest', 'best' or a step. {there}")
        if not steps and (damaged := store.damaged()):
            raise CheckpointDamaged(
                f"{asked_by}: {there} but damaged ones ({', '.join(damaged)}). To begin the run anew, move them away, "
                "or give another workdir="
            )
        if not steps or (isinstance(which, int) and which not in steps):
            raise FileNotFoundError(f"{asked_by}: there is no checkpoint {which!r}; {there}")
        if which == "latest":
            return self._newest_whole(steps, asked_by)
        try:
            step = self._best(steps[-1], asked_by) if isinstance(which, str) else which
            store.verify(step)
        except CheckpointDamaged as error:
            raise CheckpointDamaged(
                f"{asked_by}: the checkpoint {which!r} is damaged: {error}. Give 'latest' to have the newest that is "
                f"whole; {there}"
            ) from error
        return step

    def is_begun(self) -> bool:
        """Returns whether a run has saved here, even if nothing of it is whole any more."""
        return bool(self.steps() or self._store.damaged())

    def save(
        self,
        checkpoint: tf.train.Checkpoint,
        *,
        step: int,
        metrics: Mapping[str, Any] | None = None,
        keep: int = 3,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        for_good: bool = False,
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        """Copies the values of a checkpoint in memory, and has them committed in another thread.

        Args:
          checkpoint: What to save.
          step: Its step. A checkpoint that this step already has stays until the new one is complete.
          metrics: The newest value of each metric, by full name; they stand in the manifest.
          keep: How many of the newest checkpoints to keep.
          monitor: The metric by which the best one is kept too.
          mode: `"min"` or `"max"`.
          for_good: Whether this one is kept for good.
          environment: What its bits depend on besides (`environment.describe`).

        Raises:
          CheckpointNotSaved: If the save before this one has failed, and nobody has been told.
        """
        self.wait()
        fields = {
            "time": time.time(),
            "metrics": {
                name: float(value)
                for name, value in (metrics or {}).items()
                if isinstance(value, int | float | np.number) or getattr(value, "shape", None) == ()
            },
            "kept_for_good": for_good,
            "environment": dict(environment or {}),
            "policies": {phase.value: _as_json(phase.policy) for phase in Phase},
        }
        try:
            write, is_copied = Snapshot(checkpoint).write, True
        except CannotCopy:
            write, is_copied = checkpoint.write, False
        retention = Retention(keep, monitor, mode)
        saving = self._writer.submit(self._store.commit, step, write, fields, retention, has_checksums=is_copied)
        self._saving = step, saving
        if not is_copied:  # nothing may change until it is written
            self._settled()

    def wait(self) -> None:
        """Waits until nothing is being saved.

        Raises:
          CheckpointNotSaved: If the last save has failed; that is told once.
        """
        if self._saving is None:
            return
        step, saving = self._saving
        concurrent.futures.wait([saving])
        self._saving = None
        try:
            saving.result()
        except (OSError, tf.errors.OpError) as error:
            raise CheckpointNotSaved(step, self.directory, error) from error

    def supersede(self, *, after: int) -> None:
        """Moves the checkpoints after a step aside: the run was put back there, and goes another way."""
        self._settled().supersede(after=after)

    def restore(self, checkpoint: tf.train.Checkpoint, step: int, **options: Any) -> Restored:
        """Reads the checkpoint of a step that `find` returned; options and errors are those of `Restored`."""
        return Restored(self.path(step), step, checkpoint, **options)

    def _settled(self) -> Store:
        """Waits for the save in flight; whether it has failed is told by `wait`."""
        if self._saving is not None:
            concurrent.futures.wait([self._saving[1]])
        return self._store

    def _newest_whole(self, steps: list[int], asked_by: str) -> int:
        passed_over: dict[int, CheckpointDamaged] = {}
        found: dict[int, pathlib.Path] = {}
        for step in reversed(steps):
            found[step] = self._store.path(step)
            try:
                self._store.verify(step)
            except CheckpointDamaged as error:
                if not found[step].exists():  # the run that writes here has just retired or renamed it
                    return self.find("latest", asked_by=asked_by)
                passed_over[step] = error
                continue
            for damaged, error in passed_over.items():
                aside = _put_aside(found[damaged], error)
                logging.warning("%s: passed over step %d: %s; %s", asked_by, damaged, error, aside)
            if passed_over:
                logging.warning("%s: the newest checkpoint that is whole is that of step %d", asked_by, step)
            return step
        reasons = "; ".join(f"step {step}: {error}" for step, error in passed_over.items())
        raise CheckpointDamaged(
            f"{asked_by}: no checkpoint in {self.directory} is whole: {reasons}. Bring one back from a copy. To begin "
            "the run anew, move them away, or give another workdir="
        )

    def _best(self, newest: int, asked_by: str) -> int:
        retention = Retention(**self.manifest(newest)["retention"])
        best = self._store.best(retention)
        if best is None:
            raise ValueError(
                f"{asked_by}: no checkpoint holds a value of {retention.monitor!r}, so none is 'best'; give "
                "Checkpointing(monitor=...) the name of a metric that is reported"
            )
        return best


def _put_aside(path: pathlib.Path, error: CheckpointDamaged) -> str:
    """Renames a damaged checkpoint; one that could not be read may be whole all the same, and stays."""
    if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
        return "its directory stays as it is, since it may be whole"
    try:
        return f"its directory is {put_aside_as_damaged(path)} now"
    except OSError as failed:  # who only evaluates a run may have no right to write there
        return f"its directory could not be renamed ({failed.strerror})"


def _as_json(policy: Policy) -> dict[str, Any]:
    return {**policy._asdict(), "writes": sorted(policy.writes)}
