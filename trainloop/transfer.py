"""`load_weights`: beginning with the weights of another run."""

from __future__ import annotations

import collections
import difflib
import json
import os
import pathlib
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from trainloop import arguments, checksums, keras_hooks
from trainloop.checkpoint import Checkpoints
from trainloop.store import PREFIX
from trainloop.workdir import Workdir

_MODEL = "model"
_NOT_WEIGHTS = ("optimizer", "compiled_metrics", "compiled_loss")  # what a compiled model holds besides
_SHOWN = 5
_loaded: weakref.WeakSet[Any] = weakref.WeakSet()


class LoadedWeights(NamedTuple):
    """What `load_weights` has taken, and what it has left.

    Attributes:
      directory: The checkpoint.
      averaged: Whether the averaged weights were taken.
      taken: The variables that have the saved values now.
      left: The variables of the model that are as they were, each with the reason.
      unused: What was saved and has no place in the model.
    """

    directory: pathlib.Path
    averaged: bool
    taken: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        kind = "averaged weights" if self.averaged else "weights"
        lines = [f"{len(self.taken)} {kind} taken from {self.directory}"]
        lines += [f"  left as it was: {each}" for each in self.left]
        lines += [f"  saved and not used: {each}" for each in self.unused]
        return "\n".join(lines)


def load_weights(
    model: Any,
    source: str | os.PathLike[str],
    which: Literal["latest", "best"] | int = "latest",
    *,
    strict: bool = True,
    averaged: bool | None = None,
) -> LoadedWeights:
    """Puts the weights of another run into a model; nothing else of that run: no optimizer, no step, no data position.

    A variable is found by its place in the model, as in a restore, and not by the names that Keras has made up. Every
    byte of the checkpoint is verified before a variable changes. In a script that may be resumed, load only where the
    run begins: `if trainer.restore_or_initialize() == 0: load_weights(trainer.model, "runs/first")`.

    Args:
      model: The model, its weights made: a tf-keras model, a `tf.Module`, or the dict of models that `Trainer(model=)`
        was given. The other run must have been given a model, or a dict with such keys, too.
      source: The other run's workdir, or the directory of one of its checkpoints.
      which: Which checkpoint of a workdir: `"latest"`, `"best"` or a step.
      strict: Whether all weights must have been saved, and all that were saved must have a place. If not, what fits is
        taken (a base without its head).
      averaged: Whether to take the average that `WeightAveraging` has kept, with its statistics of batch
        normalization; None for "where there is one": it is what that run was evaluated with.

    Returns:
      What was taken and what was left.

    Raises:
      TypeError: If `model` is no model.
      ValueError: If the model has no weights yet, something does not fit (nothing, if not `strict`), or there is no
        average.
      FileNotFoundError: If there is no such checkpoint.
      CheckpointDamaged: If it is not what was written.

    Example:
      >>> import numpy as np, tf_keras, tempfile
      >>> from tf_keras import layers
      >>> from trainloop import Trainer, data, load_weights
      >>> def net(classes):
      ...     return tf_keras.Sequential([tf_keras.Input([4]), layers.Dense(8), layers.Dense(classes)])
      >>> first = Trainer(net(3), "adam", loss="mse", workdir=tempfile.mkdtemp())
      >>> _ = first.fit(data.from_arrays((np.ones([8, 4]), np.ones([8, 3])), batch_size=4), steps=2)
      >>> loaded = load_weights(net(5), first.workdir, strict=False)
      >>> len(loaded.taken), len(loaded.left)
      (2, 2)
    """
    models = arguments.check_models(model)
    if not any(keras_hooks.variables_of(each) for each in models.values()):
        raise ValueError("load_weights: model= has no weights yet; call it on a batch, or build() it, before")
    saved = _Saved(_directory(source, which))
    average = saved.averages() if averaged is not False else {}
    if averaged and not average:
        raise ValueError(
            f"load_weights: averaged=True, and {saved.directory} holds no average: its run had no WeightAveraging, or "
            "none had been taken by then"
        )
    found, left, unused = saved.laid_beside(model, models)
    faults = [*left, *(f"{each} was saved and has no place" for each in unused)]
    if (strict and faults) or not found:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        advice = "Build the model of that run, or take what fits with strict=False" if found else "Nothing fits"
        raise ValueError(
            f"load_weights: {saved.directory} does not fit model=: {'; '.join(faults[:_SHOWN])}{more}. {advice}"
        )
    values = [saved.value(average.get(node, node)) for _, _, node in found]  # all are read before one is changed
    for (_, variable, _), value in zip(found, values, strict=True):
        variable.assign(value)
    for each in models.values():
        _loaded.add(each)
    taken = tuple(name for name, _, _ in found)
    return LoadedWeights(saved.directory, bool(average), taken, tuple(left), tuple(unused))


def was_loaded(model: Any) -> bool:
    """Returns whether a model has been given weights by `load_weights`."""
    return model in _loaded


def _directory(source: str | os.PathLike[str], which: Any) -> pathlib.Path:
    path = pathlib.Path(source)
    if (path / f"{PREFIX}.index").exists():
        checksums.verify(path / PREFIX)
        return path
    checkpoints = Checkpoints(Workdir(path).checkpoints)
    if not checkpoints.steps():
        what = "does not exist" if not path.exists() else "holds no checkpoints"
        raise FileNotFoundError(
            f"load_weights: source={str(path)!r} {what}; give the workdir of a run, or one of its checkpoints/step_*"
        )
    return checkpoints.path(checkpoints.find(which, asked_by="load_weights"))


