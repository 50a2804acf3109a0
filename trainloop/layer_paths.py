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
import tf_keras

Layer = tf_keras.layers.Layer


def own_name(layer: Any) -> str:
    """Returns the name that a user gave a layer, or its class's in Keras's spelling without the number."""
    name, made_up = getattr(layer, "name", ""), _snake_case(type(layer).__name__)
    return made_up if not name or re.fullmatch(rf"{re.escape(made_up)}(_\d+)?", name) else name


def layer_paths(root: Any) -> dict[str, Layer]:
    """Returns every layer in a model by its path; the model itself, if it is a layer, by its own name.

    Args:
      root: A layer, a model, a `tf.Module`, or a dict of these, whose keys then begin the paths.
    """
    found: dict[str, Layer] = {}
    seen: set[int] = set()
    if isinstance(root, Layer):
        found[own_name(root)] = root
        seen.add(id(root))
    for path, layer in _descend(root, "", seen):
        found[path] = layer
    return found


def _descend(parent: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Layer]]:
    for name, child in _children(parent):
        if id(child) in seen:
            continue
        seen.add(id(child))
        path = f"{prefix}{name}"
        if isinstance(child, Layer):
            yield path, child
        yield from _descend(child, f"{path}/", seen)


def _children(parent: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(parent, Mapping):
        yield from ((str(key), value) for key, value in parent.items() if _holds_layers(value))
        return
    if isinstance(parent, (list, tuple)):
        yield from ((str(index), value) for index, value in enumerate(parent) if _holds_layers(value))
        return
    if isinstance(parent, tf_keras.Sequential) or getattr(parent, "_is_graph_network", False):
        yield from _counted(parent.layers)
        return
    if isinstance(parent, tf.Module):
        yield from ((name, value) for name, value in vars(parent).items() if name[0] != "_" and _holds_layers(value))
        if isinstance(parent, Layer):  # what an attribute with an underscore holds comes last
            yield from _counted(list(parent._flatten_layers(recursive=False, include_self=False)))


def _counted(layers: list[Layer]) -> Iterator[tuple[str, Layer]]:
    counts: Counter[str] = Counter()
    for layer in layers:
        name = own_name(layer)
        yield name if counts[name] == 0 else f"{name}_{counts[name]}", layer
        counts[name] += 1


def _holds_layers(value: Any) -> bool:
    return isinstance(value, (tf.Module, Mapping, list, tuple))


def _snake_case(name: str) -> str:
    """Returns Keras's spelling of a class's name: `Conv2D` is `conv2d`, `StochasticDepth` is `stochastic_depth`."""
    name = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name)))
    name = name.lower()
    return f"private{name}" if name.startswith("_") else name
