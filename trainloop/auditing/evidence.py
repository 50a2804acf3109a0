"""What an audit has seen of a model: its layers, and what they did in each phase while it was traced."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainloop import keras_hooks
from trainloop.auditing.data_flow import Flow
from trainloop.effects import GraphEffects
from trainloop.keras_hooks import Layer
from trainloop.phase import Phase
from trainloop.tracing import LayerCall, Trace

STOCHASTIC = frozenset({"dropout", "noise", "augmentation"})


@dataclasses.dataclass
class Traced:
    """A model as it was traced in one phase.

    Attributes:
      concrete: The traced function; called on a batch it returns what was to be observed of it.
      trace: The layer calls.
      flow: What feeds what.
      outputs: What the model returned, its tensors flat.
      effects: What the graph draws and writes.
    """

    concrete: Any
    trace: Trace
    flow: Flow
    outputs: list[tf.Tensor]
    effects: GraphEffects


@dataclasses.dataclass
class Evidence:
    """All that was seen.

    Attributes:
      model: The model.
      layers: Every layer by its path: those that the model holds, and those that were called all the same.
      traced: What was traced, by phase.
      variance_ratios: Of the input of each batch normalization, by path: the variance with dropout off over that with
        dropout on, as measured. Empty where nothing was measured.
    """

    model: Any
    layers: Mapping[str, Layer]
    traced: Mapping[Phase, Traced]
    variance_ratios: Mapping[str, float]

    def calls(self, layer: Layer, phase: Phase) -> list[LayerCall]:
        """Returns the calls of a layer in a phase; none where the phase was not traced."""
        return [] if phase not in self.traced else [c for c in self.traced[phase].trace.calls if c.layer is layer]

    def is_on(self, layer: Layer, phase: Phase) -> bool:
        """Returns whether a layer is told to act as in training, in some call in a phase."""
        return any(call.training for call in self.calls(layer, phase))

    def is_unseen(self, path: str, phase: Phase) -> bool:
        """Returns whether a layer may be called in a phase all the same, by a function that was traced before."""
        if phase not in self.traced:
            return False
        callers = [None if each.owner is None else each.owner.layer for each in self.traced[phase].effects.earlier]
        return None in callers or any(holder in callers for _, holder in self.above(path))

    def above(self, path: str) -> list[tuple[str, Layer]]:
        """Returns the layers that hold the one at a path, the nearest first."""
        key = id(self.layers[path])
        holders = [item for item in self.layers.items() if key in self._held[id(item[1])]]
        return sorted(holders, key=lambda item: len(self._held[id(item[1])]))

    def below(self, path: str) -> dict[str, Layer]:
        """Returns the layers that the one at a path holds."""
        held = self._held[id(self.layers[path])]
        return {at: layer for at, layer in self.layers.items() if id(layer) in held}

    @functools.cached_property
    def _held(self) -> dict[int, frozenset[int]]:
        return {
            id(layer): frozenset(map(id, keras_hooks.layers_of(layer))) - {id(layer)} for layer in self.layers.values()
        }


def rate_of(layer: Layer) -> float | None:
    """Returns the share that a layer drops, or the standard deviation of its noise; None if it has neither."""
    for name in ("rate", "stddev", "dropout", "recurrent_dropout", "drop_path_rate", "drop_rate"):
        value = getattr(layer, name, None)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and (value or name in ("rate", "stddev")):
            return float(value)
    kept = getattr(layer, "survival_probability", None)
    return 1.0 - kept if isinstance(kept, float) else None


def is_live(layer: Layer) -> bool:
    """Returns whether a layer of a family can do anything: its rate is not zero."""
    return rate_of(layer) != 0.0


def is_hard_wired(call: LayerCall, evidence: Evidence) -> bool:
    """Returns whether a call in TRAIN is told its `training` by an argument that is the same in EVAL.

    What it is merely handed on by a layer that is itself told the same does not count: there is where the value is.
    """
    if call.how != "said" or call.training is None or call.phase != Phase.TRAIN.value:  # a phase opened inside
        return False
    others = evidence.calls(call.layer, Phase.EVAL)
    if not others or any(each.how != "said" or each.training is not call.training for each in others):
        return False
    return call.parent is None or not _is_constant(call.parent.layer, evidence)


def _is_constant(layer: Layer, evidence: Evidence) -> bool:
    values = {call.training for phase in (Phase.TRAIN, Phase.EVAL) for call in evidence.calls(layer, phase)}
    return len(values) == 1 and None not in values


def is_of_keras(layer: Layer) -> bool:
    """Returns whether a layer's class is one of Keras's own, whose insides nobody chose, and no mere container."""
    return type(layer).__module__.startswith("tf_keras.") and not keras_hooks.is_container(layer)
