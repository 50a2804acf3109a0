"""The verdict on a traced step: what its graph draws and writes, held against the policy of its phase."""

from __future__ import annotations

from collections.abc import Iterator

from trainloop import keras_hooks, remarks
from trainloop.contract_report import ContractReport, Effect
from trainloop.effects import EarlierTrace, GraphEffect, GraphEffects
from trainloop.keras_hooks import Layer
from trainloop.origins import Frame, innermost_of_user
from trainloop.phase import Phase
from trainloop.policy import Policy
from trainloop.step_effects import StepEffects, Surroundings, upwards
from trainloop.tracing import Trace
from trainloop.violations import Violation


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
    step = StepEffects(phase, found, trace, around)
    training = phase is Phase.TRAIN
    return ContractReport(
        phase=phase,
        violations=tuple(dict.fromkeys(_violations(step))),
        unproved=tuple(dict.fromkeys(remarks.unproved(step))),
        effects=tuple(remarks.summed(step)),
        waived=tuple(step.waived.values()),
        not_resumable=tuple(dict.fromkeys(remarks.not_resumable(step))) if training else (),
        unwritten=tuple(dict.fromkeys(remarks.unwritten(step))) if training else (),
        unreached=tuple(remarks.unreached(step)) if training else (),
        supplied=tuple(dict.fromkeys(remarks.supplied(step))),
    )


_RETRACE = (
    "Give that tf.function a `training` argument that is passed on, or take the tf.function away: it keeps the phase "
    "in which it was traced first"
)


def _violations(step: StepEffects) -> Iterator[Violation]:
    yield from step.trace.violations
    causes = {violation.path for violation in step.trace.violations}  # what these layers do follows from them
    told = list(_told(step, causes))
    yield from told
    causes |= {violation.path for violation in told}
    objected: dict[str, Violation] = {}  # of all ops that do the same, to the first
    for found, effect in step.effects:
        if any(call.path in causes for call in upwards(found.owner)):
            continue
        if effect.label not in objected and found.kind != "unknown":
            for violation in _draw(step, found, effect) if found.kind == "random" else _write(step, found, effect):
                objected[effect.label] = violation
    yield from objected.values()
    if step.phase.training:
        yield from _silent(step)
        yield from _stuck(step)
    if step.phase in (Phase.TRAIN, Phase.UPDATE_BN):
        yield from _unmoved(step)
    yield from _idle(step)


def _idle(step: StepEffects) -> Iterator[Violation]:
    """Yields that a phase is of no use for a model, where it is not."""
    if step.phase is Phase.UPDATE_BN and not _moved(step):
        yield Violation(
            "the model",
            "writes no statistics of batch normalization, which is all that phase 'update_bn' is for",
            "Give it a batch normalization that is not frozen, or leave the phase out",
        )
    if step.phase is Phase.MC_PREDICT and not any(effect.kind == "random" for effect in step.found.effects):
        pinned = dict.fromkeys(call.path for call in step.calls_of("dropout", "noise") if call.how == "pinned")
        yield Violation(
            "the model",
            "draws nothing at random, so that all samples of phase 'mc_predict' would be the same"
            + (f": {', '.join(pinned)} are pinned to another phase" if pinned else ""),
            "Unpin them: trainloop.unpin(model)"
            if pinned
            else "Give it a dropout with a rate above 0, or use Phase.PREDICT",
        )


def _draw(step: StepEffects, found: GraphEffect, effect: Effect) -> Iterator[Violation]:
    phase = step.phase_of(found)
    augments = any(call.family == "augmentation" for call in upwards(found.owner))
    if found.is_declared or (phase.policy.augmentation if augments else phase.policy.dropout):
        return
    what = "augments" if augments else "draws random numbers"
    pinned = ", to which it is pinned" if any(call.how == "pinned" for call in upwards(found.owner)) else ""
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


