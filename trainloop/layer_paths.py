"""The path of a layer in its model: `encoder/blocks/0/drop`, the same in every process.

Keras numbers the names that nobody gave (`dropout_17`) for the whole process, so they are no use in a report, a pattern
or a key. A path is made of the names of attributes, the indices of lists, and inside functional and Sequential models
of layer names, counted anew in each model where Keras has made them up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from trainloop import keras_hooks
from trainloop.keras_hooks import Layer


def own_name(layer: Any) -> str:
    """Returns the name that a user gave a layer, or its class's in Keras's spelling without the number."""
    name, made_up = getattr(layer, "name", ""), keras_hooks.made_up_name(type(layer))
    return made_up if not name or re.fullmatch(rf"{re.escape(made_up)}(_\d+)?", name) else name


def layer_paths(root: Any) -> dict[str, Layer]:
    """Returns every layer in a model by its path; the model itself, if it is a layer, by its own name.

    Args:
      root: A layer, a model, a `tf.Module`, or a dict of these, whose keys then begin the paths.
    """
    below = {path: child for path, child in parts(root) if isinstance(child, Layer)}
    if not isinstance(root, Layer):
        return below
    name = own_name(root)
    while name in below:  # a Sequential in a Sequential
        name = f"outer_{name}"
    return {name: root, **below}


def parts(root: Any) -> Iterator[tuple[str, Any]]:
    """Yields all that a model is made of, without the model itself: layers, modules, lists and dicts, with their paths.

    Args:
      root: A layer, a model, a `tf.Module`, or a dict of these, whose keys then begin the paths.
    """
    yield from _descend(root, "", {id(root)})


def _descend(parent: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    for name, child in _children(parent):
        if id(child) in seen:
            continue
        seen.add(id(child))
        path = f"{prefix}{name}"
        yield path, child
        yield from _descend(child, f"{path}/", seen)


def _children(parent: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(parent, Mapping):
        yield from ((str(key), value) for key, value in parent.items() if _holds_layers(value))
        return
    if isinstance(parent, (list, tuple)):
        yield from ((str(index), value) for index, value in enumerate(parent) if _holds_layers(value))
        return
    if keras_hooks.is_container(parent):
        yield from _counted(parent.layers)
        return
    if isinstance(parent, tf.Module):
        attributes = [(name, value) for name, value in vars(parent).items() if not keras_hooks.is_own_attribute(name)]
        attributes.sort(key=lambda attribute: attribute[0][0] == "_")  # what has a public name goes by it
        yield from ((name.lstrip("_"), value) for name, value in attributes if _holds_layers(value))


def _counted(layers: list[Layer]) -> Iterator[tuple[str, Layer]]:
    counts: Counter[str] = Counter()
    for layer in layers:
        name = own_name(layer)
        yield name if counts[name] == 0 else f"{name}_{counts[name]}", layer
        counts[name] += 1


def _holds_layers(value: Any) -> bool:
    return isinstance(value, tf.Module) or (isinstance(value, (Mapping, list, tuple)) and len(value) > 0)