class _Saved:
    """A checkpoint, read variable by variable."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self._reader = tf.train.load_checkpoint(str(directory / PREFIX))
        self._shapes = self._reader.get_variable_to_shape_map()
        self._types = self._reader.get_variable_to_dtype_map()
        self._nodes = TrackableObjectGraph.FromString(self._reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")).nodes
        self._weights = dict(self._variables_below(self._children(0)[_MODEL]))

    def value(self, node: int) -> Any:
        """Returns what a node holds."""
        return self._reader.get_tensor(self._key(node))

    def laid_beside(
        self, model: Any, models: Mapping[str, Any]
    ) -> tuple[list[tuple[str, tf.Variable, int]], list[str], list[str]]:
        """Walks the model and what was saved side by side, by the names of the attributes.

        Returns:
          The name, variable and node of what fits; what of the model does not, and why; what else was saved.
        """
        own = {v.ref() for each in models.values() for v in keras_hooks.variables_of(each)}
        root = tf.train.Checkpoint(model=model)
        view = tf.train.TrackableView(root)
        names: dict[Any, str] = {}
        nodes: dict[Any, int] = {}
        queue: collections.deque[tuple[str, Any, int | None]] = collections.deque()
        queue.append(("", view.children(root)[_MODEL], self._children(0)[_MODEL]))
        seen = set()
        while queue:
            path, here, node = queue.popleft()
            if (id(here), node) in seen:
                continue
            seen.add((id(here), node))
            if isinstance(here, tf.Variable):
                if here.ref() in own:
                    names.setdefault(here.ref(), f"{path} ({here.name.split(':')[0]})")
                    if node in self._weights:
                        nodes.setdefault(here.ref(), node)
                continue
            saved = {} if node is None else self._children(node)
            prefix = f"{path}/" if path else ""
            queue.extend(
                (prefix + name, child, saved.get(name))
                for name, child in view.children(here).items()
                if name not in _NOT_WEIGHTS
            )
        fits = {ref: nodes[ref] for ref in names if ref in nodes and not self._why_not(ref.deref(), nodes[ref])}
        unused = [node for node in self._weights if node not in fits.values()]
        left = []
        for reference in (each for each in names if each not in fits):
            variable, name = reference.deref(), names[reference]
            why = self._why_not(variable, nodes.get(reference))
            left.append(f"{name}, shape {tuple(variable.shape)}: {why}{self._nearest(name, variable, unused)}")
        found = [(names[reference], reference.deref(), node) for reference, node in fits.items()]
        return found, left, [self._named(node) for node in unused]

    def averages(self) -> dict[int, int]:
        """Returns, by the node of each weight, the node of its average; none where no average has been taken."""
        held = self._children(0).get("averages")
        if held is None or self.value(self._children(held)["count"]) == 0:
            return {}
        parts = self._children(held)
        [key] = [each.checkpoint_key for each in self._nodes[self._children(0)["host"]].attributes]
        paths = json.loads(self._reader.get_tensor(key))["callbacks"]["WeightAveraging"]
        found = self._beside(parts["averages"], paths["weights"])
        if "measured_at" in parts and self.value(parts["measured_at"]) == self.value(parts["count"]):
            found |= self._beside(parts["statistics"], paths["statistics"])
        return found

    def _beside(self, averages: int, paths: list[str]) -> dict[int, int]:
        nodes = {path: node for node, path in self._weights.items()}
        children = self._children(averages)
        return {nodes[path]: children[str(number)] for number, path in enumerate(paths)}

    def _why_not(self, variable: tf.Variable, node: int | None) -> str:
        if node is None:
            return "nothing was saved there"
        shape, dtype = self._shapes[self._key(node)], self._types[self._key(node)]
        if not variable.shape.is_compatible_with(shape):
            return f"saved with the shape {tuple(shape)}"
        return "" if variable.dtype == dtype else f"of {variable.dtype.name}, and saved as {dtype.name}"

    def _nearest(self, name: str, variable: tf.Variable, unused: list[int]) -> str:
        alike = [self._weights[node] for node in unused if variable.shape == self._shapes[self._key(node)]]
        near = difflib.get_close_matches(name.partition(" ")[0], alike, n=1, cutoff=0.0)
        return f"; the nearest of that shape that was saved is {near[0]}" if near else ""

    def _named(self, node: int) -> str:
        return f"{self._weights[node]}, shape {tuple(self._shapes[self._key(node)])}"

    def _variables_below(self, root: int) -> Iterator[tuple[int, str]]:
        """Yields the nodes of variables, with their paths from a node."""
        queue, seen = collections.deque([("", root)]), {root}
        while queue:
            path, node = queue.popleft()
            if any(each.name == "VARIABLE_VALUE" for each in self._nodes[node].attributes):
                yield node, path
            for name, child in self._children(node).items():
                if child not in seen and name not in _NOT_WEIGHTS:
                    seen.add(child)
                    queue.append((f"{path}/{name}" if path else name, child))

    def _children(self, node: int) -> dict[str, int]:
        return {child.local_name: child.node_id for child in self._nodes[node].children}

    def _key(self, node: int) -> str:
        [key] = [each.checkpoint_key for each in self._nodes[node].attributes if each.name == "VARIABLE_VALUE"]
        return key