def _write(step: StepEffects, found: GraphEffect, effect: Effect) -> Iterator[Violation]:
    purpose = step.named(found.target).purpose
    by = f" by layer {effect.layer!r}" if effect.layer else ""
    op = f"(op {effect.op_type} {effect.op_name!r})"
    for phase in dict.fromkeys([step.phase, step.phase_of(found)]):
        if purpose not in _may_write(phase):
            fix = f"Write it where the phase is TRAIN, or accept it: {_waiving(effect)}"
            yield Violation(
                effect.variable,
                f"is written{by} in phase {phase.value!r}{_where(found)}, which writes {_ALLOWED[phase]} {op}",
                fix if found.is_here else _RETRACE,
            )
            return
    _, layer = step.maker(found)
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
    held = step.around.held if step.phase is Phase.TRAIN else None
    if held is not None and purpose not in ("own", "state") and id(found.target) not in held:
        yield Violation(
            effect.variable,
            f"is written{by}, but no checkpoint holds it, so that a resumed run would not have it {op}",
            "Put the model it belongs to into model=, the optimizer into optimizer=, a metric into metrics=",
        )


def _told(step: StepEffects, causes: set[str]) -> Iterator[Violation]:
    """Yields the functions traced before that are given another `training` than the layer around them was told."""
    for earlier in step.found.earlier:
        owner = earlier.owner
        wanted = _policy_of(step, earlier).training if owner is None else owner.training
        if earlier.training in (None, wanted) or any(call.path in causes for call in upwards(owner)):
            continue
        if owner is not None and earlier.training is False and not owner.layer.trainable:
            continue  # it is frozen, and means it: TensorFlow Hub's layer
        yield Violation(
            earlier.name if owner is None else owner.path,
            f"calls the tf.function {earlier.name!r}, which was traced before, with training={earlier.training}; "
            f"phase {earlier.phase or step.phase.value!r} expects training={wanted}",
            "Pass on what was received; if the value is meant, pin the layer, or call it by Phase.EVAL.call(...)",
        )


def _policy_of(step: StepEffects, earlier: EarlierTrace) -> Policy:
    return (step.phase if earlier.phase is None else Phase(earlier.phase)).policy


def _silent(step: StepEffects) -> Iterator[Violation]:
    """Yields the dropout and noise layers that are on and draw nothing."""
    for call in step.calls_of("dropout", "noise"):
        if call.training and keras_hooks.strength_of(call.layer) > 0 and id(call.layer) not in step.drawing:
            yield Violation(
                call.path,
                f"{type(call.layer).__name__} is called with training=True, but nothing is drawn in its call",
                "Let its call depend on its argument `training`, and on no tf.function traced before",
            )


def _unmoved(step: StepEffects) -> Iterator[Violation]:
    """Yields the batch normalizations that use the batch's statistics and do not write them."""
    for call in step.calls_of("batch_norm"):
        if call.training and call.layer.trainable and not step.moves(call.layer):
            yield Violation(
                call.path,
                f"{type(call.layer).__name__} is called with training=True, but its moving statistics are not written",
                "Let its call update them, or freeze the layer: trainable=False",
            )


def _moved(step: StepEffects) -> bool:
    return any(step.named(effect.target).purpose == "batch_norm" for effect in step.writes())


def _stuck(step: StepEffects) -> Iterator[Violation]:
    """Yields the layers inside functions that were traced before, and seem to be in another phase there."""
    for earlier in step.found.earlier:
        policy = _policy_of(step, earlier)
        for path, layer in _inside(step, earlier):
            family = keras_hooks.family_of(layer)
            if not policy.training_for(family):
                continue
            if family in ("dropout", "noise"):
                stuck = keras_hooks.strength_of(layer) > 0 and id(layer) not in step.drawing
                what = "draws nothing there"
            elif family == "batch_norm":
                stuck = layer.trainable and not step.moves(layer)
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


def _inside(step: StepEffects, earlier: EarlierTrace) -> Iterator[tuple[str, Layer]]:
    """Yields the layers that nobody has seen in this trace and that a function traced before seems to call."""
    known = step.layers
    if earlier.owner is not None:
        below = map(id, keras_hooks.layers_of(earlier.owner.layer))
        known = {key: known[key] for key in below if key in known}
    for key, (path, layer) in known.items():
        if key not in step.called and layer.name in earlier.scopes:
            yield path, layer


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
