"""What a traced step draws and writes: each effect with its layer or variable, and which of them were waived."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from trainloop import keras_hooks
from trainloop.contract_report import Effect, WaivedEffect
from trainloop.effects import GraphEffect, GraphEffects
from trainloop.keras_hooks import Layer
from trainloop.layer_paths import parts
from trainloop.phase import Phase
from trainloop.tracing import LayerCall, Trace
from trainloop.variables import Named, Variables, handles
from trainloop.waivers import Waiver, any_waivers, check_used, waivers_of


class Surroundings(NamedTuple):
    """What there is around a step.

    Attributes:
      roots: The models, or dicts of models, that the paths are counted from.
      variables: Every variable that has a path or a purpose.
      held: The ids of the handles of all that a checkpoint holds; None where there are no checkpoints.
      trained: The trainable variables that the step should train; None where it is not known to train any.
    """

    roots: Sequence[Any]
    variables: Variables
    held: frozenset[int] | None = None
    trained: Sequence[tf.Variable] | None = None


class StepEffects:
    """The effects of a step, each thing about them found once.

    Args:
      phase: The step's phase.
      found: What its graph does.
      trace: What was recorded while it was traced.
      around: The models it belongs to, and the variables there are.

    Raises:
      ValueError: If a waiver of one of the models matches nothing that is there.

    Attributes:
      layers: Each layer with its path, by its id.
      called: Of each layer the first call, by the layer's id.
      all_effects: Every effect, as the graph has it and as a report has it.
      effects: Those of them that are not waived.
      waived: Those that are, by their labels.
    """

    def __init__(self, phase: Phase, found: GraphEffects, trace: Trace, around: Surroundings):
        self.phase = phase
        self.found = found
        self.trace = trace
        self.around = around
        self.layers = trace.layers
        self.called = {id(call.layer): call for call in reversed(trace.calls)}
        self.all_effects = [(effect, self._described(effect)) for effect in found.effects]
        self.effects = self.all_effects
        self.waived: dict[str, WaivedEffect] = {}
        if any_waivers():
            self._accept()

    @functools.cached_property
    def _by_scope(self) -> dict[str, tuple[str, Layer]]:
        """Each layer with its path by the name that its ops stand in, where only one layer has that name."""
        layers: dict[str, list[tuple[str, Layer]]] = collections.defaultdict(list)
        for path, layer in self.layers.values():
            layers[layer.name].append((path, layer))
        return {name: found[0] for name, found in layers.items() if len(found) == 1}

    def _described(self, effect: GraphEffect) -> Effect:
        op, named = effect.op, None
        if effect.kind == "write":
            named = self.named(effect.target)
        return Effect(
            kind=effect.kind,
            layer=self.maker(effect)[0],
            variable=named.path if named else "",
            op_type=op.type,
            op_name=op.name,
            is_declared=effect.is_declared,
        )

    def named(self, handle: Any) -> Named:
        """Returns what a variable is called and what it is for, given its handle."""
        return self.around.variables.of(handle) or Named(_name_of_handle(handle), "other")

    def maker(self, effect: GraphEffect) -> tuple[str, Layer | None]:
        """Returns the layer that an effect belongs to, with its path: by the call it was made in, or by its name."""
        if effect.is_here and effect.owner is not None:
            return effect.owner.path, effect.owner.layer
        around = None if effect.owner is None else set(map(id, keras_hooks.layers_of(effect.owner.layer)))
        for name in reversed(effect.op.name.split("/")[:-1]):
            path, layer = self._by_scope.get(name, ("", None))
            if layer is not None and (around is None or id(layer) in around):
                return path, layer
        return ("", None) if effect.owner is None else (effect.owner.path, effect.owner.layer)

    @functools.cached_property
    def written(self) -> set[int]:
        """The ids of the handles that are written."""
        return {id(effect.target) for effect in self.found.effects if effect.kind == "write"}

    @functools.cached_property
    def drawing(self) -> set[int]:
        """The ids of the layers that draw, in their own calls or in those of layers inside."""
        found: set[int] = set()
        for effect in self.found.effects:
            if effect.kind == "random":
                found.update(id(call.layer) for call in upwards(effect.owner))
                path = "" if effect.is_here else self.maker(effect)[0]
                found.update(key for key, (own, _) in self.layers.items() if path and own == path)
        return found

    def calls_of(self, *families: str) -> Iterator[LayerCall]:
        """Yields the calls of the layers of some families."""
        return (call for call in self.trace.calls if call.family in families)

    def writes(self) -> Iterator[GraphEffect]:
        """Yields the effects that write, those that were waived too."""
        return (effect for effect in self.found.effects if effect.kind == "write")

    def phase_of(self, effect: GraphEffect) -> Phase:
        """Returns the phase that holds where an effect is: that of its layer's pin or scope, or the step's."""
        return self.phase if effect.phase is None else Phase(effect.phase)

    def moves(self, layer: Layer) -> bool:
        """Returns whether the moving statistics of a batch normalization are written, or it has none."""
        statistics = keras_hooks.statistics_of(layer)
        return not statistics or any(id(handle) in self.written for each in statistics for handle in handles(each))

    def _accept(self) -> None:
        """Takes away the effects that were waived, and notes them; refuses waivers that match nothing."""
        labels = [effect.label for _, effect in self.effects]
        layers = [f"random {path}" for path, _ in self.layers.values()]
        variables = [f"write {path}" for path in self.around.variables.paths]
        for prefix, waiver in self._waivers():
            check_used(waiver, [_below(prefix, label) for label in (*labels, *layers, *variables)])
            for label in labels:
                if waiver.matches(label) or waiver.matches(_below(prefix, label)):
                    self.waived.setdefault(label, WaivedEffect(label, waiver.pattern, waiver.reason))
        if self.waived:
            self.effects = [(found, effect) for found, effect in self.effects if effect.label not in self.waived]

    def _waivers(self) -> Iterator[tuple[str, Waiver]]:
        """Yields the waivers of the models and of all their parts, each with the path of what it is of."""
        for root in self.around.roots:
            for path, part in (("", root), *parts(root)):
                for waiver in waivers_of(part):
                    yield path, waiver


def upwards(call: LayerCall | None) -> Iterator[LayerCall]:
    """Yields a call and those around it, from the inside out."""
    while call is not None:
        yield call
        call = call.parent


def _below(prefix: str, label: str) -> str:
    """Returns an effect's label with its path counted from a part of the model, where it lies in that part."""
    kind, _, path = label.partition(" ")
    return f"{kind} {path.removeprefix(f'{prefix}/')}" if prefix and path.startswith(f"{prefix}/") else label


def _name_of_handle(handle: Any) -> str:
    return getattr(handle, "name", None) or "a variable without a name"
