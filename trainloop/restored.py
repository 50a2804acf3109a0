"""A checkpoint that is put back: compared with what there is before anything changes, then read."""

from __future__ import annotations

import collections
import difflib
import json
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from trainloop.snapshot import SAVE_COUNTER
from trainloop.store import PREFIX

_Named = tuple[str, tuple[int, ...]]  # a variable's path, and its shape
# What a run need not have had when it was saved: a callback that is new starts fresh, and so do other replicas.
_NONE: Mapping[str, str] = MappingProxyType({})
_MAY_BE_NEW = re.compile(rf"averages|of_\d+_replicas|{SAVE_COUNTER}")


class Restored:
    """A checkpoint that was read. What does not exist yet is filled in as it comes into being.

    Args:
      directory: The checkpoint's directory.
      step: Its step.
      checkpoint: What it is read into.
      whole: The parts (`"model"`, `"optimizer"`) whose variables all exist already.
      optimizers: The names of the classes of the optimizers that there are, by their keys.

    Attributes:
      step: The checkpoint's step.
      other_optimizers: Which optimizers are of another class than in the run that was saved, in words.

    Raises:
      ValueError: If what exists already is not what was saved; nothing is read then.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        step: int,
        checkpoint: tf.train.Checkpoint,
        whole: Collection[str] = (),
        optimizers: Mapping[str, str] = _NONE,
    ):
        self.step = step
        self._directory = directory
        self._checkpoint = checkpoint
        reader = tf.train.load_checkpoint(str(directory / PREFIX))
        self._shapes = reader.get_variable_to_shape_map()
        self._types = reader.get_variable_to_dtype_map()
        self._nodes = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")).nodes
        saved = self._host_state(reader).get("optimizers", {})
        self.other_optimizers = [
            f"the run's optimizer{f'[{key!r}]' if len(optimizers) > 1 else ''} is {saved[key]}, this one is {kind}"
            for key, kind in optimizers.items()
            if saved.get(key, kind) != kind
        ]
        self.check(whole)
        checkpoint.read(str(directory / PREFIX)).expect_partial()

    def check(self, whole: Collection[str] = ()) -> None:
        """Compares the variables that exist by now with those that were saved.

        Args:
          whole: The parts (`"model"`, `"optimizer"`) whose variables all exist by now.

        Raises:
          ValueError: If one was not saved, has another shape, or has no place among them; it is named.
        """
        faults = sorted(self._differences(whole), key=lambda fault: not fault.startswith("model/"))
        if faults:  # a layer that is new has slots in the optimizer, so that those of the model tell more
            more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
            told = "; ".join([*self.other_optimizers, *faults[:5]])
            raise ValueError(
                f"restore: {self._directory} does not fit this Trainer: {told}{more}. It was saved "
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
        left_over: dict[int, _Named] = {}
        missing: dict[int, _Named] = {}
        while queue:
            path, here, node = queue.popleft()
            pair = (None if here is None else id(here), node)
            if pair in seen:
                continue
            seen.add(pair)
            key = None if node is None else self._key(node)
            if here is not None and isinstance(here, tf.Variable):
                if key is None:
                    missing.setdefault(id(here), (path, tuple(here.shape)))
                    continue
                found.add(id(here))
                if not here.shape.is_compatible_with(self._shapes[key]):
                    yield f"{path} has the shape {tuple(here.shape)} and was saved with {tuple(self._shapes[key])}"
                elif here.dtype != self._types[key]:
                    yield f"{path} is of {here.dtype.name} and was saved as {self._types[key].name}"
            elif here is None and node is not None and key is not None:
                left_over[node] = path, tuple(self._shapes[key])
            if here is not None and node is not None:
                placed.add(node)
            own = {} if here is None else view.children(here)
            saved = {} if node is None else {child.local_name: child.node_id for child in self._nodes[node].children}
            if here is self._checkpoint:
                own = {name: child for name, child in own.items() if name in saved or not _MAY_BE_NEW.fullmatch(name)}
            prefix = f"{path}/" if path else ""
            queue.extend((prefix + name, own.get(name), saved.get(name)) for name in {**own, **saved})
        new = [named for variable, named in missing.items() if variable not in found]
        old = [named for node, named in left_over.items() if node not in placed]
        yield from (f"{named[0]} was not saved ({_shape_and_nearest(named, old, 'was saved')})" for named in new)
        for named in old:
            if named[0].split("/")[0] in whole:
                yield f"{named[0]} was saved and is not there ({_shape_and_nearest(named, new, 'is there')})"

    def _host_state(self, reader: Any) -> dict[str, Any]:
        """Returns what was saved of the state that lives in Python."""
        hosts = [child.node_id for child in self._nodes[0].children if child.local_name == "host"]
        keys = [each.checkpoint_key for host in hosts for each in self._nodes[host].attributes]
        return json.loads(reader.get_tensor(keys[0])) if keys else {}

    def _key(self, node: int) -> str | None:
        """Returns the key of a variable among what was saved."""
        keys = (each.checkpoint_key for each in self._nodes[node].attributes if each.name == "VARIABLE_VALUE")
        return next(keys, None)

    def restore_part(self, **part: Any) -> None:
        """Reads one thing of the checkpoint once more, given by its name there; what was not saved stays as it is."""
        root = tf.train.Checkpoint()
        # Read before there is anything to read into: TensorFlow complains of all the rest where this raises.
        root.read(str(self._directory / PREFIX)).expect_partial()
        for name, each in part.items():
            setattr(root, name, each)

    def restore_iterator(self, iterator: tf.data.Iterator) -> bool:
        """Puts an iterator of the training data where it stood; returns False where none was saved.

        Raises:
          ValueError: If the one that was saved went over other data.
        """
        if not any(key.startswith("iterator/") for key in self._shapes):
            return False
        try:
            self.restore_part(iterator=iterator)
        except tf.errors.OpError as error:
            raise ValueError(
                f"fit: train_data= cannot be put where the run of {self._directory} stood: {error.message}. It is "
                "another dataset than the one the run was trained on; build that, or begin anew with restart_data=True"
            ) from error
        return True


def _shape_and_nearest(named: _Named, others: Sequence[_Named], where: str) -> str:
    """Describes a variable without a counterpart, and which of those on the other side it may have been meant to be."""
    path, shape = named
    by_path = dict(others)
    alike = [other for other, its_shape in others if its_shape == shape]
    nearest = difflib.get_close_matches(path, alike, n=1) or difflib.get_close_matches(path, by_path, n=1)
    if not nearest:
        return f"shape {shape}"
    return f"shape {shape}; the nearest that {where} is {nearest[0]}, shape {by_path[nearest[0]]}"
