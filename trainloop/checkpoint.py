"""Checkpoints of a run: written beside, made durable, then named; kept or retired.

    checkpoints/step_00001000/state.index, state.data-*   a `tf.train.Checkpoint`, readable without trainloop
    checkpoints/step_00001000/manifest.json               step, time, metrics, versions, the files and their sizes

A directory with that name is complete: it gets the name only after all of it is on the disk.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
import pathlib
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from typing import Any, Literal

import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

_COMMITTED = re.compile(r"step_(\d+)")
_PREFIX = "state"


@dataclasses.dataclass(frozen=True)
class Retention:
    """Which checkpoints are kept: the newest, and the best by a metric.

    Attributes:
      keep: How many of the newest.
      monitor: The metric's full name (`eval/loss`), or None.
      mode: Whether the smallest or the largest value is the best.
    """

    keep: int = 3
    monitor: str | None = None
    mode: Literal["min", "max"] = "min"


class Restored:
    """A checkpoint that was read. What does not exist yet is filled in as it comes into being.

    Args:
      directory: The checkpoint's directory.
      step: Its step.
      checkpoint: What it is read into.
      whole: The parts (`"model"`, `"optimizer"`) whose variables all exist already.

    Attributes:
      step: The checkpoint's step.

    Raises:
      ValueError: If what exists already is not what was saved; nothing is read then.
    """

    def __init__(
        self, directory: pathlib.Path, step: int, checkpoint: tf.train.Checkpoint, whole: Collection[str] = ()
    ):
        self.step = step
        self._directory = directory
        self._checkpoint = checkpoint
        reader = tf.train.load_checkpoint(str(directory / _PREFIX))
        self._shapes = reader.get_variable_to_shape_map()
        self._nodes = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")).nodes
        self.check(whole)
        checkpoint.read(str(directory / _PREFIX)).expect_partial()

    def check(self, whole: Collection[str] = ()) -> None:
        """Compares the variables that exist by now with those that were saved.

        Args:
          whole: The parts (`"model"`, `"optimizer"`) whose variables all exist by now.

        Raises:
          ValueError: If one was not saved, has another shape, or has no place among them; it is named.
        """
        faults = list(self._differences(whole))
        if faults:
            more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise ValueError(
                f"restore: {self._directory} does not fit this Trainer: {'; '.join(faults[:5])}{more}. It was saved "
                "with another model, optimizer, metrics or callbacks; build the same, or give another workdir="
            )

    def _differences(self, whole: Collection[str]) -> Iterator[str]:
        """Walks what exists and what was saved side by side, by the names of the attributes.

        A variable may be there under several names, and have been saved under some of them alone: an optimizer of Keras
        forgets to name its slots a second time where somebody has looked through it before it was built.
        """
        view = tf.train.TrackableView(self._checkpoint)
        queue: collections.deque[tuple[str, Any, int | None]] = collections.deque([("", self._checkpoint, 0)])
        seen: set[tuple[int | None, int | None]] = set()
        placed: set[int] = set()
        found: set[int] = set()
        left_over: dict[int, str] = {}
        missing: dict[int, str] = {}
        while queue:
            path, here, node = queue.popleft()
            pair = (None if here is None else id(here), node)
            if pair in seen:
                continue
            seen.add(pair)
            shape = None if node is None else self._saved_shape(node)
            if here is not None and isinstance(here, tf.Variable):
                if shape is None:
                    missing.setdefault(id(here), f"{path} was not saved")
                    continue
                found.add(id(here))
                if not here.shape.is_compatible_with(shape):
                    yield f"{path} has the shape {tuple(here.shape)} and was saved with {tuple(shape)}"
            elif here is None and node is not None and shape is not None and path.split("/")[0] in whole:
                left_over[node] = f"{path} was saved and is not there"
            if here is not None and node is not None:
                placed.add(node)
            own = {} if here is None else view.children(here)
            saved = {} if node is None else {child.local_name: child.node_id for child in self._nodes[node].children}
            prefix = f"{path}/" if path else ""
            queue.extend((prefix + name, own.get(name), saved.get(name)) for name in {**own, **saved})
        yield from (fault for variable, fault in missing.items() if variable not in found)
        yield from (fault for node, fault in left_over.items() if node not in placed)

    def _saved_shape(self, node: int) -> list[int] | None:
        keys = [each.checkpoint_key for each in self._nodes[node].attributes if each.name == "VARIABLE_VALUE"]
        return self._shapes[keys[0]] if keys else None

    def restore_iterator(self, iterator: tf.data.Iterator) -> bool:
        """Puts an iterator of the training data where it stood; returns False where none was saved.

        Raises:
          ValueError: If the one that was saved went over other data.
        """
        if not any(key.startswith("iterator/") for key in self._shapes):
            return False
        try:
            tf.train.Checkpoint(iterator=iterator).read(str(self._directory / _PREFIX)).expect_partial()
        except tf.errors.OpError as error:
            raise ValueError(
                f"fit: train_data= cannot be put where the run of {self._directory} stood: {error.message}. It is "
                "another dataset than the one the run was trained on; build that, or begin anew with restart_data=True"
            ) from error
        return True


class Checkpoints:
    """The checkpoints in one directory."""

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = pathlib.Path(directory)

    def steps(self) -> list[int]:
        """Returns the steps of the committed checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        found = (_COMMITTED.fullmatch(entry.name) for entry in self.directory.iterdir() if entry.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def find(self, which: str | int) -> int:
        """Returns the step of a checkpoint.

        Args:
          which: `"latest"`, `"best"` (by the metric that was monitored when the newest one was saved) or a step.

        Raises:
          FileNotFoundError: If there is no such checkpoint; the message lists what there is.
          ValueError: If `which` is none of these, or nothing was monitored.
        """
        steps = self.steps()
        there = f"{self.directory} holds {', '.join(map(str, steps)) or 'no checkpoint'}"
        if isinstance(which, str) and which not in ("latest", "best"):
            raise ValueError(f"restore: {which!r} is unknown; it must be 'latest', 'best' or a step. {there}")
        if not steps or (isinstance(which, int) and which not in steps):
            raise FileNotFoundError(f"restore: there is no checkpoint {which!r}; {there}")
        if isinstance(which, int):
            return which
        if which == "latest":
            return steps[-1]
        retention = Retention(**self.manifest(steps[-1])["retention"])
        best = self._best(retention)
        if best is None:
            raise ValueError(
                f"restore: no checkpoint holds a value of {retention.monitor!r}, so none is 'best'; give "
                "Checkpointing(monitor=...) the name of a metric that is reported"
            )
        return best

    def path(self, step: int) -> pathlib.Path:
        """Returns the directory of a step's checkpoint."""
        return self.directory / f"step_{step:08d}"

    def manifest(self, step: int) -> dict[str, Any]:
        """Returns the manifest of a step's checkpoint."""
        return json.loads((self.path(step) / "manifest.json").read_text())

    def save(
        self,
        checkpoint: tf.train.Checkpoint,
        *,
        step: int,
        metrics: Mapping[str, Any] | None = None,
        keep: int = 3,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> pathlib.Path:
        """Commits a checkpoint, then retires the ones that are no longer to be kept.

        Args:
          checkpoint: What to save.
          step: Its step. A checkpoint that this step already has is moved aside, never written over, and deleted when
            the new one is complete.
          metrics: The newest value of each metric, by full name; they stand in the manifest.
          keep: How many of the newest checkpoints to keep.
          monitor: The metric by which the best one is kept too.
          mode: `"min"` or `"max"`.

        Returns:
          The checkpoint's directory.
        """
        retention = Retention(keep, monitor, mode)
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob(".writing_*"):  # of a save that was killed; one writer a workdir
            shutil.rmtree(leftover)
        writing = self.directory / f".writing_{step:08d}"
        writing.mkdir()
        checkpoint.write(str(writing / _PREFIX))
        (writing / "manifest.json").write_text(json.dumps(_manifest(writing, step, metrics or {}, retention), indent=2))
        for file in writing.iterdir():
            _sync(file)
        _sync(writing)
        target = self.path(step)
        before = target.rename(_free_name(target)) if target.exists() else None
        writing.rename(target)
        _sync(self.directory)
        if before is not None:
            shutil.rmtree(before)
        self._retire(retention)
        return target

    def supersede(self, *, after: int) -> None:
        """Moves the checkpoints after a step aside: the run was put back there, and goes another way."""
        for step in self.steps():
            if step > after:
                self.path(step).rename(_free_name(self.path(step)))

    def restore(self, checkpoint: tf.train.Checkpoint, step: int, whole: Collection[str] = ()) -> Restored:
        """Reads a step's checkpoint into `checkpoint`; `whole` and errors are those of `Restored`."""
        return Restored(self.path(step), step, checkpoint, whole)

    def _best(self, retention: Retention) -> int | None:
        if retention.monitor is None:
            return None
        values = {step: self.manifest(step)["metrics"].get(retention.monitor) for step in self.steps()}
        known = {step: value for step, value in values.items() if isinstance(value, float) and math.isfinite(value)}
        sign = 1 if retention.mode == "min" else -1
        return min(known, key=lambda step: (sign * known[step], step), default=None)

    def _retire(self, retention: Retention) -> None:
        steps = self.steps()
        kept = {*steps[-retention.keep :], self._best(retention)}
        for step in steps:
            if step not in kept:
                shutil.rmtree(self.path(step))


def _manifest(directory: pathlib.Path, step: int, metrics: Mapping[str, Any], retention: Retention) -> dict[str, Any]:
    return {
        "step": step,
        "time": time.time(),
        "metrics": {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))},
        "retention": dataclasses.asdict(retention),
        "files": {file.name: file.stat().st_size for file in sorted(directory.iterdir())},
        "versions": {name: metadata.version(name) for name in ("tensorflow", "tf-keras", "numpy")},
    }


def _free_name(path: pathlib.Path) -> pathlib.Path:
    number = 1
    while (candidate := path.with_name(f"superseded_{path.name}_{number}")).exists():
        number += 1
    return candidate


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
