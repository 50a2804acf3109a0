"""What is worth knowing of a step besides what is wrong with it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import tf_keras

from trainloop import keras_hooks
from trainloop.contract_report import Effect
from trainloop.layer_paths import layer_paths
from trainloop.step_effects import StepEffects
from trainloop.variables import handles


def unproved(step: StepEffects) -> Iterator[str]:
    """Yields the ops of which it is not known what they do."""
    for found, effect in step.effects:
        if found.kind == "unknown":
            layer = f" in layer {effect.layer!r}" if effect.layer else ""
            yield f"{effect.op_type} {effect.op_name!r}{layer}: what it draws or writes is not known"


def summed(step: StepEffects) -> list[Effect]:
    """Returns the effects that are left and those that were waived; ops that do the same are counted."""
    alike: dict[Any, list[Effect]] = collections.defaultdict(list)
    for _, effect in step.all_effects:
        alike[effect.kind, effect.layer, effect.variable, effect.op_type, effect.is_declared].append(effect)
    return sorted((dataclasses.replace(same[0], count=len(same)) for same in alike.values()), key=dataclasses.astuple)


def not_resumable(step: StepEffects) -> Iterator[str]:
    """Yields what a resumed run would not have as it was."""
    if step.around.held is None:
        return
    draws = [
        f"{effect.layer or effect.op_name}: draws that no key could be given (op {effect.op_type})"
        for found, effect in step.effects
        if found.kind == "random" and found.is_stateful
    ]
    yield from draws or step.trace.unkeyed  # the trace has no path for them
    for found, effect in step.effects:
        is_state = found.kind == "write" and step.named(found.target).purpose == "state"
        if is_state and id(found.target) not in step.around.held:
            yield f"{effect.variable}: what a layer keeps between batches is in no checkpoint"


def unwritten(step: StepEffects) -> Iterator[str]:
    """Yields the trainable variables that are read and not written."""
    trained = step.around.trained
    if trained is None:
        return
    read = set(map(id, step.found.reads))
    for variable in trained:
        keys = set(map(id, handles(variable)))
        if keys & read and not keys & step.written:
            yield step.named(handles(variable)[0]).path


def unreached(step: StepEffects) -> Iterator[str]:
    """Yields the dropout and noise layers of the models that the step does not call."""
    elsewhere: set[int] = set()  # cells that an RNN does not call where it is fused, and what a wrapper only copied
    for call in step.called.values():
        if isinstance(call.layer, tf_keras.layers.RNN):
            elsewhere.update(map(id, keras_hooks.layers_of(call.layer)))
        elif isinstance(call.layer, tf_keras.layers.Bidirectional):
            elsewhere.update(map(id, keras_hooks.layers_of(call.layer.layer)))
    scopes = frozenset().union(*(earlier.scopes for earlier in step.found.earlier))
    own = {id(layer) for root in step.around.roots for layer in layer_paths(root).values()}
    for key, (path, layer) in step.layers.items():
        if key not in own or key in step.called or key in elsewhere or layer.name in scopes:
            continue
        if keras_hooks.family_of(layer) in ("dropout", "noise") and keras_hooks.strength_of(layer) > 0:
            yield path


def supplied(step: StepEffects) -> Iterator[str]:
    """Yields where nothing was said around each layer that has a family."""
    for call in step.trace.calls:
        if call.family is not None:
            told = call
            while told.how == "inherited" and told.parent is not None:
                told = told.parent
            if told.how == "supplied":
                yield told.path
