"""`audit`: which phases reach which layers of a model, whether each keeps its contract, and what looks unmeant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from trainloop import keras_hooks, tracing
from trainloop.auditing.activation_statistics import NOTHING, measure, observe
from trainloop.auditing.data_flow import Flow
from trainloop.auditing.evidence import Evidence, Traced, is_hard_wired, is_live, rate_of
from trainloop.auditing.inputs import describe, expectation, is_concrete, name_of, resolve
from trainloop.auditing.lints import find_lints
from trainloop.auditing.report import Audit, PhaseViolation, Row, Source, Verdict
from trainloop.auditing.untouched import untouched
from trainloop.contracts import judge_traced
from trainloop.effects import read_effects
from trainloop.keras_hooks import Layer
from trainloop.layer_paths import layer_paths
from trainloop.phase import Phase
from trainloop.tracing import LayerCall, Trace
from trainloop.user_code import call_user, noted, own_exceptions
from trainloop.violations import Violation


def audit(model: Any, inputs: Any = None) -> Audit:
    """Says what each phase-sensitive layer of a model does in each phase, and what is wrong or looks unmeant.

    Takes any tf-keras model (functional, Sequential, subclassed, nested, loaded), `tf.Module` or function, and needs no
    `Trainer`. The model is traced in each phase, and run where there are data; its variables, states, seeds and pins
    are afterwards what they were. One that was not built yet is built, as its first call would have done.

    Args:
      model: The model.
      inputs: A batch of what the model takes (arrays or tensors, or a nest of them), on which the layers' outputs are
        measured too; or only its kind: `tf.TensorSpec`s, or a shape with the batch first, such as `(None, 32, 32, 3)`.
        None takes what a functional model was built on.

    Returns:
      The audit: `print` it, or ask for `ok`, `rows`, `lints`, `to_json()` or `figure()`.

    Raises:
      TypeError: If `model` cannot be called, or `inputs` is no batch and no kind of one.
      ValueError: If `inputs` is None and the model does not say what it takes.

    Example:
      >>> import numpy as np, tf_keras, trainloop
      >>> model = tf_keras.Sequential([tf_keras.layers.Dropout(0.5), tf_keras.layers.BatchNormalization()])
      >>> report = trainloop.audit(model, np.ones([4, 3], "float32"))
      >>> report.ok, [lint.name for lint in report.lints]
      (True, ['dropout-before-batch-norm'])
    """
    if not callable(model):
        raise TypeError(f"audit: model={model!r} is not callable; pass a model, a layer or a function, not its trainer")
    if keras_hooks.is_keras_3(model):
        raise TypeError(f"audit: model={name_of(model)} was made by Keras 3 (tf.keras); trainloop works with tf_keras")
    inputs = resolve(inputs, model)
    given = f"audit: model was called on {describe(inputs)}; {expectation(model)}"
    with noted(given), own_exceptions():
        if isinstance(model, tf.Module) and not keras_hooks.is_built(model):
            _trace(model, inputs, Phase.EVAL)
        with untouched(model):
            return _audit(model, inputs)


def _audit(model: Any, inputs: Any) -> Audit:
    traced = {phase: _trace(model, inputs, phase) for phase in (Phase.TRAIN, Phase.EVAL, Phase.PREDICT)}
    layers = _layers(model, [each.trace for each in traced.values()])
    reasons = _why_not(layers)
    for phase in Phase:
        if phase not in traced and phase not in reasons:
            traced[phase] = _trace(model, inputs, phase)
    evidence = Evidence(model, layers, traced, {})
    rows = _rows(evidence)
    measurements = NOTHING
    if rows and is_concrete(inputs):
        train, evaluation = traced[Phase.TRAIN], traced[Phase.EVAL]
        measurements = measure(model, inputs, train, evaluation, traced.get(Phase.MC_PREDICT))
        evidence.variance_ratios = measurements.variance_ratios
    verdicts: list[Verdict] = []
    found: dict[tuple[str, str, str], tuple[Violation, list[str]]] = {}
    for phase in Phase:
        if phase in reasons:
            verdicts.append(Verdict(phase.value, "does not apply", reasons[phase]))
            continue
        seen = traced[phase]
        report = judge_traced(getattr(model, "python_function", model), phase, seen.concrete, seen.trace, seen.effects)
        verdicts.append(Verdict(phase.value, report.verdict, "; ".join(report.unproved), report.waived))
        for violation in report.violations:
            same = violation.path, violation.what.replace(phase.value, ""), violation.fix
            found.setdefault(same, (violation, []))[1].append(phase.value)
    return Audit(
        name_of(model),
        describe(inputs),
        tuple(rows),
        tuple(verdicts),
        tuple(PhaseViolation(tuple(phases), violation) for violation, phases in found.values()),
        tuple(find_lints(evidence)),
        measurements.outputs,
    )


def _trace(model: Any, inputs: Any, phase: Phase) -> Traced:
    """Traces a model in a phase; where there are data, with what is to be measured of it."""
    trace = Trace()
    outputs: list[tf.Tensor] = []

    def call(batch: Any) -> Any:
        nonlocal trace, outputs
        graph = tf.compat.v1.get_default_graph()
        graph.seed = 0  # so that every audit draws the same, and from no generator of the process
        with tracing.recorded() as trace:
            returned = call_user(lambda: phase.call(model, batch))
        outputs = [each for each in tf.nest.flatten(returned) if isinstance(each, tf.Tensor)]
        return observe(Flow(trace, graph)) if is_concrete(inputs) else None

    concrete = tf.function(call, autograph=False).get_concrete_function(inputs)
    return Traced(concrete, trace, Flow(trace, concrete.graph), outputs, read_effects(concrete, trace))


def _layers(model: Any, traces: list[Trace]) -> dict[str, Layer]:
    """Returns every layer by path: those that the model holds, and those that it calls all the same (in a closure)."""
    found = layer_paths(model) if isinstance(model, tf.Module) else {}
    patterns = [each.layer for each in found.values() if isinstance(each, tf_keras.layers.Bidirectional)]
    for pattern in patterns:  # of which Bidirectional has made a copy for each direction
        unused = set(map(id, keras_hooks.layers_of(pattern)))
        found = {path: layer for path, layer in found.items() if id(layer) not in unused}
    known = {id(layer) for layer in found.values()}
    for trace in traces:
        for call in trace.calls:
            if id(call.layer) not in known:
                known.add(id(call.layer))
                found[call.path] = call.layer
    return found


def _why_not(layers: Mapping[str, Layer]) -> dict[Phase, str]:
    """Returns the phases that do not apply to a model, each with the reason."""
    families = [(keras_hooks.family_of(layer), layer) for layer in layers.values()]
    reasons = {}
    if not any(family in ("dropout", "noise") and is_live(layer) for family, layer in families):
        reasons[Phase.MC_PREDICT] = "no dropout and no noise layer"
    normalizations = [layer for family, layer in families if family == "batch_norm"]
    if not any(layer.trainable for layer in normalizations):
        reasons[Phase.UPDATE_BN] = "every batch normalization is frozen" if normalizations else "no batch normalization"
    return reasons


def _rows(evidence: Evidence) -> list[Row]:
    order = {id(call.layer): place for place, call in reversed([*enumerate(evidence.traced[Phase.TRAIN].trace.calls)])}
    rows = []
    for path, layer in sorted(evidence.layers.items(), key=lambda item: order.get(id(item[1]), len(order))):
        family = keras_hooks.family_of(layer)
        if family is None:
            does = _own_effects(layer, evidence)
        elif _is_computed_by_its_holder(path, layer, evidence):
            continue
        else:
            does = {phase.value: _deed(path, layer, family, phase, evidence) for phase in Phase}
        if does:
            rate = None if family in (None, "batch_norm", "augmentation") else rate_of(layer)
            rows.append(Row(path, type(layer).__name__, family, rate, does, _source(layer, evidence)))
    return rows


def _is_computed_by_its_holder(path: str, layer: Layer, evidence: Evidence) -> bool:
    """Returns whether a layer is the cell of a recurrent layer that has a row itself."""
    holders = [holder for _, holder in evidence.above(path)][:1]
    return any(
        getattr(holder, "cell", None) is layer and keras_hooks.family_of(holder) is not None for holder in holders
    )


def _deed(path: str, layer: Layer, family: str, phase: Phase, evidence: Evidence) -> str:
    """Returns what a layer does in a phase, in a word."""
    values = {call.training for call in evidence.calls(layer, phase)}
    if not values:
        return "unseen" if evidence.is_unseen(path, phase) else "-"
    if len(values) > 1:
        return "mixed"
    [is_on] = values
    if family == "batch_norm":
        return "moving" if not is_on else "batch" if layer.trainable else "frozen"
    return "on" if is_on and is_live(layer) else "off"


def _own_effects(layer: Layer, evidence: Evidence) -> dict[str, str]:
    """Returns in which phases a layer without a family draws or writes; nothing where it never or always does."""
    kinds = {
        phase: {
            effect.kind
            for effect in traced.effects.effects
            if effect.is_here and effect.owner is not None and effect.owner.layer is layer and effect.kind != "unknown"
        }
        for phase, traced in evidence.traced.items()
    }
    draws = any("random" in found for found in kinds.values())
    if not draws and len({frozenset(found) for found in kinds.values()}) < 2:
        return {}
    return {phase.value: "-" if phase not in kinds else "on" if kinds[phase] else "off" for phase in Phase}


def _source(layer: Layer, evidence: Evidence) -> Source:
    calls = evidence.calls(layer, Phase.TRAIN)
    if not calls:
        return "unreached"
    call: LayerCall = calls[0]
    if call.how == "said":
        return "hard-wired" if is_hard_wired(call, evidence) else "passed"
    if call.how == "overridden":  # TRAIN overrides nothing
        return "supplied"
    return call.how
