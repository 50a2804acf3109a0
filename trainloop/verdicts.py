"""The verdict on a traced step: what its graph draws and writes, held against the policy of its phase."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from trainloop import keras_hooks
from trainloop.contract_report import ContractReport, Effect, WaivedEffect
from trainloop.effects import EarlierTrace, GraphEffect, GraphEffects
from trainloop.keras_hooks import Layer
from trainloop.layer_paths import layer_paths, parts
from trainloop.origins import Frame, innermost_of_user
from trainloop.phase import Phase
from trainloop.policy import Policy
from trainloop.tracing import LayerCall, Trace
from trainloop.variables import Named, Variables, handles
from trainloop.violations import Violation
from trainloop.waivers import Waiver, any_waivers, check_used, waivers_of


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What there is around a step.

    Attributes:
      roots: The models, or dicts of models, that the paths are counted from.
      variables: Every variable that has a path or a purpose.
      held: The ids of the handles of all that a checkpoint holds; None where there are no checkpoints.
      trained: The trainable variables of the models that the step trains; None where it is not known to train any.
    """

    roots: Sequence[Any]
    variables: Variables
    held: frozenset[int] | None = None
    trained: Sequence[tf.Variable] | None = None


def judge(phase: Phase, found: GraphEffects, trace: Trace, around: Surroundings) -> ContractReport:
    """Returns the verdict on a step.

    Args:
      phase: Its phase.
      found: What its graph does.
      trace: What was recorded while it was traced.
      around: The models it belongs to, and the variables there are.

    Raises:
      ValueError: If a waiver of one of the models matches nothing that is there.
    """
    return _Judge(phase, found, trace, around).report()


_RETRACE = (
    "Give that tf.function a `training` argument that is passed on, or take the tf.function away: it keeps the phase "
    "in which it was traced first"
)


