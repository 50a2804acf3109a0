"""`contract`: the verdict on any function, with no Trainer."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
import tf_keras

from trainloop import keras_hooks, tracing
from trainloop.contract_report import ContractReport
from trainloop.effects import GraphEffects, read_effects
from trainloop.keras_hooks import Layer
from trainloop.phase import Phase, check_phase
from trainloop.step_effects import Surroundings
from trainloop.tracing import Trace
from trainloop.user_code import call_user, own_exceptions
from trainloop.variables import Variables, handles, unpacked, variables_held_by
from trainloop.verdicts import judge
from trainloop.violations import PhaseError, short


def contract(fn: Callable[..., Any], phase: Phase, *args: Any) -> ContractReport:
    """Traces a function in a phase, and tells what it would draw and write, and whether the phase allows it.

    Nothing of the function is run. What it violates is in the report; no `PhaseError` is raised.

    Args:
      fn: A model or layer, a method of one (`vae.decode`), a function that calls some, or a `tf.function`, which is
        traced anew.
      phase: The phase to trace it in. Where the function calls `Phase.TRAIN.call` or the like itself, that holds.
      *args: Its arguments: tensors, arrays, or `tf.TensorSpec`s in the place of tensors; nests of them.

    Returns:
      The report; its `verdict` is `"holds"`, `"violated"` or `"not proved"`.

    Raises:
      TypeError: If `fn` is not callable, or `phase` is not a `Phase`.
      ValueError: If a model is given no inputs, or a waiver of a model that is called matches nothing that is there.

    Example:
      >>> import tensorflow as tf, tf_keras, trainloop
      >>> from trainloop import Phase
      >>> model = tf_keras.Sequential([tf_keras.layers.Lambda(lambda x: tf.nn.dropout(x, 0.5), name="raw")])
      >>> report = trainloop.contract(model, Phase.EVAL, tf.TensorSpec([None, 3]))
      >>> report.verdict, report.violations[0].path
      ('violated', 'raw')
    """
    check_phase(phase, argument="contract: phase")
    if not callable(fn):
        raise TypeError(f"contract: fn={short(fn)} is not callable; pass a model, a layer or a function")
    if isinstance(fn, Layer) and not args:
        raise ValueError(f"contract: {fn.name!r} was given no inputs; pass a batch, or tf.TensorSpec(shape, dtype)")
    python_function = getattr(fn, "python_function", fn)
    traces: list[Trace] = []

    def traced(*inputs: Any) -> Any:
        with tracing.recorded() as trace:
            traces[:] = [trace]  # a function that makes variables is traced twice
            return call_user(phase.call, python_function, *inputs)

    try:
        with own_exceptions():
            concrete = tf.function(traced, autograph=False).get_concrete_function(*args)
    except PhaseError as error:
        return ContractReport(phase, violations=error.violations)
    [trace] = traces
    return judge_traced(python_function, phase, concrete, trace, read_effects(concrete, trace))


def judge_traced(
    function: Callable[..., Any], phase: Phase, concrete: Any, trace: Trace, found: GraphEffects
) -> ContractReport:
    """Returns the verdict on a function that has been traced in a phase.

    Args:
      function: The function, before it was compiled.
      phase: The phase.
      concrete: What was traced.
      trace: What was recorded while it was traced.
      found: What it does.

    Raises:
      ValueError: If a waiver of a model that is called matches nothing that is there.
    """
    if found.earlier:
        for model in _models_behind(function, found):
            trace.add_root(model)
    variables = _variables(function, trace)
    variables.add("other", concrete.graph.variables)  # so that those of nobody else have a name at least
    return judge(phase, found, trace, Surroundings(trace.roots, variables, trained=_trained(trace, found)))


def _variables(function: Callable[..., Any], trace: Trace) -> Variables:
    """Returns the variables of the models that were called, and of the metrics and optimizers within reach."""
    found = Variables()
    for root in trace.roots:
        found.add_model(root)
    for call in trace.calls:
        found.add_layer(call.path, call.layer)
    for thing in _within_reach(function):
        if isinstance(thing, tf_keras.metrics.Metric):
            found.add("metrics", thing.variables, f"metrics/{thing.name}/")
        elif isinstance(thing, tf_keras.optimizers.Optimizer):
            found.add("optimizer", variables_held_by(thing), "optimizer/")
    return found


def _models_behind(function: Callable[..., Any], found: GraphEffects) -> list[Layer]:
    """Returns the models within reach that are used by functions traced before, where nobody sees their layers."""
    used = {id(handle) for handle in found.reads} | {id(effect.target) for effect in found.effects}
    models = [each for each in _within_reach(function) if isinstance(each, Layer) and keras_hooks.is_built(each)]
    models.sort(key=lambda model: len(keras_hooks.layers_of(model)), reverse=True)  # what holds others names them
    return [m for m in models if any(id(each) in used for variable in m.variables for each in handles(variable))]


def _within_reach(function: Callable[..., Any]) -> Iterator[Any]:
    """Yields what a function, or one that it calls, can reach by name: in its object, its closure or its module."""
    waiting, met = [function], set[int]()
    while waiting:
        function = waiting.pop()
        if id(function) in met:
            continue
        met.add(id(function))
        for each in _named_in(function):
            yield each
            own = getattr(each, "python_function", each)
            if inspect.isroutine(own) and (getattr(own, "__module__", None) or "").split(".")[0] not in _LIBRARIES:
                waiting.append(own)


_LIBRARIES = ("tensorflow", "tf_keras", "keras", "numpy", "trainloop")


def _named_in(function: Callable[..., Any]) -> Iterator[Any]:
    """Yields what a function calls by a name, and what the objects hold that it is a method of or that it encloses."""
    try:
        reached = inspect.getclosurevars(inspect.unwrap(getattr(function, "__func__", function)))
    except TypeError:  # a model, or a function that is not written in Python
        enclosed, reached_globals = [], []
    else:
        enclosed, reached_globals = list(reached.nonlocals.values()), list(reached.globals.values())
    for each in unpacked([getattr(function, "__self__", None), enclosed]):
        yield each
        if not isinstance(each, (tf.Module, type)) and not callable(each):
            yield from unpacked(dict(getattr(each, "__dict__", {})))
    yield from unpacked(reached_globals)


def _trained(trace: Trace, found: GraphEffects) -> list[tf.Variable]:
    """Returns the trainable variables of the models of which at least one is written."""
    written = {id(effect.target) for effect in found.effects if effect.kind == "write"}
    trained: list[tf.Variable] = []
    for root in trace.roots:
        trainable: list[tf.Variable] = []
        with contextlib.suppress(ValueError):  # Keras's answer where a part of a model has no variables yet
            trainable += getattr(root, "trainable_variables", ())
        if any(id(handle) in written for variable in trainable for handle in handles(variable)):
            trained += trainable
    return trained
