"""The values of a checkpoint at one moment, kept in memory while the objects that they belong to go on changing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainloop import checksums

_Trackable = tf.__internal__.tracking.AutoTrackable
SAVE_COUNTER = "save_counter"  # what a checkpoint has once TensorFlow's own `save` or `restore` was called; not saved
_VARIABLE = "VARIABLE_VALUE"  # the name under which TensorFlow saves a variable's value


_PREFIX = "_LEGACY_SAVEABLE_NAME"  # what the names of an iterator's or a table's values begin with


@dataclasses.dataclass(frozen=True)
class _Node:
    """An object in a checkpoint: its children by name, each as a position in a list, and its own values by name."""

    children: Mapping[str, int]
    values: Mapping[str, tf.Tensor]
    prefix: str | None


class CannotCopy(Exception):
    """Something can be saved only while nothing changes it."""


class Snapshot:
    """What `tf.train.Checkpoint.write` would write now, to be written later, in another thread too.

    A variable's value is a tensor, and tensors do not change: reading it copies nothing as long as nobody assigns to
    the variable, and what is assigned then goes to other memory. So the training thread pays for a walk over the
    objects. Values on other devices are copied to the host, so that they take no memory there.

    Args:
      checkpoint: What is to be saved.

    Raises:
      CannotCopy: If only TensorFlow itself can save something in it.
    """

    def __init__(self, checkpoint: tf.train.Checkpoint):
        view = tf.train.TrackableView(checkpoint)
        objects: list[Any] = [checkpoint]
        places = {id(checkpoint): 0}
        self._nodes: list[_Node] = []
        for each in objects:  # it grows
            children = {}
            for name, child in ({} if isinstance(each, tf.Variable) else view.children(each)).items():
                if each is checkpoint and name == SAVE_COUNTER:
                    continue
                children[name] = places.setdefault(id(child), len(objects))
                if children[name] == len(objects):
                    objects.append(child)
            self._nodes.append(_Node(children, _values(each), getattr(each, _PREFIX, None)))

    def write(self, prefix: str) -> None:
        """Writes the files of a `tf.train.Checkpoint`, with `checksums.OPTIONS`."""
        root = tf.train.Checkpoint()
        made = [root, *(_Valued(node) if node.values else _Trackable() for node in self._nodes[1:])]
        for here, node in zip(made, self._nodes, strict=True):
            for name, place in node.children.items():
                setattr(here, name, made[place])
        root.write(prefix, checksums.OPTIONS)


class _Valued(_Trackable):
    """Stands in a checkpoint for an object with values of its own: TensorFlow asks each how it is saved."""

    def __init__(self, node: _Node):
        super().__init__()
        self._trainloop_node = node
        if node.prefix is not None:
            setattr(self, _PREFIX, node.prefix)

    def _serialize_to_tensors(self) -> Mapping[str, tf.Tensor]:
        return self._trainloop_node.values


def _values(each: Any) -> Mapping[str, Any]:
    """Returns what an object saves of itself: a variable's value, an iterator's position, Python state as a string."""
    if isinstance(each, tf.Variable):
        return {_VARIABLE: _on_the_host(each.read_value())}
    if each._gather_saveables_for_checkpoint():  # TensorFlow's old protocol: only its own saver knows what to do
        raise CannotCopy(f"{type(each).__name__} saves itself in its own way")
    if isinstance(each, tf.__internal__.tracking.DelegatingTrackableMixin):
        return _values(each._trackable)
    serialize = each._serialize_to_tensors
    if getattr(serialize, "__func__", None) is tf.__internal__.tracking.Trackable._serialize_to_tensors:
        return {}  # as most objects: they have no value but those of their children
    saved = serialize()
    if not all(isinstance(value, tf.Tensor) for value in saved.values()):
        raise CannotCopy(f"{type(each).__name__} is read only while it is written")
    return {name: _on_the_host(value) for name, value in saved.items()}


def _on_the_host(value: tf.Tensor) -> tf.Tensor:
    if "CPU" in value.backing_device:
        return value
    with tf.device("CPU"):
        return tf.identity(value)