class _Judge:
    """All that a verdict is made of, each thing found once."""

    def __init__(self, phase: Phase, found: GraphEffects, trace: Trace, around: Surroundings):
        self._phase = phase
        self._found = found
        self._trace = trace
        self._around = around
        self._layers = trace.layers
        self._called = {id(call.layer): call for call in reversed(trace.calls)}  # of each layer the first call
        self._all_effects = [(effect, self._described(effect)) for effect in found.effects]
        self._effects = self._all_effects  # without those that are waived
        self._waived: dict[str, WaivedEffect] = {}
        if any_waivers():
            self._accept()

    def report(self) -> ContractReport:
        """Returns the report."""
        violations = list(dict.fromkeys(self._violations()))
        training = self._phase is Phase.TRAIN
        return ContractReport(
            phase=self._phase,
            violations=tuple(violations),
            unproved=tuple(dict.fromkeys(self._unproved())),
            effects=tuple(self._summed()),
            waived=tuple(self._waived.values()),
            not_resumable=tuple(dict.fromkeys(self._not_resumable())) if training else (),
            unwritten=tuple(dict.fromkeys(self._unwritten())) if training else (),
            unreached=tuple(self._unreached()) if training else (),
            supplied=tuple(dict.fromkeys(self._supplied())),
        )

    # What there is.

    @functools.cached_property
    def _by_scope(self) -> dict[str, tuple[str, Layer]]:
        """Each layer with its path by the name that its ops stand in, where only one layer has that name."""
        layers: dict[str, list[tuple[str, Layer]]] = collections.defaultdict(list)
        for path, layer in self._layers.values():
            layers[layer.name].append((path, layer))
        return {name: found[0] for name, found in layers.items() if len(found) == 1}

    def _described(self, effect: GraphEffect) -> Effect:
        op, named = effect.op, None
        if effect.kind == "write":
            named = self._named(effect.target)
        return Effect(
            kind=effect.kind,
            layer=self._maker(effect)[0],
            variable=named.path if named else "",
            op_type=op.type,
            op_name=op.name,
            is_declared=effect.is_declared,
        )

    def _named(self, handle: Any) -> Named:
        return self._around.variables.of(handle) or Named(_name_of_handle(handle), "other")

    def _maker(self, effect: GraphEffect) -> tuple[str, Layer | None]:
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
    def _written(self) -> set[int]:
        """The ids of the handles that are written."""
        return {id(effect.target) for effect in self._found.effects if effect.kind == "write"}

    @functools.cached_property
    def _drawing(self) -> set[int]:
        """The ids of the layers that draw, in their own calls or in those of layers inside."""
        found: set[int] = set()
        for effect in self._found.effects:
            if effect.kind == "random":
                found.update(id(call.layer) for call in _upwards(effect.owner))
                path = "" if effect.is_here else self._maker(effect)[0]
                found.update(key for key, (own, _) in self._layers.items() if path and own == path)
        return found

    # What was accepted.

    def _accept(self) -> None:
        """Takes away the effects that were waived, and notes them; refuses waivers that match nothing."""
        labels = [effect.label for _, effect in self._effects]
        layers = [f"random {path}" for path, _ in self._layers.values()]
        variables = [f"write {path}" for path in self._around.variables.paths]
        for prefix, waiver in self._waivers():
            check_used(waiver, [_below(prefix, label) for label in (*labels, *layers, *variables)])
            for label in labels:
                if waiver.matches(label) or waiver.matches(_below(prefix, label)):
                    self._waived.setdefault(label, WaivedEffect(label, waiver.pattern, waiver.reason))
        if self._waived:
            self._effects = [(found, effect) for found, effect in self._effects if effect.label not in self._waived]

    def _waivers(self) -> Iterator[tuple[str, Waiver]]:
        """Yields the waivers of the models and of all their parts, each with the path of what it is of."""
        for root in self._around.roots:
            for path, part in (("", root), *parts(root)):
                for waiver in waivers_of(part):
                    yield path, waiver

    # What is wrong.

    def _violations(self) -> Iterator[Violation]:
        yield from self._trace.violations
        causes = {violation.path for violation in self._trace.violations}  # what these layers do follows from them
        told = list(self._told(causes))
        yield from told
        causes |= {violation.path for violation in told}
        objected: dict[str, Violation] = {}  # of all ops that do the same, to the first
        for found, effect in self._effects:
            if any(call.path in causes for call in _upwards(found.owner)):
                continue
            if effect.label not in objected and found.kind != "unknown":
                for violation in self._draw(found, effect) if found.kind == "random" else self._write(found, effect):
                    objected[effect.label] = violation
        yield from objected.values()
        if self._phase.training:
            yield from self._silent()
            yield from self._stuck()
        if self._phase in (Phase.TRAIN, Phase.UPDATE_BN):
            yield from self._unmoved()
        if self._phase is Phase.UPDATE_BN and not self._moved:
            yield Violation(
                "the model",
                "writes no statistics of batch normalization, which is all that phase 'update_bn' is for",
                "Give it a batch normalization that is not frozen, or leave the phase out",
            )
        if self._phase is Phase.MC_PREDICT and not any(effect.kind == "random" for effect in self._found.effects):
            pinned = dict.fromkeys(call.path for call in self._calls_of("dropout", "noise") if call.how == "pinned")
            yield Violation(
                "the model",
                "draws nothing at random, so that all samples of phase 'mc_predict' would be the same"
                + (f": {', '.join(pinned)} are pinned to another phase" if pinned else ""),
                "Unpin them: trainloop.unpin(model)"
                if pinned
                else "Give it a dropout with a rate above 0, or use Phase.PREDICT",
            )

    def _draw(self, found: GraphEffect, effect: Effect) -> Iterator[Violation]:
        phase = self._phase_of(found)
        augments = any(call.family == "augmentation" for call in _upwards(found.owner))
        if found.is_declared or (phase.policy.augmentation if augments else phase.policy.dropout):
            return
        what = "augments" if augments else "draws random numbers"
        pinned = ", to which it is pinned" if any(call.how == "pinned" for call in _upwards(found.owner)) else ""
        fix = (
            "Draw only where `training` is True, or use a Keras layer, which does; what every phase is to have is "
            f"drawn through trainloop.random, and what is somebody else's is accepted by {_waiving(effect)}"
        )
        op = f"(op {effect.op_type} {effect.op_name!r}{_line(found)})"
        yield Violation(
            effect.layer or effect.op_name,
            f"{what} in phase {phase.value!r}{pinned}{_where(found)} {op}",
            fix if found.is_here else _RETRACE,
        )

    def _write(self, found: GraphEffect, effect: Effect) -> Iterator[Violation]:
        purpose = self._named(found.target).purpose
        by = f" by layer {effect.layer!r}" if effect.layer else ""
        op = f"(op {effect.op_type} {effect.op_name!r})"
        for phase in dict.fromkeys([self._phase, self._phase_of(found)]):
            if purpose not in _may_write(phase):
                fix = f"Write it where the phase is TRAIN, or accept it: {_waiving(effect)}"
                yield Violation(
                    effect.variable,
                    f"is written{by} in phase {phase.value!r}{_where(found)}, which writes {_ALLOWED[phase]} {op}",
                    fix if found.is_here else _RETRACE,
                )
                return
        _, layer = self._maker(found)
        if (
            layer is not None
            and purpose == "batch_norm"
            and keras_hooks.family_of(layer) == "batch_norm"
            and not layer.trainable
        ):
            yield Violation(
                effect.variable,
                f"is written{by}{_where(found)}, though {type(layer).__name__} is frozen (trainable=False) {op}",
                "Let its call heed `trainable`, and trace a tf.function anew after a layer was frozen",
            )
            return
        held = self._around.held if self._phase is Phase.TRAIN else None
        if held is not None and purpose not in ("own", "state") and id(found.target) not in held:
            yield Violation(
                effect.variable,
                f"is written{by}, but no checkpoint holds it, so that a resumed run would not have it {op}",
                "Put the model it belongs to into model=, the optimizer into optimizer=, a metric into metrics=",
            )

    def _told(self, causes: set[str]) -> Iterator[Violation]:
        """Yields the functions traced before that are given another `training` than the layer around them was told."""
        for earlier in self._found.earlier:
            owner = earlier.owner
            wanted = self._policy_of(earlier).training if owner is None else owner.training
            if earlier.training in (None, wanted) or any(call.path in causes for call in _upwards(owner)):
                continue
            if owner is not None and earlier.training is False and not owner.layer.trainable:
                continue  # it is frozen, and means it: TensorFlow Hub's layer
            yield Violation(
                earlier.name if owner is None else owner.path,
                f"calls the tf.function {earlier.name!r}, which was traced before, with training={earlier.training}; "
                f"phase {earlier.phase or self._phase.value!r} expects training={wanted}",
                "Pass on what was received; if the value is meant, pin the layer, or call it by Phase.EVAL.call(...)",
            )

    def _policy_of(self, earlier: EarlierTrace) -> Policy:
        return (self._phase if earlier.phase is None else Phase(earlier.phase)).policy

    def _silent(self) -> Iterator[Violation]:
        """Yields the dropout and noise layers that are on and draw nothing."""
        for call in self._calls_of("dropout", "noise"):
            if call.training and keras_hooks.strength_of(call.layer) > 0 and id(call.layer) not in self._drawing:
                yield Violation(
                    call.path,
                    f"{type(call.layer).__name__} is called with training=True, but nothing is drawn in its call",
                    "Let its call depend on its argument `training`, and on no tf.function traced before",
                )

    def _unmoved(self) -> Iterator[Violation]:
        """Yields the batch normalizations that use the batch's statistics and do not write them."""
        for call in self._calls_of("batch_norm"):
            if call.training and call.layer.trainable and not self._moves(call.layer):
                yield Violation(
                    call.path,
                    f"{type(call.layer).__name__} is called with training=True, but its moving statistics are not "
                    "written",
                    "Let its call update them, or freeze the layer: trainable=False",
                )

    @property
    def _moved(self) -> bool:
        return any(self._named(effect.target).purpose == "batch_norm" for effect in self._writes())

    def _stuck(self) -> Iterator[Violation]:
        """Yields the layers inside functions that were traced before, and seem to be in another phase there."""
        for earlier in self._found.earlier:
            policy = self._policy_of(earlier)
            for path, layer in self._inside(earlier):
                family = keras_hooks.family_of(layer)
                if not policy.training_for(family):
                    continue
                if family in ("dropout", "noise"):
                    stuck = keras_hooks.strength_of(layer) > 0 and id(layer) not in self._drawing
                    what = "draws nothing there"
                elif family == "batch_norm":
                    stuck = layer.trainable and not self._moves(layer)
                    what = "does not write its statistics there"
                else:
                    continue
                if stuck:
                    yield Violation(
                        path,
                        f"{type(layer).__name__} is reached only through the tf.function {earlier.name!r}, which was "
                        f"traced before and outside of this step, and {what}: it is in another phase",
                        _RETRACE,
                    )

    def _inside(self, earlier: EarlierTrace) -> Iterator[tuple[str, Layer]]:
        """Yields the layers that nobody has seen in this trace and that a function traced before seems to call."""
        known = self._layers
        if earlier.owner is not None:
            below = map(id, keras_hooks.layers_of(earlier.owner.layer))
            known = {key: known[key] for key in below if key in known}
        for key, (path, layer) in known.items():
            if key not in self._called and layer.name in earlier.scopes:
                yield path, layer

    def _moves(self, layer: Layer) -> bool:
        statistics = keras_hooks.statistics_of(layer)
        return not statistics or any(id(handle) in self._written for each in statistics for handle in handles(each))

    def _calls_of(self, *families: str) -> Iterator[LayerCall]:
        return (call for call in self._trace.calls if call.family in families)

    def _writes(self) -> Iterator[GraphEffect]:
        return (effect for effect in self._found.effects if effect.kind == "write")

    def _phase_of(self, effect: GraphEffect) -> Phase:
        """Returns the phase that holds where an effect is: that of its layer's pin or scope, or the step's."""
        return self._phase if effect.phase is None else Phase(effect.phase)

    # What is worth knowing.

    def _unproved(self) -> Iterator[str]:
        for found, effect in self._effects:
            if found.kind == "unknown":
                layer = f" in layer {effect.layer!r}" if effect.layer else ""
                yield f"{effect.op_type} {effect.op_name!r}{layer}: what it draws or writes is not known"

    def _summed(self) -> list[Effect]:
        """Returns the effects that are left and those that were waived; ops that do the same are counted."""
        alike: dict[Any, list[Effect]] = collections.defaultdict(list)
        for _, effect in self._all_effects:
            alike[effect.kind, effect.layer, effect.variable, effect.op_type, effect.is_declared].append(effect)
        return sorted(dataclasses.replace(same[0], count=len(same)) for same in alike.values())

    def _not_resumable(self) -> Iterator[str]:
        if self._around.held is None:
            return
        draws = [
            f"{effect.layer or effect.op_name}: draws that no key could be given (op {effect.op_type})"
            for found, effect in self._effects
            if found.kind == "random" and found.is_stateful
        ]
        yield from draws or self._trace.unkeyed  # the trace has no path for them
        for found, effect in self._effects:
            is_state = found.kind == "write" and self._named(found.target).purpose == "state"
            if is_state and id(found.target) not in self._around.held:
                yield f"{effect.variable}: what a layer keeps between batches is in no checkpoint"

    def _unwritten(self) -> Iterator[str]:
        trained = self._around.trained
        if trained is None:
            return
        read = set(map(id, self._found.reads))
        for variable in trained:
            keys = set(map(id, handles(variable)))
            if keys & read and not keys & self._written:
                yield self._named(handles(variable)[0]).path

    def _unreached(self) -> Iterator[str]:
        elsewhere: set[int] = set()  # cells that an RNN does not call where it is fused, and what a wrapper only copied
        for call in self._called.values():
            if isinstance(call.layer, tf_keras.layers.RNN):
                elsewhere.update(map(id, keras_hooks.layers_of(call.layer)))
            elif isinstance(call.layer, tf_keras.layers.Bidirectional):
                elsewhere.update(map(id, keras_hooks.layers_of(call.layer.layer)))
        scopes = frozenset().union(*(earlier.scopes for earlier in self._found.earlier))
        own = {id(layer) for root in self._around.roots for layer in layer_paths(root).values()}
        for key, (path, layer) in self._layers.items():
            if key not in own or key in self._called or key in elsewhere or layer.name in scopes:
                continue
            if keras_hooks.family_of(layer) in ("dropout", "noise") and keras_hooks.strength_of(layer) > 0:
                yield path

    def _supplied(self) -> Iterator[str]:
        """Yields where nothing was said around each layer that has a family."""
        for call in self._trace.calls:
            if call.family is not None:
                told = call
                while told.how == "inherited" and told.parent is not None:
                    told = told.parent
                if told.how == "supplied":
                    yield told.path


