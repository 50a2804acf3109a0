"""The trace-time guard: while a scope is open, every layer call in it is seen, and is given its phase.

A scope is found by the thread that opened it. A replica's or worker's thread, which opened none, finds it by the graph
that is being built; a replica's thread also finds one that was opened eagerly around `strategy.run`. The guard adds no
op to a graph.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from trainloop import keras_hooks
from trainloop.policy import Policy


class Scope:
    """One open scope: a phase's name and policy, and where it was opened."""

    def __init__(self, name: str, policy: Policy):
        self.name = name
        self.policy = policy
        self.layer_calls = 0
        self.calling_layer = keras_hooks.calling_layer()
        self.thread = threading.get_ident()
        self.graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self.replica = _replica_id()


_local = threading.local()
_open: list[Scope] = []


@contextlib.contextmanager
def scope(name: str, policy: Policy, *, must_see_a_layer: bool = False) -> Iterator[Scope]:
    """Opens a scope: layer calls in the block follow `policy`. Scopes nest, the innermost wins.

    Args:
      name: The phase's name, for messages.
      policy: What the layers are to do.
      must_see_a_layer: Warn when the block ends without a single layer call.
    """
    entered = Scope(name, policy)
    stack = _stack()
    with keras_hooks.intercepted_layer_calls(_call_layer):
        stack.append(entered)
        _open.append(entered)
        try:
            yield entered
        finally:
            stack.remove(entered)
            _open.remove(entered)
    if must_see_a_layer and entered.layer_calls == 0:
        warnings.warn(
            f"the scope of phase {name!r} saw no layer call, so it had no effect. Call the model inside the block; a "
            "model called through an already traced tf.function, in another thread, or loaded by tf.saved_model.load, "
            "cannot be reached.",
            stacklevel=5,  # past this generator, Phase.scope, and what contextlib puts before each: the user's `with`
        )


def current_scope() -> Scope | None:
    """Returns the innermost scope that holds for a layer call made here, or None."""
    if stack := _stack():
        return stack[-1]
    if not _open:
        return None
    here = _replica_id()
    candidates = [found for found in reversed(tuple(_open)) if found.replica in (None, here)]
    if not tf.executing_eagerly():
        graphs = set(map(id, _graphs()))
        for candidate in candidates:
            if id(candidate.graph) in graphs:
                return candidate
    around = [candidate for candidate in candidates if candidate.graph is None]
    if here is not None and len({candidate.thread for candidate in around}) == 1:
        return around[0]
    return None


def _stack() -> list[Scope]:
    if not hasattr(_local, "stack"):
        _local.stack = []
    return _local.stack


def _call_layer(call: keras_hooks.CallNext, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Supplies the phase's `training=` to a layer call where nothing was said, or where the layer's family differs."""
    found = current_scope()
    if found is None or keras_hooks.is_symbolic(args, kwargs) or _infers_shapes():
        return call(layer, *args, **kwargs)
    found.layer_calls += 1
    value = _value_to_supply(found, layer, args, kwargs)
    if value is not None:
        args, kwargs = keras_hooks.with_training(layer, args, kwargs, value)
    return call(layer, *args, **kwargs)


def _value_to_supply(found: Scope, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool | None:
    family = keras_hooks.family_of(layer)
    if family is not None and not found.policy.is_uniform:
        return found.policy.training_for(family)
    if keras_hooks.said_training(layer, args, kwargs) is not None:
        return None
    if keras_hooks.calling_layer() is found.calling_layer:
        # The call stands directly in the scope's block: what an outer Keras call hands down was said outside of it.
        return found.policy.training_for(family)
    inherited = keras_hooks.inherited_training()
    if inherited is None:
        return found.policy.training_for(family)
    # A literal `training=None` erases what Keras hands down to a layer that takes no `training`; put it back.
    return inherited if "training" in kwargs else None


def _graphs() -> Iterator[tf.Graph]:
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        yield graph
        graph = getattr(graph, "outer_graph", None)


def _infers_shapes() -> bool:
    return not tf.executing_eagerly() and any(
        str(getattr(graph, "name", "")).endswith("_scratch_graph") for graph in _graphs()
    )


def _replica_id() -> int | None:
    """Returns which replica's code is running, or None where there is but one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context.replica_id_in_sync_group if isinstance(context.replica_id_in_sync_group, int) else id(context)
