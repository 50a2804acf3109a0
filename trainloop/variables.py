"""Which variable a graph reads or writes: its path in the model, and what it is there for."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import tensorflow as tf
import tf_keras

from trainloop import keras_hooks
from trainloop.keras_hooks import Layer
from trainloop.layer_paths import parts

Purpose = Literal["weights", "batch_norm", "state", "metrics", "optimizer", "own", "other"]


class Named(NamedTuple):
    """A variable.

    Attributes:
      path: Its path in the model (`encoder/bn/moving_mean`), or the attribute of the Trainer that holds it, or its own
        name where neither does.
      purpose: What it is there for: a model's weights, statistics of batch normalization, the state that a stateful RNN
        or a metric inside a model keeps between batches, a metric, an optimizer, the Trainer's own counters and sums,
        or anything else.
    """

    path: str
    purpose: Purpose


class Variables:
    """Variables by the handles that stand for them in graphs.

    With several replicas each part of a variable has a handle; all go by the same path.
    """

    def __init__(self) -> None:
        self._named: dict[int, Named] = {}
        self._held: list[Any] = []  # so that no id is given to another object
        self._parts: set[int] = set()

    def add_model(self, root: Any) -> None:
        """Adds the variables of a model, or of a dict of models, whose keys then begin the paths.

        What is added first keeps its name.
        """
        # Batch normalizations come first: a loaded model has its variables in a list too, which tells of no statistics.
        for path, part in sorted([("", root), *parts(root)], key=lambda each: not _normalizes(each[1])):
            self._add_part(path, part)
        for model in root.values() if isinstance(root, Mapping) else [root]:
            self.add("weights", keras_hooks.variables_of(model))  # what stands in no attribute, list or dict

    def add_layer(self, path: str, layer: Layer) -> None:
        """Adds the variables of one layer, which is in no model that was added."""
        self._add_part(path, layer)

    def add(self, purpose: Purpose, variables: Iterable[Any], prefix: str = "") -> None:
        """Adds variables by their own names."""
        for variable in variables:
            self._add(prefix + variable.name.split(":")[0], purpose, variable)

    def add_attributes(self, part: Any) -> list[tf.Variable]:
        """Adds the variables in an object's attributes as nobody's; returns those that were not there."""
        added = []
        for name, variable in in_attributes(part):
            if not any(id(handle) in self._named for handle in handles(variable)):
                added.append(variable)
            self._add(name, "other", variable)
        return added

    def of(self, handle: Any) -> Named | None:
        """Returns the variable that a handle stands for, or None."""
        return self._named.get(id(handle))

    @property
    def paths(self) -> list[str]:
        """The paths of all variables, each once."""
        return list(dict.fromkeys(named.path for named in self._named.values()))

    def _add_part(self, path: str, part: Any) -> None:
        if id(part) in self._parts:
            return
        self._parts.add(id(part))
        self._held.append(part)
        prefix = f"{path}/" if path else ""
        statistics: set[int] = set()
        purpose: Purpose = "state" if isinstance(part, tf_keras.metrics.Metric) else "weights"
        if isinstance(part, Layer):
            if _normalizes(part):
                statistics = set(map(id, keras_hooks.statistics_of(part)))
            if isinstance(part, tf_keras.layers.RNN) and part.stateful:
                for number, state in enumerate(keras_hooks.states_kept_between_batches(part)):
                    self._add(f"{prefix}states/{number}", "state", state)
        for name, variable in in_attributes(part):
            self._add(prefix + name, "batch_norm" if id(variable) in statistics else purpose, variable)

    def _add(self, path: str, purpose: Purpose, variable: Any) -> None:
        for handle in handles(variable):
            if id(handle) not in self._named:
                self._named[id(handle)] = Named(path, purpose)
                self._held.append(handle)


def _normalizes(part: Any) -> bool:
    return isinstance(part, Layer) and keras_hooks.family_of(part) == "batch_norm"


def handles(variable: Any) -> list[Any]:
    """Returns what stands for a variable, or for a lookup table, in a graph: a handle for each replica's part of it."""
    if not isinstance(variable, tf.Variable):
        handle = getattr(variable, "resource_handle", None)
        return [] if handle is None else [handle]
    return [part.handle for part in getattr(variable, "values", None) or [variable]]


def held_by(trackable: Any) -> list[Any]:
    """Returns all variables and lookup tables that a checkpoint of an object holds."""
    return [found for found in tf.train.TrackableView(trackable).descendants() if handles(found)]


def variables_held_by(trackable: Any) -> list[tf.Variable]:
    """Returns all variables that a checkpoint of an object holds."""
    return [found for found in held_by(trackable) if isinstance(found, tf.Variable)]


def paths_in(trackable: Any) -> dict[Any, str]:
    """Returns, by `variable.ref()`, where a checkpoint of an object holds it: the shortest path of attributes."""
    view, found = tf.train.TrackableView(trackable), {}
    queue, seen = collections.deque([("", trackable)]), {id(trackable)}
    while queue:
        path, part = queue.popleft()
        if isinstance(part, tf.Variable):
            found[part.ref()] = path
        for name, child in view.children(part).items():
            if id(child) not in seen:
                seen.add(id(child))
                queue.append((f"{path}/{name}" if path else name, child))
    return found


def unpacked(value: Any) -> Iterator[Any]:
    """Yields what is in a nest of lists, tuples and dicts."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from unpacked(each)
    else:
        yield value


def in_attributes(part: Any) -> Iterator[tuple[str, Any]]:
    """Yields the variables of an object itself by attribute, those with a public name first."""
    attributes = [] if isinstance(part, (Mapping, list, tuple)) else list(getattr(part, "__dict__", {}).items())
    attributes.sort(key=lambda attribute: attribute[0][0] == "_")
    for name, value in attributes:
        if not keras_hooks.is_own_attribute(name):
            yield from _inside(name.lstrip("_"), value)
    for variable in keras_hooks.own_weights(part) if isinstance(part, Layer) else ():
        yield re.sub(r":\d+$", "", variable.name).rpartition("/")[2], variable


def _inside(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the variables in a nest of lists, tuples and dicts, with their paths."""
    if isinstance(value, tf.Variable):
        yield path, value
    elif isinstance(value, (Mapping, list, tuple)):
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _inside(f"{path}/{key}", each)


def parts_of(variable: Any) -> list[tf.Variable]:
    """Returns what each replica has of a variable; assigned as a whole, a sum over the replicas would be rescaled."""
    return list(getattr(variable, "values", None) or [variable])