_ALLOWED = {
    Phase.TRAIN: "anything",
    Phase.EVAL: "metrics only",
    Phase.PREDICT: "no variable",
    Phase.MC_PREDICT: "metrics only",
    Phase.UPDATE_BN: "statistics of batch normalization only",
}


def _may_write(phase: Phase) -> set[str]:
    """Returns the purposes of the variables that a phase may write.

    What a stateful RNN, or a metric inside a model, keeps between batches is put back by whoever runs the phase.
    """
    if "weights" in phase.policy.writes:
        return {"weights", "batch_norm", "state", "metrics", "optimizer", "own", "other"}
    return {"state", "own", *phase.policy.writes}


def _waiving(effect: Effect) -> str:
    return f"trainloop.waive(model, {effect.label!r}, reason=...)"


def _line(found: GraphEffect) -> str:
    """Returns the innermost line of user code that made an op; nothing where that was in another trace."""
    stack = (found.op.traceback or ()) if found.is_here else ()
    frame = innermost_of_user([Frame(each.filename, each.lineno, each.name) for each in stack])
    return "" if frame is None else f", {frame.file}:{frame.line}"


def _where(found: GraphEffect) -> str:
    return "" if found.is_here else ", in a tf.function that was traced before"


def _below(prefix: str, label: str) -> str:
    """Returns an effect's label with its path counted from a part of the model, where it lies in that part."""
    kind, _, path = label.partition(" ")
    return f"{kind} {path.removeprefix(f'{prefix}/')}" if prefix and path.startswith(f"{prefix}/") else label


def _upwards(call: LayerCall | None) -> Iterator[LayerCall]:
    while call is not None:
        yield call
        call = call.parent


def _name_of_handle(handle: Any) -> str:
    return getattr(handle, "name", None) or "a variable without a name"
